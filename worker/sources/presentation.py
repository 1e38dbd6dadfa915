"""Which arrival a decoded picture belongs to: in presentation order, also where a server stamps
pictures in decoding order.

A decoder gives pictures in presentation order, with the pts of their packets. With B-frames, right
timestamps fall and rise from packet to packet. Where they only rise, either there are no B-frames,
or the server counts packets (seen with aio-rtsp-toolkit); pictures then take the timestamps in
rising order, which are right but for a constant delay of as many frames as are reordered.
"""

from bisect import insort

from worker.sources.arrivals import Arrival


class PresentationOrder:
    """The packets of one stream whose pictures have not come out of the decoder."""

    def __init__(self) -> None:
        self._sent: list[Arrival] = []
        self._rising = True
        self._last: Arrival | None = None

    def sent(self, arrival: Arrival) -> None:
        """A packet goes to the decoder."""
        last, self._last = self._last, arrival
        if last is not None and last.run != arrival.run:
            self._sent.clear()
            self._rising = True
        elif last is not None and _pts(arrival) < _pts(last):
            self._rising = False
        insort(self._sent, arrival, key=_pts)

    def came_out(self, pts: int | None, reorder_depth: int) -> tuple[Arrival | None, int]:
        """The arrival of the decoder's next picture, and how many before it gave no picture.

        ``reorder_depth``: pictures that the decoder holds back to put them in order.
        """
        if not self._sent:
            return self._last, 0
        if pts is None:
            without = (i for i, arrival in enumerate(self._sent) if arrival.packet.pts is None)
            missing = next(without, 0)
        elif self._rising:
            missing = max(len(self._sent) - reorder_depth - 1, 0)
        else:
            earlier = [index for index, arrival in enumerate(self._sent) if _pts(arrival) <= pts]
            if not earlier:
                return self._last, 0
            missing = earlier[-1]
        arrival = self._sent[missing]
        del self._sent[: missing + 1]
        return arrival, missing

    def flush(self) -> int:
        """The decoder has been emptied; how many packets gave no picture."""
        missing = len(self._sent)
        self._sent.clear()
        return missing


def _pts(arrival: Arrival) -> int:
    return arrival.pts or 0
