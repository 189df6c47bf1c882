"""How the ranks of a program agree: who they are, one value of rank 0 for all, one answer of each, a decision to save.

Never through the training's own collectives: torch.distributed's key-value store where there is torch.distributed (a
rank that died makes a wait end, not hang), or a duplicated communicator of mpi4py. A decision that one rank takes is
*announced*: rank 0 says at call c of `Run.step` that all ranks save at call c + 2, and they look for it there. No rank
gets there before rank 0 has said it, because the ranks of a training wait for each other in every step (causality, not
time). Under mpi4py a broadcast of one number a step does the same.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Protocol

from ftslurm.errors import ServiceUnavailable, UsageError

AHEAD = 2
"""How many calls later an announced save is made."""
PATIENCE_S = 1800.0
"""How long a rank waits for another one to begin or to load; loading is long."""
RANKS_A_LOOK = 64
"""So many ranks may ask rank 0's store at each step; with more, they ask less often."""
_WORLD_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
_RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")


class Ranks(Protocol):
    """The ranks of this program."""

    @property
    def rank(self) -> int:
        """This one."""

    @property
    def size(self) -> int:
        """How many there are."""

    def share(self, name: str, value: str) -> str:
        """Return the value of rank 0; `name` is used once. Raises ServiceUnavailable."""

    def gather(self, name: str, value: str) -> list[str]:
        """Return everybody's value, by rank; `name` is used once. Raises ServiceUnavailable."""

    def announce(self, call: int, word: str) -> int:
        """Rank 0 says at a call what is to be done; returns the call at which it is done."""

    def announced(self, call: int) -> str:
        """What is to be done at this call; "" for nothing. Every rank asks at every call."""


class Alone:
    """One process."""

    rank, size = 0, 1

    def __init__(self) -> None:
        self._said: dict[int, str] = {}

    def share(self, name: str, value: str) -> str:  # noqa: ARG002
        """Its own."""
        return value

    def gather(self, name: str, value: str) -> list[str]:  # noqa: ARG002
        """Its own."""
        return [value]

    def announce(self, call: int, word: str) -> int:
        """Done at once."""
        self._said[call] = word
        return call

    def announced(self, call: int) -> str:
        """What was said at this call."""
        return self._said.pop(call, "")


class TorchRanks:
    """The ranks of torch.distributed's default group, through its store."""

    def __init__(self, store: Any, rank: int, size: int) -> None:  # noqa: ANN401 - torch is not imported here
        self.rank, self.size = rank, size
        self._store = store
        number = store.add(f"ftslurm/attached/{rank}", 1)  # all ranks attach equally often
        self._prefix = f"ftslurm/{number}"
        self._stride = -(-size // RANKS_A_LOOK)

    def share(self, name: str, value: str) -> str:
        """Through a key that rank 0 sets."""
        if self.rank == 0:
            self._set(name, value)
            return value
        return self._get(name)

    def gather(self, name: str, value: str) -> list[str]:
        """Rank 0 collects, and shares the list."""
        self._set(f"{name}/{self.rank}", value)
        whole = json.dumps([self._get(f"{name}/{rank}") for rank in range(self.size)]) if self.rank == 0 else ""
        return [str(each) for each in json.loads(self.share(f"{name}/all", whole))]

    def announce(self, call: int, word: str) -> int:
        """The next call at which everybody looks, two or more from now."""
        at = -(-(call + AHEAD) // self._stride) * self._stride
        self._set(f"at/{at}", word)
        return at

    def announced(self, call: int) -> str:
        """One question to the store, where this is a call to look."""
        key = f"{self._prefix}/at/{call}"
        try:
            if call % self._stride or not self._store.check([key]):
                return ""
            return str(self._store.get(key).decode())
        except RuntimeError as error:
            raise ServiceUnavailable(f"rank 0's store does not answer: {error}") from error

    def _set(self, name: str, value: str) -> None:
        try:
            self._store.set(f"{self._prefix}/{name}", value)
        except RuntimeError as error:
            raise ServiceUnavailable(f"rank 0's store does not answer: {error}") from error

    def _get(self, name: str) -> str:
        key = f"{self._prefix}/{name}"
        try:
            self._store.wait([key], timedelta(seconds=PATIENCE_S))
            return str(self._store.get(key).decode())
        except RuntimeError as error:
            raise ServiceUnavailable(
                f"rank {self.rank} waited {PATIENCE_S:g} s for {name!r} of another rank"
            ) from error


class MpiRanks:
    """The ranks of a communicator of mpi4py, through a duplicate of it."""

    def __init__(self, comm: Any) -> None:  # noqa: ANN401 - mpi4py is not imported here
        self._comm = comm.Dup()
        self.rank, self.size = int(comm.Get_rank()), int(comm.Get_size())
        self._said = ""

    def share(self, name: str, value: str) -> str:  # noqa: ARG002
        """A broadcast."""
        return str(self._comm.bcast(value, root=0))

    def gather(self, name: str, value: str) -> list[str]:  # noqa: ARG002
        """An allgather."""
        return [str(each) for each in self._comm.allgather(value)]

    def announce(self, call: int, word: str) -> int:
        """It is broadcast at this call's question."""
        self._said = word
        return call

    def announced(self, call: int) -> str:  # noqa: ARG002
        """A broadcast of a word that is nearly always empty."""
        said, self._said = self._said, ""
        return str(self._comm.bcast(said, root=0))


def ranks_of(comm: object, environ: Mapping[str, str]) -> Ranks:
    """Return the ranks of this program.

    Args:
        comm: a communicator of mpi4py, or None: torch.distributed's default group, or one process.
        environ: what the launcher has set.

    Raises:
        UsageError: the launcher has started several ranks, and they have no way to talk yet.
    """
    if comm is not None:
        if not callable(getattr(comm, "Dup", None)):
            raise UsageError(f"comm={comm!r} is no communicator of mpi4py", hint="leave it out for torch.distributed")
        return MpiRanks(comm) if comm.Get_size() > 1 else Alone()  # type: ignore[attr-defined]
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        size = distributed.get_world_size()
        if size == 1:
            return Alone()
        return TorchRanks(distributed.distributed_c10d._get_default_store(), distributed.get_rank(), size)  # noqa: SLF001
    size = next((int(environ[name]) for name in _WORLD_SIZES if environ.get(name, "").isdecimal()), 1)
    if size > 1 and any(environ.get(name, "").isdecimal() for name in _RANKS):
        raise UsageError(
            f"the launcher has started {size} ranks, but they cannot talk to each other yet",
            hint="call torch.distributed.init_process_group before attach, or pass comm=MPI.COMM_WORLD",
        )
    return Alone()
