"""What a new supervisor means to a run: in a new incarnation of the job, started again, or on another host.

A takeover is not a diagnosis: nobody is blamed for it, and training goes on. The successor adopts the running attempt.
Whether the host of the one before it is lost, too, is found out by the same questions as about any other node that has
no agent.
"""

from __future__ import annotations

from dataclasses import replace

from ftslurm.core import ending, fitness, saving, situation, stopping
from ftslurm.core.actions import Action, Say
from ftslurm.core.diagnosis import Cause, Diagnosis, Scope
from ftslurm.core.events import AllocationGranted, Phase
from ftslurm.core.phases import LAUNCHING
from ftslurm.core.recovery import Policy
from ftslurm.core.state import Run, SavedState
from ftslurm.core.timers import set_timer

AGENTS = "agents"
ADOPT_S = 5.0

AGENTS_S = 0.2
"""How long a successor waits for agents before it asks about those that are missing: all that answer are there."""


def anew(run: Run, event: AllocationGranted) -> Run:
    """Return the run at the start of a new incarnation of its job, or in another job."""
    run = _counted(run, event)
    run = situation.restamped(run)
    run = _without_scratch(run)
    return replace(
        run,
        phase=Phase.STARTING,
        epoch=event.epoch,
        job_id=event.job_id,
        restart=event.restart,
        nodes=event.nodes,
        wanted=event.wanted_nodes or len(event.nodes),
        batch_host=event.batch_host,
        host=event.host,
        no_kill=event.no_kill,
        end_time=event.end_time,
        continue_by=event.continue_by,
        start_step=run.newest_step,
        started_mono=event.mono,
        agents=frozenset(),
        bare=frozenset(),
        suspects={},
        doubts={},
        fallen={},
        self_doubt=False,
        health={},
        told=frozenset(),
        incident=(),
        attempt=None,
        scanned=False,
        timers={},
        blame=None,
        stop=None,
        requeue_asked=False,
        launch_failures=0,
        code=0,
        reason="",
    )


def _counted(run: Run, event: AllocationGranted) -> Run:
    """Return the run with what the job before it adds to its budgets."""
    again = (event.job_id == run.job_id and event.restart > run.restart) or run.phase is Phase.REQUEUED
    # Time limits are no failures: a long run meets any number of them.
    of_time = run.stop is not None and run.stop.why in ending.OF_TIME
    barren = run.barren + 1 if ending.is_barren(run) else 0
    return replace(run, requeues=run.requeues + (again and not of_time), barren=barren)


def _without_scratch(run: Run) -> Run:
    """What lay on the nodes alone is gone with the allocation, and nothing is on its way any more."""
    safe = (SavedState.DURABLE, SavedState.DAMAGED, SavedState.SUSPECT)
    kept = tuple(
        # What was packed lies nowhere any more as it did on the nodes: COMMIT.json knows its parts.
        replace(each, copies={}, packed={}, parts=() if each.packed else each.parts)
        for each in run.saved
        if each.state in safe
    )
    return replace(run, saved=kept, drain_target="", drain_named=None, urgent=False, packs=frozenset(), asked_mono=None)


def adopt(run: Run, event: AllocationGranted, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """Take over from a supervisor that died: training goes on, an unfinished launch is burnt."""
    run = situation.restamped(run)
    run, said = _told(run, event)
    run, timer = set_timer(run, AGENTS, AGENTS_S if event.takeover else ADOPT_S)
    run, waits = saving.adopt(run, policy)
    run, holds = fitness.adopt(run)
    actions: tuple[Action, ...] = (said, timer, *waits, *holds)
    if run.phase in LAUNCHING and run.attempt is not None:
        found = Diagnosis(
            cause=Cause.LAUNCH_FAILED,
            scope=Scope.JOB,
            where="",
            confidence=1.0,
            reason="the supervisor died in a launch",
        )
        run, more = stopping.begin(run, found, policy)
        return run, actions + more
    if run.phase is Phase.PLANNING:
        run, relaunch = set_timer(run, stopping.RELAUNCH, ADOPT_S)
        return run, (*actions, relaunch)
    if run.phase is Phase.STOPPING:
        run, fence = set_timer(run, ending.FENCE, policy.fence_s)
        return run, (*actions, fence)
    if run.phase is Phase.DRAINING:
        run, more = ending.adopt(run, policy)
        return run, actions + more
    return run, actions


def _told(run: Run, event: AllocationGranted) -> tuple[Run, Say]:
    """Return the run with its new supervisor, and what is said about it."""
    before = run.host or run.batch_host
    run = replace(run, host=event.host or run.host)
    if not event.takeover:
        return run, Say(text=f"the supervisor was started again (epoch {run.epoch})", slug="supervisor_restarted")
    if run.attempt is not None:
        # Times of another host's clock mean nothing on this one.
        run = replace(run, attempt=replace(run.attempt, released_mono=event.mono))
    text = f"{event.host} takes the supervision over from {before} (epoch {run.epoch}): {event.takeover}"
    return run, Say(text=text, slug="taken_over")
