"""Partner copies that take longer than the time between two checkpoints."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from ftslurm.core.actions import Pair
from ftslurm.core.manifest import generation_name
from ftslurm.runtime.errands import Errands
from tests.local_ranks import wait_for


class Copies:
    """Copies that take until they are let go, one after another."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, str]] = []
        self.go = threading.Semaphore(0)
        self.errands = Errands(self._work)

    def _work(self, generation: str, pair: Pair) -> None:
        self.begun.append((pair.owner, generation))
        assert self.go.acquire(timeout=10)

    def ask(self, step: int, owner: str = "n1") -> None:
        self.errands.ask(generation_name(step, 0), Pair(owner=owner, holder="n2", digest="", sources=(owner,)))

    def steps(self, owner: str = "n1") -> list[int]:
        return [int(generation.split("-")[0]) for name, generation in self.begun if name == owner]

    def wait(self, *steps: int, owner: str = "n1") -> None:
        wait_for(f"copies of {steps}", lambda: self.steps(owner) == list(steps), 10)


@pytest.fixture
def copies() -> Iterator[Copies]:
    """Nothing waits when the test is over."""
    copies = Copies()
    yield copies
    copies.go.release(100)


def test_what_is_asked_for_again_while_it_is_copied_is_copied_once(copies: Copies) -> None:
    """The second request for the copy that is being taken is the first one; after its end it is a new one."""
    copies.ask(20)
    copies.wait(20)
    copies.ask(20)
    copies.go.release()
    wait_for("the end", lambda: not copies.errands._now, 10)
    assert copies.steps() == [20]
    copies.ask(20)
    copies.wait(20, 20)


def test_what_is_overtaken_is_not_copied(copies: Copies) -> None:
    """Of all that is asked for during a copy, the newest comes next, and then the one that it may build upon."""
    copies.ask(20)
    copies.wait(20)
    for step in (40, 60, 80, 20, 100, 60):
        copies.ask(step)
    copies.go.release()
    copies.wait(20, 100)
    copies.go.release()
    copies.wait(20, 100, 60)
    copies.go.release()
    wait_for("the end", lambda: not copies.errands._now, 10)


def test_owners_do_not_wait_for_each_other(copies: Copies) -> None:
    """The part of another owner is copied at the same time."""
    copies.ask(20)
    copies.ask(20, owner="n3")
    copies.wait(20)
    copies.wait(20, owner="n3")


def test_a_copy_that_breaks_does_not_end_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """An error that nobody foresaw is logged, and the next copy is taken."""
    begun: list[str] = []

    def work(generation: str, pair: Pair) -> None:
        del pair
        begun.append(generation)
        raise ValueError("unforeseen")

    errands = Errands(work)
    for step in (20, 40):
        errands.ask(generation_name(step, 0), Pair(owner="n1", holder="n2", digest="", sources=()))
        wait_for("the end", lambda: not errands._now, 10)
    assert [int(name.split("-")[0]) for name in begun] == [20, 40]
    assert [record.message.split()[-3:] for record in caplog.records] == [["came", "to", "nothing"]] * 2
