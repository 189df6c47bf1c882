"""Whether what `ftslurm plan` expects comes true: ETTR predicted from measured costs, and ETTR measured in campaigns.

First one job, undisturbed at first and then with single failures, each after training has come back: its journal gives
the costs, as `ftslurm plan --from` reads them. Then a job for each mean time between failures, in which ranks are
killed at random moments. What they reach is counted twice: by the steps that the program has written itself, and by the
run's own journal. The program is tests/programs/pacer.py: what it does is timed, and nothing is computed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING, Any

import machine
import progress
from faults import DidNotCome, wait_until
from injections import process_of
from laboratory import NODES, laboratory
from machine import described, table
from methods import CannotStart, Place, make_place, submit_ftslurm

from ftslurm import journal
from ftslurm.config import load
from ftslurm.insight.walltime import Category, of
from ftslurm.paths import RunPaths
from ftslurm.plan.forecast import interval_of
from ftslurm.plan.inputs import Inputs, gather
from ftslurm.plan.losses import linear, split
from ftslurm.plan.measured import measure
from ftslurm.plan.rates import Rate

if TYPE_CHECKING:
    from ftslurm.lab.cluster import Cluster

PROGRAM = Path(__file__).resolve().parents[2] / "tests" / "programs" / "pacer.py"
MTBFS = (14.0, 28.0, 56.0)
PACE_S, EVERY, SAVE_S = 0.1, 40, 0.4
WARM_STEPS = 20
START_S, BACK_S, RESTORE_S = 180.0, 60.0, 240.0
LIMIT_POINTS = 5.0
CONFIG = """name: forecast
command: {command}
run_root: {runs}
resources: {{nodes: {nodes}, ranks_per_node: 1, time: "1:00:00"}}
launch: {{mpi: none}}
recovery: {{min_nodes: 2, max_attempts: 1000, no_progress_limit: 1000}}
checkpoint:
  files: "step_*.pt"
  resume_args: ["--resume", "{{checkpoint}}"]
"""
SHARES = {
    "productive": (Category.PRODUCTIVE,),
    "redone": (Category.RECOMPUTING,),
    "saving": (Category.SAVING,),
    "detecting": (Category.DETECTING,),
    "restarting": (Category.RECOVERING, Category.LOADING, Category.STARTING),
    "waiting": (Category.QUEUED,),
}
SHOWN = {
    "productive": ("productive",),
    "work done again": ("redone",),
    "standing still to save": ("saving",),
    "down": ("detecting", "restarting", "waiting"),
}
METHOD = """{nodes} nodes with one rank each; a step takes {pace:.0f} ms, after {every} of them rank 0 saves, which
takes {save:.0f} ms, and the others wait for it. The costs come from one job with {singles} single failures. As
`ftslurm plan --from` reads them: {costs}. By the program's own files: {dead:.2f} s from a kill to the next
process, and {start:.2f} s from there to its first step. The journal says {told:.2f} s for both: agents look for the
first sign of work every second or two, which is nothing beside a restart of minutes, and as much as one that takes a
second. Predicted is with the program's own.

Then one job of {seconds:.0f} s for each row, in which ranks are killed with SIGKILL at moments spread at random over
the time (as many as the mean says: a Poisson process of that number), whatever they are doing then. A moment at which
there is no process of that rank, because it is being launched, is void. *MTBF*: as it came, of the time in which there
was something to kill. *predicted*: the exact form of `ftslurm plan` at this MTBF. *by steps*: the steps that were
kept, times what a step takes undisturbed, by the wall time, from files that the program writes itself. *off*: by steps
less predicted, in percentage points; at most {limit:.0f} are wanted. Where a kill falls between two saves is chance:
with {kills} kills that alone moves a row by about {noise} points (one standard error). *by journal*: the productive
share, as `ftslurm report` shows it. What it sees late of a restart it takes from the work that is done again, and it is
told of pauses to save every ten seconds only, so that those of an attempt that is killed before count as training.
"""
SAID = """What this shows is that the arithmetic of costs is right where failures come as the formula believes: at
random, one at a time, of ranks, from which a run comes back in seconds on the nodes that it has. It shows nothing of
how often nodes of a real cluster fail, of failures that come in clusters, of lost nodes, of the queue, or of storage
that many thousand ranks read at once: there restarts take minutes, and have to be measured where they happen.
"""


@dataclass(frozen=True, slots=True)
class Session:
    """A job that is being watched."""

    place: Place
    job_id: str

    @property
    def paths(self) -> RunPaths:
        """The run's folder."""
        return RunPaths((self.place.runs / "by-job" / self.job_id).resolve())

    def traces(self) -> list[progress.Trace]:
        """What the ranks have written so far."""
        return progress.read(self.place.progress)


def begin(lab: Cluster, name: str) -> Session:
    """Submit a job and wait until it trains."""
    place = make_place(lab, f"{time.time_ns()}-{name}", EVERY, PACE_S)
    words = {"every": EVERY, "pace": PACE_S, "save-s": SAVE_S, "progress": place.progress}
    options = ", ".join(f'"--{name}", "{value}"' for name, value in words.items())
    command = f'["{sys.executable}", "{PROGRAM}", {options}]'
    session = Session(place, submit_ftslurm(lab, place, CONFIG.format(command=command, runs=place.runs, nodes=NODES)))
    wait_until("training", START_S, lambda: progress.last_step(session.traces()) >= WARM_STEPS)
    return session


def kill(session: Session, rank: int) -> float | None:
    """Kill a rank; return when, or None where there was no process."""
    with suppress(DidNotCome, ProcessLookupError):
        pid, now = process_of(session.paths.run_id, rank), time.time()
        os.kill(pid, signal.SIGKILL)
        return now
    return None


def calibrate(lab: Cluster, asked: argparse.Namespace) -> tuple[Session, dict[str, Any]]:
    """A job that is left alone, and then has single failures: what it costs to save, to notice, to come back."""
    session = begin(lab, "forecast-costs")
    began = time.time()
    time.sleep(asked.calm)
    until = time.time()
    back: list[tuple[float, float]] = []
    for number in range(asked.singles):
        before = frozenset(trace.name for trace in session.traces())
        at = kill(session, number % NODES)
        if at is None:
            continue
        wait_until("the way back", BACK_S, lambda old=before: progress.comeback(session.traces(), old) is not None)
        found = progress.comeback(session.traces(), before)
        back += [(found.process_start - at, found.first_step - found.process_start)] if found is not None else []
        time.sleep(asked.pause)
    lab.restore(timeout=RESTORE_S)
    step_s, pause_s = _step(session, began, until)
    dead_s, start_s = (round(fmean(each), 4) for each in zip(*back, strict=True))
    counted = {"step_s": step_s, "save_by_steps_s": pause_s, "dead_s": dead_s, "start_s": start_s}
    return session, counted | {"singles": len(back)}


def _step(session: Session, began: float, until: float) -> tuple[float, float]:
    """Seconds of a step, and by how much the step after a save takes longer; of rank 0, undisturbed."""
    first = min((each for each in session.traces() if "rank-00000" in each.name), key=lambda each: each.started)
    steps = [(number, at) for number, at in first.steps if began <= at <= until]
    gaps = [(number, at - before) for (number, before), (_, at) in pairwise(steps)]
    usual = fmean(gap for number, gap in gaps if number % EVERY)
    saving = [gap for number, gap in gaps if number % EVERY == 0]
    return round(usual, 5), round(fmean(saving) - usual, 4) if saving else 0.0


def position(traces: list[progress.Trace], t: float, killed: list[float]) -> int:
    """The step that training stands at, of those that are kept: after a kill that from which it goes on."""
    since = max((at for at in killed if at <= t), default=0.0)
    newer = [each for each in traces if each.started > since] or traces
    begun = [each for each in newer if each.started <= t]
    if not begun:
        return min(newer, key=lambda each: each.started).resumed_from
    newest = max(begun, key=lambda each: each.started)
    return max((number for number, at in newest.steps if at <= t), default=newest.resumed_from)


def campaign(lab: Cluster, mtbf_s: float, costs: dict[str, Any], asked: argparse.Namespace) -> dict[str, Any]:
    """One job whose ranks are killed at random; what is left of its time."""
    sample: dict[str, Any] = {"mtbf_s": mtbf_s, "seconds": asked.seconds, "void": 0}
    dice = Random(f"{asked.seed} {mtbf_s}")  # noqa: S311 - a draw that can be repeated
    moments = sorted(dice.uniform(0, asked.seconds) for _ in range(round(asked.seconds / mtbf_s)))
    session = begin(lab, f"forecast-{mtbf_s:g}")
    began, killed = time.time(), []
    for moment in moments:
        time.sleep(max(0.0, began + moment - time.time()))
        at = kill(session, dice.randrange(NODES))
        sample["void"] += at is None
        killed += [] if at is None else [at]
    until = began + asked.seconds
    time.sleep(max(0.0, until - time.time()))
    sample["load"] = round(os.getloadavg()[0], 1)
    before = frozenset(trace.name for trace in session.traces() if trace.started < (killed or [0.0])[-1])
    with suppress(DidNotCome):  # only where the last kill came at the very end
        wait_until("the way back", BACK_S, lambda: progress.comeback(session.traces(), before) is not None)
    entries = list(journal.read(session.paths))
    lab.restore(timeout=RESTORE_S)
    traces = session.traces()
    steps = position(traces, until, killed) - position(traces, began, [])
    spent = _between(entries, began, until)
    return sample | {
        "killed": len(killed),
        "steps": steps,
        "ettr_by_steps": round(steps * costs["step_s"] / asked.seconds, 4),
        "by_journal": {
            name: round(sum(spent[each] for each in kinds) / asked.seconds, 4) for name, kinds in SHARES.items()
        },
    }


def _between(entries: list[journal.Entry], began: float, until: float) -> dict[Category, float]:
    """Seconds by category in a stretch of a run's time."""
    found = dict.fromkeys(Category, 0.0)
    for each in of(entries).intervals(until):
        found[each.category] += max(min(each.end, until) - max(each.start, began), 0.0)
    return found


def expected(session: Session, costs: dict[str, Any], sample: dict[str, Any]) -> Inputs:
    """What `ftslurm plan` reckons with, with the costs of the first job and the time between failures that came.

    Until new processes are there nothing can be killed: that is dead time, like that until a failure is noticed.
    """
    mtbf_s = sample["seconds"] / max(sample["killed"], 1) - costs["dead_s"]
    rate = Rate(per_1000_node_days=1000 * 86400 / (mtbf_s * NODES), source="the campaign's")
    by_steps = {"detect_s": (costs["dead_s"], "by steps"), "restart_s": (costs["start_s"], "by steps")}
    return gather(load(session.paths.config), rate, replace(measure(session.paths), **by_steps))


def predict(inputs: Inputs) -> dict[str, Any]:
    """The shares, and Meta's linear form."""
    interval_s = interval_of(inputs).seconds
    shares = split(interval_s, inputs.costs, inputs.mttf_s)
    return {
        "mtbf_came_s": round(inputs.mttf_s, 2),
        "predicted": {name: round(share, 4) for name, share in shares.items()},
        "predicted_linear": round(linear(interval_s, inputs.costs, inputs.mttf_s), 4),
    }


# ------------------------------------------------------------------------------------------------------------ the page


def render(value: dict[str, Any]) -> str:
    """The page."""
    samples, costs = value["samples"], value["costs"]
    kills = ", ".join(str(each["killed"]) for each in samples)
    words = ", ".join(f"{name.removesuffix('_s')} {costs[name]:.2f} s" for name in ("save_s", "detect_s"))
    told = METHOD.format(
        nodes=NODES, pace=PACE_S * 1000, every=EVERY, save=SAVE_S * 1000, seconds=samples[0]["seconds"], kills=kills,
        costs=f"{words}, one save every {costs['interval_s']:.2f} s", singles=costs["singles"],
        dead=costs["dead_s"], start=costs["start_s"], told=costs["restart_s"],
        limit=LIMIT_POINTS, noise=", ".join(f"{_noise(each, costs):.1f}" for each in samples),
    )  # fmt: skip
    rows = [_row(each) for each in samples]
    header = ["wanted", "MTBF", "killed", "void", "predicted", "linear form", "by steps", "off", "by journal"]
    parts = [[name, *(_pair(each, names) for each in samples)] for name, names in SHOWN.items()]
    names = ["share, predicted / by journal", *(f"MTBF {each['mtbf_s']:g} s" for each in samples)]
    head = ["# Forecasts: the ETTR that is expected, and the ETTR that comes\n", described(value["machine"])]
    return "\n".join([*head, value["limits"] + "\n", told, table(header, rows), table(names, parts), SAID])


def _noise(sample: dict[str, Any], costs: dict[str, Any]) -> float:
    """One standard error in points: the work that a kill loses is spread evenly over an interval."""
    return 100 * costs["interval_s"] / 12**0.5 * sample["killed"] ** 0.5 / sample["seconds"]


def _row(each: dict[str, Any]) -> list[str]:
    predicted, by_steps = each["predicted"]["productive"], each["ettr_by_steps"]
    shares = [f"{100 * share:.1f} %" for share in (predicted, each["predicted_linear"], by_steps)]
    counts = [f"{each['mtbf_s']:g} s", f"{each['mtbf_came_s']:.1f} s", str(each["killed"]), str(each["void"])]
    return [*counts, *shares, f"{100 * (by_steps - predicted):+.1f}", f"{100 * each['by_journal']['productive']:.1f} %"]


def _pair(each: dict[str, Any], names: tuple[str, ...]) -> str:
    predicted, told = (100 * sum(each[by][name] for name in names) for by in ("predicted", "by_journal"))
    return f"{predicted:.1f} / {told:.1f} %"


# ----------------------------------------------------------------------------------------------------------- the whole


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.0, help="length of each campaign (default 280)")
    parser.add_argument("--mtbf", default=",".join(f"{each:g}" for each in MTBFS), help="means in seconds")
    parser.add_argument("--seed", type=int, default=2026, help="of the moments (default 2026)")
    parser.add_argument("--quick", action="store_true", help="two single failures, one mean, 30 s")
    parser.add_argument("--lab", default="", help="use this lab, which is up, and leave it up")
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder of the results")
    asked = parser.parse_args()
    asked.seconds = asked.seconds or (30.0 if asked.quick else 280.0)
    asked.means = [10.0] if asked.quick else [float(each) for each in asked.mtbf.split(",")]
    asked.calm, asked.singles, asked.pause = (10.0, 2, 3.0) if asked.quick else (50.0, 10, 6.0)
    return asked


def main() -> int:
    """Measure the costs, then one campaign after the other, and write after each."""
    asked = parse()
    value: dict[str, Any] = {"limits": machine.limits(), "seed": asked.seed, "samples": []}
    with laboratory(asked.lab) as lab:
        value["machine"] = machine.describe(machine.slurm_version(lab))
        try:
            session, costs = calibrate(lab, asked)
            found = measure(session.paths)
            told = {name: getattr(found, name) for name in ("save_s", "detect_s", "restart_s", "interval_s")}
            value["costs"] = costs | {name: round(known[0], 4) for name, known in told.items() if known is not None}
            print(value["costs"], file=sys.stderr, flush=True)
            for mtbf_s in asked.means:
                sample = campaign(lab, mtbf_s, costs, asked)
                sample |= predict(expected(session, costs, sample))
                value["samples"].append(sample)
                print(sample, file=sys.stderr, flush=True)
                machine.write_json(asked.out / "forecast.json", value)
                (asked.out / "forecast.md").write_text(render(value), encoding="utf-8")
        except (DidNotCome, CannotStart) as error:
            print(f"given up: {error}", file=sys.stderr)
            lab.restore(timeout=RESTORE_S)
            return 1
    print(render(value))
    far = [abs(each["ettr_by_steps"] - each["predicted"]["productive"]) for each in value["samples"]]
    return 0 if asked.quick or max(far) <= LIMIT_POINTS / 100 else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
