"""How long training stands still after a fault: the same neutral DDP loop under ftslurm, torchrun and Slurm's requeue.

Each injection is a job of its own on the four nodes of the lab: it trains for a while, then the rank of the last node
is SIGKILLed or that node's network is cut, and the clock runs until a process that did not exist before has done a
step that nobody had done before. Rounds go through all cells in turn, so that a slow moment of the machine meets all
of them; on a machine that is quiet only for a while, `--order cells` does all injections of a cell before the next.
Each sample is saved as soon as it is there; cells that were not chosen keep the samples of earlier calls. A cell that
does not come back within its limit is reported as that.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import machine
import progress
import recovery_report
from faults import FAULTS, DidNotCome, wait_for_step, wait_until
from laboratory import laboratory
from methods import METHODS, CannotStart, floor, make_place
from split import entries, split

if TYPE_CHECKING:
    from collections.abc import Callable

    from methods import Place

    from ftslurm.lab.cluster import Cluster

LIMIT_S = {"ftslurm": 90.0, "torchrun": 240.0, "torchrun-tuned": 240.0, "requeue": 330.0, "floor": 60.0}
START_S = 180.0
RESTORE_S = 240.0
# Nobody else goes on without the batch host: Slurm leaves a job without a script (M4).
SHARED_FAULTS = ("kill", "cut")
CELLS = ("floor:none", *(f"{method}:{fault}" for fault in SHARED_FAULTS for method in METHODS), "ftslurm:host")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one call measures."""

    cells: tuple[str, ...]
    injections: int
    every: int
    pace_s: float
    warm_steps: int
    out: Path
    by_cell: bool


def parse() -> tuple[Plan, str]:
    """The plan, and the name of a lab that is up already (empty: bring one up and take it down again)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--injections", type=int, default=5, help="samples per cell (default 5)")
    parser.add_argument("--cells", default=",".join(CELLS), help=f"some of {','.join(CELLS)}")
    parser.add_argument(
        "--order", choices=("rounds", "cells"), default="rounds", help="what goes in turn (default rounds)"
    )
    parser.add_argument("--quick", action="store_true", help="one injection after a short training")
    parser.add_argument("--lab", default="", help="use this lab, which is up, and leave it up")
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder of the results")
    args = parser.parse_args()
    cells = tuple(args.cells.split(","))
    if unknown := sorted(set(cells) - set(CELLS)):
        parser.error(f"no such cell: {', '.join(unknown)}; there are {', '.join(CELLS)}")
    plan = Plan(
        cells=cells,
        injections=1 if args.quick else args.injections,
        every=20,
        pace_s=0.05,
        warm_steps=70 if args.quick else 170,  # half-way between two checkpoints
        out=args.out,
        by_cell=args.order == "cells",
    )
    return plan, args.lab


def measure(lab: Cluster, plan: Plan, cell: str, number: int) -> dict[str, Any]:
    """One injection, or one floor; whatever happens, the lab is well again afterwards."""
    method, fault = cell.split(":")
    place = make_place(lab, f"{time.time_ns()}-{method}-{fault}", plan.every, plan.pace_s)
    sample: dict[str, Any] = {"method": method, "fault": fault, "number": number, "limit_s": LIMIT_S[method]}
    sample["load"] = round(os.getloadavg()[0], 2)
    try:
        sample |= floor_sample(lab, place) if method == "floor" else injection(lab, plan, place, sample)
    except (DidNotCome, CannotStart) as error:
        sample |= {"back": False, "error": str(error)}
    finally:
        lab.restore(timeout=RESTORE_S)
    return sample


def injection(lab: Cluster, plan: Plan, place: Place, sample: dict[str, Any]) -> dict[str, Any]:
    """Train, break, wait for the first new step."""
    method, fault = sample["method"], sample["fault"]
    job_id = METHODS[method](lab, place)
    wait_for_step(place, plan.warm_steps, START_S)
    old = frozenset(trace.name for trace in progress.read(place.progress))
    at = FAULTS[fault](lab, place)
    back = wait_for_comeback(place, old, LIMIT_S[method])
    found = seconds_of(back, at)
    if method == "ftslurm":
        found["phases"] = split(entries((place.runs / "by-job" / job_id).resolve()), at, back.new_step)
    return found


def wait_for_comeback(place: Place, old: frozenset[str], limit_s: float) -> progress.Comeback:
    """Poll until training is back; DidNotCome after `limit_s` seconds."""
    found: list[progress.Comeback] = []

    def is_back() -> bool:
        found.extend(filter(None, [progress.comeback(progress.read(place.progress), old)]))
        return bool(found)

    wait_until("a new training step", limit_s, is_back)
    return found[0]


def seconds_of(back: progress.Comeback, since: float) -> dict[str, Any]:
    """The record of a comeback, times in seconds since the fault."""
    return {
        "back": True,
        "process_start_s": round(back.process_start - since, 3),
        "first_step_s": round(back.first_step - since, 3),
        "new_step_s": round(back.new_step - since, 3),
        "world_size": back.world_size,
        "lost_steps": back.lost_steps,
    }


def floor_sample(lab: Cluster, place: Place) -> dict[str, Any]:
    """From srun to the first step after a restore, with nothing else around it: a first job leaves the checkpoint."""
    floor(lab, place)
    wait_for_step(place, 2 * place.every, START_S)
    lab.restore(timeout=RESTORE_S)
    old = frozenset(trace.name for trace in progress.read(place.progress))
    launched = place.folder / "launched"
    launched.unlink()
    floor(lab, place)
    back = wait_for_comeback(place, old, LIMIT_S["floor"])
    sample = seconds_of(back, float(launched.read_text(encoding="ascii")))
    sample["new_step_s"] = sample["first_step_s"]  # no work was lost here: the first step is the end of the way
    return sample


class Results:
    """recovery.json and recovery.md, written anew after every sample."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder = folder
        self.facts = facts
        self.old: list[dict[str, Any]] = []
        self.new: list[dict[str, Any]] = []
        with suppress(FileNotFoundError):
            self.old = json.loads((folder / "recovery.json").read_text(encoding="utf-8"))["samples"]

    def add(self, sample: dict[str, Any]) -> None:
        """Keep a sample; the first of a cell replaces those of earlier calls."""
        self.new.append(sample | {"date": self.facts["date"]})
        measured = {(one["method"], one["fault"]) for one in self.new}
        kept = [one for one in self.old if (one["method"], one["fault"]) not in measured]
        value = {"machine": self.facts, "limits": machine.limits(), "samples": kept + self.new}
        machine.write_json(self.folder / "recovery.json", value)
        (self.folder / "recovery.md").write_text(recovery_report.render(value), encoding="utf-8")


def say(sample: dict[str, Any]) -> None:
    """One line on stderr for each sample."""
    came = f"{sample['new_step_s']:.2f} s" if sample["back"] else f"not back: {sample['error']}"
    print(f"{sample['method']}:{sample['fault']} #{sample['number'] + 1}: {came}", file=sys.stderr, flush=True)


def run(plan: Plan, lab: Cluster, keep: Callable[[dict[str, Any]], None]) -> None:
    """All rounds, or all cells."""
    turns = [(number, cell) for number in range(plan.injections) for cell in plan.cells]
    if plan.by_cell:
        turns.sort(key=lambda turn: plan.cells.index(turn[1]))
    for number, cell in turns:
        sample = measure(lab, plan, cell, number)
        keep(sample)
        say(sample)


def main() -> int:
    """Measure and write; 1 when a cell did not come back."""
    plan, name = parse()
    with laboratory(name) as lab:
        results = Results(plan.out, machine.describe(machine.slurm_version(lab)))
        run(plan, lab, results.add)
    print((plan.out / "recovery.md").read_text(encoding="utf-8"))
    return 0 if all(sample["back"] for sample in results.new) else 1


if __name__ == "__main__":
    sys.exit(main())
