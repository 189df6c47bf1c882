"""How fast one process saves, loads and drains a gibibyte, beside what memory and disk allow and what others do.

The state is a GPT's weights in main memory. In each round every way has its turn once, in a folder of its own that is
removed afterwards. Saves count until everything is fsynced. Loads are measured twice: with an empty page cache, and
with the files in it. What ftslurm does is called through `ftslurm.training`, as a program calls it. The floor beside it
is measured right before and right after, and counts with the mean of both, because the machine's speed drifts.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import checkpoint_peers as peers
import machine
import torch
from checkpoint_peers import Floor, State, timed
from torch import nn

from ftslurm.checkpoint.drain import Target, Transport, drain_part
from ftslurm.checkpoint.layout import StorePaths
from ftslurm.core.manifest import generation_name
from ftslurm.training import attach

NODE = "rank-00000"
STEP = 1
SAVES = {
    "memcpy": "copy into kept memory: floor of any blocking time",
    "blocking": "**ftslurm**: training stands still",
    "async_blocking": "`dcp.async_save`: training stands still",
    "raw": "write of the bytes, O_DIRECT, fsync: floor of any save",
    "total": "**ftslurm**: saved, digested, committed",
    "dcp": "`dcp.save`",
    "async_total": "`dcp.async_save`, until it has saved",
    "torch": "`torch.save`, fsync",
    "safetensors": "safetensors, fsync",
}
LOADS = {
    "read": "read of the bytes: floor",
    "load": "**ftslurm**: every chunk verified",
    "dcp_load": "`dcp.load`",
    "torch_load": "`torch.load`",
    "safetensors_load": "safetensors",
}
DRAINS = {
    "cp": "`cp` and fsync, nothing verified: floor",
    "drain": "**drain by verified copy**",
    "rsync": "drain by rsync, verified",
}
BARS = [
    ("blocking", "memcpy", "at most 1.2"),
    ("total", "raw", "at most 1.1"),
    ("dcp", "total", "at least 2"),
    ("load", "read", "at most 1.3"),
    ("drain", "cp", "at most 1.2"),
]
METHOD = """{tensors} fp32 tensors, {gib:.2f} GiB, one process, {rounds} rounds in turn; median seconds and range.
`scripts/bench checkpoint` measures it again.
"""
Took = dict[str, list[float]]


class NotRight(RuntimeError):
    """What was measured did not do what it should."""


class Ours:
    """The state as a model whose program uses `ftslurm.training`."""

    def __init__(self, state: State, folder: Path) -> None:
        self.store = StorePaths(folder)
        self.model = nn.ParameterDict({name.replace(".", "/"): nn.Parameter(each) for name, each in state.items()})
        self.run = attach(model=self.model, folder=folder, every=10**9)
        self.run.should_save(0)  # the memory is allocated before the first save, as in a training
        self.generation = ""

    def save(self) -> tuple[float, float]:
        """(how long training stood still, until it was committed)."""

        def whole() -> None:
            blocked.append(timed(lambda: self.run.save(STEP)))
            self.run.close()

        blocked: list[float] = []
        total = timed(whole)
        self.generation = generation_name(STEP, 0)
        if not self.store.generation(self.generation).commit.is_file():
            raise NotRight("the save was not committed")
        return blocked[0], total

    def load(self) -> float:
        """Restore into the model, every chunk verified."""
        run = attach(model=self.model, folder=self.store.root, every=10**9)
        took = timed(run.restore)
        run.close()
        return took


def warm(folder: Path) -> None:
    """Read every file of a folder into the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.read(8 << 20):
                    pass


def cool(folder: Path) -> None:
    """Drop every file of a folder from the page cache; posix_fadvise(2) needs them clean."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


@contextmanager
def own_folder(base: Path) -> Iterator[Path]:
    """A folder on the disk that is measured; what others have written is on the disk before."""
    with tempfile.TemporaryDirectory(dir=base, prefix="ftslurm-bench-") as name:
        os.sync()
        yield Path(name)


def loads(took: Took, name: str, folder: Path, load: Callable[[], float]) -> None:
    """Measure a load with a cold and with a warm cache."""
    cool(folder)
    took[f"{name}:cold"].append(load())
    warm(folder)
    took[f"{name}:warm"].append(load())


def between(took: Took, floor: str, measure_floor: Callable[[], float], work: Callable[[], None]) -> None:
    """Measure a floor before and after `work`."""
    before = measure_floor()
    work()
    took[floor].append((before + measure_floor()) / 2)


def ours(took: Took, state: State, floor: Floor, base: Path) -> None:
    """Save, load, drain, each beside what memory and disk allow."""
    with own_folder(base) as folder:
        mine, raw = Ours(state, folder / "store"), folder / "raw"

        def save() -> None:
            os.sync()
            between(took, "memcpy", partial(floor.memcpy, state), lambda: saved.extend(mine.save()))
            os.sync()

        saved: list[float] = []
        between(took, "raw", partial(floor.write, raw), save)
        for name, value in zip(("blocking", "total"), saved, strict=True):
            took[name].append(value)
        our_loads(took, mine, partial(floor.read, raw), folder)
        raw.unlink()
        drains(took, mine, folder)


def our_loads(took: Took, mine: Ours, read: Callable[[], float], folder: Path) -> None:
    """Load, with a cold and with a warm cache."""

    def when(ready: Callable[[Path], None], load: Callable[[], float]) -> float:
        ready(folder)
        return load()

    def load(where: str, ready: Callable[[Path], None]) -> None:
        took[f"load:{where}"].append(when(ready, mine.load))

    for where, ready in (("cold", cool), ("warm", warm)):
        between(took, f"read:{where}", partial(when, ready, read), partial(load, where, ready))


def drains(took: Took, mine: Ours, folder: Path) -> None:
    """Bring what was saved to another place, from the page cache."""
    source = mine.store.generation(mine.generation)

    def ready(name: str) -> Path:
        warm(source.root)
        os.sync()
        return folder / name

    def drain(name: str, transport: Transport) -> None:
        target = ready(name)
        report = drain_part(source.root, NODE, Target(destination=str(target), transport=transport))
        if not report.ok:
            raise NotRight(report.error)
        took[name].append(report.took_s)
        shutil.rmtree(target)

    def plain() -> float:
        target = ready("cp")
        seconds = timed(partial(copy, source.data, target))
        shutil.rmtree(target)
        return seconds

    between(took, "cp", plain, partial(drain, "drain", Transport.COPY))
    drain("rsync", Transport.RSYNC)


def copy(source: Path, target: Path) -> None:
    """The plain way, and as safe as plain gets: cp, then fsync of the files and of their folder."""
    subprocess.run(["cp", "-r", str(source), str(target)], check=True, timeout=600)
    subprocess.run(["sync", *map(str, target.iterdir()), str(target)], check=True, timeout=600)


def others(took: Took, state: State, base: Path) -> None:
    """What others do with the same state."""
    saves = {"torch": peers.torch_save, "safetensors": peers.safetensors_save, "dcp": peers.dcp_save}
    back = {"torch": peers.torch_load, "safetensors": peers.safetensors_load, "dcp": peers.dcp_load}
    for name, save in saves.items():
        with own_folder(base) as folder:
            took[name].append(save(state, folder))
            loads(took, f"{name}_load", folder, partial(back[name], state, folder))
    with own_folder(base) as folder:
        blocking, total = peers.dcp_async(state, folder)
        took["async_blocking"].append(blocking)
        took["async_total"].append(total)


def measure(base: Path, mib: int, rounds: int) -> tuple[int, Took]:
    """Bytes of the state, and the seconds of each row in every round."""
    state = peers.state_of(mib)
    floor = Floor(state)
    took: Took = defaultdict(list)
    for number in range(rounds):
        gc.collect()  # the state of the round before, and its kept memory
        ours(took, state, floor, base)
        others(took, state, base)
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return peers.size_of(state), {name: [round(each, 4) for each in seconds] for name, seconds in took.items()}


def render(value: dict[str, Any]) -> str:
    """The page."""
    took, size = value["seconds"], value["size_bytes"]
    rounds = len(took["raw"])
    parts = [
        "# Checkpoints: saving, loading, draining\n",
        machine.described(value["machine"]),
        METHOD.format(tensors=value["tensors"], gib=size / 2**30, rounds=rounds),
        "## Saving\n",
        machine.table(
            ["what", "s", "range", "against memcpy", "against the raw write"],
            [_row(took, name, text, ("memcpy", "raw")) for name, text in SAVES.items()],
        ),
        "## Loading\n",
        machine.table(
            ["what", "warm s", "range", "against the floor", "cold s", "range", "against the floor"],
            [
                [
                    *_row(took, f"{name}:warm", text, ("read:warm",)),
                    *_row(took, f"{name}:cold", text, ("read:cold",))[1:],
                ]
                for name, text in LOADS.items()
            ],
        ),
        "## Draining to another folder of the same disk, from the page cache\n",
        machine.table(
            ["what", "s", "range", "against `cp`"],
            [_row(took, name, text, ("cp",)) for name, text in DRAINS.items()],
        ),
        "## Ratios that were to be reached\n",
        machine.table(["ratio", "wanted", "median of the rounds' ratios"], [_bar(took, *bar) for bar in BARS]),
    ]
    return "\n".join(parts)


def _row(took: Took, name: str, text: str, against: tuple[str, ...]) -> list[str]:
    seconds = took[name]
    ratios = [f"{median(seconds) / median(took[other]):.2f}" for other in against]
    return [text, f"{median(seconds):.3f}", f"{min(seconds):.2f} to {max(seconds):.2f}", *ratios]


def _bar(took: Took, name: str, against: str, wanted: str) -> list[str]:
    """A ratio taken round by round: the machine's speed drifts, but not within a round."""
    ours_, theirs = (took.get(each) or took[f"{each}:warm"] for each in (name, against))
    ratio = median(mine / other for mine, other in zip(ours_, theirs, strict=True))
    return [f"{name} / {against}", wanted, f"{ratio:.2f}"]


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=1056, help="size of the state in MiB (default 1056)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="48 MiB, 2 rounds")
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"), help="folder on the disk that is measured")  # noqa: S108 - a folder is made in it
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder of the results")
    args = parser.parse_args()
    logging.getLogger("torch").setLevel(logging.ERROR)
    torch.set_grad_enabled(mode=False)
    mib, rounds = (48, 2) if args.quick else (args.mb, args.rounds)
    size, took = measure(args.dir, mib, rounds)
    value = {
        "machine": machine.describe(""),
        "size_bytes": size,
        "tensors": len(peers.state_of(48)) * max(mib // 48, 1),
        "seconds": took,
    }
    machine.write_json(args.out / "checkpoint.json", value)
    (args.out / "checkpoint.md").write_text(render(value), encoding="utf-8")
    print(render(value))
    return 0


if __name__ == "__main__":
    sys.exit(main())
