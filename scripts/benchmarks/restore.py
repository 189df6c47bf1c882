"""How long three survivors need to get a checkpoint of four nodes: from each other, and from slow shared storage.

Each node is a process with the checkpoint side of an agent; they talk over loopback as agents do. One node is ended
after the save. Every survivor then needs the whole state, as with data parallelism: its own part and its partner's lie
on its scratch, the other two come from other survivors. Beside it the same nodes with empty scratches, whose bytes come
from shared storage, and the floor: plain copies of the files that had to move between survivors, all nodes at once.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import machine
from restore_node import RUN, NotRight, Place, serve_orders

from ftslurm.core.actions import Pair, Whereabouts
from ftslurm.core.manifest import generation_name
from ftslurm.core.rankindex import data_name
from ftslurm.runtime.scratch import scratch_paths

NODES, LOST = 4, 2
SHARED_RATE = 100_000_000
GENERATION = generation_name(1000, 0)
ANSWER_S = 240.0
ROWS = {
    "floor": "plain copies of what has to move between survivors: floor",
    "near": "**from scratch, partner copies and survivors**",
    "bare": "from shared storage",
}
METHOD = """A state of {mib} MiB in {nodes} equal parts, one node lost, {rounds} rounds in turn after one that does not
count; median seconds and range, until the last survivor has all parts, every chunk verified. The files are in the page
cache. Survivors are processes that talk over loopback, through the agents' own transfer. Reading into the program's
memory, which is the same in both cases, is not in it.

Shared storage is emulated: a folder of the same disk, whose bytes each of the {survivors} survivors gets at a third of
{rate} MB/s (a wait after every MiB that was read and verified). They read the same amount at the same time, so together
they get {rate} MB/s. Its latency is not emulated. `scripts/bench restore` measures it again.
"""

FASTER = """Without shared storage it is {ratio:.1f} times as fast as with it (median of the rounds' ratios); bytes from
shared storage in that case: {size}.
"""


@dataclass
class Remote:
    """A node's process, and the pipe to it."""

    name: str
    process: multiprocessing.process.BaseProcess
    pipe: Connection

    def ask(self, order: str, *arguments: object) -> None:
        """Begin something."""
        self.pipe.send((order, arguments))

    def answer(self) -> Any:  # noqa: ANN401 - what the order returns
        """What came of it. Raises NotRight."""
        if not self.pipe.poll(ANSWER_S):
            raise NotRight(f"{self.name} does not answer")
        found = self.pipe.recv()
        if isinstance(found, Exception):
            raise NotRight(f"{self.name}: {found}") from found
        return found

    def end(self) -> None:
        """The node is gone."""
        self.pipe.close()
        self.process.kill()
        self.process.join(10)


def together(nodes: Sequence[Remote], order: str, arguments: Callable[[int], tuple[object, ...]]) -> list[Any]:
    """Give all nodes an order at once; returns their answers."""
    for number, node in enumerate(nodes):
        node.ask(order, *arguments(number))
    return [node.answer() for node in nodes]


@contextmanager
def started(root: Path, size_bytes: int) -> Iterator[list[Remote]]:
    """All nodes, acquainted."""
    context, key = multiprocessing.get_context("spawn"), os.urandom(32)
    nodes = []
    try:
        for rank in range(NODES):
            rate = SHARED_RATE // (NODES - 1)
            place = Place(root=root, rank=rank, world=NODES, size_bytes=size_bytes, shared_rate=rate, key=key)
            ours, theirs = context.Pipe()
            process = context.Process(target=serve_orders, args=(place, theirs), daemon=True)
            process.start()
            theirs.close()
            nodes.append(Remote(place.name, process, ours))
        ports = together(nodes, "port", lambda _: ())
        introduce(nodes, dict(zip((node.name for node in nodes), ports, strict=True)))
        yield nodes
    finally:
        for node in nodes:
            node.end()


def introduce(nodes: Sequence[Remote], ports: dict[str, int]) -> None:
    """Tell every node where the others are."""
    together(nodes, "meet", lambda _: ({name: ("127.0.0.1", port) for name, port in ports.items()},))


def saved(nodes: Sequence[Remote]) -> Whereabouts:
    """A checkpoint with a partner copy of each part half the nodes away, and all of it on shared storage."""
    parts = together(nodes, "save", lambda _: (GENERATION,))

    def pair(number: int) -> tuple[str, Pair]:
        owner = (number - NODES // 2) % NODES
        name, digest = nodes[owner].name, parts[owner].manifest_digest
        return GENERATION, Pair(owner=name, holder=nodes[number].name, digest=digest, sources=(name,))

    together(nodes, "copy", pair)
    holders = tuple((node.name, nodes[(rank + NODES // 2) % NODES].name) for rank, node in enumerate(nodes))
    return Whereabouts(generation=GENERATION, world_size=NODES, parts=tuple(parts), holders=holders)


def without(where: Whereabouts, lost: str) -> Whereabouts:
    """Who can still be asked."""
    return replace(where, holders=tuple(tuple(name for name in each if name != lost) for each in where.holders))


class Bench:
    """The survivors, and one restore of each kind after another."""

    def __init__(self, root: Path, survivors: Sequence[Remote], where: Whereabouts) -> None:
        self._root, self._survivors, self._where = root, survivors, where
        self._attempt = 0

    def restore(self, scratch: str) -> tuple[float, Counter[str]]:
        """Seconds until all survivors have everything, and the bytes by source."""
        self._attempt += 1
        for node in self._survivors:
            paths = scratch_paths(self._root / node.name / scratch, RUN)
            shutil.rmtree(paths.restores, ignore_errors=True)
        os.sync()
        began = time.monotonic()
        where = self._where if scratch == "near" else replace(self._where, holders=((),) * NODES)
        found = together(self._survivors, "restore", lambda _: (where, self._attempt, scratch))
        return time.monotonic() - began, sum(found, Counter())

    def floor(self) -> tuple[float, Counter[str]]:
        """Plain copies of the files that the survivors had to get from each other, all nodes at once."""
        context = multiprocessing.get_context("spawn")
        with tempfile.TemporaryDirectory(dir=self._root) as target, context.Pool(len(self._survivors)) as pool:
            jobs = [(self._missing(node.name), Path(target) / node.name) for node in self._survivors]
            pool.starmap(copy, [([], Path(target) / f"{number}") for number in range(len(jobs))])  # all are up
            os.sync()
            began = time.monotonic()
            sizes = pool.starmap(copy, jobs, 1)
            return time.monotonic() - began, Counter({"copied": sum(sizes)})

    def _missing(self, name: str) -> list[Path]:
        """For each part that a node has not: the file on the first node that has it."""
        found = []
        for rank, (part, holders) in enumerate(zip(self._where.parts, self._where.holders, strict=True)):
            if name not in holders and part.node != name:
                paths = scratch_paths(self._root / holders[0] / "near", RUN)
                store = paths if holders[0] == part.node else paths.partner(part.node)
                found.append(store.generation(GENERATION).data / data_name(rank))
        return found


def copy(files: list[Path], target: Path) -> int:
    """Copy files into a new folder; returns their bytes."""
    target.mkdir()
    for path in files:
        shutil.copyfile(path, target / path.name)
    return sum(path.stat().st_size for path in files)


def measure(base: Path, mib: int, rounds: int) -> tuple[dict[str, list[float]], dict[str, dict[str, int]]]:
    """Seconds of each row in every round, and the bytes by source of one round."""
    took: dict[str, list[float]] = defaultdict(list)
    sizes: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory(dir=base, prefix="ftslurm-bench-") as name:
        root = Path(name)
        with started(root, mib << 20) as nodes:
            where = without(saved(nodes), nodes[LOST].name)
            nodes[LOST].end()
            bench = Bench(root, [node for number, node in enumerate(nodes) if number != LOST], where)
            for number in range(rounds + 1):
                for row in ROWS:
                    seconds, found = bench.floor() if row == "floor" else bench.restore(row)
                    sizes[row] = dict(found)
                    took[row] += [round(seconds, 4)] if number else []
                print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
    return dict(took), sizes


def render(value: dict[str, Any]) -> str:
    """The page."""
    took, sizes = value["seconds"], value["bytes"]
    rows = []
    for name, text in ROWS.items():
        seconds = took[name]
        told = ", ".join(f"{size / 2**20:.0f} {source}" for source, size in sorted(sizes[name].items()))
        ratio = median(one / other for one, other in zip(seconds, took["floor"], strict=True))
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        rows.append([text, f"{median(seconds):.2f}", spread, f"{ratio:.1f}", told])
    method = METHOD.format(
        mib=value["mib"],
        nodes=NODES,
        survivors=NODES - 1,
        rounds=len(took["floor"]),
        rate=SHARED_RATE // 1_000_000,
    )
    faster = median(slow / fast for slow, fast in zip(took["bare"], took["near"], strict=True))
    return "\n".join(
        [
            "# Restore after the loss of a node\n",
            machine.described(value["machine"]),
            method,
            machine.table(["what", "s", "range", "against the floor", "MiB by source, all survivors"], rows),
            FASTER.format(ratio=faster, size=sizes["near"].get("shared", 0)),
        ]
    )


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=256, help="size of the state in MiB (default 256)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="16 MiB, 2 rounds")
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"), help="folder on the disk that is used")  # noqa: S108 - a folder is made in it
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder of the results")
    args = parser.parse_args()
    mib, rounds = (16, 2) if args.quick else (args.mb, args.rounds)
    took, sizes = measure(args.dir, mib, rounds)
    value = {"machine": machine.describe(""), "mib": mib, "seconds": took, "bytes": sizes}
    machine.write_json(args.out / "restore.json", value)
    (args.out / "restore.md").write_text(render(value), encoding="utf-8")
    print(render(value))
    return 0


if __name__ == "__main__":
    sys.exit(main())
