from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.errors import DataDamaged, UsageError
from ftslurm.sampling import GlobalSampler


def placed(length: int, batch: int, rank: int, size: int, **options: object) -> GlobalSampler:
    """A sampler of one rank."""
    sampler = GlobalSampler(length, global_batch=batch, **options)
    sampler.place(rank, size)
    return sampler


def global_batches(state: dict | None, size: int, *, length: int, batch: int) -> list[set[int]]:
    """What all ranks together take in each step of the rest of an epoch."""
    streams = []
    for rank in range(size):
        sampler = placed(length, batch, rank, size, seed=3)
        if state is not None:
            sampler.load_state_dict(state)
        left = len(sampler)
        streams.append(list(sampler))
        assert len(streams[-1]) == left
    share = batch // size
    steps = len(streams[0]) // share
    return [{i for stream in streams for i in stream[n * share : (n + 1) * share]} for n in range(steps)]


@given(st.integers(1, 5), st.sampled_from([1, 2, 3, 4, 6, 12]), st.sampled_from([1, 2, 3, 4, 6, 12]), st.integers(0, 4))
def test_every_sample_once(batches: int, before: int, after: int, done: int) -> None:
    """On any number of ranks each step takes the same samples, and a run that changes its ranks misses none."""
    length, batch = batches * 12 + 5, 12
    whole = global_batches(None, before, length=length, batch=batch)
    assert sum(map(len, whole)) == batches * 12
    assert len(set().union(*whole)) == batches * 12
    sampler = placed(length, batch, 0, before, seed=3)
    for _ in range(min(done, batches - 1)):
        sampler.advance()
    rest = global_batches(sampler.state_dict(), after, length=length, batch=batch)
    assert rest == whole[min(done, batches - 1) :]


def test_epochs() -> None:
    """The next epoch has another order, which depends on the seed and its number alone."""
    sampler = placed(10, 4, 0, 1)
    first = list(sampler)
    assert len(first) == 8
    assert not sampler.epoch_ended
    sampler.advance()
    sampler.advance()
    assert (sampler.epoch, sampler.epoch_ended, sampler.samples) == (0, True, 8)
    second = list(sampler)
    assert (sampler.epoch, sampler.samples) == (1, 8)
    assert second != first
    other = placed(10, 4, 0, 1)
    other.load_state_dict({"seed": 0, "epoch": 0, "consumed": 8, "length": 10})
    assert list(other) == second
    assert list(placed(10, 4, 0, 1, shuffle=False)) == list(range(8))


def test_what_was_read_ahead_does_not_count() -> None:
    """The position is that of the steps that were done."""
    sampler = placed(100, 10, 0, 1)
    stream = iter(sampler)
    taken = [next(stream) for _ in range(35)]
    sampler.advance()
    other = placed(100, 10, 0, 1)
    other.load_state_dict(sampler.state_dict())
    assert next(iter(other)) == taken[10]


def test_mistakes() -> None:
    """Sizes that do not fit are refused, with those that do."""
    with pytest.raises(UsageError, match="cannot be taken from 5"):
        GlobalSampler(5, global_batch=6)
    with pytest.raises(UsageError, match="shared equally by 4 ranks") as caught:
        placed(100, 10, 0, 4)
    assert caught.value.hint == "nearest that can: 8 or 12"
    with pytest.raises(UsageError, match="had 99 samples, this one has 100"):
        placed(100, 10, 0, 2).load_state_dict({"seed": 0, "epoch": 0, "consumed": 0, "length": 99})


@pytest.mark.parametrize("state", [{}, {"seed": 0, "epoch": -1, "consumed": 0, "length": 10}, [], {"seed": 1.5}])
def test_rubbish_is_no_position(state: object) -> None:
    """What the sampler has not written is refused."""
    with pytest.raises(DataDamaged):
        GlobalSampler(10, global_batch=2).load_state_dict(state)


def test_it_needs_no_torch() -> None:
    """Importing it imports neither torch nor NumPy; neither does the public face of the library."""
    program = "import sys, ftslurm.training, ftslurm.sampling; print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
