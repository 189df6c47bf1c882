"""How a program does a fault to itself that nobody outside can make: the orders in `<run>/faults.d/`, and who obeys.

A program that wants to be tested asks once a step, and does so only where the run was submitted with the environment
variable OBEY_FAULTS=1 (`launch: {env: {OBEY_FAULTS: "1"}}`)::

    willing = Willing.from_environment()
    while training:
        told = willing.obey(step)
        loss = float("nan") if told.nan else ...

The protocol is files, so that a program in any language can obey:

- `willing.<rank>` is made by a program when it starts; without one no order is given.
- `<id>.json` is an order: `{"id": ..., "word": "nan", "rank": 1}`. It is in force as long as it is there.
- `<id>.taken` is made by the rank that obeys, before it does, with O_EXCL: an order is obeyed by one process only, so
  not by the next attempt. In it is when: `{"at": ..., "pid": ..., "step": ...}`.

Every word is a function below. Needs nothing but Python. A thread reads the folder: shared storage may hang, and the
training of a willing program must stand that like any other.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WILLING = "OBEY_FAULTS"
FOLDER = "faults.d"
MARK, ORDER, TAKEN = "willing.", ".json", ".taken"
DONE = ""
LOOK_S = 0.05
CLOCK_JUMP_S = 7200.0
SLOW_S = 0.5
SPARE_BYTES = 64 * 2**20
GPU_WORDS = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB"


class AskedToFail(RuntimeError):
    """The exception of a program that was asked for one."""


class NoGpuMemory(RuntimeError):
    """Looks like torch's exception, where there is no GPU whose memory could be used up."""


NoGpuMemory.__module__, NoGpuMemory.__qualname__ = "torch", "OutOfMemoryError"


@dataclass(slots=True)
class Told:
    """What the program has to do itself in this step: nobody else knows its loss and its weights."""

    nan: bool = False
    flip: bool = False


class Willing:
    """The orders of one rank."""

    def __init__(self, folder: Path | None, rank: int) -> None:
        """Say that this rank obeys; None: nothing is ever asked."""
        self._folder, self._rank = folder, rank
        self._mine: dict[str, str] = {}
        self._seen: dict[str, str] = {}
        self.clock = time.time
        self.deadly: set[str] = set()
        if folder is not None:
            folder.mkdir(mode=0o700, exist_ok=True)
            (folder / f"{MARK}{rank}").touch()
            threading.Thread(target=self._watch, args=(folder,), name="orders", daemon=True).start()

    @classmethod
    def from_environment(cls) -> Willing:
        """As ftslurm tells every rank."""
        run, rank = os.environ.get("FTSLURM_RUN_DIR"), os.environ.get("RANK", "")
        wanted = os.environ.get(WILLING) == "1" and run and rank.isdecimal()
        return cls(Path(run) / FOLDER if run and wanted else None, int(rank) if wanted else 0)

    def obey(self, step: int) -> Told:
        """Do what is asked; what the program has to do itself is returned."""
        told, seen = Told(), self._seen
        for name, word in seen.items():
            if name not in self._mine:
                self._mine[name] = word if self._take(name, step) else DONE
        for name, word in list(self._mine.items()):
            self._perform(name, word, told, lifted=name not in seen)
        return told

    def in_force(self, name: str) -> bool:
        """Whether an order is still there."""
        return name in self._seen

    def _watch(self, folder: Path) -> None:
        """Look for orders for ever."""
        while True:
            with suppress(OSError):  # the storage is ill: what was seen last counts
                self._seen = self._orders(folder)
            time.sleep(LOOK_S)

    def _orders(self, folder: Path) -> dict[str, str]:
        """The orders for this rank that nobody else has taken. Raises OSError."""
        names, found = set(os.listdir(folder)), {}
        for path in (folder / name for name in sorted(names) if name.endswith(ORDER)):
            if path.name in self._seen or path.with_suffix(TAKEN).name not in names:
                with suppress(FileNotFoundError, ValueError, KeyError, TypeError):  # withdrawn, or no order
                    order = json.loads(path.read_bytes())
                    if order["rank"] == self._rank and order["word"] in WORDS:
                        found[path.name] = order["word"]
        return found

    def _take(self, name: str, step: int) -> bool:
        """Take an order, unless somebody has."""
        assert self._folder is not None  # noqa: S101 - nothing is seen without one
        try:
            path = (self._folder / name).with_suffix(TAKEN)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return False
        with os.fdopen(handle, "w") as file:
            json.dump({"at": self.clock(), "pid": os.getpid(), "step": step}, file)
        return True

    def _perform(self, name: str, word: str, told: Told, *, lifted: bool) -> None:
        lasting = LASTING.get(word)
        if lasting is not None:
            lasting(self, name, lifted)
        elif not lifted:
            AT_ONCE[word](told)
        if lifted:
            del self._mine[name]
        elif lasting is None:
            self._mine[name] = DONE


# ------------------------------------------------------------------------------------------------- what is done at once


def _exit(told: Told) -> None:
    del told
    os._exit(3)


def _kill(told: Told) -> None:
    del told
    os.kill(os.getpid(), signal.SIGKILL)


def _exception(told: Told) -> None:
    del told
    raise AskedToFail("failed as it was asked to")


def _gil(told: Told) -> None:
    del told
    ctypes.PyDLL(None).sleep(3600)  # unlike CDLL, it keeps Python's lock


def _memory(told: Told) -> None:
    del told
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_BYTES, hard))
    try:
        bytearray(4 * SPARE_BYTES)
    finally:
        # With no room at all the interpreter could not end in order: glibc loads a library for that.
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _gpu_memory(told: Told) -> None:
    del told
    torch, kept = sys.modules.get("torch"), []
    while torch is not None and torch.cuda.is_available():
        kept.append(torch.empty(2**31, dtype=torch.uint8, device="cuda"))
    raise NoGpuMemory(GPU_WORDS)


def _no_room(told: Told) -> None:
    del told
    with Path("/dev/full").open("wb") as file:
        file.write(b"x" * 2**16)


def _read_error(told: Told) -> None:
    del told
    with Path("/proc/self/mem").open("rb", buffering=0) as file:
        file.read(1)


def _gpu_mask(told: Told) -> None:
    """Start anew without GPUs: they can be taken away from a program only before it has seen them."""
    del told
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    words = "import sys; sys.exit('RuntimeError: No CUDA GPUs are available')"
    os.execve(sys.executable, [sys.executable, "-c", words], environ)  # noqa: S606 - no shell is wanted


def _nan(told: Told) -> None:
    told.nan = True


def _flip(told: Told) -> None:
    told.flip = True


# ---------------------------------------------------------------------------------------------------------- what lasts


def _skip(willing: Willing, name: str, lifted: bool) -> None:  # noqa: FBT001 - one signature for all that lasts
    del lifted
    while willing.in_force(name):
        time.sleep(LOOK_S)


def _slow(willing: Willing, name: str, lifted: bool) -> None:  # noqa: FBT001
    del willing, name
    if not lifted:
        time.sleep(SLOW_S)


def _wrong_clock(willing: Willing, name: str, lifted: bool) -> None:  # noqa: FBT001
    del name
    right = willing.clock
    time.time = right if lifted else lambda: right() + CLOCK_JUMP_S


def _die_in_save(willing: Willing, name: str, lifted: bool) -> None:  # noqa: FBT001
    """Be killed at the next fsync, if the order is in force then."""
    if not lifted and name not in willing.deadly:
        willing.deadly.add(name)
        sync = os.fsync

        def fsync(fd: Any) -> None:  # noqa: ANN401 - what os.fsync takes
            if willing.in_force(name):
                os.kill(os.getpid(), signal.SIGKILL)
            sync(fd)

        os.fsync = fsync


Lasting = Callable[[Willing, str, bool], None]
LASTING: dict[str, Lasting] = {
    "skip": _skip,
    "slow": _slow,
    "clock": _wrong_clock,
    "die-in-save": _die_in_save,
}
AT_ONCE: dict[str, Callable[[Told], None]] = {
    "exit": _exit,
    "kill": _kill,
    "exception": _exception,
    "gil": _gil,
    "memory": _memory,
    "gpu-memory": _gpu_memory,
    "no-room": _no_room,
    "read-error": _read_error,
    "gpu-mask": _gpu_mask,
    "nan": _nan,
    "bit-flip": _flip,
    DONE: lambda _: None,
}
WORDS = frozenset({*AT_ONCE, *LASTING}) - {DONE}


# -------------------------------------------------------------------------------------------------------- who asks them


def give(folder: Path, name: str, word: str, rank: int) -> None:
    """Give an order. Raises OSError."""
    part = folder / f".{name}"
    part.write_text(json.dumps({"id": name, "word": word, "rank": rank}), encoding="ascii")
    part.chmod(0o600)
    owner = folder.stat()
    if owner.st_uid != os.geteuid():  # root asks the program of a lab's user
        os.chown(part, owner.st_uid, owner.st_gid)
    part.replace(folder / f"{name}{ORDER}")


def withdraw(folder: Path, name: str) -> None:
    """Withdraw it. Raises OSError."""
    with suppress(FileNotFoundError):
        (folder / f"{name}{ORDER}").unlink()


def taken(folder: Path, name: str) -> float | None:
    """When an order was taken; None: it was not yet. Raises OSError."""
    if f"{name}{TAKEN}" not in os.listdir(folder):
        return None
    try:
        return float(json.loads((folder / f"{name}{TAKEN}").read_text())["at"])
    except ValueError:
        return None  # it is being written
