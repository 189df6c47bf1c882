"""How a run comes to its end: ask for a save, stop the ranks, make the last checkpoint durable, then leave.

One path serves a run that is complete, out of time, cancelled, given up, or about to be requeued: the phase is DRAINING
and `Run.stop` says why. Its stages follow from the state: saving (the attempt is not fenced yet), fencing, settling.
"""

from __future__ import annotations

from dataclasses import replace

from ftslurm.core.actions import Action, EndRun, FenceAttempt, Requeue, Say
from ftslurm.core.asking import ask
from ftslurm.core.draining import next_target, unsafe
from ftslurm.core.events import Phase, RequeueAnswered, StopRequested
from ftslurm.core.phases import enter
from ftslurm.core.recovery import NONE, Policy
from ftslurm.core.saving import drop_unfinished, settle_stopped
from ftslurm.core.state import Run
from ftslurm.core.timers import set_timer
from ftslurm.errors import RunStopped, TryAgain

COMPLETE = "complete"
FAILED = "failed"
CANCEL = "cancel"
REQUEUE = "requeue"
TIME_LIMIT = "time_limit"
PREEMPT = "preempt"
USER = "user"
OF_TIME = (TIME_LIMIT, PREEMPT)
"""Reasons to leave that are nobody's fault."""

GRACE = "grace"
FENCE = "fence"
SETTLE = "settle"

FENCE_SHARE, SETTLE_SHARE = 0.25, 0.6
"""Of the time that Slurm leaves; what remains is for the last words, and for a machine that is slow."""

TERMINATED = 143
TEMPORARY = TryAgain.exit_code
"""Also of a job of a run that goes on in another one: what depends on its success must wait."""

_SENTENCES = {
    COMPLETE: "every rank reported success",
    CANCEL: "the job is being cancelled",
    TIME_LIMIT: "the time limit is near",
    PREEMPT: "the job is being preempted",
    REQUEUE: "the job goes back to the queue",
    USER: "the run was asked to stop",
}
_ONWARD = {
    "requeue": ("the job goes back to the queue", "Slurm refused the requeue"),
    "chain": ("the next job of the chain goes on", "the run cannot go on in a next job"),
    "resubmit": ("a new job goes on", "no job could be submitted to go on"),
}


def sentence(stop: StopRequested) -> str:
    """Why the run leaves, in words."""
    text = _SENTENCES.get(stop.why, stop.why)
    return f"{text} by {stop.by}" if stop.by else text


def leave(run: Run, why: str, policy: Policy, *, code: int = 0, reason: str = "") -> tuple[Run, tuple[Action, ...]]:
    """Begin to end the run without asking for a save: stop what runs, keep what is saved."""
    stop = StopRequested(why=why, save=False)
    run = replace(enter(run, Phase.DRAINING), stop=stop, code=code, reason=reason or _SENTENCES.get(why, why))
    return fence(run, policy, clean=why == COMPLETE)


def on_stop(run: Run, event: StopRequested, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """Somebody wants the run to stop; with a save first where the program can be asked for one."""
    training = run.phase in (Phase.TRAINING, Phase.SUSPECTING)
    if not (training and event.save and policy.can_ask_to_save and run.attempt):
        run = replace(enter(run, Phase.DRAINING), stop=replace(event, save=False), code=0, reason=sentence(event))
        return fence(run, policy, clean=False)
    run = replace(enter(run, Phase.DRAINING), stop=event, saw_save=False, reason=sentence(event))
    run, timer = set_timer(run, GRACE, policy.grace_s)
    text = f"{run.reason}: the program is asked to save, and has {policy.grace_s:.0f} s"
    run, order = ask(run, event.why, stop=True)
    return run, (Say(text=text, slug="save_asked"), order, timer)


def on_stop_while_draining(run: Run, event: StopRequested, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """A cancellation overrides every other reason to stop; one that is asked to stop does not go on elsewhere."""
    if event.why == USER and run.stop is not None and run.stop.why in (*OF_TIME, REQUEUE) and not run.requeue_asked:
        said = Say(text=f"{sentence(event)}: it does not go on after this", slug="stop_asked")
        return replace(run, stop=replace(event, save=run.stop.save), reason=sentence(event)), (said,)
    if event.why != CANCEL or (run.stop is not None and run.stop.why == CANCEL):
        return run, ()
    run = replace(run, stop=event, reason=_SENTENCES[CANCEL])
    if SETTLE not in run.timers:
        return fence(run, policy, clean=False)
    # Slurm may leave less time than it had until now.
    run, timer = set_timer(run, SETTLE, _in_time(run, policy.settle_s, SETTLE_SHARE))
    run, more = check(run, policy)
    return run, (timer, *more)


def adopt(run: Run, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """A supervisor was started again while the run was leaving: wait anew for what the one before waited for."""
    saving = run.attempt is not None and not run.attempt.fencing
    name, after_s = (GRACE, policy.grace_s) if saving else (FENCE, policy.fence_s)
    run, timer = set_timer(replace(run, requeue_asked=False), name, after_s)
    return run, (timer,)


def fence(run: Run, policy: Policy, *, clean: bool) -> tuple[Run, tuple[Action, ...]]:
    """Stop the attempt on all nodes that can be reached; then settle."""
    attempt = run.attempt
    if attempt is None or attempt.fencing:
        return check(run, policy)
    run = replace(run, attempt=replace(attempt, fencing=True))
    run, timer = set_timer(run, FENCE, _in_time(run, policy.fence_s, FENCE_SHARE))
    actions: tuple[Action, ...] = (FenceAttempt(attempt=attempt.number, nodes=attempt.nodes, clean=clean), timer)
    run, more = check(run, policy)
    return run, actions + more


def check(run: Run, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """Go on to the next stage of leaving where the present one is over."""
    attempt = run.attempt
    if attempt is not None and not attempt.fencing:
        over = run.saw_save or len(attempt.finished) + len(attempt.failed) >= attempt.world_size
        return fence(run, policy, clean=len(attempt.finished) == attempt.world_size) if over else (run, ())
    if attempt is not None and not set(attempt.nodes) - set(run.condemned) <= attempt.fenced:
        return run, ()
    run, actions = settle_stopped(run, policy)
    if not unsafe(run):
        run, more = conclude(run, policy)
        return run, actions + more
    run, more = next_target(run, policy)
    if SETTLE in run.timers:
        return run, actions + more
    run, timer = set_timer(run, SETTLE, _in_time(run, policy.settle_s, SETTLE_SHARE))
    return run, (*actions, *more, timer)


def _in_time(run: Run, after_s: float, share: float) -> float:
    """How long to wait, so that the run is marked as ended before Slurm kills what would mark it."""
    within_s = run.stop.within_s if run.stop else 0.0
    return min(after_s, share * within_s) if within_s else after_s


def on_fence_over(run: Run, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """Not every node confirmed in time that nothing is left; the run leaves all the same, and says so."""
    attempt = run.attempt
    missing = sorted(set(attempt.nodes) - set(run.condemned) - attempt.fenced) if attempt else []
    if attempt is None or not attempt.fencing or not missing:
        return check(run, policy)
    said = Say(text=f"no word that the ranks are gone from {', '.join(missing)}", slug="fence_unconfirmed")
    # Nobody knows what those nodes hold of an unfinished checkpoint: they count as lost in it.
    gone = replace(attempt, fenced=frozenset(attempt.nodes))
    run, more = check(replace(run, attempt=gone, incident=(*run.incident, *missing)), policy)
    return run, (said, *more)


def on_settle_over(run: Run, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """The newest checkpoint did not become durable in time."""
    said = Say(text="the newest checkpoint did not reach shared storage in time", slug="not_durable")
    run, more = conclude(drop_unfinished(run), policy)
    return run, (said, *more)


def conclude(run: Run, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """Take the last step: end the run, or send it back to the queue."""
    why = run.stop.why if run.stop else FAILED
    if why == COMPLETE:
        return _end(run, Phase.FINISHED, 0)
    if why == CANCEL:
        return _end(run, Phase.CANCELLED, TERMINATED)
    if why == USER:
        return _end(run, Phase.STOPPED, RunStopped.exit_code)
    if why in (REQUEUE, *OF_TIME) and policy.continue_by != NONE:
        return _go_on(run, policy)
    return _end(run, Phase.FAILED, run.code or 1)


def _go_on(run: Run, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """Ask for what comes after this job, unless job after job ends at its time limit without getting any further."""
    if run.requeue_asked:
        return run, ()
    jobs = run.barren + is_barren(run)
    if policy.checkpoints and jobs >= policy.no_progress_limit:
        reason = f"{jobs} jobs in a row ended at their time limit without a new checkpoint"
        return _end(replace(run, reason=reason), Phase.FAILED, run.code or 1)
    ask = Requeue(
        num_nodes=run.wanted + policy.spares,
        num_tasks=(run.wanted + policy.spares) * (policy.tasks_per_node or policy.ranks_per_node),
        exclude=tuple(sorted(run.condemned)),
        reason=run.reason,
        by=policy.continue_by,
    )
    return replace(run, requeue_asked=True), (ask,)


def is_barren(run: Run) -> bool:
    """Tell whether this job ends at its time limit and has brought no checkpoint that is newer than it began with."""
    return run.stop is not None and run.stop.why == TIME_LIMIT and run.newest_step <= run.start_step


def on_requeue_answered(run: Run, event: RequeueAnswered, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """Slurm has taken the job back, or refused; or there is another job for the run, or none."""
    if run.stop is None or run.stop.why == CANCEL:
        return run, ()
    well, ill = _ONWARD.get(policy.continue_by, _ONWARD["requeue"])
    if not event.ok:
        return _end(replace(run, reason=f"{ill}: {event.detail}"), Phase.FAILED, TEMPORARY)
    said = Say(text=f"{well}: {event.detail}", slug="requeued")
    condemned = {node: found for node, found in run.condemned.items() if node not in event.forgiven}
    code = run.code if policy.continue_by == "requeue" else TEMPORARY
    return replace(enter(run, Phase.REQUEUED), condemned=condemned, requeued_at=event.at, code=code), (said,)


def _end(run: Run, phase: Phase, code: int) -> tuple[Run, tuple[Action, ...]]:
    run = replace(enter(run, phase), code=code)
    return run, (EndRun(phase=phase, code=code, reason=run.reason),)
