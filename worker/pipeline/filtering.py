"""Which detections of a camera are published: its labels, its score threshold, its ignored areas.

Takes the detections of one image, gives the positions of those to keep. The detector runs at the
lowest threshold that any camera asks for. That changes nothing for the others: NMS and both of its
limits work from the best score down, so that weaker candidates never displace stronger ones.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Point: TypeAlias = tuple[float, float]
Polygon: TypeAlias = tuple[Point, ...]
"""Corners (x, y) in [0, 1] of the picture, origin top left."""
Anchor = Literal["bottom", "centre"]
"""The point of a box that stands for the object: the middle of its lower edge, or its centre."""


class Found(Protocol):
    """The detections of one image, N of them."""

    @property
    def names(self) -> Sequence[str]:
        """N labels."""
        ...

    @property
    def scores(self) -> Iterable[float]:
        """(N,) fp32."""
        ...

    @property
    def boxes_normalised(self) -> Iterable[Iterable[float]]:
        """(N, 4) fp32 xyxy in [0, 1]."""
        ...


@dataclass(frozen=True)
class DetectionFilter:
    """What is published of one camera's detections; without arguments everything."""

    labels: frozenset[str] | None = None
    """None: all."""
    score_threshold: float | None = None
    """Keep scores above it, compared in fp32 as the detector compares them; None: the detector's
    own."""
    ignore: tuple[Polygon, ...] = ()
    """Detections whose anchor lies inside one of them, or on its edge, are not published."""
    anchor: Anchor = "bottom"

    def kept(self, found: Found) -> list[int]:
        """Positions of the detections to publish, in order."""
        if self == EVERYTHING:
            return list(range(len(found.names)))
        keep = np.ones(len(found.names), bool)
        if self.labels is not None:
            keep &= np.array([name in self.labels for name in found.names], bool)
        if self.score_threshold is not None:
            keep &= np.asarray(found.scores, np.float32) > np.float32(self.score_threshold)
        for polygon in self.ignore:
            anchors = self._anchors(np.asarray(found.boxes_normalised, np.float32))
            keep &= ~_inside(anchors, polygon)
        return [int(position) for position in np.flatnonzero(keep)]

    def _anchors(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(N, 2) points of (N, 4) boxes."""
        x = (boxes[:, 0] + boxes[:, 2]) / 2
        y = boxes[:, 3] if self.anchor == "bottom" else (boxes[:, 1] + boxes[:, 3]) / 2
        return np.stack([x, y], axis=1)


EVERYTHING = DetectionFilter()


def _inside(points: npt.NDArray[np.float32], polygon: Polygon) -> npt.NDArray[np.bool_]:
    """Which of the points (N, 2) lie in the polygon or on its edge."""
    import cv2  # takes 0.1 s to import: only where there are polygons

    outline = np.array(polygon, np.float32)
    return np.array(
        [cv2.pointPolygonTest(outline, (float(x), float(y)), False) >= 0 for x, y in points], bool
    )
