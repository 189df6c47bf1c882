from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.core.branches import Rollback, abandoned, is_live
from ftslurm.core.manifest import generation_name
from ftslurm.errors import DataDamaged

DIGEST = "0" * 32


def back(step: int, attempt: int, highest: int) -> Rollback:
    """A rollback to a generation, when so many attempts had been made."""
    return Rollback(to=generation_name(step, attempt), digest=DIGEST, attempt=highest, at=0.0)


@st.composite
def stories(draw: st.DrawFn) -> tuple[list[str], list[Rollback], list[str]]:
    """A training that saves and is rolled back: all generations, the rollbacks, and the true line to the newest one.

    The oracle follows parents: each generation knows which one the training went on from.
    """
    parents: dict[tuple[int, int], tuple[int, int] | None] = {}
    rollbacks: list[Rollback] = []
    head: tuple[int, int] | None = None
    for attempt in range(draw(st.integers(1, 8))):
        for _ in range(draw(st.integers(0, 4))):
            step = (head[0] if head else 0) + draw(st.integers(1, 3))
            parents[(step, attempt)] = head
            head = (step, attempt)
        if parents and draw(st.booleans()):
            head = draw(st.sampled_from(sorted(parents)))
            rollbacks.append(back(*head, attempt))
    line = []
    while head is not None:
        line.append(generation_name(*head))
        head = parents[head]
    return [generation_name(*each) for each in parents], rollbacks, line


@given(story=stories())
def test_live_is_the_line_of_parents(story: tuple[list[str], list[Rollback], list[str]]) -> None:
    """Live are exactly the generations that led to where the training is, whatever was rolled back to what."""
    generations, rollbacks, line = story
    assert {name for name in generations if is_live(name, rollbacks)} == set(line)
    assert abandoned(generations, rollbacks) == set(generations) - set(line)


def test_without_rollbacks_all_are_live() -> None:
    """A restart from an older generation is no rollback: nobody has abandoned anything."""
    assert abandoned([generation_name(5, 0), generation_name(3, 1)], ()) == frozenset()


def test_forward_again() -> None:
    """A second rollback may go to a generation that the first one abandoned."""
    names = [generation_name(step, 0) for step in (10, 20, 30)] + [generation_name(15, 1)]
    rollbacks = [back(10, 0, 0), back(20, 0, 1)]
    assert abandoned(names, rollbacks[:1]) == {names[1], names[2]}
    assert abandoned(names, rollbacks) == {names[2], names[3]}


@pytest.mark.parametrize(
    "change",
    [{"to": "x"}, {"attempt": -1}, {"attempt": True}, {"at": "now"}, {"at": True}, {"digest": 5}, {"reason": "a\nb"}, {"more": 1}],
)  # fmt: skip
def test_records_are_distrusted(change: dict) -> None:
    """What a rollback cannot hold is refused; what it holds comes back."""
    rollback = back(5, 0, 3)
    assert Rollback.from_json(rollback.to_json()) == rollback
    with pytest.raises(DataDamaged):
        Rollback.from_json({**rollback.to_json(), **change})
