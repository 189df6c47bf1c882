"""The supervisor: the only loop of a run. It gathers events, runs the pure core, journals, and has actions performed.

    for event in events:
        run, actions = advance(run, event, policy)
        journal.append(event, actions)        # safe before anything happens
        for action in actions:
            perform(action)                   # results come back as events

Its threads: the hub (beats and messages; touches no file), the journal and the lease (shared storage may hang there and
nowhere else), a pool for probes and Slurm's commands, and this loop.
"""

from __future__ import annotations

import heapq
import logging
import os
import queue
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ftslurm.config import Config
from ftslurm.core.actions import Action, EndRun, SetTimer
from ftslurm.core.draining import unsafe
from ftslurm.core.events import (
    ENDED,
    AgentUp,
    AllocationGranted,
    Event,
    Phase,
    RankExited,
    StorageStalled,
    TimerFired,
)
from ftslurm.core.records import from_record
from ftslurm.core.run import advance
from ftslurm.core.state import Run
from ftslurm.errors import TryAgain
from ftslurm.journal import Entry, Lease, Writer
from ftslurm.passthrough import hide_assignments
from ftslurm.paths import LocalPaths, RunPaths
from ftslurm.runtime import logs, quorum
from ftslurm.runtime.authority import Authority, Terms
from ftslurm.runtime.control import Credentials
from ftslurm.runtime.hub import Hub
from ftslurm.runtime.memory import memory_of
from ftslurm.runtime.muster import Muster
from ftslurm.runtime.observing import Observing, now_of
from ftslurm.runtime.perform import Performer
from ftslurm.runtime.requests import RequestWatch
from ftslurm.runtime.rings import Rings
from ftslurm.runtime.settings import checkpoint_of, detector_of, patience_of, policy_of, sync_of
from ftslurm.runtime.stalls import Autopsies, ProgressWatch
from ftslurm.runtime.statesync import StateSync
from ftslurm.runtime.uplink import SUPERSEDED
from ftslurm.runtime.voice import Voice
from ftslurm.slurm.env import JobEnv

log = logging.getLogger(__name__)

SAFE_POLL_S = 0.002
LASTS_POLLS = 50
STALL_S = 5.0
ADOPTION_S = 20.0
SYNC_S = 10.0
GONE = 75


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a supervisor is given: the run, its configuration, and the job it runs in."""

    paths: RunPaths
    config: Config
    job: JobEnv
    key: bytes
    local: LocalPaths
    address: str


class Supervisor:
    """Acts for one run, in one epoch."""

    def __init__(self, context: Context, run: Run, entries: int, lease: Lease, epoch: int) -> None:
        self.context = context
        self.run = run
        self.epoch = epoch
        self.policy = policy_of(context.config)
        self._entries = entries
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._timers: list[tuple[float, str, int]] = []
        self._acks: dict[int, set[str]] = {}
        self.muster = _adopted(run)
        self.addresses: dict[str, str] = {}
        self.ports: dict[str, int] = {}
        self.voice = Voice()
        who = Credentials(key=context.key, run_id=context.paths.run_id)
        self.hub = Hub(who, detector_of(context.config), self._emit_seen, self._on_message, context.address)
        beat = context.config.heartbeat
        terms = Terms(takeover_after_s=beat.takeover_after, no_quorum_after_s=beat.no_quorum_after)
        majority_age = lambda: self.hub.freshness_s(quorum.voters(self.run))  # noqa: E731
        self.authority = Authority(lease, majority_age, terms, lambda: quorum.give_up(self))
        self._unsent: list[str] = []
        tail = context.local.root / f"journal-supervisor-{epoch}.jsonl"
        self._journal = Writer(context.paths, epoch, tail)
        self.progress = ProgressWatch(patience_of(context.config), self.emit)
        self.autopsies = Autopsies(self.progress, self.emit)
        self.rings = Rings(self)
        self._performer = Performer(self)
        self._memory = memory_of(context)
        self._observing = Observing(context, lambda: now_of(self))
        store = Path(checkpoint_of(context.config, context.paths).shared)
        self._sync = StateSync(sync_of(context.config), context.paths, store, self.voice.say)
        self._stalled = False
        self.requeuing = False

    # ------------------------------------------------------------------------------------------------ events

    def emit(self, event: Event) -> None:
        """Put an event into the queue; from any thread."""
        self._events.put(event)

    def _emit_seen(self, event: Event) -> None:
        if isinstance(event, AgentUp):
            self.addresses[event.node], self.ports[event.node] = event.address, event.port
            self._performer.on_agent_up(event)
            if event.attempt is not None:
                threading.Timer(ADOPTION_S, self._find_lost_ranks, (event.node,)).start()
        self.emit(event)

    def _on_message(self, node: str, message: Mapping[str, Any]) -> None:
        """Called in the hub's thread: must not touch a file."""
        kind = message.get("t")
        if kind == "event":
            self.emit(_without_secrets(from_record(message["event"])))
            self.hub.send(node, {"t": "ack", "id": message["id"]})
        elif kind == "journaled":
            self._acks.setdefault(int(message["n"]), set()).add(node)
        elif kind == "registered":
            self._registered(node, message)
        elif kind == SUPERSEDED:
            self.authority.fence(f"{node} obeys the supervisor of epoch {message['epoch']}")
        elif kind == "progress":
            self.progress.take(node, message)
        elif kind == "autopsy":
            self.autopsies.take(node, message)
        elif kind == "ring":
            self.rings.take(node, message)
        elif kind == "output":
            self.voice.output(int(message["attempt"]), str(message["text"]))

    def _registered(self, node: str, message: Mapping[str, Any]) -> None:
        muster = self.muster
        if muster is None or int(message["attempt"]) != muster.attempt:
            return
        whole = muster.add(node, message)
        if whole is not None:
            self.emit(whole)

    def _find_lost_ranks(self, node: str) -> None:
        """After an agent came back: a rank of its node that has not registered again is gone."""
        attempt, muster = self.run.attempt, self.muster
        if attempt is None or muster is None or not attempt.released or muster.attempt != attempt.number:
            return
        for rank, place in enumerate(attempt.placement):
            if place == node and rank not in muster.nodes and rank not in attempt.finished:
                tail = "the rank has not been seen since its agent was lost"
                self.emit(RankExited(attempt=attempt.number, rank=rank, node=node, code=GONE, tail=tail))

    def write_down(self, entries: Iterable[Entry]) -> None:
        """Write what only this node's copy of the journal holds: another host could not go on without it."""
        for entry in entries:
            self._journal.append(entry)

    def listen(self, port: int) -> int:
        """Open the control channel's port (0: any) and return it."""
        return self.hub.start("", port, self.epoch)

    def start_slurm_watch(self) -> None:
        """Ask Slurm for the job's state and nodes now and then; listen to people, and copy the state's history away."""
        self._performer.watch_slurm()
        watch = RequestWatch(self.context.paths, self.emit)
        threading.Thread(target=watch.run, name="requests", daemon=True).start()
        self._sync.start()
        self._observing.start()

    def scan_store(self) -> None:
        """Have shared storage read for committed checkpoints."""
        self._performer.scan_store(tuple(each.generation for each in self.run.saved))

    # -------------------------------------------------------------------------------------------------- loop

    def serve(self, granted: AllocationGranted) -> EndRun | None:
        """Run until the run has ended, is requeued, or another supervisor has taken over (None)."""
        self.authority.start()
        self.rings.start()
        self._step(granted)
        while not self.authority.fenced:
            event = self._next()
            if event is not None:
                self._step(event)
            self._check_storage()
            self.progress.tick(self.run, storage_stalled=self._stalled)
            if self.run.phase in ENDED | {Phase.REQUEUED}:
                return self._finish()
        self.rings.close()
        log.error("fenced by a supervisor of a higher epoch; parking")
        return None

    def _next(self) -> Event | None:
        """Return the next event, or a timer that ran out, or None after a short wait."""
        now = time.monotonic()
        if self._timers and self._timers[0][0] <= now:
            _, name, token = heapq.heappop(self._timers)
            return TimerFired(name=name, token=token)
        wait = min(self._timers[0][0] - now, 1.0) if self._timers else 1.0
        try:
            return self._events.get(timeout=wait)
        except queue.Empty:
            return None

    def _step(self, event: Event) -> None:
        event = replace(event, at=time.time(), mono=time.monotonic())
        run, actions = advance(self.run, event, self.policy)
        if run == self.run and not actions:
            return
        if not self.authority.wait():
            return
        self._record(run, event, actions)
        self._memory.note(self.run, run)
        self.run = run
        logs.of_attempt(run.attempt.number if run.attempt else run.next_attempt)
        for action in actions:
            # Asked each time: this process may have been stopped since, and another one acts by now.
            if not self.authority.wait():
                return
            self._act(action)

    def _record(self, run: Run, event: Event, actions: tuple[Action, ...]) -> None:
        """Journal, and wait until the entry is safe."""
        entry = Entry(self._entries, self.epoch, event.at, run.phase, event, actions)
        self._entries += 1
        self._acks[entry.number] = set()
        done = self._journal.append(entry)
        # Entries without actions travel with the next one that has some: a copy without a gap can be replayed.
        self._unsent.append(entry.line())
        self._observing.entry(self._unsent[-1])
        if actions:
            lines, self._unsent = "\n".join(self._unsent), []
            self.hub.broadcast({"t": "journal", "n": entry.number, "line": lines})
            needed, polls = len(run.nodes) // 2 + 1, 0
            while not done.wait(SAFE_POLL_S) and len(self._acks[entry.number]) < needed:
                polls += 1
                self._check_storage()
                if polls % LASTS_POLLS == 0 and not self.authority.lasts():
                    break
        self._acks.pop(entry.number, None)

    def _act(self, action: Action) -> None:
        if isinstance(action, SetTimer):
            heapq.heappush(self._timers, (time.monotonic() + action.after_s, action.name, action.token))
            return
        self._performer.perform(action)

    def _check_storage(self) -> None:
        """Say when shared storage hangs, and when it answers again. Nothing else follows from it."""
        behind = self._journal.behind_s()
        if behind > STALL_S and not self._stalled:
            self._stalled = True
            self.emit(StorageStalled(for_s=round(behind, 1), error=self._journal.error))
        elif self._stalled and behind == 0.0:
            self._stalled = False
            self.emit(StorageStalled(for_s=0.0))

    def _finish(self) -> EndRun:
        """Let agents settle, close everything, and say how it ended."""
        end = EndRun(phase=self.run.phase, code=self.run.code, reason=self.run.reason)
        tidy = self.run.phase in ENDED and not unsafe(self.run)
        self._performer.leave(self.run.agents, tidy=tidy)
        self._memory.close(3.0)
        self._observing.close()
        self._sync.stop(SYNC_S)
        self.rings.close()
        self.authority.stop()
        if not self._journal.close(30.0):
            self.voice.say("the last journal entries did not reach shared storage")
        elif tidy:
            self._tidy()
        self.hub.close(3.0)
        self.voice.close()
        return end

    def _tidy(self) -> None:
        """Remove what this process kept on its node; agents do the same on theirs."""
        root = self.context.local.root
        for pattern in ("journal-*", "launcher-*.out", "supervisor-port"):
            for path in root.glob(pattern):
                path.unlink(missing_ok=True)
        if root.is_dir() and not any(root.iterdir()):
            root.rmdir()


def _adopted(run: Run) -> Muster | None:
    """Return the world of an attempt that a supervisor before this one released."""
    attempt = run.attempt
    if attempt is None or not attempt.released or attempt.fencing:
        return None
    return Muster(attempt.number, attempt.world_size, {}, whole=True)


def _without_secrets(event: Event) -> Event:
    """Return the event as the journal may hold it: `NAME=value` of a secret in a rank's last words is hidden."""
    return replace(event, tail=hide_assignments(event.tail)) if isinstance(event, RankExited) else event


def claim(context: Context, expected: int | None = None, *, takeover: bool = False) -> tuple[Lease, int]:
    """Take the lease of a run; with `expected` only from the holder of that epoch.

    Raises:
        TryAgain: somebody else took it in the same moment.
        StorageError: shared storage does not let us.
    """
    record = {
        "job_id": context.job.requeue_id,
        "restart": context.job.restart_count,
        "host": context.job.batch_host or context.address,
        "pid": os.getpid(),
        "takeover": takeover,
    }
    lease = Lease(context.paths, record)
    if expected is not None:
        return lease, lease.claim(expected)
    for _ in range(3):
        try:
            return lease, lease.claim()
        except TryAgain as error:
            log.warning("%s; trying again", error)
            time.sleep(0.2)
    return lease, lease.claim()
