from __future__ import annotations

from collections.abc import Callable

import pytest
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.checkpoint.handover import Order, OrderReader, write_order
from ftslurm.core.savepolicy import SavePolicy
from ftslurm.errors import ServiceUnavailable
from ftslurm.library.deciding import Answer, Decider, Outside, Told
from ftslurm.library.ranks import TorchRanks


class World:
    """Ranks that wait for each other in every step, as those of a training do; nobody is more than a step ahead."""

    def __init__(self, size: int, policy: SavePolicy, outside: Callable[[int], Outside]) -> None:
        store = dist.HashStore()
        self.ranks = [TorchRanks(store, rank, size) for rank in range(size)]
        self.deciders = [Decider(policy, each, outside(each.rank)) for each in self.ranks]

    def step(self, step: int, *, order: list[int], **told: object) -> set[Answer]:
        """Every rank decides, in some order."""
        found = set()
        for rank in order:
            answer = self.deciders[rank].step(Told(step=step, **told))
            found.add(answer)
            if answer.reason:
                self.deciders[rank].saved(step, told.get("metrics", {}))
        return found


@given(st.integers(1, 80), st.randoms(use_true_random=False), st.lists(st.floats(0, 1), min_size=30, max_size=30))
def test_all_ranks_decide_alike(size, draws, losses):
    """Whatever rank 0 sees, and in whatever order the ranks ask, all of them answer alike at every step."""
    policy = SavePolicy(every_steps=7, metric="loss", min_steps=2)
    world = World(size, policy, lambda _: Outside())
    saved = 0
    for step, loss in enumerate(losses, start=1):
        order = list(range(size))
        draws.shuffle(order)
        (answer,) = world.step(step, order=order, metrics={"loss": loss})
        saved += bool(answer.reason)
    assert saved >= 3
    assert len({(each.best, each._last_step) for each in world.deciders}) == 1


def test_an_order_stops_all(tmp_path):
    """An order that rank 0 sees becomes a save and an end of all, two steps later, and once."""
    (tmp_path / "write").mkdir()
    world = World(
        3, SavePolicy(), lambda rank: Outside(orders=OrderReader(tmp_path / "write", 5) if rank == 0 else None)
    )
    everybody = [2, 1, 0]
    assert world.step(1, order=everybody) == {Answer()}
    write_order(tmp_path / "write", Order(attempt=5, number=1, stop=True, why="time_limit"))
    found = [world.step(step, order=everybody) for step in range(2, 7)]
    assert found == [
        {Answer()},
        {Answer()},
        {Answer(reason="the time limit is near", stop=True)},
        {Answer()},
        {Answer()},
    ]


def test_an_order_to_save(tmp_path):
    """An order that stops nothing, with a reason that this version does not know, is a save."""
    (tmp_path / "write").mkdir()
    world = World(
        2, SavePolicy(), lambda rank: Outside(orders=OrderReader(tmp_path / "write", 0) if not rank else None)
    )
    write_order(tmp_path / "write", Order(attempt=0, number=1, why="something_new"))
    found = [world.step(step, order=[0, 1]) for step in range(1, 5)]
    assert found == [{Answer()}, {Answer()}, {Answer(reason="the operator asked for it")}, {Answer()}]


def test_a_base_counts_for_all_at_once():
    """A full save that rank 0 knows to be whole becomes a base on every rank at the same step."""
    base = [""]
    world = World(2, SavePolicy(every_steps=100), lambda rank: Outside(base=lambda: base[0] if rank == 0 else "wrong"))
    seen = []
    for step in range(1, 6):
        base[0] = "000000001-0000" if step > 1 else ""
        world.step(step, order=[1, 0])
        seen.append([each.base for each in world.deciders])
    assert seen == [["", ""], ["", ""], ["", ""], ["000000001-0000"] * 2, ["000000001-0000"] * 2]


def test_shared_and_gathered():
    """A value of rank 0, and everybody's value, on all ranks."""
    store = dist.HashStore()
    ranks = [TorchRanks(store, rank, 2) for rank in range(2)]
    assert [ranks[0].share("n", "zero"), ranks[1].share("n", "one")] == ["zero", "zero"]
    again = [TorchRanks(store, rank, 2) for rank in range(2)]
    assert [again[0].share("n", "zero again"), again[1].share("n", "")] == ["zero again", "zero again"]


def test_a_rank_that_never_comes(monkeypatch):
    """Waiting for another rank ends."""
    monkeypatch.setattr("ftslurm.library.ranks.PATIENCE_S", 0.05)
    with pytest.raises(ServiceUnavailable, match="rank 1 waited"):
        TorchRanks(dist.HashStore(), 1, 2).share("n", "")
