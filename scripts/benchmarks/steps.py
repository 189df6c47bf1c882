"""How well the models of performance predict the steps of a real training: at 1, 2, 4 and 8 ranks, on the lab.

Each size is a job of `ftslurm submit`, whose ranks (`steps_rank.py`) first measure what a step is made of, then train.
The prediction knows the arithmetic at 1 and at 2 ranks and the link between 2 ranks, and no step:

    step(n) = crowd(n) x arithmetic + all-reduce by a ring of n ranks, on links that are slower by crowd(n)

All nodes of the lab share the cores of one machine, and its network is memory that the same cores copy. So beyond as
many ranks as cores every rank gets a share of a core only: crowd(n) = n / cores. On a cluster crowd is 1 at any size.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from statistics import median
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
SKIPPED = 5
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

**{cores} cores stand for all nodes.** With more ranks than that each of them gets a share of a core, also for copying
what it sends, so that arithmetic and messages take ranks / cores times as long. The nodes of a cluster have cores of
their own, and no such term. Whatever else ran on this machine meanwhile is in the numbers: *load* is the mean of the
last minute.

## Steps, in milliseconds

Predicted from the arithmetic at 1 and 2 ranks, and from an all-reduce between 2 ranks; no step was known. *told* is
what ftslurm itself saw of the steps (`WorkPaced` in the journal), by which it prices a smaller world.

{steps}
## What a step is made of, in milliseconds

The arithmetic of all ranks at once, without a message; and one all-reduce of all gradients, by the formula of the
ring. What was measured at 1 and 2 ranks is what the prediction knows.

{parts}
## By the law through the other sizes, in milliseconds

Each size in turn is left out, and said by the law (`core.scaling`) that the steps of the other three follow. No law
knows of cores that are shared: the curve bends at {cores} ranks. Live decisions believe a law only where it misses no
measured step by more than a fifth, and reach no further beyond the measured sizes than these are apart.

{others}"""


def measure(lab: Cluster, nodes: int, each: int, seconds: float) -> dict[str, Any]:
    """What the ranks of one size have measured, and what ftslurm has told of their steps."""
    place = make_place(lab, f"{time.time_ns()}-steps", 0, 0)
    out = place.folder / "steps.json"
    command = json.dumps([sys.executable, str(PROGRAM), "--seconds", str(seconds), "--out", str(out)])
    submit_ftslurm(lab, place, CONFIG.format(command=command, runs=json.dumps(str(place.runs)), nodes=nodes, each=each))
    wait_until(f"{nodes * each} ranks", seconds + LIMIT_S, out.exists)
    found = json.loads(out.read_text(encoding="utf-8"))
    found["step_s"] = median(found.pop("steps_s")[SKIPPED:])
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
    """The all-reduce and the step of every size, from the parts that were measured at 1 and 2 ranks."""
    alone, two = sizes[1], sizes[2]
    # A ring of two sends half of the bytes twice: 2 alpha + n / B.
    latency_s, rate = two["small_s"] / 2, two["size_bytes"] / (two["large_s"] - two["small_s"])
    found = {}
    for ranks, size in sizes.items():
        crowd = max(1.0, ranks / CORES)
        link = Link(latency_s * crowd, rate / crowd)
        reduce_s = all_reduce_s(Algorithm.RING, size["size_bytes"], ranks, link)
        part_s = alone["arithmetic_s"] if ranks == 1 else two["arithmetic_s"]
        found[ranks] = {"arithmetic_s": crowd * part_s, "reduce_s": reduce_s, "step_s": crowd * part_s + reduce_s}
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
    steps, parts, others = [], [], []
    for ranks, size in sizes.items():
        guess, step_s = guessed[ranks], size["step_s"]
        seen = compared(step_s, size["told_s"])[1:] if size["told_s"] is not None else ["-", "-"]
        steps.append([str(ranks), str(size["nodes"]), *compared(step_s, guess["step_s"]), *seen, f"{size['load']:.1f}"])
        alone, sent = (compared(size[of], guess[by]) for of, by in (("arithmetic_s",) * 2, ("large_s", "reduce_s")))
        parts.append([str(ranks), *(known(alone) if ranks <= 2 else alone), *(known(sent) if ranks <= 2 else sent)])
        kind, law_s = laws[ranks]
        others.append([str(ranks), kind, *compared(step_s, law_s)])
    head = ["ranks", "nodes", "measured", "predicted", "error", "told", "error", "load"]
    return PAGE.format(
        machine=machine.described(value["machine"]),
        limits=value["limits"],
        seconds=value["seconds"],
        cores=CORES,
        steps=machine.table(head, steps),
        parts=machine.table(["ranks", "arithmetic", "predicted", "error", "all-reduce", "predicted", "error"], parts),
        others=machine.table(["ranks", "law", "measured", "by the law", "error"], others),
    )


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=27.0, help="how long each size trains (default 27)")
    parser.add_argument("--quick", action="store_true", help="2 seconds each")
    parser.add_argument("--lab", default="", help="use this lab, which is up, and leave it up")
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder of the results")
    args = parser.parse_args()
    seconds = 2.0 if args.quick else args.seconds
    with laboratory(args.lab) as lab:
        value = {
            "machine": machine.describe(machine.slurm_version(lab)),
            "limits": machine.limits(),
            "seconds": seconds,
            "cores": CORES,
            "sizes": [measure(lab, nodes, each, seconds) for nodes, each in SIZES],
        }
    machine.write_json(args.out / "steps.json", value)
    page = render(value)
    (args.out / "steps.md").write_text(page, encoding="utf-8")
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
