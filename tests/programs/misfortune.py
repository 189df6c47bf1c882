"""A program that fails in another way in each attempt: the ways are given in order, and one rank of the world meets them.

    misfortune.py --ways sigkill,exception,... [--rank 1] [--settle 1.0] [--collective] [--mpi]

Attempt k fails in way k; once all have been gone through every rank exits 0. With --collective all ranks take part in
gloo's all_reduce, so that the others notice what became of the one; without it they sleep until they are ended.
The ways are functions below; each one really does what its name says, as far as an ordinary machine can.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import json
import math
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

WAYS: dict[str, Callable[[], object]] = {}
SHORT_S = 4.0


def way(deed: Callable[[], object]) -> Callable[[], object]:
    """Register a way to fail by its function's name."""
    WAYS[deed.__name__] = deed
    return deed


for _name in ("KILL", "TERM", "SEGV", "ABRT", "BUS", "FPE", "ILL", "INT", "HUP", "XCPU"):
    WAYS[f"sig{_name.lower()}"] = lambda number=signal.Signals[f"SIG{_name}"]: os.kill(os.getpid(), number)
for _code in (1, 3, 127, 137):
    WAYS[f"exit{_code}"] = lambda code=_code: os._exit(code)


# --------------------------------------------------------------------------------------------------- the program's own


@way
def exception() -> None:
    """An ordinary bug."""
    raise ValueError("expected 3 channels, got 4")


@way
def chained() -> None:
    """A bug in the handling of another one."""
    try:
        {}["learning_rate"]
    except KeyError as error:
        raise RuntimeError("cannot build the optimizer") from error


@way
def own_exception() -> None:
    """An exception with a name of the program's own."""

    class BadBatch(Exception):
        pass

    raise BadBatch("batch 17 has no tokens")


@way
def assertion() -> None:
    """A broken promise."""
    assert math.prod((2, 3)) == 7, "batch size is not divisible"


@way
def nan() -> None:
    """A loss that is no number."""
    raise FloatingPointError("loss is nan at step 12")


@way
def module() -> None:
    """A module that is not installed."""
    import flash_attention_of_tomorrow  # noqa: F401


@way
def missing_file() -> None:
    """A data file that is not there."""
    Path("/data/corpus/part-0001.bin").read_bytes()


@way
def permission() -> None:
    """A file that the user may not run."""
    subprocess.run([__file__], check=True)


@way
def bad_json() -> None:
    """A configuration that does not parse."""
    json.loads('{"lr": 1e-3,}')


@way
def recursion() -> None:
    """A recursion without an end."""
    recursion()


@way
def many_files() -> None:
    """More open files than allowed."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
    kept = [os.dup(0) for _ in range(64)]
    raise RuntimeError(f"{len(kept)} descriptors are open")


@way
def no_command() -> None:
    """A shell script that calls what is not there."""
    done = subprocess.run(["bash", "-c", "trainn --epochs 3"], check=False)
    sys.exit(done.returncode)


@way
def child_failed() -> None:
    """A helper program that fails."""
    subprocess.run([sys.executable, "-c", "import sys; sys.exit('tokenizer: bad vocabulary')"], check=True)


@way
def port_in_use() -> None:
    """Two servers, one port."""
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        first.listen()
        second.bind(first.getsockname())


@way
def shapes() -> None:
    """Matrices that do not fit."""
    import torch

    torch.ones(3, 4) @ torch.ones(3, 4)


@way
def no_gpu() -> None:
    """A device that this installation has no driver for."""
    import torch

    torch.ones(1, device="cuda")


@way
def loader_bug() -> None:
    """A bug in a worker of the data loader."""
    _load(_Broken())


@way
def loader_killed() -> None:
    """A worker of the data loader that is killed."""
    _load(_Deadly())


class _Broken:
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        raise ValueError(f"sample {index} is corrupt")


class _Deadly(_Broken):
    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return index


def _load(data: _Broken) -> None:
    from torch.utils.data import DataLoader

    list(DataLoader(data, num_workers=1))


@way
def native_abort() -> None:
    """A C library that gives up."""
    ctypes.CDLL(None).abort()


# ------------------------------------------------------------------------------------------------ memory and storage


@way
def memory_error() -> None:
    """An allocation over the limit on address space."""
    resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
    bytearray(2**32)


@way
def torch_allocation() -> None:
    """The same, asked for by torch."""
    import torch

    torch.empty(2**45, dtype=torch.uint8)


@way
def memory_killer() -> None:
    """A cgroup with too little memory for this rank: the kernel kills it."""
    folder = Path(f"/sys/fs/cgroup/memory/misfortune-{os.getpid()}")
    folder.mkdir()
    (folder / "memory.limit_in_bytes").write_text(str(64 * 2**20))
    for pid in (os.getppid(), os.getpid()):
        (folder / "cgroup.procs").write_text(str(pid))
    kept = [bytearray(b"x" * 2**20) for _ in range(256)]
    raise RuntimeError(f"{len(kept)} MiB fitted")


@way
def full_device() -> None:
    """A disk without room."""
    with Path("/dev/full").open("wb") as file:
        file.write(b"x" * 2**16)


@way
def torch_save_full() -> None:
    """A checkpoint that does not fit."""
    import torch

    torch.save({"model": torch.zeros(2**18)}, "/dev/full")


@way
def read_error() -> None:
    """A read that the kernel answers with EIO."""
    with Path("/proc/self/mem").open("rb", buffering=0) as file:
        file.read(1)


@way
def write_until_it_fails() -> None:
    """Checkpoints on a file system that fails some time."""
    while True:
        with Path(os.environ["MISFORTUNE_PLACE"], "step_00000012.pt").open("wb") as file:
            file.write(b"x" * 2**16)
            os.fsync(file.fileno())
        time.sleep(0.1)


@way
def torn_checkpoint() -> None:
    """A checkpoint file of which half is missing."""
    import torch

    path = Path(f"/tmp/torn-{os.getpid()}.pt")
    torch.save({"model": torch.zeros(2**16)}, path)
    path.write_bytes(path.read_bytes()[:100_000])
    torch.load(path, weights_only=True)


@way
def no_such_checkpoint() -> None:
    """A program's own errno that is no word of the storage."""
    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), "step_00000500.pt")


# ------------------------------------------------------------------------------------------------------------ the rest


@way
def mpi_abort() -> None:
    """A program that ends its whole MPI world."""
    from mpi4py import MPI

    MPI.COMM_WORLD.Abort(3)


@way
def skip_collective() -> None:
    """Stay alive and take no part: the others wait."""
    signal.pause()


@way
def leave_early() -> None:
    """End with success while the others go on."""
    os._exit(0)


def everyone() -> frozenset[str]:
    """The ways that all ranks go together."""
    return frozenset({"module", "missing_file", "bad_json"})


def work(seconds: float | None, *, collective: bool) -> None:
    """Train, in a manner of speaking; for ever where `seconds` is None."""
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    if not collective:
        while time.monotonic() < deadline:
            time.sleep(0.05)
        return
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=timedelta(seconds=SHORT_S))
    # Everybody does the same number of rounds before the one leaves.
    rounds = 10**9 if seconds is None else 10
    for _ in range(rounds):
        dist.all_reduce(torch.ones(4))
        time.sleep(0.05)


def main() -> None:
    """Go this attempt's way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ways", required=True)
    parser.add_argument("--rank", type=int, default=1)
    parser.add_argument("--settle", type=float, default=1.0)
    parser.add_argument("--collective", action="store_true")
    parser.add_argument("--mpi", action="store_true", help="every rank starts MPI")
    parser.add_argument("--place", type=Path, default=Path("/tmp"), help="where write_until_it_fails writes")
    args = parser.parse_args()
    os.environ["MISFORTUNE_PLACE"] = str(args.place)
    ways, attempt = args.ways.split(","), int(os.environ["FTSLURM_ATTEMPT"])
    if attempt >= len(ways):
        return
    if args.mpi:
        from mpi4py import MPI

        MPI.COMM_WORLD.Barrier()
    name = ways[attempt]
    mine = int(os.environ["RANK"]) == args.rank or name in everyone()
    work(args.settle if mine else None, collective=args.collective)
    WAYS[name]()


if __name__ == "__main__":
    main()
