"""How long until ftslurm knows, and until training goes on, for each class of fault; and how often it is wrong.

The program is tests/programs/pacer.py, which starts in a tenth of a second: what is measured is detection, verdict,
fencing and relaunch, not `import torch` (`scripts/bench recovery` measures that). A job takes one injection after the
other as long as it has nodes to lose; then the lab is made well and the next job begins. Verdict: from the fault to the
order to fence the old attempt (for a killed supervisor: to the first entry of its successor). All times by one clock.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import detection_report
import machine
import progress
from faults import DidNotCome, wait_until
from injections import CLASSES, Target, supervisor_of
from laboratory import laboratory
from methods import CannotStart, Place, make_place, submit_ftslurm
from split import entries

from ftslurm import journal
from ftslurm.config import load
from ftslurm.paths import RunPaths
from ftslurm.runtime.settings import policy_of

if TYPE_CHECKING:
    from ftslurm.lab.cluster import Cluster

PROGRAM = Path(__file__).resolve().parents[2] / "tests" / "programs" / "pacer.py"
NODES = 6
LEAST_NODES = 3
LIMIT_S = 90.0
START_S = 120.0
RESTORE_S = 240.0
WARM_STEPS = 30
MANY, FEW = 100, 30
DEFAULT = {"kill": MANY, "cut": MANY} | {name: FEW for name in CLASSES if name not in ("kill", "cut")}

CONFIG = """name: detection
command: {command}
run_root: {runs}
resources: {{nodes: {nodes}, ranks_per_node: 1, time: "2:00:00"}}
launch: {{mpi: none}}
heartbeat: {{profile: {profile}}}
progress: {{hang_after: 3s}}
recovery: {{min_nodes: {least}, max_attempts: 1000, no_progress_limit: 1000}}
checkpoint:
  files: "step_*.pt"
  resume_args: ["--resume", "{{checkpoint}}"]
"""


@dataclass
class Session:
    """One job that takes injections."""

    lab: Cluster
    place: Place
    runs: Path
    job_id: str
    injected: set[str] = field(default_factory=set)
    count: int = 0

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.runs / (self.runs / "by-job" / self.job_id).readlink().name

    def ranks(self) -> dict[int, str]:
        """The node of every rank of the newest attempt that was told to begin."""
        for entry in reversed(entries(self.run)):
            for action in reversed(entry["actions"]):
                if action["type"] == "ReleaseRanks":
                    return dict(enumerate(action["placement"]))
        return {}

    def condemned(self) -> dict[str, str]:
        """The nodes that the run has given up, with the class of each, by replaying its journal."""
        paths = RunPaths(self.run)
        state, _ = journal.replay(journal.read(paths), policy_of(load(paths.config)))
        return {node: str(found.cause) for node, found in state.condemned.items()}


def begin(lab: Cluster, profile: str) -> Session:
    """Submit a job and wait until all its ranks step."""
    place = make_place(lab, f"{time.time_ns()}-detection", 5, 0.05)
    command = f"[{sys.executable}, {PROGRAM}, --progress, {place.progress}]"
    text = CONFIG.format(command=command, runs=place.runs, nodes=len(lab.nodes), least=LEAST_NODES, profile=profile)
    session = Session(lab, place, place.runs, submit_ftslurm(lab, place, text))
    settle(session)
    return session


def settle(session: Session) -> None:
    """Wait until every rank of the newest attempt has done some steps."""

    def warm() -> bool:
        with contextlib.suppress(FileNotFoundError):
            traces = progress.read(session.place.progress)
            ranks = session.ranks()
            newest = [trace for trace in sorted(traces, key=lambda each: each.started)[-len(ranks) :] if ranks]
            return bool(newest) and all(len(trace.steps) >= WARM_STEPS for trace in newest)
        return False

    wait_until("all ranks step", START_S, warm)


def target_of(session: Session, where: str) -> Target | None:
    """Whom to hurt next: a node that is not the supervisor's, or the supervisor's; None when too few are left."""
    ranks, host = session.ranks(), supervisor_of(session.run)
    if where != "none" and len(set(ranks.values())) <= LEAST_NODES:
        return None
    places = [(rank, node) for rank, node in ranks.items() if (node == host.node) == (where == "host")]
    # Another node each time: one whose ranks hang again and again is rightly left out.
    rank, node = places[-1 - session.count % len(places)] if places else (0, host.node)
    session.count += 1
    return Target(lab=session.lab, node=node, rank=rank, supervisor=host.pid, run_id=session.run.name)


def new_step(place: Place, old: frozenset[str], at: float) -> float:
    """When a new process did the first step further than any before the fault; 0 while none has."""
    traces = progress.read(place.progress)
    before = max((n for trace in traces if trace.name in old for n, t in trace.steps if t <= at), default=0)
    return min((t for trace in traces if trace.name not in old for n, t in trace.steps if n > before), default=0.0)


def inject(session: Session, name: str, target: Target) -> dict[str, Any]:
    """One fault, and what became of it."""
    kind = CLASSES[name]
    old = frozenset(trace.name for trace in progress.read(session.place.progress))
    sample: dict[str, Any] = {"class": name, "node": target.node, "load": round(os.getloadavg()[0], 1)}
    before = entries(session.run)
    at = kind.break_it(target)
    if kind.costs_node:
        session.injected.add(target.node)
        sample["further"] = len(session.injected) > 1
    try:
        if kind.stops_training:
            wait_until("a new step", LIMIT_S, lambda: new_step(session.place, old, at))
            sample["new_step_s"] = round(new_step(session.place, old, at) - at, 3)
        else:
            wait_until("a successor", LIMIT_S, lambda: _epoch(entries(session.run)) > _epoch(before))
    except DidNotCome as error:
        return sample | {"detected": False, "error": str(error)}
    since = [entry for entry in entries(session.run) if entry["t"] >= at]
    first = _verdict(since, kind.verdict, _epoch(before))
    slugs = {action.get("slug", "") for entry in since for action in entry["actions"] if action["type"] == "Say"}
    sample["verdict_s"] = round(first - at, 3) if first else None
    sample["right_class"] = bool(slugs & kind.slugs)
    return sample | {"detected": first is not None}


def _epoch(found: list[dict[str, Any]]) -> int:
    return max((entry["epoch"] for entry in found), default=0)


def _verdict(since: list[dict[str, Any]], action: str, epoch: int) -> float | None:
    """When the order was given that the class of fault leads to; `epoch`: when a later supervisor began."""
    if action == "epoch":
        return next((entry["t"] for entry in since if entry["epoch"] > epoch), None)
    orders = (entry["t"] for entry in since if any(each["type"] == action for each in entry["actions"]))
    return next(orders, None)


class Runner:
    """Takes injections one by one, each in the job that is there, or in a new one."""

    def __init__(self, lab: Cluster, asked: argparse.Namespace, keep: detection_report.Results) -> None:
        self.lab = lab
        self.profile: str = asked.profile
        self.alone: bool = asked.alone
        self.keep = keep
        self.session: Session | None = None

    def once(self, name: str) -> None:
        """Inject one fault; a job that does not come back from it is given up, and a turn without a job is lost."""
        try:
            session, target = self._ready(CLASSES[name].where)
            sample = inject(session, name, target)
            print(f"{name}: {sample}", file=sys.stderr, flush=True)
            self.keep.add(sample | {"profile": self.profile})
            if sample["detected"] and not self.alone:
                settle(session)
            else:
                self.close()
        except (DidNotCome, CannotStart) as error:
            print(f"{name}: {error}; the job is given up", file=sys.stderr, flush=True)
            self.session = None
            self.lab.restore(timeout=RESTORE_S)

    def _ready(self, where: str) -> tuple[Session, Target]:
        """The job and whom to hurt in it; a new job when the one before has too few nodes left."""
        for _ in range(2):
            self.session = self.session or begin(self.lab, self.profile)
            target = target_of(self.session, where)
            if target is not None:
                return self.session, target
            self.close()
        raise CannotStart(f"the lab has no more than {LEAST_NODES} nodes")

    def close(self) -> None:
        """Count wrongly excluded nodes, end the job, make the lab well."""
        if self.session is not None:
            condemned = self.session.condemned().items()
            self.keep.wrong({node: cause for node, cause in condemned if node not in self.session.injected})
        self.session = None
        self.lab.restore(timeout=RESTORE_S)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", default=",".join(CLASSES), help=f"some of {','.join(CLASSES)}")
    parser.add_argument("--injections", type=int, default=0, help="of each class; default 100 of kill and cut, 30 else")
    parser.add_argument("--profile", default="default", choices=("default", "fast"), help="heartbeat.profile")
    parser.add_argument("--alone", action="store_true", help="a new job for every injection: no node is a further one")
    parser.add_argument("--quick", action="store_true", help="one injection of each class")
    parser.add_argument("--lab", default="", help="use this lab, which is up, and leave it up")
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder of the results")
    asked = parser.parse_args()
    asked.classes = asked.classes.split(",")
    if unknown := sorted(set(asked.classes) - set(CLASSES)):
        parser.error(f"no such class: {', '.join(unknown)}; there are {', '.join(CLASSES)}")
    return asked


def main() -> int:
    """Measure and write; 1 when a fault was not detected or a node was excluded wrongly."""
    asked = parse()
    with laboratory(asked.lab, NODES) as lab:
        keep = detection_report.Results(asked.out, machine.describe(machine.slurm_version(lab)))
        runner = Runner(lab, asked, keep)
        for name in asked.classes:
            for _ in range(1 if asked.quick else asked.injections or DEFAULT[name]):
                runner.once(name)
            runner.close()
    print((asked.out / "detection.md").read_text(encoding="utf-8"))
    return 0 if keep.good else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
