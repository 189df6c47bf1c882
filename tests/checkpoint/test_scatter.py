from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.checkpoint.scatter import GROUP_CHUNKS, Slab, by_chunk, in_groups, runs_of, slab_of, without_overlaps
from ftslurm.core.manifest import CHUNK_BYTES
from ftslurm.core.rankindex import Entry, Kind
from ftslurm.core.tiling import Box


@given(st.data())
def test_any_box_into_any_box(data: st.DataObject) -> None:
    """What goes straight and what goes through slabs is the same as NumPy's own slicing."""
    shape = data.draw(st.lists(st.integers(1, 5), max_size=4).map(tuple))
    tensor = np.arange(np.prod(shape), dtype="i4").reshape(shape)

    def box() -> Box:
        offsets = [data.draw(st.integers(0, extent - 1)) for extent in shape]
        return Box(tuple(offsets), tuple(data.draw(st.integers(1, n - a)) for a, n in zip(offsets, shape, strict=True)))

    def part(where: Box) -> tuple[slice, ...]:
        return tuple(slice(a, a + n) for a, n in zip(where.offsets, where.sizes, strict=True))

    held, wanted = box(), box()
    stored = tensor[part(held)].tobytes()
    entry = Entry(
        key="x", kind=Kind.SHARDED, dtype="int32", shape=shape, offsets=held.offsets, sizes=held.sizes, offset=0,
        stored=len(stored), length=len(stored), digest="0" * 32,
    )  # fmt: skip
    straight, slabs = np.full(wanted.sizes, -1, "i4"), np.full(wanted.sizes, -1, "i4")
    order = data.draw(st.permutations(range(len(shape))))
    strided = np.full([wanted.sizes[at] for at in order], -1, "i4").transpose(np.argsort(order).tolist())
    for into in (straight, slabs, strided):
        slab = slab_of(entry, wanted, into)
        assert (slab is None) == (held.overlap(wanted) is None)
        for run in (runs_of(slab) if slab and into is straight else None) or ():
            run.view[:] = stored[run.start : run.end]
        for piece in [] if slab is None or (into is straight and runs_of(slab) is not None) else slab.cut():
            piece.copy(memoryview(stored)[piece.start : piece.end])
    expected = np.full(shape, -1, "i4")
    expected[part(held)] = tensor[part(held)]
    for into in (straight, slabs, strided):
        assert into.tobytes() == expected[part(wanted)].tobytes()


@given(st.lists(st.tuples(st.integers(0, 4 * CHUNK_BYTES - 1), st.integers(1, 2 * CHUNK_BYTES)), max_size=6))
def test_chunks_hold_every_run_once(places: list[tuple[int, int]]) -> None:
    """Each chunk of the plan has all its bytes, and each wanted byte has one place in it."""
    size = 4 * CHUNK_BYTES + 4096
    memory = np.zeros(size, "u1")
    slabs = [Slab(start, (1,), memory[start : start + min(length, size - start)]) for start, length in places]
    apart, again = without_overlaps([run for slab in slabs for run in runs_of(slab) or ()])
    assert len(apart) + len(again) == len(places)
    seen = []
    for chunk, parts in by_chunk(apart, size):
        seen.append(chunk)
        sizes = [part if isinstance(part, int) else len(part) for part in parts]
        assert all(sizes)
        assert sum(sizes) == min(CHUNK_BYTES, size - chunk * CHUNK_BYTES)
        for part in parts:
            if not isinstance(part, int):
                part[:] = bytes([1]) * len(part)
    assert seen == sorted(set(seen))
    assert memory.sum() == sum(len(run.view) for run in apart)


@given(st.sets(st.integers(0, 20)), st.sampled_from([1, 300, 600]))
def test_groups_are_what_one_call_can_read(numbers: set[int], parts: int) -> None:
    """Chunks stay in order; those of a group follow each other, and the kernel takes its parts at once."""
    chunks = [(number, [1] * parts) for number in sorted(numbers)]
    groups = list(in_groups(chunks))
    assert [chunk for group in groups for chunk in group] == chunks
    for group in groups:
        assert [number for number, _ in group] == list(range(group[0][0], group[0][0] + len(group)))
        assert len(group) <= GROUP_CHUNKS
        assert sum(len(parts) for _, parts in group) <= 1000
