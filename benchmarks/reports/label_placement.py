"""Placing the labels of points so that they cover neither each other nor anything drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

Box = tuple[float, float, float, float]  # left, bottom, right, top
Point = tuple[float, float]

_DISTANCES = (7.0, 14.0, 24.0, 38.0, 56.0, 80.0, 110.0, 150.0, 200.0)
_DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))
_LEADER_FROM = 36.0  # a label this far from its anchor is joined to it by a line
_DOT = 2.0
_AIR = 14.0  # a label closer than this to another point seems to belong to that point
# cost of a square pixel that is covered, outside, or too close to another point, relative to a pixel of distance
_COVERED, _OUTSIDE, _CROWDED, _DISTANT = 10.0, 30.0, 0.3, 3.0
_NOTHING = 1e-6


@dataclass(frozen=True)
class Label:
    """A label of `size` for an item that covers the boxes `drawn`; it may be placed at any of `anchors`."""

    size: Point
    anchors: Sequence[Point]
    drawn: Sequence[Box]


@dataclass(frozen=True)
class Placement:
    """The box of a label, its distance from the anchor, and the line `leader` to the anchor if that is far."""

    box: Box
    distance: float
    leader: tuple[Point, Point] | None


def place_labels(labels: Sequence[Label], obstacles: Sequence[Box], bounds: Box) -> list[Placement]:
    """A box for each label, chosen greedily by cost: near, inside `bounds`, covering nothing, away from other points.

    All numbers are pixels. Leaders count as drawn, so no label crosses another label's leader.
    """
    taken = [*obstacles, *(box for label in labels for box in label.drawn)]
    placements: list[Placement] = []
    for label in labels:
        air = [_grown(box) for other in labels if other is not label for box in other.drawn]
        boxes = [placement.box for placement in placements]
        ways = product(_DISTANCES, label.anchors, _DIRECTIONS)
        candidates = [_place(anchor, label.size, way, distance) for distance, anchor, way in ways]
        best = min(candidates, key=lambda candidate: _cost(candidate, taken, air, boxes, bounds))
        taken += [best.box, *_dots(best)]
        placements.append(best)
    return placements


def overlap(box: Box, others: Sequence[Box]) -> float:
    """The area of `box` that `others` cover, counted once for each of them."""
    if not others:
        return 0.0
    left, bottom, right, top = np.asarray(others, np.float64).T
    width: npt.NDArray[np.float64] = np.minimum(right, box[2]) - np.maximum(left, box[0])
    height: npt.NDArray[np.float64] = np.minimum(top, box[3]) - np.maximum(bottom, box[1])
    return float((width.clip(0) * height.clip(0)).sum())


def _cost(
    placement: Placement, taken: Sequence[Box], air: Sequence[Box], labels: Sequence[Box], bounds: Box
) -> tuple[bool, float]:
    """Whether the label covers anything or reaches outside, which outweighs any distance; and its total cost."""
    left, bottom, right, top = placement.box
    outside = (right - left) * (top - bottom) - overlap(placement.box, [bounds])
    covered = overlap(placement.box, taken) + sum(overlap(dot, labels) for dot in _dots(placement))
    crowded = overlap(placement.box, air)
    price = _COVERED * covered + _OUTSIDE * outside + _CROWDED * crowded + _DISTANT * placement.distance
    return max(covered, outside) > _NOTHING, price


def _place(anchor: Point, size: Point, way: tuple[int, int], distance: float) -> Placement:
    left = anchor[0] + way[0] * distance + size[0] * (way[0] - 1) / 2
    bottom = anchor[1] + way[1] * distance + size[1] * (way[1] - 1) / 2
    box = (left, bottom, left + size[0], bottom + size[1])
    nearest = min(max(anchor[0], box[0]), box[2]), min(max(anchor[1], box[1]), box[3])
    length = float(np.hypot(nearest[0] - anchor[0], nearest[1] - anchor[1]))
    return Placement(box, length, (anchor, nearest) if length >= _LEADER_FROM else None)


def _dots(placement: Placement) -> list[Box]:
    """Small boxes along the leader."""
    if placement.leader is None:
        return []
    (x0, y0), (x1, y1) = placement.leader
    steps = (np.arange(_DOT, placement.distance - _DOT, 2 * _DOT) / placement.distance).tolist()
    centres = [(x0 + step * (x1 - x0), y0 + step * (y1 - y0)) for step in steps]
    return [(x - _DOT, y - _DOT, x + _DOT, y + _DOT) for x, y in centres]


def _grown(box: Box) -> Box:
    return box[0] - _AIR, box[1] - _AIR, box[2] + _AIR, box[3] + _AIR
