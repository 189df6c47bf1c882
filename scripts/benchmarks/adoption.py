"""What becomes of users' own launch scripts when a rank is killed or a node is cut: every shape, every fault.

Each cell is a job of its own on the four nodes of the lab, submitted by `ftslurm submit --from` from a script that
differs from a common one in the word `srun` alone. It trains for a while, then a rank of the last node is SIGKILLed, or
that node's network is cut, or that of the batch host; the clock runs until a process that did not exist before has done
a step that nobody had done before. The other task of an array must not be disturbed. Each sample is saved as soon as it
is there; cells that were not chosen keep the samples of earlier calls.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import adopted
import machine
import progress
from faults import DidNotCome, wait_until
from laboratory import laboratory
from methods import CannotStart

if TYPE_CHECKING:
    from collections.abc import Callable

    from ftslurm.lab.cluster import Cluster

START_S = 180.0
LIMIT_S = 120.0
RESTORE_S = 240.0
WARM_STEPS = 50  # half-way between two checkpoints
FAULTS = ("kill", "cut")
HOST = "plain:host"
"""The batch host cut, once: what the shell does meanwhile is the same for all shapes."""

TITLES = {"kill": "rank killed", "cut": "node cut", "host": "batch host cut"}
SHAPES = {
    "plain": "`srun python`, endpoint computed by bash",
    "torchrun": "`srun torchrun`, endpoint asked of the head node by a helper srun, random rendezvous id",
    "bash-c": "`srun bash -c '...'` with SLURM_PROCID",
    "accelerate": "`accelerate launch`, whole command in a variable (a stand-in for accelerate)",
    "conda": "`bash -l`, conda activated before (a stand-in)",
    "modules": "`module load` before (a stand-in), `time`, `--kill-on-bad-exit=0`",
    "array": "an array, two nodes a task, one task broken",
    "exports": "`#SBATCH --export=` of some names, `srun --export=ALL,X=1`",
    "cpu-bind": "two ranks a node, masks for `--cpu-bind`",
    "trap": "traps of the user's own, srun in the background, `--signal=B:USR1`",
    "strict": "`set -euo pipefail`, a pipe into `tee`, arguments",
    "two-calls": "two calls of srun, one after the other",
}
METHOD = """`scripts/bench adoption` submits scripts as users have them (tests/data/adoption, beside each its original):
at most two words differ. Four nodes, a small DDP loop over gloo with 20 steps a second and a checkpoint every 20 steps,
which the program itself writes and finds. *rank killed*: SIGKILL to a rank of the last node; *node cut*: silence of
that node from then on; *batch host cut*: silence of the node on which the script runs. A cell says how many ranks went
on after how many seconds from the fault to the first step that is further than any step before. Each cell is one job,
with its own load of the machine, so that cells do not compare with one another. The lab has no task/affinity: masks
reach srun and bind nothing. The samples are in `adoption.json`.
"""

Sample = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one call measures."""

    cells: tuple[str, ...]
    rounds: int
    out: Path


def parse() -> tuple[Plan, str]:
    """The plan, and the name of a lab that is up already (empty: bring one up and take it down again)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cells = (*(f"{shape}:{fault}" for shape in adopted.names() for fault in FAULTS), HOST)
    parser.add_argument("--cells", default=",".join(cells), help="some of SHAPE:FAULT")
    parser.add_argument("--rounds", type=int, default=1, help="samples per cell (default 1)")
    parser.add_argument("--quick", action="store_true", help="two cells only")
    parser.add_argument("--lab", default="", help="use this lab, which is up, and leave it up")
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder of the results")
    args = parser.parse_args()
    chosen = ("plain:kill", "trap:cut") if args.quick else tuple(args.cells.split(","))
    for cell in chosen:
        shape, _, fault = cell.partition(":")
        if shape not in adopted.names() or fault not in TITLES:
            parser.error(f"no such cell: {cell}; there are {', '.join(cells)}")
    return Plan(cells=chosen, rounds=args.rounds, out=args.out), args.lab


def measure(lab: Cluster, cell: str) -> Sample:
    """One injection; whatever happens, the lab is well again afterwards."""
    shape, fault = cell.split(":")
    sample: Sample = {"shape": shape, "fault": fault, "load": round(os.getloadavg()[0], 2)}
    script = adopted.settle(lab, shape, f"{time.time_ns()}-{shape}-{fault}")
    try:
        sample |= injection(lab, script, fault)
    except (DidNotCome, CannotStart) as error:
        sample |= {"back": False, "error": str(error)}
    finally:
        lab.restore(timeout=RESTORE_S)
    return sample


def injection(lab: Cluster, script: adopted.Adopted, fault: str) -> Sample:
    """Train, break, wait for the first new step."""
    adopted.submit(lab, script)
    folds = sorted({"0", script.fold})
    for fold in folds:
        wait_until(f"step {WARM_STEPS} of fold {fold}", START_S, lambda fold=fold: steps(script, fold) >= WARM_STEPS)
    before = traces(script)
    others = {fold: {trace.name for trace in traces(script, fold)} for fold in folds if fold != script.fold}
    at = strike(lab, script, fault)
    back = come_back(script, frozenset(trace.name for trace in before))
    for fold, names in others.items():
        if {trace.name for trace in traces(script, fold)} != names:
            raise DidNotCome(f"fold {fold} was disturbed")
    return {
        "back": True,
        "new_step_s": round(back.new_step - at, 3),
        "world_before": before[0].world_size,
        "world_size": back.world_size,
        "lost_steps": back.lost_steps,
    }


def traces(script: adopted.Adopted, fold: str = "") -> list[progress.Trace]:
    """What the ranks of a training have left behind so far."""
    return progress.read(script.progress(fold))


def steps(script: adopted.Adopted, fold: str) -> int:
    """How far a training has come."""
    return progress.last_step(traces(script, fold))


def strike(lab: Cluster, script: adopted.Adopted, fault: str) -> float:
    """Do the harm; return when."""
    pid, node = adopted.target(script)
    now = time.time()
    if fault == "kill":
        os.kill(pid, signal.SIGKILL)
    else:
        lab.cut(node if fault == "cut" else min(adopted.ranks(script).values()))
    return now


def come_back(script: adopted.Adopted, old: frozenset[str]) -> progress.Comeback:
    """Poll until training is back; DidNotCome after a while."""
    found: list[progress.Comeback] = []

    def is_back() -> bool:
        found.extend(filter(None, [progress.comeback(traces(script), old)]))
        return bool(found)

    wait_until("a new training step", LIMIT_S, is_back)
    return found[0]


class Results:
    """adoption.json and adoption.md, written anew after every sample."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder = folder
        self.facts = facts
        self.old: list[Sample] = []
        self.new: list[Sample] = []
        with suppress(FileNotFoundError):
            self.old = json.loads((folder / "adoption.json").read_text(encoding="utf-8"))["samples"]

    def add(self, sample: Sample) -> None:
        """Keep a sample; the first of a cell replaces those of earlier calls."""
        self.new.append(sample | {"date": self.facts["date"]})
        measured = {(one["shape"], one["fault"]) for one in self.new}
        kept = [one for one in self.old if (one["shape"], one["fault"]) not in measured]
        value = {"machine": self.facts, "limits": machine.limits(), "samples": kept + self.new}
        machine.write_json(self.folder / "adoption.json", value)
        (self.folder / "adoption.md").write_text(render(value), encoding="utf-8")


def render(value: dict[str, Any]) -> str:
    """The page for people."""
    samples: list[Sample] = value["samples"]
    faults = [fault for fault in TITLES if any(one["fault"] == fault for one in samples)]
    rows = [
        [f"**{shape}**: {text}", *(_cell(samples, shape, fault) for fault in faults)] for shape, text in SHAPES.items()
    ]
    loads = sorted(one["load"] for one in samples)
    return "\n".join(
        [
            "# Adoption: users' own launch scripts, and what becomes of them\n",
            machine.described(value["machine"]),
            value["limits"] + "\n",
            METHOD,
            machine.table(["script", *(TITLES[fault] for fault in faults)], rows),
            f"Load average of the machine when a script was submitted: {loads[0]:.0f} to {loads[-1]:.0f}.\n",
        ]
    )


def _cell(samples: list[Sample], shape: str, fault: str) -> str:
    found = [one for one in samples if (one["shape"], one["fault"]) == (shape, fault)]
    if not found:
        return "-"
    lost = [one for one in found if not one["back"]]
    if lost:
        return f"{len(lost)} of {len(found)} not back: {lost[0]['error'].splitlines()[0]}"
    times = sorted(one["new_step_s"] for one in found)
    span = f"{times[0]:.1f} s" if len(times) == 1 else f"{times[0]:.1f} to {times[-1]:.1f} s"
    return f"{found[0]['world_size']} of {found[0]['world_before']} ranks after {span}"


def run(plan: Plan, lab: Cluster, keep: Callable[[Sample], None]) -> None:
    """All rounds of all cells."""
    for cell in plan.cells * plan.rounds:
        sample = measure(lab, cell)
        keep(sample)
        came = f"{sample['new_step_s']:.2f} s" if sample["back"] else f"not back: {sample['error']}"
        print(f"{cell}: {came}", file=sys.stderr, flush=True)


def main() -> int:
    """Measure and write; 1 when a script did not survive."""
    plan, name = parse()
    with laboratory(name) as lab:
        results = Results(plan.out, machine.describe(machine.slurm_version(lab)))
        run(plan, lab, results.add)
    print((plan.out / "adoption.md").read_text(encoding="utf-8"))
    return 0 if all(sample["back"] for sample in results.new) else 1


if __name__ == "__main__":
    sys.exit(main())
