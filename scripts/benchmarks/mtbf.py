"""What is left of a training whose ranks are killed every 15 to 120 seconds: under ftslurm and under torchrun elastic.

The neutral DDP loop (tests/programs/ddp_counter.py) runs on the four nodes of the lab. Once it steps, a rank is killed
at random moments (Poisson, the same draw for every method), whatever it is doing then. The share of committed steps is
the steps whose checkpoint is safe at the end, divided by those that the same method does undisturbed in the same time.
A draw that finds no process on its node, because training has not come back yet, is void and counted.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import machine
from faults import DidNotCome, rank_on, wait_for_step
from laboratory import laboratory
from machine import described, table
from methods import CONFIG, METHODS, NODES, CannotStart, Place, make_place, submit_ftslurm

from ftslurm.errors import FtslurmError
from ftslurm.faults.arrivals import Draw, Weibull, draws
from ftslurm.insight.remembered import Cache
from ftslurm.lab.cluster import Cluster
from ftslurm.paths import RunPaths

MTBFS = (15.0, 30.0, 60.0, 120.0)
PEERS = ("ftslurm", "torchrun", "torchrun-tuned")
EVERY, PACE_S = 20, 0.05
WARM_STEPS = 40
START_S = 180.0
RESTORE_S = 240.0
PUBLISHED = {15.0: 30.2, 60.0: 82.3}
HEADER = ["MTBF", "method", "jobs", "killed", "void", "committed steps", "undisturbed", "share", "lowest to highest"]
METHOD = """Each job has {seconds:.0f} s; a checkpoint every {every} steps, no step shorter than {pace:.0f} ms. Every
method is hit at the same moments, which differ from job to job (seeds {seeds}). Torchrun has as many restarts as it
wants, ftslurm as many attempts; all else is as in [recovery.md](recovery.md). The last column is what torchft has
published for its own share of committed steps (PyTorch blog, "Fault Tolerant Llama: training with 2000 synthetic
failures every ~15 seconds and no checkpoints on Crusoe L40S"): 300 L40S GPUs, whole replica groups killed, no
checkpoints. That is other hardware and another way to count, and stands here for the scale only.
"""


def submit(lab: Cluster, method: str, place: Place) -> str:
    """Start the loop; return the job id."""
    if method != "ftslurm":
        return METHODS[method](lab, place)
    patient = CONFIG.replace("{{min_nodes: 2}}", "{{min_nodes: 2, max_attempts: 1000, no_progress_limit: 1000}}")
    command = json.dumps([sys.executable, *place.command()])
    runs = json.dumps(str(place.runs))
    return submit_ftslurm(lab, place, patient.format(command=command, runs=runs, nodes=NODES))


def committed(place: Place, job_id: str) -> int:
    """The step of the newest checkpoint that is whole; 0 without one."""
    link = place.runs / "by-job" / job_id
    if link.exists():
        with suppress(FtslurmError):
            newest = Cache().of(RunPaths(link.resolve())).newest
            return newest.step if newest else 0
        return 0
    steps = [int(path.stem.partition("_")[2]) for path in place.checkpoints.glob("step_*.pt")]
    return max(steps, default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One job: who runs it, and the mean and the seed of the moments at which a rank is killed; no mean: never."""

    method: str
    mtbf_s: float | None
    seed: int

    @property
    def name(self) -> tuple[str, float | None, int]:
        """What no two samples share; undisturbed jobs have no seed."""
        return self.method, self.mtbf_s, self.seed if self.mtbf_s else 0


def measure(lab: Cluster, cell: Cell, seconds: float) -> dict[str, Any]:
    """Run one job for so long; what it had committed at the end."""
    place = make_place(lab, f"{time.time_ns()}-{cell.method}-mtbf", EVERY, PACE_S)
    sample: dict[str, Any] = {**asdict(cell), "seconds": seconds, "killed": 0, "void": 0}
    sample["load"] = round(os.getloadavg()[0], 1)
    try:
        job_id = submit(lab, cell.method, place)
        wait_for_step(place, WARM_STEPS, START_S)
        before, began = committed(place, job_id), time.monotonic()
        for draw in _due(cell, seconds):
            time.sleep(max(0.0, began + draw.at - time.monotonic()))
            sample["killed" if _kill(draw.choose(lab.nodes), place) else "void"] += 1
        time.sleep(max(0.0, began + seconds - time.monotonic()))
        sample["steps"] = committed(place, job_id) - before
    except (DidNotCome, CannotStart) as error:
        sample |= {"steps": 0, "error": str(error)}
    finally:
        lab.restore(timeout=RESTORE_S)
    return sample


def _due(cell: Cell, seconds: float) -> tuple[Draw, ...]:
    """When somebody is killed, and where."""
    if cell.mtbf_s is None:
        return ()
    dice = Random(cell.seed)  # noqa: S311 - a draw that can be repeated
    return draws(Weibull(mtbf_s=cell.mtbf_s), {"kill": 1.0}, dice, seconds)


def _kill(node: str, place: Place) -> bool:
    """Kill the rank on a node; whether there was one."""
    with suppress(DidNotCome, ProcessLookupError):
        os.kill(rank_on(node, place), signal.SIGKILL)
        return True
    return False


def render(value: dict[str, Any]) -> str:
    """The page."""
    samples = value["samples"]
    ideal = {each["method"]: each["steps"] for each in samples if each["mtbf_s"] is None}
    rows = []
    for mtbf_s, method in sorted({(each["mtbf_s"], each["method"]) for each in samples if each["mtbf_s"]}):
        found = [each for each in samples if (each["mtbf_s"], each["method"]) == (mtbf_s, method)]
        rows.append(_row(mtbf_s, method, found, ideal.get(method, 0)))
    seeds = ", ".join(map(str, sorted({each["seed"] for each in samples if each["mtbf_s"]})))
    loads = [each["load"] for each in samples]
    head = ["# Ranks killed every 15 to 120 seconds: the steps that stay\n", described(value["machine"])]
    told = METHOD.format(seconds=samples[0]["seconds"], every=EVERY, pace=PACE_S * 1000, seeds=seeds)
    load = f"\nLoad average of the machine when a job was submitted: {min(loads):.0f} to {max(loads):.0f}."
    return "\n".join([*head, value["limits"] + "\n", told, table([*HEADER, "torchft, published"], rows), load])


def _row(mtbf_s: float, method: str, found: list[dict[str, Any]], ideal: int) -> list[str]:
    shares = [each["steps"] / ideal if ideal else 0.0 for each in found]
    told = [sum(each[key] for each in found) for key in ("killed", "void", "steps")]
    name = f"**{method}**" if method == "ftslurm" else method
    published = f"{PUBLISHED[mtbf_s]} %" if mtbf_s in PUBLISHED else ""
    spread = f"{100 * min(shares):.1f} to {100 * max(shares):.1f} %" if len(shares) > 1 else ""
    cells = [f"{mtbf_s:g} s", name, *map(str, (len(found), *told, ideal * len(found)))]
    return [*cells, f"{100 * sum(shares) / len(shares):.1f} %", spread, published]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.0, help="length of each job (default 240)")
    parser.add_argument("--methods", default=",".join(PEERS), help=f"some of {','.join(PEERS)}")
    parser.add_argument("--mtbf", default=",".join(f"{each:g}" for each in MTBFS), help="means in seconds")
    parser.add_argument("--seeds", default="2026,2027,2028", help="of the moments, one job each (default: three)")
    parser.add_argument("--keep", action="store_true", help="go on with the samples that are in the results' folder")
    parser.add_argument("--quick", action="store_true", help="ftslurm alone, one mean, 20 s")
    parser.add_argument("--lab", default="", help="use this lab, which is up, and leave it up")
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder of the results")
    asked = parser.parse_args()
    asked.seconds = asked.seconds or (20.0 if asked.quick else 240.0)
    asked.methods = ["ftslurm"] if asked.quick else asked.methods.split(",")
    asked.seeds = [2026] if asked.quick else [int(each) for each in asked.seeds.split(",")]
    asked.means = [10.0] if asked.quick else [float(each) for each in asked.mtbf.split(",")]
    if unknown := sorted(set(asked.methods) - set(PEERS)):
        parser.error(f"no such method: {', '.join(unknown)}; there are {', '.join(PEERS)}")
    return asked


def cells_of(asked: argparse.Namespace) -> list[Cell]:
    """All jobs in turn, the undisturbed ones first."""
    ideal = [Cell(method=method, mtbf_s=None, seed=0) for method in asked.methods]
    return ideal + [
        Cell(method=method, mtbf_s=mtbf_s, seed=seed)
        for seed in asked.seeds
        for mtbf_s in asked.means
        for method in asked.methods
    ]


def main() -> int:
    """Measure all cells in turn and write after each."""
    asked = parse()
    kept = asked.out / "mtbf.json"
    samples: list[dict[str, Any]] = json.loads(kept.read_text())["samples"] if asked.keep and kept.exists() else []
    there = {Cell(**{key: each[key] for key in ("method", "mtbf_s", "seed")}).name for each in samples}
    with laboratory(asked.lab) as lab:
        facts = machine.describe(machine.slurm_version(lab))
        for cell in (cell for cell in cells_of(asked) if cell.name not in there):
            samples.append(measure(lab, cell, asked.seconds))
            print(samples[-1], file=sys.stderr, flush=True)
            value = {"machine": facts, "limits": machine.limits(), "samples": samples}
            machine.write_json(kept, value)
            (asked.out / "mtbf.md").write_text(render(value), encoding="utf-8")
    print((asked.out / "mtbf.md").read_text(encoding="utf-8"))
    return 1 if any("error" in each for each in samples) else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
