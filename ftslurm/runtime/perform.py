"""Performs the core's actions.

Each returns at once; what takes time runs in a pool, and results come back as events.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftslurm.core.actions import (
    Action,
    AskToSave,
    CleanScratch,
    CommitDurable,
    CommitLocal,
    Drain,
    EndRun,
    FenceAttempt,
    LaunchAgents,
    LaunchAttempt,
    ProbeNode,
    Quarantine,
    ReleaseRanks,
    Replicate,
    Requeue,
    Restore,
    Say,
    TakeAutopsy,
)
from ftslurm.core.conditions import CallHook
from ftslurm.core.events import AgentUp, LaunchEnded, Phase
from ftslurm.core.records import to_record
from ftslurm.core.saving import whole_on_nodes
from ftslurm.core.situation import mtbf_s
from ftslurm.errors import FtslurmError
from ftslurm.paths import PRIVATE_FOLDER
from ftslurm.runtime import attempt_env, container, launcher, onward, steps
from ftslurm.runtime.clients import Clients, refusals, tail
from ftslurm.runtime.forecast import Forecaster, forecast_place
from ftslurm.runtime.history import History
from ftslurm.runtime.hooks import Hooks
from ftslurm.runtime.logs import TOLD, complain
from ftslurm.runtime.muster import Muster
from ftslurm.runtime.requeue import requeue
from ftslurm.runtime.settings import checkpoint_of, probes_of, progress_of
from ftslurm.runtime.slurm_watch import SlurmWatch
from ftslurm.runtime.spec import AgentSpec
from ftslurm.runtime.spoken import extra_of, level_of
from ftslurm.runtime.stores import Stores
from ftslurm.runtime.successor import own_output, own_umask
from ftslurm.runtime.witnesses import DEADLINE_S, Witnesses
from ftslurm.slurm.client import SlurmClient

if TYPE_CHECKING:
    from ftslurm.runtime.supervisor import Supervisor

log = logging.getLogger(__name__)

LEAVE_S = 20.0
REQUEUE_S = 45.0
FEW, PEERS_S = 64, 1.0


class Performer:
    """The effects of one supervisor."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._of = supervisor
        context = supervisor.context
        self._pool = ThreadPoolExecutor(max_workers=16, thread_name_prefix="perform")
        self._slurm = SlurmClient()
        self._checkpoint = checkpoint_of(context.config, context.paths)
        fresh = supervisor.authority.fresh
        self._stores = Stores(context.paths.run_id, self._checkpoint, supervisor.epoch, supervisor.emit, fresh)
        self._history = History(context.paths.history, supervisor.epoch)
        self._stores.history = self._history
        deadline_s = min(DEADLINE_S, 2 * context.config.heartbeat.suspect_after)
        ring = supervisor.rings.word_on
        self._witnesses = Witnesses(context.job.job_id, self._slurm, ring=ring, deadline_s=deadline_s)
        self._slurm_watch = SlurmWatch(self._slurm, context.job, supervisor.emit, supervisor.authority.fence)
        self._forecast = Forecaster(self._slurm, forecast_place(context), supervisor.emit)
        self._agent_launches = 0
        self._hooks = Hooks({"health": context.config.hooks.health}, context.paths.run_id)
        cancel = lambda step: self._slurm.cancel(f"{context.job.job_id}.{step}", "KILL", wait=False)  # noqa: E731
        self._clients = Clients(supervisor.emit, cancel)
        self._rules: dict[type[Action], Callable[[Any], None]] = {
            Say: self._say,
            LaunchAgents: self._launch_agents,
            ProbeNode: self._probe,
            LaunchAttempt: self._launch,
            ReleaseRanks: self._release,
            FenceAttempt: self._fence,
            Restore: self._restore,
            AskToSave: self._ask_to_save,
            TakeAutopsy: self._take_autopsy,
            CommitLocal: self._commit_local,
            Drain: self._drain,
            CommitDurable: lambda action: self._later(self._stores.commit, action),
            Replicate: self._replicate,
            CleanScratch: self._clean,
            Quarantine: lambda action: self._later(self._stores.set_aside, action),
            Requeue: lambda action: self._later(self._requeue, action),
            EndRun: self._end,
            CallHook: self._hooks.call,
        }

    def perform(self, action: Action) -> None:
        """Carry an action out, or start to."""
        self._rules[type(action)](action)

    def scan_store(self, known: tuple[str, ...]) -> None:
        """Read what is committed on shared storage; the answer comes as StoreScanned."""
        self._later(self._stores.scan, known)

    def watch_slurm(self) -> None:
        """Ask Slurm now and then for its view of the job; the answers come as SlurmReported."""
        threading.Thread(target=self._slurm_watch.run, name="slurm", daemon=True).start()
        self._forecast.survey()

    def leave(self, present: frozenset[str], *, tidy: bool) -> None:
        """Tell the agents to settle and leave; wait a bounded time until those that are present have.

        `tidy`: nothing on the nodes is needed any more.
        """
        self._of.hub.watching = False
        self._of.hub.broadcast({"t": "leave", "tidy": tidy})
        deadline = time.monotonic() + LEAVE_S
        while present & set(self._of.hub.connected) and time.monotonic() < deadline:
            time.sleep(0.05)
        self._clients.leave()

    def on_agent_up(self, event: AgentUp) -> None:
        """Give a new agent the addresses of all; called in the hub's thread."""
        few = len(self._of.hub.connected) <= FEW
        self._of.hub.soon(self._tell_peers, 0.0 if few else PEERS_S)
        muster = self._of.muster
        if muster is not None:
            self._announce_attempt(muster.attempt, muster.world_size, (event.node,))
        self._later(self._tell_whole, event.node)

    def _tell_whole(self, node: str) -> None:
        for action in whole_on_nodes(self._of.run):
            self._each((node,), self._stores.local_message(action))

    def _tell_peers(self) -> None:
        addresses = self._of.addresses
        peers = {node: [addresses[node], port] for node, port in self._of.hub.ports().items() if node in addresses}
        self._of.hub.broadcast({"t": "peers", "peers": peers})

    # ------------------------------------------------------------------------------------------------ helpers

    def _later(self, work: Callable[[Any], None], argument: object) -> None:
        self._pool.submit(work, argument).add_done_callback(lambda done: complain(log, done.exception(), argument))

    def _each(self, nodes: tuple[str, ...], message: Mapping[str, Any]) -> None:
        for node in nodes:
            if not self._of.hub.send(node, message):
                log.info("%s cannot be told %s: not connected", node, message["t"])

    def _say(self, action: Say) -> None:
        logging.getLogger(TOLD).log(level_of(action.slug), "%s", action.text, extra=extra_of(action, self._of.run))
        self._of.voice.say(action.text)
        if action.slug == "checkpoint_suspect":
            name = action.facts["generation"]
            self._later(lambda _: self._history.changed(name, "suspect", action.text), action)

    # ------------------------------------------------------------------------------------------------- agents

    def _launch_agents(self, action: LaunchAgents) -> None:
        if not action.nodes:
            return
        context = self._of.context
        self._agent_launches += 1
        logs = context.paths.logs
        mark = f"{self._of.epoch}-{self._agent_launches}"
        spec = AgentSpec(
            run_id=context.paths.run_id,
            run_dir=str(context.paths.root),
            host=context.address,
            port=self._of.hub.port,
            epoch=self._of.epoch,
            interface=context.config.network.interface,
            ports=context.config.network.ports,
            interval_s=context.config.heartbeat.interval,
            deadman_s=context.config.heartbeat.deadman_after,
            checkpoint=self._checkpoint,
            progress=progress_of(context.config),
            probes=probes_of(context.config),
            job_id=context.job.job_id,
            requeue_id=context.job.requeue_id,
            restart=context.job.restart_count,
            takeover_after_s=context.config.heartbeat.takeover_after,
            umask=own_umask(),
            output=own_output(),
        )
        step = launcher.agents(
            action.nodes, str(logs / f"agents-{mark}-%N.out"), spec.to_json(), os.environ, gpus=spec.probes.gpus
        )
        self._later(lambda _: self._start(step, logs / f"agents-{mark}.srun"), action)

    def _start(self, step: launcher.StepCommand, output: Path) -> None:
        output.parent.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
        process = step.start(output)
        code = process.wait()
        text = tail(output)
        if code or text:
            log.info("the agents' step ended with code %d: %s", code, text)
        for words in refusals(output.parent, output.stem) if code else ():
            self._of.voice.say(words)

    def _probe(self, action: ProbeNode) -> None:
        self._forecast.expect_plan(self._of.run)
        address = self._of.addresses.get(action.node, action.node)
        # Another node than this one: the observer's own address would always answer.
        addresses, ports, here = self._of.addresses, self._of.hub.ports(), self._of.context.address
        others = {
            node: (addresses[node], ports[node])
            for node in self._of.hub.last_heard_first()
            if node in ports and addresses[node] != here
        }
        port = self._of.ports.get(action.node, 0)
        work = lambda _: self._witnesses.ask(action.node, (address, port), others, self._of.emit)  # noqa: E731
        self._later(work, action)

    # ------------------------------------------------------------------------------------------------- attempt

    def _launch(self, action: LaunchAttempt) -> None:
        of, context = self._of, self._of.context
        of.muster = Muster(action.attempt, action.world_size, dict(of.addresses))
        self._announce_attempt(action.attempt, action.world_size, action.nodes)
        asked = steps.training(context.config, context.paths.run_id, action.attempt, action.nodes)
        words = container.wrapper(context.config.launch, context.paths, self._folders())
        asked = replace(asked, wrapper=words)
        self._later(lambda _: self._start_ranks(asked), action)

    def _announce_attempt(self, attempt: int, world_size: int, nodes: tuple[str, ...]) -> None:
        """Tell agents which attempt is the live one, and which ports must not be offered again."""
        avoid = list(self._of.run.used_ports)
        self._each(nodes, {"t": "attempt", "attempt": attempt, "world": world_size, "avoid_ports": avoid})

    def _start_ranks(self, asked: launcher.Ranks) -> None:
        output = self._of.context.local.root / f"launcher-{asked.attempt}.out"
        try:
            container.prepare(self._of.context.config.launch, self._of.context.paths)
            process = launcher.ranks(self._of.context.config.launch.launcher, asked, os.environ).start(output)
        except (OSError, FtslurmError) as error:
            self._of.emit(LaunchEnded(attempt=asked.attempt, code=-1, output=str(error)))
            return
        self._clients.add(asked.attempt, process, output)

    def _release(self, action: ReleaseRanks) -> None:
        of, config = self._of, self._of.context.config
        world = attempt_env.World(
            run_id=of.context.paths.run_id,
            run_dir=str(of.context.paths.root),
            attempt=action.attempt,
            placement=action.placement,
            master_addr=action.master_addr,
            master_port=action.master_port,
            step=action.step,
            restored=bool(action.checkpoint),
        )
        inherited = {**os.environ, **config.launch.env}
        save = self._checkpoint.save.to_json() if self._checkpoint.in_library else ""
        own = attempt_env.of_library(save, mtbf_s(of.run), of.run.end_time)
        message = {
            "t": "go",
            "attempt": action.attempt,
            "common": {**config.launch.env, **attempt_env.of_all(world, inherited), **own},
            "unset": list(attempt_env.stale(world, starts_ranks=config.launch.launcher == "torchrun")),
            "argv": list(config.command),
            "resume_args": attempt_env.resume_args(config.checkpoint.resume_args, world),
            "setup": list(config.launch.setup),
            "modules": list(config.launch.modules),
            "container": container.order(config.launch, of.context.paths, self._folders()),
        }
        restored = of.run.current.restored
        for node in action.again or dict.fromkeys(action.placement):
            ranks = [rank for rank, place in enumerate(action.placement) if place == node]
            tracker = {rank: attempt_env.tracker_of(world, rank, inherited) for rank in ranks}
            each = {str(rank): {**attempt_env.of_rank(world, rank), **tracker[rank]} for rank in ranks}
            self._each((node,), {**message, "ranks": each, "checkpoint": restored.get(node, "")})
        self._later(lambda _: self._mark_current(action.attempt), action)

    def _folders(self) -> tuple[str, ...]:
        """Folders beside the run's own that its ranks need; each agent knows where checkpoints are on its node."""
        return (str(self._of.context.local.root),)

    def _mark_current(self, attempt: int) -> None:
        link = self._of.context.paths.current_logs
        part = link.with_name(f".current-{self._of.epoch}-{threading.get_ident()}")
        part.unlink(missing_ok=True)
        part.symlink_to(str(attempt))
        part.replace(link)

    def _fence(self, action: FenceAttempt) -> None:
        self._each(action.nodes, {"t": "fence", "attempt": action.attempt, "clean": action.clean})
        muster = self._of.muster
        mine = muster if muster is not None and muster.attempt == action.attempt else None
        steps = sorted(mine.steps) if mine is not None and not action.clean else ()
        at_once = mine is not None and not mine.whole
        self._clients.end(action.attempt, steps, at_once=at_once, gone=lambda: self._is_gone(action))

    def _is_gone(self, action: FenceAttempt) -> bool:
        """Whether all these nodes have confirmed the end of the attempt; those that were given up may not have."""
        run = self._of.run
        now = run.attempt is not None and run.attempt.number == action.attempt
        return (run.current.fenced if now else set(action.nodes) - set(run.condemned)) >= set(action.nodes)

    # --------------------------------------------------------------------------------------------- checkpoints

    def _restore(self, action: Restore) -> None:
        among = list(self._of.run.current.nodes)
        self._each(action.nodes, {"t": "restore", "action": to_record(action), "among": among})

    def _ask_to_save(self, action: AskToSave) -> None:
        order = {"number": action.number, "stop": action.stop, "why": action.why}
        self._of.hub.broadcast({"t": "save", "attempt": action.attempt, "save_on": self._checkpoint.save_on, **order})

    def _replicate(self, action: Replicate) -> None:
        """Each holder is told of its own copies alone: there may be thousands."""
        for holder in dict.fromkeys(pair.holder for pair in action.pairs):
            mine = replace(action, pairs=tuple(pair for pair in action.pairs if pair.holder == holder))
            self._each((holder,), {"t": "replicate", "action": to_record(mine)})

    def _clean(self, action: CleanScratch) -> None:
        self._of.hub.broadcast({"t": "clean", "watermark": action.watermark, "keep": list(action.keep)})

    def _take_autopsy(self, action: TakeAutopsy) -> None:
        stall = self._of.run.current.stall
        if stall is not None:
            self._of.autopsies.begin(stall, action.nodes, action.deadline_s)
            asked = {"t": "autopsy", "attempt": action.attempt, "deadline_s": 0.8 * action.deadline_s}
            self._each(action.nodes, asked)

    def _commit_local(self, action: CommitLocal) -> None:
        self._later(self._tell_local, action)

    def _tell_local(self, action: CommitLocal) -> None:
        self._of.hub.broadcast(self._stores.local_message(action))
        self._stores.note_local(action)

    def _drain(self, action: Drain) -> None:
        asked: dict[str, Any] = {"t": "drain", "generation": action.generation, "base": action.base}
        saved = self._of.run.find_saved(action.generation)
        if saved is not None and saved.in_place:
            among, seen = sorted(saved.holders), saved.parts[0].manifest_digest
            asked |= {"among": among, "seen": seen, "world": saved.world_size}
        for owner, worker in (*((node, node) for node in action.nodes), *action.stand_ins):
            self._each((worker,), {**asked, "owner": owner})

    # ----------------------------------------------------------------------------------------------------- end

    def _requeue(self, action: Requeue) -> None:
        """Have an agent ask for it; the others leave, so that the job does not linger in COMPLETING."""
        of, job_id = self._of, self._of.context.job.requeue_id
        if action.by != onward.REQUEUE:
            of.emit(onward.go_on(of.context.job, of.context.paths, action))
            return
        low, high = of.context.config.resources.nodes
        # From here on SIGTERM is the requeue's own.
        of.requeuing = True
        of.hub.watching = False
        able = [node for node in of.run.usable if node in of.hub.connected]
        self._each(tuple(node for node in of.hub.connected if node not in able[:1]), {"t": "leave", "tidy": False})
        asked = {"t": "requeue", "job": job_id, "any_size": low != high, "action": to_record(action)}
        if able and of.hub.send(able[0], asked) and self._has_left(Phase.DRAINING, REQUEUE_S):
            return
        of.emit(requeue(self._slurm, job_id, action, any_size=low != high))

    def _has_left(self, phase: Phase, timeout_s: float) -> bool:
        """Wait until the run is in another phase; False when it is not in time."""
        deadline = time.monotonic() + timeout_s
        while self._of.run.phase is phase and time.monotonic() < deadline:
            time.sleep(0.1)
        return self._of.run.phase is not phase

    def _end(self, action: EndRun) -> None:
        self._of.voice.say(f"{action.phase}: {action.reason} (exit code {action.code})")
