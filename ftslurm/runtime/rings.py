"""The supervisor's side of the ring: starts it, starts it again without a lost node, gives it up; asks it for its word.

- It begins a moment after training does, so that it takes no time from a recovery.
- Nothing waits for it: it has a thread of its own, and what is found goes to the core as events that only tell.
- Each supervisor starts a ring of its own; until then the one before it testifies. Members of older rings are told by
  their agents to leave.
- A ring whose process dies is ended by PMIx on all nodes at once (M5). It is started again, a bounded number of times.
"""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftslurm.core.events import Finding, Outcome
from ftslurm.core.fabric import FabricHeard, FabricSilent, RingChanged, RingState
from ftslurm.core.phases import LIVE
from ftslurm.core.ringing import (
    Heard,
    Mark,
    Patience,
    Report,
    Ring,
    due,
    failed,
    heard_besides,
    launched,
    limit_s,
    wants,
    word_on,
)
from ftslurm.errors import FtslurmError
from ftslurm.paths import PRIVATE_FOLDER
from ftslurm.runtime import attempt_env, ring
from ftslurm.runtime.clients import kill
from ftslurm.runtime.launcher import PYTHON, StepCommand
from ftslurm.runtime.local_ring import REFRESH_S
from ftslurm.runtime.ring_support import RingSupport, ring_support
from ftslurm.slurm import env, nodeset
from ftslurm.slurm.client import SlurmClient

if TYPE_CHECKING:
    from ftslurm.core.state import Run
    from ftslurm.runtime.supervisor import Supervisor

log = logging.getLogger(__name__)

TICK_S, LEAVE_S = 0.5, 1.5
FRESH_S = 2.5 * REFRESH_S
SILENT_S = 10.0
ONE_SILENT_S = 60.0
STOOD_STILL_S = 2.0
MENDING_S = 30.0
TAIL = 400


def step(
    nodes: Sequence[str], options: Sequence[str], output: str, settings: Mapping[str, Any], inherited: Mapping[str, str]
) -> StepCommand:
    """Return the step of one member a node; `options` are srun's for the site, `--mpi` among them."""
    count = str(len(nodes))
    argv = (
        "srun",
        "--overlap",
        "--no-kill",
        "--input=none",
        "--kill-on-bad-exit=0",
        "--wait=0",
        f"--nodes={count}",
        f"--ntasks={count}",
        "--ntasks-per-node=1",
        "--cpus-per-task=1",
        f"--nodelist={nodeset.fold(nodes)}",
        *options,
        "--cpu-bind=none",
        "--export=ALL",
        "--job-name=ftslurm-ring",
        f"--output={output}",
        *PYTHON,
        "-m",
        "ftslurm.runtime.ring",
    )
    environ = {**env.step_env(inherited), attempt_env.ROLE: "ring", ring.SETTINGS: json.dumps(settings)}
    return StepCommand(argv=argv, environ=environ, umask=0o077)


class Rings:
    """The ring of one supervisor."""

    def __init__(self, of: Supervisor) -> None:
        self._of = of
        beat = of.context.config.heartbeat
        self._limit_s = limit_s(beat.interval, beat.suspect_after)
        self._fabric_s = 2 * beat.suspect_after
        self._patience = Patience()
        self._ring = Ring()
        self._number = 0
        self._inherited: Mark = (0, 0)
        self._support: RingSupport | None = None
        self._reports: dict[str, Report] = {}
        self._steps: set[str] = set()
        self._silent: dict[str, float] = {}
        self._mended: dict[str, float] = {}
        self._dead: frozenset[str] = frozenset()
        self._process: subprocess.Popen[bytes] | None = None
        self._quiet_since = 0.0
        self._closing = threading.Event()

    # ------------------------------------------------------------------------------------- from other threads

    def start(self) -> None:
        """Begin, unless the configuration wants none."""
        if self._of.context.config.heartbeat.fabric != "none":
            threading.Thread(target=self._run, name="ring", daemon=True).start()

    def take(self, node: str, message: Mapping[str, Any]) -> None:
        """Take a member's word from its agent; called in the hub's thread."""
        epoch, number = message["mark"]
        if not self._number and epoch < self._of.epoch and (epoch, number) > self._inherited:
            self._inherited, self._reports = (epoch, number), {}
        if (epoch, number) != self._mark:
            return
        if message["heard"] == "gone":
            self._reports.pop(node, None)
            return
        if message.get("step"):
            self._steps.add(str(message["step"]))
        self._reports[node] = Report(
            by=node,
            watched=str(message["watched"]),
            heard=Heard(message["heard"]),
            silent_s=float(message["silent_s"]),
            at=time.monotonic(),
        )

    def word_on(self, node: str) -> Finding:
        """Return the ring's word on a node, at once."""
        return word_on(node, self._believable(), time.monotonic(), FRESH_S)

    def close(self) -> None:
        """End it; the agents have told their members to leave."""
        self._closing.set()
        self._kill(LEAVE_S)

    # ------------------------------------------------------------------------------------------------- thread

    @property
    def _mark(self) -> Mark:
        """The ring that counts: until this supervisor has started one, the newest of those before it."""
        return (self._of.epoch, self._number) if self._number else self._inherited

    def _believable(self) -> tuple[Report, ...]:
        """The reports of agents that are connected and not suspected themselves."""
        run = self._of.run
        there = set(self._of.hub.connected) - set(run.suspects) - set(run.condemned)
        return tuple(report for node, report in list(self._reports.items()) if node in there)

    def _run(self) -> None:
        before = time.monotonic()
        while not self._closing.wait(TICK_S):
            now = time.monotonic()
            if now - before > TICK_S + STOOD_STILL_S:
                self._quiet_since = now
            before = now
            try:
                self._tick(self._of.run, now)
            except OSError as error:
                self._fail(now, f"it cannot be started: {error}")
            if self._ring.given_up:
                return

    def _tick(self, run: Run, now: float) -> None:
        if run.phase in LIVE:
            wanted = tuple(node for node in run.nodes if node not in run.condemned)
            self._ring = wants(self._ring, wanted, now)
        self._leave_out(run)
        if self._ring.nodes:
            self._check(run, now)
        ready = run.phase in LIVE and not run.suspects and set(self._ring.wanted) <= run.agents
        if ready and due(self._ring, now, self._patience):
            self._launch(now)

    def _leave_out(self, run: Run) -> None:
        """Tell the members who is lost: the ring closes over it until it is started anew."""
        dead = frozenset(run.condemned)
        if dead != self._dead and self._mark[1]:
            self._dead = dead
            self._of.hub.broadcast({"t": "ring", "mark": list(self._mark), "dead": sorted(dead)})

    # ------------------------------------------------------------------------------------------------- starting

    def _launch(self, now: float) -> None:
        self._support = self._support or ring_support(os.environ)
        if not self._support.chosen:
            self._ring = replace(self._ring, given_up=True)
            self._of.emit(RingChanged(state=RingState.OFF, detail=self._support.problem))
            return
        context, nodes = self._of.context, self._ring.wanted
        # Also a start that fails here (shared storage that takes no file) is a failure, after which there is a pause.
        self._ring = launched(self._ring, now)
        self._number += 1
        self._reports, self._silent, self._steps = {}, {}, set()
        self._of.hub.broadcast({"t": "ring", "mark": list(self._mark), "dead": sorted(self._dead)})
        self._kill()
        name = f"ring-{self._of.epoch}-{self._number}"
        logs = context.paths.logs
        logs.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
        settings = {
            "run_id": context.paths.run_id,
            "run_dir": str(context.paths.root),
            "job_id": context.job.requeue_id,
            "local_dir": str(context.local.root),
            "mark": list(self._mark),
            "library": self._support.found,
            "nodes": list(nodes),
            "interval_s": context.config.heartbeat.interval,
            "limit_s": self._limit_s,
        }
        has_gpus = bool(context.config.resources.gpus_per_node or context.job.gpus_per_node)
        options = (f"--mpi={self._support.chosen}", *(("--gpus-per-node=0",) if has_gpus else ()))
        command = step(nodes, options, str(logs / f"{name}-%N.out"), settings, os.environ)
        self._process = command.start(logs / f"{name}.srun")
        self._quiet_since = now
        log.info("ring %s is started on %s: %s", name, ",".join(nodes), self._support.found)

    def _kill(self, patience_s: float = 0.0) -> None:
        """End the ring's step, unless it ends by itself; nobody waits for a node that does not answer (M2)."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
            return
        if self._steps:
            kill(process)
        else:
            process.kill()  # only its shepherd knows which step it is
        process.wait()
        for each in self._steps:
            try:
                SlurmClient().cancel(f"{self._of.context.job.job_id}.{each}", "KILL", wait=False)
            except FtslurmError as error:
                log.info("scancel of the ring: %s", error)

    # ------------------------------------------------------------------------------------------------- watching

    def _check(self, run: Run, now: float) -> None:
        """Is it up, has it ended, does it miss somebody whom TCP hears?"""
        fresh = [report for report in self._believable() if now - report.at <= FRESH_S]
        if fresh:
            self._quiet_since = now
        if self._process is not None and self._process.poll() is not None:
            self._fail(now, f"its job step has ended with code {self._process.returncode}{self._last_words()}")
        elif self._ring.up is None:
            self._check_start(fresh, now)
        elif now - self._quiet_since > SILENT_S and run.agents & set(self._of.hub.connected):
            self._fail(now, f"no member has said anything for {now - self._quiet_since:.0f} s")
        else:
            self._check_fabric(run, fresh, now)

    def _check_start(self, fresh: list[Report], now: float) -> None:
        heard = {report.watched for report in fresh if report.heard is Heard.OK}
        if heard >= set(self._ring.nodes):
            self._ring = replace(self._ring, up=now)
            found = self._support.found if self._support else ""
            self._of.emit(RingChanged(state=RingState.UP, nodes=self._ring.nodes, detail=found))
        elif now - self._ring.launched > self._patience.start_s:
            took_s = now - self._ring.launched
            text = f"only {len(heard)} of {len(self._ring.nodes)} members were heard within {took_s:.0f} s"
            self._fail(now, text + self._last_words())

    def _check_fabric(self, run: Run, fresh: list[Report], now: float) -> None:
        """A node that TCP hears and its successor does not: evidence against the fabric, told once."""
        silent = self._missed(run, fresh, now)
        for node in [node for node in self._silent if node not in silent]:
            self._silent.pop(node)
            self._mended[node] = now
            if node not in run.suspects and node not in run.condemned:
                self._of.emit(FabricHeard(node=node))
        for node, report in silent.items():
            if node not in self._silent:
                self._silent[node] = now
                heard, others = heard_besides(node, fresh)
                silent_s = round(report.silent_s + now - report.at, 1)
                self._of.emit(FabricSilent(node=node, by=report.by, silent_s=silent_s, others=heard, of=others))
        longest = min(self._silent, key=lambda node: self._silent[node], default="")
        if longest and now - self._silent[longest] > ONE_SILENT_S:
            self._fail(
                now, f"{longest} was not heard in it for {now - self._silent[longest]:.0f} s, while TCP hears it"
            )

    def _missed(self, run: Run, fresh: list[Report], now: float) -> dict[str, Report]:
        there = set(self._of.hub.connected) - set(run.suspects) - set(run.condemned)
        found = {}
        for report in fresh:
            node, silent_s = report.watched, report.silent_s + now - report.at
            wanted_s = self._limit_s if node in self._silent else self._fabric_s
            # A member that was cut off itself hears its own neighbour later than it is heard: TCP backs off.
            back_s = now - self._mended.get(report.by, -math.inf)
            suspicious = report.heard is Heard.SILENT and node in there and silent_s > wanted_s and back_s > MENDING_S
            if suspicious and word_on(node, fresh, now, FRESH_S).outcome is Outcome.UNREACHABLE:
                found[node] = report
        return found

    def _fail(self, now: float, why: str) -> None:
        """Tell it, and start another one after a while, or none any more."""
        expected = self._ring.nodes != self._ring.wanted or self._closing.is_set() or not self._of.hub.watching
        self._kill()
        self._reports, self._silent = {}, {}
        if expected:
            log.info("the ring has ended: %s", why)
            self._ring = replace(self._ring, nodes=(), up=None)
            return
        self._ring = failed(self._ring, now, self._patience)
        if self._ring.given_up:
            text = f"after {self._ring.failures} failures in a row, the last one being that {why}"
            self._of.emit(RingChanged(state=RingState.OFF, detail=text))
        else:
            text = f"{why}; they are started again in {self._ring.retry - now:.0f} s"
            self._of.emit(RingChanged(state=RingState.LOST, detail=text))

    def _last_words(self) -> str:
        """What the members, or srun, have written: they write only when they cannot start."""
        logs = self._of.context.paths.logs
        name = f"ring-{self._of.epoch}-{self._number}"
        texts = [_tail(path) for path in (*sorted(logs.glob(f"{name}-*.out")), logs / f"{name}.srun")]
        said = next((text for text in texts if text), "")
        return f": {said}" if said else ""


def _tail(path: Path) -> str:
    try:
        return " ".join(path.read_bytes()[-TAIL:].decode("utf-8", "replace").split())
    except FileNotFoundError:
        return ""
