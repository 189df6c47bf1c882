"""What a chain of jobs holds its nodes for: Slurm's accounting of every job beside the run's journal.

A run of two nodes is submitted as a chain of jobs with a short time limit; two of them meet it, and the work is done in
the third. How long each job has held its nodes is sacct's word; when the program ran, and when its last checkpoint was
on its way, is the journal's. What is left over is idle: before the program runs, and after all is safe. A job that is
left of the chain when the work is done may not have run at all.
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
from faults import DidNotCome, wait_until
from laboratory import laboratory
from methods import CannotStart, Place, make_place
from split import entries

if TYPE_CHECKING:
    from collections.abc import Callable

    from ftslurm.lab.cluster import Cluster

PROGRAM = Path(__file__).resolve().parents[2] / "tests" / "programs" / "hash_loop.py"
JOBS = 3
SPARE = 1
"""One job more than it takes: it must never run."""
MINUTES = 3
GRACE_S = 59
LIMIT_S = 400.0
ENOUGH_S = 15.0
OVER_S = 90.0
RUNS = ("training", "suspecting")
BOUND_S = 10.0
CONFIG = """name: chain
command: {command}
run_root: {runs}
resources: {{nodes: 2, ranks_per_node: 1, time: "{minutes}:00"}}
launch: {{mpi: none}}
checkpoint: {{files: "step_*.pt", save_on: "signal:TERM", grace: {grace}s}}
recovery: {{continue: "chain:{jobs}"}}
"""
HEADER = ["job", "held", "until the program ran", "training, and saving", "until all was safe", "after that", "idle"]
METHOD = f"""`scripts/bench chains` submits a run of two nodes as a chain of {JOBS + SPARE} jobs of {MINUTES} minutes.
Two jobs meet their limit; in the third the work is done, and the fourth must never run. *held* is sacct's Start to End,
in whole seconds, so that what stands beside it is off by up to one; the others are the journal's. *idle* is what was
held beside training, saving and bringing the last checkpoint to shared storage: at most {BOUND_S:.0f} s in all jobs of
a chain together. The program is a loop in plain Python, which starts at once: what torch takes to start comes on top of
*until the program ran*, under any launcher. The samples are in `chains.json`.
"""
REALTIME = "The lab had real-time priority (`chrt -r 1`), so that other work of the machine did not slow it down.\n"

Sample = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A job as Slurm's accounting knows it; nothing has begun where `start` is None."""

    state: str
    start: float | None
    end: float | None


def parse() -> tuple[argparse.Namespace, str]:
    """The options, and the name of a lab that is up already (empty: bring one up and take it down again)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="chains, one after the other (default 3)")
    parser.add_argument("--quick", action="store_true", help="one chain only")
    parser.add_argument("--lab", default="", help="use this lab, which is up, and leave it up")
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder of the results")
    args = parser.parse_args()
    return args, args.lab


def submit(lab: Cluster, place: Place, runs: Path) -> tuple[Path, list[str]]:
    """Submit the chain; return the run's folder and the ids of its jobs."""
    options = ["--until", str(place.folder / "enough"), "--progress", str(place.progress), "--pace", "0.05"]
    command = json.dumps([sys.executable, str(PROGRAM), *options])
    text = CONFIG.format(command=command, runs=runs, minutes=MINUTES, grace=GRACE_S, jobs=JOBS + SPARE)
    file = place.folder / "chain.yaml"
    file.write_text(text, encoding="utf-8")
    done = lab.login(["ftslurm", "submit", str(file), "--json"], timeout=60)
    if done.returncode != 0:
        raise CannotStart(done.stderr.strip())
    told = json.loads(done.stdout)
    return Path(told["run_dir"]), told["job_ids"]


def accounted(lab: Cluster, jobs: list[str]) -> dict[str, Span]:
    """What sacct says of the jobs."""
    argv = ["sacct", "-X", "-n", "-P", "-j", ",".join(jobs), "--format=JobID,State,Start,End"]
    rows = lab.login(argv, timeout=60, env={"SLURM_TIME_FORMAT": "%s"}).stdout.splitlines()
    found = {}
    for row in rows:
        job, state, start, end = row.split("|")
        found[job] = Span(state=state.split()[0], start=_moment(start), end=_moment(end))
    return found


def _moment(text: str) -> float | None:
    return float(text) if text.isdecimal() else None


def one_chain(lab: Cluster) -> Sample:
    """From the submission to the end of the last job."""
    load = round(os.getloadavg()[0], 1)
    place = make_place(lab, f"{time.time_ns()}-chain", 1, 0.05)
    run, jobs = submit(lab, place, place.folder / "runs")
    wait_until("the third job trains", LIMIT_S, lambda: len(releases(run)) >= JOBS)
    time.sleep(ENOUGH_S)
    (place.folder / "enough").touch()
    wait_until("the run has ended", OVER_S, lambda: any(one["phase"] == "finished" for one in entries(run)))
    begun = jobs[:JOBS]

    def all_over() -> bool:
        spans = accounted(lab, jobs)
        return all(job in spans and spans[job].end is not None for job in jobs)

    wait_until("all jobs are over", OVER_S, all_over)
    spans = accounted(lab, jobs)
    journal = entries(run)
    parts = [part_of(journal, job, spans[job]) for job in begun]
    done = next(one["t"] for one in journal if one["phase"] == "finished")
    spare = spans[jobs[-1]]
    ran = spare.state != "CANCELLED" or (spare.start is not None and spare.end != spare.start)
    after_s = round((spans[begun[-1]].end or done) - done, 1)
    first = os.sched_getscheduler(0) != os.SCHED_OTHER
    return {"load": load, "realtime": first, "jobs": parts, "after_work_s": after_s, "spare_ran": ran}


def releases(run: Path) -> list[float]:
    """When ranks were let begin, the first time in each job."""
    found = []
    is_new = False
    for one in entries(run):
        is_new = is_new or one["event"]["type"] == "AllocationGranted"
        if is_new and any(action["type"] == "ReleaseRanks" for action in one["actions"]):
            found.append(one["t"])
            is_new = False
    return found


def part_of(journal: list[dict[str, Any]], job: str, span: Span) -> Sample:
    """Where the time of one job went, in seconds."""
    if span.start is None or span.end is None:
        raise DidNotCome(f"job {job} has no start or no end in accounting")
    own, current = [], ""
    for one in journal:
        current = one["event"].get("job_id", current) if one["event"]["type"] == "AllocationGranted" else current
        own += [one] if current == job else []
    running = next(one["t"] for one in own if any(action["type"] == "ReleaseRanks" for action in one["actions"]))
    stopped = max(one["t"] for one in own if one["event"]["type"] == "RankExited")
    safe = next(one["t"] for one in own if one["phase"] in ("requeued", "finished"))
    return {
        "job": job,
        "state": span.state,
        "held_s": span.end - span.start,
        "before_s": round(running - span.start, 1),
        "training_s": round(stopped - running, 1),
        "draining_s": round(safe - stopped, 1),
        "after_s": round(span.end - safe, 1),
        "idle_s": round(span.end - span.start - (safe - running), 1),
    }


class Results:
    """chains.json and chains.md, written anew after every chain."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder = folder
        self.facts = facts
        self.samples: list[Sample] = []

    def add(self, sample: Sample) -> None:
        """Keep a chain."""
        self.samples.append(sample)
        value = {"machine": self.facts, "limits": machine.limits(), "samples": self.samples}
        machine.write_json(self.folder / "chains.json", value)
        (self.folder / "chains.md").write_text(render(value), encoding="utf-8")


def idle_of(sample: Sample) -> float:
    """For how long the jobs of a chain have held their nodes for nothing, in all."""
    return float(sum(part["idle_s"] for part in sample["jobs"]))


def render(value: dict[str, Any]) -> str:
    """The page for people."""
    samples: list[Sample] = value["samples"]
    rows = [
        [f"{number}.{place}", *(f"{part[key]:.1f} s" for key in _KEYS)]
        for number, sample in enumerate(samples, start=1)
        for place, part in enumerate(sample["jobs"], start=1)
    ]
    loads = ", ".join(f"{sample['load']:.0f}" for sample in samples)
    worst = max(idle_of(sample) for sample in samples)
    ran = sum(sample["spare_ran"] for sample in samples)
    last = max(sample["after_work_s"] for sample in samples)
    words = f"Most idle in a chain: {worst:.1f} s. The last job was over {last:.1f} s after the work was done at most."
    return "\n".join(
        [
            "# Chains: what the jobs of one run hold their nodes for\n",
            machine.described(value["machine"]),
            value["limits"] + "\n",
            METHOD,
            machine.table(HEADER, rows),
            *([REALTIME] if any(sample["realtime"] for sample in samples) else []),
            f"Load average of the machine when a chain was submitted: {loads}.\n",
            f"{words} Jobs that ran although the work was done: {ran} of {len(samples)}.\n",
        ]
    )


_KEYS = ("held_s", "before_s", "training_s", "draining_s", "after_s", "idle_s")


def run(rounds: int, lab: Cluster, keep: Callable[[Sample], None]) -> None:
    """All chains."""
    for _ in range(rounds):
        sample = one_chain(lab)
        keep(sample)
        idle = ", ".join(f"{part['idle_s']:.1f} s" for part in sample["jobs"])
        print(f"idle: {idle}; a job ran for nothing: {sample['spare_ran']}", file=sys.stderr, flush=True)


def main() -> int:
    """Measure and write; 1 when a chain was idle for longer than is promised, or a job ran for nothing; --quick: 0."""
    args, name = parse()
    with laboratory(name) as lab:
        results = Results(args.out, machine.describe(machine.slurm_version(lab)))
        with suppress(KeyboardInterrupt):
            run(1 if args.quick else args.rounds, lab, results.add)
    print((args.out / "chains.md").read_text(encoding="utf-8"))
    well = all(idle_of(one) <= BOUND_S and not one["spare_ran"] for one in results.samples)
    return 0 if well or args.quick else 1


if __name__ == "__main__":
    sys.exit(main())
