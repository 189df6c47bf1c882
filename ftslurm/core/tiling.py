"""Boxes in a tensor: a place and an extent in each dimension; and whether boxes tile a tensor exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """The part of a tensor from `offsets`, `sizes` elements in each dimension. A scalar is a box without dimensions."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def volume(self) -> int:
        """Elements in it."""
        return math.prod(self.sizes)

    def within(self, shape: Sequence[int]) -> bool:
        """Whether it is a box of a tensor of this shape."""
        return len(self.offsets) == len(self.sizes) == len(shape) and all(
            min(start, size) >= 0 and start + size <= extent
            for start, size, extent in zip(self.offsets, self.sizes, shape, strict=True)
        )

    def overlap(self, other: Box) -> Box | None:
        """What both have of one tensor; None for nothing."""
        offsets = tuple(map(max, self.offsets, other.offsets))
        ends = (
            min(a + n, b + m) for a, n, b, m in zip(self.offsets, self.sizes, other.offsets, other.sizes, strict=True)
        )
        sizes = tuple(end - start for start, end in zip(offsets, ends, strict=True))
        return Box(offsets, sizes) if all(size > 0 for size in sizes) else None

    def seen_from(self, outer: Box) -> Box:
        """The same box, with places counted from the corner of `outer`."""
        return Box(tuple(a - b for a, b in zip(self.offsets, outer.offsets, strict=True)), self.sizes)

    def __str__(self) -> str:
        pieces = (f"{start}:{start + size}" for start, size in zip(self.offsets, self.sizes, strict=False))
        return f"[{', '.join(pieces)}]"


def flaw(boxes: Sequence[Box], shape: tuple[int, ...]) -> str:
    """Why the boxes, each within the shape, do not tile it; "" where every element lies in exactly one.

    Boxes that do not overlap and together have the volume of the whole leave no gap. Overlaps are looked for along the
    dimension with the most different places: for tensors that are cut along one dimension a box meets only the next.
    """
    solid = [box for box in boxes if box.volume]
    axis = max(range(len(shape)), key=lambda at: len({box.offsets[at] for box in solid}), default=None)
    if axis is not None:
        solid.sort(key=lambda box: box.offsets[axis])
    near: list[Box] = []
    for box in solid:
        if axis is not None:
            start = box.offsets[axis]
            near = [other for other in near if other.offsets[axis] + other.sizes[axis] > start]
        for other in near:
            if other.overlap(box):
                return f"{other} and {box} overlap"
        near.append(box)
    covered, wanted = sum(box.volume for box in solid), math.prod(shape)
    return "" if covered == wanted else f"{covered} of {wanted} elements are there"
