"""How fast a checkpoint gets from scratch to shared storage with every byte verified, beside `cp` and `sync`.

One file of random bytes is taken in (hard link, digest, fsync, manifest), drained (read, compared with the manifest,
written, fsynced), verified at its destination, and copied by cp and sync, in turn, several times over. The file lies in
the page cache, for all of them alike; the destination is on the same disk. What memory alone allows stands beside it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import machine

from ftslurm.checkpoint.capture import Author, Captured, capture
from ftslurm.checkpoint.commit import commit_durable, prepare_store
from ftslurm.checkpoint.digest import digest_bytes
from ftslurm.checkpoint.drain import Target, Transport, drain_part
from ftslurm.checkpoint.folderscan import Identity
from ftslurm.checkpoint.store import verify
from ftslurm.checkpoint.watch import FoundFile, StepFiles
from ftslurm.core.events import Part
from ftslurm.core.manifest import CHUNK_BYTES, Commit

RUN, NODE = "bench", "n1"
ROWS = {
    "memcpy": "copy in memory (one core)",
    "digest": "digest in memory (one core)",
    "capture": "capture: link, digest, fsync, manifest",
    "drain": "**drain by verified copy**",
    "rsync": "drain by rsync, verified",
    "cp": "`cp` and `sync`, nothing verified",
    "verify": "verify at the destination",
}
METHOD = """Source and destination are on one disk, and the source is in the page cache. `scripts/bench checkpoint`
measures it again."""


class NotRight(RuntimeError):
    """What was measured did not do what it should."""


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


def take_in(folder: Path, number: int) -> Captured:
    """Capture the file as a generation of its own."""
    source = folder / "scratch"
    path = source / f"step_{number:08d}.pt"
    found = FoundFile(name=path.name, rank=None, identity=Identity.of(path.stat()))
    author = Author(run_id=RUN, attempt=0, node=NODE, world_size=1)
    return capture(StepFiles(step=number, files=(found,)), source, folder / "local" / "gen", author)


def drain(captured: Captured, store: Path, transport: Transport) -> None:
    """Bring it to the store; NotRight when that did not work."""
    report = drain_part(captured.folder, NODE, Target(destination=str(store), transport=transport))
    if not report.ok:
        raise NotRight(report.error)


def check(captured: Captured, store: Path) -> float:
    """Commit, and read every byte again; seconds of the reading."""
    manifest = captured.manifest
    part = Part(node=NODE, manifest_digest=captured.digest, files=1, size_bytes=manifest.size_bytes)
    generation = manifest.generation
    commit_durable(store, Commit(run_id=RUN, generation=generation, world_size=1, epoch=1, parts=(part,)))
    verdict = verify(store, generation)
    if not verdict.ok:
        raise NotRight(str(verdict.problems[0]))
    return verdict.took_s


def copy(source: Path, target: Path) -> None:
    """The plain way, and as safe as plain gets: cp, then fsync of the file and of its folder."""
    subprocess.run(["cp", str(source), str(target)], check=True, timeout=600)
    subprocess.run(["sync", str(target), str(target.parent)], check=True, timeout=600)


def one_round(folder: Path, data: bytes, number: int) -> dict[str, float]:
    """Seconds of each row."""
    path = folder / "scratch" / f"step_{number:08d}.pt"
    path.write_bytes(data)
    os.sync()
    took: dict[str, float] = {"memcpy": timed(lambda: bytearray(data))}
    view = memoryview(data)
    took["digest"] = timed(
        lambda: [digest_bytes(view[at : at + CHUNK_BYTES]) for at in range(0, len(view), CHUNK_BYTES)]
    )
    captured: list[Captured] = []
    took["capture"] = timed(lambda: captured.append(take_in(folder, number)))
    took["drain"] = timed(lambda: drain(captured[0], folder / "store", Transport.COPY))
    took["rsync"] = timed(lambda: drain(captured[0], folder / "rsync", Transport.RSYNC))
    took["cp"] = timed(lambda: copy(path, folder / "plain" / path.name))
    took["verify"] = check(captured[0], folder / "store")
    return took


def measure(base: Path, size_bytes: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each row in every round; each round's files are removed before the next."""
    data = os.urandom(size_bytes)
    took: dict[str, list[float]] = {row: [] for row in ROWS}
    for number in range(1, rounds + 1):
        with tempfile.TemporaryDirectory(dir=base, prefix="ftslurm-bench-") as name:
            folder = Path(name)
            for sub in ("scratch", "local/gen", "store", "rsync", "plain"):
                (folder / sub).mkdir(parents=True)
            for store in ("store", "rsync"):
                prepare_store(folder / store, RUN, time.time())
            for row, seconds in one_round(folder, data, number).items():
                took[row].append(round(seconds, 4))
    return took


def render(value: dict[str, Any]) -> str:
    """The page."""
    size, took = value["size_bytes"], value["seconds"]
    plain = median(took["cp"])
    rows = []
    for row, name in ROWS.items():
        rates = sorted(size / 1e9 / seconds for seconds in took[row])
        spread = f"{rates[0]:.2f} to {rates[-1]:.2f}"
        rows.append([name, f"{median(rates):.2f}", spread, f"{median(took[row]) / plain:.2f}"])
    parts = [
        "# Checkpoints: from scratch to shared storage\n",
        machine.described(value["machine"]),
        f"One file of {size / 2**20:g} MiB, {len(took['cp'])} rounds. {METHOD}\n",
        machine.table(["what", "GB/s, median", "range", "time against `cp` and `sync`"], rows),
    ]
    return "\n".join(parts)


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=1024, help="size of the checkpoint in MiB (default 1024)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="16 MiB, 2 rounds")
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"), help="folder on the disk that is measured")  # noqa: S108 - a folder is made in it
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder of the results")
    args = parser.parse_args()
    size_bytes, rounds = (16 << 20, 2) if args.quick else (args.mb << 20, args.rounds)
    value = {
        "machine": machine.describe(""),
        "size_bytes": size_bytes,
        "seconds": measure(args.dir, size_bytes, rounds),
    }
    machine.write_json(args.out / "checkpoint.json", value)
    (args.out / "checkpoint.md").write_text(render(value), encoding="utf-8")
    print(render(value))
    return 0


if __name__ == "__main__":
    sys.exit(main())
