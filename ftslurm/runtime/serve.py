"""The process of a supervisor: reads what is known of the run, takes the lease, serves, and says how it ended.

It is started by a parent in the batch script (`--say`), or by an agent after that host was lost (`--takeover`).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftslurm import journal, siteprofile, torchrunline
from ftslurm.chains import dissolve
from ftslurm.config import Config, load
from ftslurm.core import worlds
from ftslurm.core.actions import EndRun
from ftslurm.core.ending import CANCEL, PREEMPT, TIME_LIMIT
from ftslurm.core.events import ENDED, AllocationGranted, Phase, StopRequested
from ftslurm.core.situation import ruled
from ftslurm.core.state import Run
from ftslurm.errors import DataDamaged, FtslurmError
from ftslurm.paths import LocalPaths, RunPaths
from ftslurm.runtime import claims, logs, onward, steps
from ftslurm.runtime.control import Credentials
from ftslurm.runtime.keys import private_folder, read_key
from ftslurm.runtime.limit import watch_the_limit
from ftslurm.runtime.network import own_address
from ftslurm.runtime.quorum import leave_mark
from ftslurm.runtime.settings import handover_notes, policy_of, wanted_of
from ftslurm.runtime.spawning import wait_in_one_thread_only
from ftslurm.runtime.succession import Announcer, collect_tails, end_job, watch_the_clock
from ftslurm.runtime.successor import Legacy
from ftslurm.runtime.supervisor import Context, Supervisor
from ftslurm.slurm.client import SlurmClient
from ftslurm.slurm.env import JobEnv, job_from_env
from ftslurm.slurm.records import JobState
from ftslurm.submission import SAVE_LEAD_S

log = logging.getLogger(__name__)

PORT_FILE = "supervisor-port"
WHO_ELSE_S = 3.0
REACHED_S = 3.0
PR_SET_PDEATHSIG = 1
TAKEN_OVER = "another supervisor has taken this run over; this one does nothing any more"


def main(argv: Sequence[str] | None = None) -> int:
    """Serve one run; the result goes through the pipe `--say` as a line of JSON."""
    parser = argparse.ArgumentParser(prog="ftslurm.runtime.serve")
    parser.add_argument("--say", type=int)
    parser.add_argument("--parent", type=int, default=0)
    parser.add_argument("--takeover", action="store_true")
    parser.add_argument("--resumed", type=int)
    parser.add_argument("run_dir")
    asked = parser.parse_args(argv)
    # What comes before the handlers stand must not end this process: cancellation is asked of Slurm later.
    signals = _Signals()
    _die_with(asked.parent)
    wait_in_one_thread_only()
    paths = RunPaths(Path(asked.run_dir))
    legacy = None
    if asked.takeover:
        told = sys.stdin.readline()
        if not told:
            return 0  # the supervisor was heard again
        legacy = Legacy.from_json(told)
    try:
        word = _serve(paths, resumed=asked.resumed, signals=signals, legacy=legacy)
    except FtslurmError as error:
        hint = f"\nftslurm: hint: {error.hint}" if error.hint else ""
        print(f"ftslurm: error: {error}{hint}", file=sys.stderr, flush=True)
        word = {"code": error.exit_code}
        if legacy is not None and isinstance(error, DataDamaged):
            word = claims.start_anew(job_from_env(os.environ))
    if asked.say is not None:
        os.write(asked.say, (json.dumps(word) + "\n").encode())
    log.info("this supervisor ends: %s", word)
    logs.finish()
    # Threads may hang in a system call on dead storage; the word has been said.
    os._exit(0)


def _die_with(parent: int) -> None:
    """Have the kernel end this process with its parent (prctl(2)): the next parent starts a supervisor of its own."""
    if parent:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _serve(paths: RunPaths, *, resumed: int | None, signals: _Signals, legacy: Legacy | None) -> dict[str, Any]:
    config = siteprofile.of_run(load(paths.config), paths)
    job = job_from_env(os.environ)
    if legacy is not None:
        job = replace(job, end_time=legacy.end_time)
    logs.to_file(logs.Process(paths=paths, role="supervisor", job_id=job.requeue_id, node=logs.own_node()))
    local = LocalPaths.of(paths.run_id)
    private_folder(local.root.parent)
    private_folder(local.root)
    copies = sorted(local.root.glob("journal-supervisor-*.jsonl"))
    known = list(journal.read(paths, *copies))
    run, _ = journal.replay(known, policy_of(config))
    # Once: a job that is requeued, and a later one of the same script, simply go on.
    anew = resumed is not None and len(known) <= resumed
    if run.phase in ENDED and not anew:
        print(f"[ftslurm] run {paths.run_id} has already ended: {run.phase}, {run.reason}", flush=True)
        _conclude(EndRun(phase=run.phase, code=run.code, reason=run.reason), config, job, legacy)
        return {"phase": run.phase, "code": run.code}
    own = own_address(config.network.interface, job.nodelist)
    context = Context(paths=paths, config=config, job=job, key=read_key(paths.key), local=local, address=own.ip)
    supervisor = _begin(context, copies, legacy)
    if supervisor is None:
        return {"park": TAKEN_OVER}
    run, epoch = supervisor.run, supervisor.epoch
    if legacy is not None and not _same_incarnation(run, job):
        return claims.start_anew(job)
    signals.attach(supervisor, job)
    if legacy is None:
        supervisor.voice.say("\n".join(filter(None, (_first_line(paths, job, config, epoch), own.remark))))
    else:
        _take_over(supervisor, legacy)
    supervisor.start_slurm_watch()
    supervisor.scan_store()
    granted = _granted(run, context, epoch, resumed=anew, legacy=legacy)
    return _leave(supervisor, supervisor.serve(_with_way(granted, supervisor)), legacy)


def _leave(supervisor: Supervisor, end: EndRun | None, legacy: Legacy | None) -> dict[str, Any]:
    """The word for the parent, when what is left of the run's jobs has been seen to."""
    context, way = supervisor.context, ruled(supervisor.run, supervisor.policy).continue_by
    if end is not None and legacy is not None and end.phase in ENDED:
        context.paths.settled(supervisor.epoch).touch()
    if end is not None and (end.phase in ENDED or way != onward.REQUEUE):
        _conclude(end, context.config, context.job, legacy)
        if end.phase not in ENDED and legacy is None and way == onward.RESUBMIT and context.paths.own_job.exists():
            return _cut_short(end, context.job)
    return _word(end, way)


def _cut_short(end: EndRun, job: JobEnv) -> dict[str, Any]:
    """End a job with the user's own script, as a requeue does: what stands behind the call must not begin now."""
    text = "this job is cancelled: the script begins anew in the next one"
    print(f"[ftslurm] {text}", flush=True)
    try:
        SlurmClient().cancel(job.requeue_id)
    except FtslurmError as error:
        print(f"[ftslurm] it cannot be cancelled: {error}", flush=True)
        return {"phase": end.phase, "code": end.code}
    return {"park": f"handed on: {end.reason}"}


def _with_way(granted: AllocationGranted, supervisor: Supervisor) -> AllocationGranted:
    """Find out how this job can be gone on from, when it begins, and say what is not as the user may think."""
    if granted.same_incarnation:
        return granted
    context = supervisor.context
    way, words = onward.find_out(context.config, context.job, context.paths)
    if words:
        supervisor.voice.say(words)
    return replace(granted, continue_by=way)


def _conclude(end: EndRun, config: Config, job: JobEnv, legacy: Legacy | None) -> None:
    """See to the jobs that are left: those of the chain, and this one where there is no script that could return."""
    if end.phase in ENDED:
        words = dissolve(SlurmClient(), job)
        if words:
            print(f"[ftslurm] {words}", flush=True)
    if legacy is not None:
        end_job(job.requeue_id, end, config.recovery.on_finish_after_takeover)


def _begin(context: Context, copies: list[Path], legacy: Legacy | None) -> Supervisor | None:
    """Take the lease, learn all that is known of the run, and listen; None where another supervisor acts."""
    paths, local = context.paths, context.local
    taken = claims.take(context, legacy)
    if taken is None:
        return None
    lease, epoch, acts_from = taken
    # The holder before may act, and write, until its last renewal of the lease counts no more.
    time.sleep(max(acts_from - time.monotonic(), 0.0))
    if legacy is not None:
        reached = {node: legacy.peers[node] for node in legacy.reached}
        copies = [*copies, *collect_tails(Credentials(key=context.key, run_id=paths.run_id), reached, local.root)]
    # Once more: what a supervisor before this one wrote until it was fenced belongs to the state.
    known = list(journal.read(paths, *copies))
    run, entries = journal.replay(known, policy_of(context.config))
    supervisor = Supervisor(context, run, entries, lease, epoch)
    supervisor.write_down(journal.unshared(paths, known))
    _listen(supervisor, local)
    return supervisor


def _take_over(supervisor: Supervisor, legacy: Legacy) -> None:
    """Tell the agents, the clock and Slurm that this supervisor acts from now on."""
    context, epoch = supervisor.context, supervisor.epoch
    for node, (host, port) in legacy.peers.items():
        supervisor.addresses[node], supervisor.ports[node] = host, port
    Announcer(
        who=Credentials(key=context.key, run_id=context.paths.run_id),
        peers=legacy.peers,
        here=(context.address, supervisor.hub.port),
        epoch=epoch,
        connected=lambda: supervisor.hub.connected,
    ).start()
    if legacy.end_time is not None:
        lead_s = context.config.checkpoint.grace + SAVE_LEAD_S
        watch_the_clock(legacy.end_time, lead_s, lambda: supervisor.emit(StopRequested(why=TIME_LIMIT, save=True)))
    threading.Thread(target=leave_mark, args=(context.job.job_id, epoch), daemon=True).start()
    # Who has answered the claim will come: whoever else is missing can be asked about at once.
    deadline = time.monotonic() + REACHED_S
    while not set(legacy.reached) <= set(supervisor.hub.connected) and time.monotonic() < deadline:
        time.sleep(0.01)


def _word(end: EndRun | None, way: str) -> dict[str, Any]:
    if end is None:
        return {"park": TAKEN_OVER}
    if end.phase is Phase.REQUEUED and way == onward.REQUEUE:
        return {"park": f"requeued: {end.reason}"}
    return {"phase": end.phase, "code": end.code}


def _same_incarnation(run: Run, job: JobEnv) -> bool:
    return (run.job_id, run.restart) == (job.requeue_id, job.restart_count)


def _granted(run: Run, context: Context, epoch: int, *, resumed: bool, legacy: Legacy | None) -> AllocationGranted:
    job = context.job
    return AllocationGranted(
        job_id=job.requeue_id,
        restart=job.restart_count,
        nodes=job.nodelist,
        batch_host=job.batch_host or "",
        epoch=epoch,
        no_kill=job.no_kill,
        resumed=resumed,
        same_incarnation=_same_incarnation(run, job),
        end_time=job.end_time,
        wanted_nodes=wanted_of(context.config, len(job.nodelist)),
        host=job.batch_host or "",
        takeover=legacy.reason if legacy is not None else "",
    )


def _listen(supervisor: Supervisor, local: LocalPaths) -> None:
    """Take the port of the supervisor before this one, so that its agents find the new one; else any."""
    memory = local.root / PORT_FILE
    wanted = int(memory.read_text()) if memory.exists() else 0
    memory.write_text(str(supervisor.listen(wanted)))


def _first_line(paths: RunPaths, job: JobEnv, config: Config, epoch: int) -> str:
    text = f"run {paths.run_id}, job {job.requeue_id}, {len(job.nodelist)} nodes, epoch {epoch}; folder {paths.root}"
    if not job.no_kill and len(job.nodelist) > 1:
        text += (
            "\nthis job was not submitted with --no-kill (or without its marker FTSLURM_NO_KILL=1): Slurm will end it"
        )
        text += " when a node goes DOWN, so a lost node means a requeue, not a smaller world"
    else:
        used = wanted_of(config, len(job.nodelist))
        text += "".join(f"\n{sentence}" for sentence in worlds.announced(used, policy_of(config)))
    starter = torchrunline.read(config.command, anywhere=True) if config.launch.launcher == "torchrun" else None
    if starter is not None:
        text += "".join(f"\n{said}" for said in steps.replaced(starter))
    if not config.checkpoint.is_watched:
        text += "\nno checkpoint.files are configured: an attempt starts from whatever the program itself finds"
    return "\n".join((text, *handover_notes(config)))


class _Signals:
    """What Slurm tells by signals. SIGTERM says only that something ends; the job's state says what."""

    def __init__(self) -> None:
        self._early: list[int] = []
        self._supervisor: Supervisor | None = None
        self._job_id = ""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        # The parent starts this process with them blocked, so that none comes before its handler.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, set(signal.Signals))

    def attach(self, supervisor: Supervisor, job: JobEnv) -> None:
        """From now on signals become events; where the script is the user's own, no warning of the limit will come."""
        self._supervisor, self._job_id = supervisor, job.job_id
        if not supervisor.context.paths.script.exists():
            lead_s = supervisor.context.config.checkpoint.grace + SAVE_LEAD_S
            watch_the_limit(job.job_id, lead_s, lambda: supervisor.emit(StopRequested(why=TIME_LIMIT, save=True)))
        for number in self._early:
            self._on_signal(number, None)

    def _on_signal(self, number: int, frame: object) -> None:
        del frame
        if self._supervisor is None:
            self._early.append(number)
        elif number == signal.SIGUSR2:
            threading.Thread(target=self._await_the_limit, daemon=True).start()
        elif number == signal.SIGINT:
            self._supervisor.emit(StopRequested(why=CANCEL, save=False))
        else:
            threading.Thread(target=self._ask_why, daemon=True).start()

    def _await_the_limit(self) -> None:
        """Slurm may send its warning up to a minute early (sbatch(1)): the clock says when the save has to begin."""
        supervisor = self._supervisor
        if supervisor is None:
            return
        try:
            end = SlurmClient(timeout_s=WHO_ELSE_S).job(self._job_id).end_time
        except FtslurmError as error:
            log.warning("the time limit is near, and Slurm does not say how near: %s", error)
            end = None
        lead_s = supervisor.context.config.checkpoint.grace + SAVE_LEAD_S
        if end is not None:
            time.sleep(max(end - time.time() - lead_s, 0.0))
        supervisor.emit(StopRequested(why=TIME_LIMIT, save=True))

    def _ask_why(self) -> None:
        supervisor = self._supervisor
        if supervisor is None or supervisor.requeuing:
            log.info("SIGTERM belongs to the requeue that was just asked for")
            return
        why = {JobState.PREEMPTED: PREEMPT, JobState.TIMEOUT: TIME_LIMIT}
        own = supervisor.context.job.restart_count
        restart: int | None = own
        try:
            info = SlurmClient(timeout_s=WHO_ELSE_S).job(self._job_id)
            state, restart = info.state, info.restart_count
        except FtslurmError as error:
            log.warning("SIGTERM came and Slurm does not say why: %s", error)
            state = JobState.UNKNOWN
        # With a node that does not answer a requeued job is COMPLETING for long, but counted as restarted at once.
        if state in (JobState.PENDING, JobState.REQUEUED) or restart not in (None, own):
            log.info("SIGTERM belongs to a requeue; the new incarnation goes on")
            return
        supervisor.emit(StopRequested(why=why.get(state, CANCEL), save=False, within_s=_kill_wait_s()))


def _kill_wait_s() -> float:
    """From Slurm's SIGTERM to its SIGKILL; 0 where it does not say."""
    try:
        return float(SlurmClient(timeout_s=WHO_ELSE_S).config().kill_wait_s or 0)
    except FtslurmError as error:
        log.warning("how long the job may still run after SIGTERM is not known: %s", error)
        return 0.0


if __name__ == "__main__":
    main()
