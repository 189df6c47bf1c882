from __future__ import annotations

from ftslurm.core.events import Part
from ftslurm.core.saving import whole_on_nodes
from ftslurm.core.state import Run, Saved, SavedState


def saved(step: int, state: SavedState, *, parts: bool = True) -> Saved:
    """A checkpoint of two nodes, which went packed."""
    held = tuple(Part(node=node, manifest_digest="a" * 32, files=2, size_bytes=9) for node in ("n1", "n2"))
    packed = {"n2": Part(node="n2", manifest_digest="b" * 32, files=2, size_bytes=3)} if parts else {}
    name = f"{step:09d}-0000"
    return Saved(
        generation=name, step=step, attempt=0, world_size=2, state=state, parts=held if parts else (), packed=packed
    )


def test_what_a_late_agent_has_to_know():
    """All that is LOCAL and the newest DURABLE one whose parts are known, as they lie on the nodes."""
    run = Run()
    for step, state in enumerate(SavedState):
        run = run.with_saved(saved(10 + step, state))
        run = run.with_saved(saved(20 + step, state))
    run = run.with_saved(saved(30, SavedState.DURABLE, parts=False))
    told = whole_on_nodes(run)
    states = [found.state for each in told if (found := run.find_saved(each.generation))]
    assert [each.step for each in told] == [11, 21, 22]
    assert states == [SavedState.LOCAL, SavedState.LOCAL, SavedState.DURABLE]
    assert all(part.manifest_digest == "a" * 32 for each in told for part in each.parts)


def test_parts_as_they_lie_on_shared_storage():
    """The packed ones in the place of those on the nodes."""
    assert [part.size_bytes for part in saved(10, SavedState.LOCAL).shared_parts] == [9, 3]
