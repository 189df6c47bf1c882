"""How well the models of performance predict the steps of a real training: at 1, 2, 4 and 8 ranks, on the lab.

Each size is a job of `ftslurm submit`, whose ranks (`steps_rank.py`) measure what a step is made of beside steps, then
train.
The prediction knows the arithmetic of a single rank in CPU seconds, the link between two, and no step:

    step(n) = arithmetic / share(n) + all-reduce by a ring of n ranks, on links that are slower by share(2) / share(n)

All nodes of the lab share the cores of one machine, with each other and with whatever else runs, and its network is
memory that these cores copy. The share of a core that a rank gets is at most cores / n, and is measured at each size; a
cluster's rank has a core of its own, and a share of 1 at any size.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import machine
from faults import wait_until
from laboratory import laboratory
from methods import make_place, submit_ftslurm

from ftslurm.core.scaling import fit
from ftslurm.plan.collectives import Algorithm, Link, all_reduce_s

if TYPE_CHECKING:
    from ftslurm.lab.cluster import Cluster

from pathlib import Path

PROGRAM = Path(__file__).with_name("steps_rank.py")
SIZES = ((1, 1), (2, 1), (4, 1), (4, 2))
"""Nodes, and ranks on each of them."""
LIMIT_S = 150.0
CORES = os.cpu_count() or 1

CONFIG = """name: steps
command: {command}
run_root: {runs}
resources: {{nodes: {nodes}, ranks_per_node: {each}, time: "5:00"}}
launch: {{mpi: none}}
"""
PAGE = """# Steps that were predicted, and steps that were made

{machine}
{limits}

A network of 8 MB is trained by torch's DistributedDataParallel over gloo, {seconds:g} s at each size, every rank with
samples of its own. `scripts/bench steps` measures it again.

**{cores} cores stand for all nodes.** A rank gets what is left of a core: with n ranks at most {cores}/n of it, and
less where other programs run on the machine. That *share* is measured at each size, as CPU time by time. Arithmetic
takes 1/share times as long as on a core, and messages, which the same cores copy, are slower than between two ranks
by as much as the share is smaller. On a cluster the share is 1 at any size, and none of this is in a step. *load* is
the machine's of the last minute; what of it is more than the ranks is others'.

## Steps, in milliseconds

Predicted from the arithmetic of one rank, the share of a core, and an all-reduce between 2 ranks; no step was known.
Steps and their parts were measured in turn, so that whatever else ran met all of them. A rank waits for the slowest
of all, which no term stands for: so steps take longer than is said.

{steps}
## What a step is made of, in milliseconds

The arithmetic of all ranks at once, without a message; and one all-reduce of all gradients, by the formula of the
ring. *known* is what the prediction was given.

{parts}
## By the law through the other sizes, in milliseconds

Each size in turn is left out, and said by the law (`core.scaling`) that the steps of the other three follow. No law
knows of cores that are shared. Live decisions believe a law only where it misses no
measured step by more than a fifth, and reach no further beyond the measured sizes than these are apart.

{others}
## What ftslurm saw of the steps, in milliseconds

The median step of a training, as the program measures it and as ftslurm's journal has it (`WorkPaced`): by these a live
run prices a smaller world.

{trained}"""


def measure(lab: Cluster, size: tuple[int, int], parts_s: float, seconds: float) -> dict[str, Any]:
    """What the ranks of one size have measured, and what ftslurm has told of their steps."""
    nodes, each = size
    place = make_place(lab, f"{time.time_ns()}-steps", 0, 0)
    out = place.folder / "steps.json"
    options = {"parts": parts_s, "seconds": seconds, "out": out}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = json.dumps([sys.executable, str(PROGRAM), *words])
    submit_ftslurm(lab, place, CONFIG.format(command=command, runs=json.dumps(str(place.runs)), nodes=nodes, each=each))
    wait_until(f"{nodes * each} ranks", seconds + LIMIT_S, out.exists)
    found = json.loads(out.read_text(encoding="utf-8"))
    found["told_s"] = told(place.runs)
    wait_until("the end of the job", LIMIT_S, lambda: not lab.login(["squeue", "--noheader"]).stdout.strip())
    return {**found, "nodes": nodes}


def told(runs: Path) -> float | None:
    """The seconds of a step as ftslurm's journal has them: what it would price a smaller world by; None: too short."""
    for path in runs.glob("*/journal.*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            event = json.loads(line)["event"]
            if event["type"] == "WorkPaced":
                return float(event["step_s"])
    return None


def predicted(sizes: dict[int, dict[str, Any]]) -> dict[int, dict[str, float]]:
    """The arithmetic, the all-reduce and the step of every size, from one rank's arithmetic and two ranks' link."""
    alone, two = sizes[1], sizes[2]
    on_core_s = alone["arithmetic_s"] * alone["on_core"]
    # A ring of two sends half of the bytes twice: 2 alpha + n / B.
    latency_s, rate = two["small_s"] / 2, two["size_bytes"] / (two["large_s"] - two["small_s"])
    found = {}
    for ranks, size in sizes.items():
        arithmetic_s = on_core_s / size["on_core"]
        crowd = two["on_core"] / size["on_core"]
        link = Link(latency_s * crowd, rate / crowd)
        reduce_s = all_reduce_s(Algorithm.RING, size["size_bytes"], ranks, link)
        found[ranks] = {"arithmetic_s": arithmetic_s, "reduce_s": reduce_s, "step_s": arithmetic_s + reduce_s}
    return found


def left_out(sizes: dict[int, dict[str, Any]]) -> dict[int, tuple[str, float]]:
    """For every size the law through the steps of the others, and what it says of this one."""
    found = {}
    for ranks in sizes:
        law = fit({other: size["step_s"] for other, size in sizes.items() if other != ranks})
        if law is not None:
            found[ranks] = (law.kind.title(), law.step_s(ranks))
    return found


def compared(truth_s: float, guess_s: float) -> list[str]:
    """Cells of a table: what was measured, what was said, and by how much that is off."""
    return [f"{1000 * truth_s:.1f}", f"{1000 * guess_s:.1f}", f"{100 * (guess_s / truth_s - 1):+.0f} %"]


def known(cells: list[str]) -> list[str]:
    """The same where the prediction was given the measurement."""
    return [cells[0], "known", ""]


def render(value: dict[str, Any]) -> str:
    """The page."""
    sizes = {size["ranks"]: size for size in value["sizes"]}
    guessed, laws = predicted(sizes), left_out(sizes)
    steps, parts, others, trained = [], [], [], []
    for ranks, size in sizes.items():
        guess, step_s = guessed[ranks], size["step_s"]
        steps.append([str(ranks), str(size["nodes"]), *compared(step_s, guess["step_s"]), f"{size['load']:.1f}"])
        seen = compared(size["trained_s"], size["told_s"]) if size["told_s"] is not None else ["-"] * 3
        trained.append([str(ranks), *seen])
        alone, sent = (compared(size[of], guess[by]) for of, by in (("arithmetic_s",) * 2, ("large_s", "reduce_s")))
        alone, sent = known(alone) if ranks == 1 else alone, known(sent) if ranks == 2 else sent
        parts.append([str(ranks), f"{size['on_core']:.2f}", *alone, *(sent if ranks > 1 else ["-"] * 3)])
        kind, law_s = laws[ranks]
        others.append([str(ranks), kind, *compared(step_s, law_s)])
    return PAGE.format(
        machine=machine.described(value["machine"]),
        limits=value["limits"],
        seconds=value["seconds"],
        cores=CORES,
        steps=machine.table(["ranks", "nodes", "measured", "predicted", "error", "load"], steps),
        trained=machine.table(["ranks", "by the program", "by ftslurm", "error"], trained),
        parts=machine.table(
            ["ranks", "share", "arithmetic", "predicted", "error", "all-reduce", "predicted", "error"], parts
        ),
        others=machine.table(["ranks", "law", "measured", "by the law", "error"], others),
    )


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=27.0, help="how long each size trains (default 27)")
    parser.add_argument("--parts", type=float, default=10.0, help="how long its parts are measured before (default 10)")
    parser.add_argument("--quick", action="store_true", help="2 seconds each")
    parser.add_argument("--lab", default="", help="use this lab, which is up, and leave it up")
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder of the results")
    args = parser.parse_args()
    parts_s, seconds = (2.0, 2.0) if args.quick else (args.parts, args.seconds)
    with laboratory(args.lab) as lab:
        value = {
            "machine": machine.describe(machine.slurm_version(lab)),
            "limits": machine.limits(),
            "seconds": seconds,
            "cores": CORES,
            "sizes": [measure(lab, size, parts_s, seconds) for size in SIZES],
        }
    machine.write_json(args.out / "steps.json", value)
    page = render(value)
    (args.out / "steps.md").write_text(page, encoding="utf-8")
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
