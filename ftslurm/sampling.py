"""A sampler whose position survives: it counts *global* samples, so that any number of ranks can go on from it.

    sampler = GlobalSampler(len(dataset), global_batch=512)
    run = attach(model=model, optimizer=optimizer, sampler=sampler)
    run.restore()
    loader = DataLoader(dataset, batch_size=micro_batch, sampler=sampler)
    for epoch in range(sampler.epoch, epochs):
        for batch in loader:                      # the rest of the epoch
            ...
            run.step(step, epoch=epoch)           # counts global_batch samples as done

The order of an epoch depends on seed and epoch alone; each step takes the next `global_batch` samples of it, and each
rank an equal part of them. So a run sees the same samples in the same steps on any number of ranks, none twice and none
left out. What a loader has read ahead does not count: a sample is done when its step is. The last samples of an epoch
that make no whole global batch are left out.

A DataLoader draws a number from torch's common generator whenever an iteration begins. Where the model draws from it
too (dropout), give the loader a `generator=` of its own, or a resumed run draws other numbers than an undisturbed one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ftslurm.core.strictjson import fields_of, whole
from ftslurm.errors import UsageError

_KEYS = ("seed", "epoch", "consumed", "length")
_LIMIT = 2**63


class GlobalSampler:
    """Indices of a map-style data set for one rank; a sampler for torch's DataLoader, which it does not need."""

    def __init__(self, length: int, *, global_batch: int, seed: int = 0, shuffle: bool = True) -> None:
        """`length` is that of the data set, `global_batch` the samples of one step on all ranks together.

        Raises:
            UsageError: the global batch is larger than the data set.
        """
        if not 0 < global_batch <= length:
            raise UsageError(f"batches of {global_batch} samples cannot be taken from {length}")
        self._length, self._batch, self._shuffle = length, global_batch, shuffle
        self._rank, self._share = 0, global_batch
        self.seed, self.epoch, self.consumed = seed, 0, 0

    def place(self, rank: int, world_size: int) -> None:
        """Be that of one rank of so many. `attach` says it.

        Raises:
            UsageError: the global batch cannot be shared equally.
        """
        check_shares(self._batch, world_size)
        self._rank, self._share = rank, self._batch // world_size

    @property
    def samples(self) -> int:
        """How many samples the run has done, over all epochs and ranks."""
        return self.epoch * self._usable + self.consumed

    @property
    def epoch_ended(self) -> bool:
        """Whether nothing of this epoch is left."""
        return self.consumed >= self._usable

    @property
    def _usable(self) -> int:
        return self._length // self._batch * self._batch

    def __len__(self) -> int:
        """How many samples of this epoch are left for this rank."""
        return (self._usable - self.consumed) // self._batch * self._share

    def __iter__(self) -> Iterator[int]:
        """The rest of the epoch; where nothing of it is left, the next one."""
        if self.epoch_ended:
            self.epoch, self.consumed = self.epoch + 1, 0
        order, first = self._order(), self.consumed
        for start in range(first + self._rank * self._share, self._usable, self._batch):
            yield from order[start : start + self._share]

    def advance(self) -> None:
        """A step is done. `Run.step` says it."""
        self.consumed = min(self.consumed + self._batch, self._usable)

    def state_dict(self) -> dict[str, Any]:
        """Return the position, the same on every rank."""
        return {"seed": self.seed, "epoch": self.epoch, "consumed": self.consumed, "length": self._length}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a position, on this number of ranks.

        Raises:
            DataDamaged: it is none.
            UsageError: it is that of a data set of another length.
        """
        fields = fields_of(state, _KEYS, "position of the sampler")
        numbers = {name: whole(fields[name], name, _LIMIT) for name in _KEYS}
        if numbers["length"] != self._length:
            raise UsageError(
                f"the checkpoint's sampler had {numbers['length']} samples, this one has {self._length}",
                hint="with other data the position means nothing: leave the sampler out, or use the same data",
            )
        self.seed, self.epoch, self.consumed = numbers["seed"], numbers["epoch"], numbers["consumed"]

    def _order(self) -> Any:  # noqa: ANN401 - a list, or a range
        if not self._shuffle:
            return range(self._length)
        import numpy as np

        return np.random.default_rng([self.seed, self.epoch]).permutation(self._length).tolist()


def check_shares(global_batch: int, shares: int, what: str = "ranks") -> None:
    """Raise UsageError, with the nearest sizes that fit, unless a global batch can be shared equally."""
    if shares < 1 or global_batch < 1:
        raise UsageError(f"a global batch of {global_batch} cannot be shared by {shares} {what}")
    if global_batch % shares:
        below, above = global_batch // shares * shares, -(-global_batch // shares) * shares
        near = " or ".join(str(size) for size in (below, above) if size)
        raise UsageError(
            f"a global batch of {global_batch} cannot be shared equally by {shares} {what}",
            hint=f"nearest that can: {near}",
        )
