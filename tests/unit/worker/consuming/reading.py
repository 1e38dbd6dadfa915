"""A reader of streams on a server of its own, for tests that look at single reads."""

from tests.conftest import wait_until
from worker.consuming.group import GroupReader
from worker.consuming.plain import PlainReader
from worker.servers.address import connect

GATE, YARD = "ssd:{gate}:detections", "ssd:{yard}:detections"
GROUP = "alerts"
DELETED = f"camera gate: {GATE} was deleted: entries that were not read are lost"


class Reading:
    """A reader, and a user who takes what it gives. Entries are numbered: 7 has the id 7-1."""

    def __init__(self, server, group=GROUP, start="0", streams=(GATE,), **options):
        self.server = server.client
        self.client = connect(server.url, retries=0)
        if group is None:
            self.reader = PlainReader(self.client, "HOST:PORT")
        else:
            options = {"claim_after_seconds": 3600, "remove_idle_after_seconds": 3600} | options
            self.reader = GroupReader(self.client, "HOST:PORT", group, "one", **options)
        for stream in streams:
            self.reader.add(stream[5:9], stream, start)

    def add(self, *numbers, stream=GATE):
        for number in numbers:
            self.server.xadd(stream, {"number": number}, id=f"{number}-1")

    def take(self, *, to_user=True, block_seconds=0.001):
        """What one read gives, all of which the user gets, or is skipped."""
        return [number for _, number in self.take_places(to_user, block_seconds)]

    def take_places(self, to_user=True, block_seconds=0.001):
        entries = self.reader.read(block_seconds)
        if not to_user:
            self.reader.settle(entries)
        for entry in entries:
            self.reader.passed(entry, to_user=to_user)
        return [(entry.stream, int(entry.entry_id.split(b"-")[0])) for entry in entries]

    def take_all(self, **options):
        found = []
        while numbers := self.take(**options):
            found += numbers
        return found

    def acknowledge(self, *numbers, stream=GATE):
        return self.reader.acknowledge(stream, [f"{number}-1" for number in numbers])

    def pending(self, stream=GATE):
        """Entry numbers by consumer name."""
        found = {}
        for each in self.server.xpending_range(stream, GROUP, "-", "+", 1000):
            number = int(each["message_id"].split(b"-")[0])
            found.setdefault(each["consumer"].decode(), []).append(number)
        return found

    def hand_to(self, consumer, count=None, stream=GATE, idle_ms=0):
        """Give new entries to a consumer of the group, as if it had read them so long ago."""
        ((_, entries),) = self.server.xreadgroup(GROUP, consumer, {stream: ">"}, count=count)
        ids = [entry_id for entry_id, _ in entries]
        self.server.xclaim(stream, GROUP, consumer, 0, ids, idle=idle_ms)

    def calls_of(self, command):
        """How often the server has executed a command."""
        found = self.server.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})
        return found["calls"]

    def wait_until_blocked(self):
        wait_until(
            lambda: any("b" in each["flags"] for each in self.server.client_list()),
            what="a blocked client",
        )

    def close(self):
        self.client.close()


def recreated(where):
    return (
        f"camera gate: the group {GROUP} of {GATE} was deleted: created it again, to go on {where}"
        ": what others had read may be repeated, or lost if it was not acknowledged"
    )


def forbid(client, *commands):
    """Until the end of the test."""
    client.acl_setuser("default", enabled=True, commands=[f"-{command}" for command in commands])
