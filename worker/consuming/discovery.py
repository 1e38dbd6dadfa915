"""Which cameras there are."""

from worker.servers.address import RedisClient


def announced_cameras(client: RedisClient, key: str) -> tuple[list[str], list[bytes]]:
    """The camera ids in a set, sorted, and the members that are not UTF-8.

    Raises what redis-py raises.
    """
    ids, others = [], []
    for member in client.smembers(key):
        try:
            ids.append(member.decode())
        except UnicodeDecodeError:
            others.append(member)
    return sorted(ids), others
