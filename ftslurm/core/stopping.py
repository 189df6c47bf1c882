"""From a failure to the next attempt: stop what is left of the old one, say what happened, decide what follows.

Nothing is planned before every node of the attempt has either confirmed that no process of it is left or has been
condemned: a new attempt beside a live old one is the one thing that must never happen.
"""

from __future__ import annotations

from dataclasses import replace

from ftslurm.core.actions import Action, FenceAttempt, ProbeNode, Say
from ftslurm.core.diagnosis import Cause, Diagnosis, Scope
from ftslurm.core.draining import next_target
from ftslurm.core.ending import COMPLETE, FAILED, FENCE, REQUEUE, leave
from ftslurm.core.events import NodeFenced, Phase, RankExited
from ftslurm.core.evidence import gathered
from ftslurm.core.fusion import diagnose
from ftslurm.core.health import fit_nodes
from ftslurm.core.launching import launch
from ftslurm.core.phases import enter
from ftslurm.core.recovery import ENVIRONMENT_CAUSES, Kind, Plan, Policy, plan
from ftslurm.core.refusal import tries
from ftslurm.core.saving import settle_stopped
from ftslurm.core.situation import situation_of
from ftslurm.core.state import Attempt, Failure, Planned, Run, SavedState
from ftslurm.core.suspicion import judge
from ftslurm.core.timers import set_timer
from ftslurm.core.writeguard import doubtful, wait_s

RELAUNCH = "relaunch"
WAIT = "relaunch:again"
GUARD = "guard"
AGENT_WAIT_S = 15.0
LONG_ENOUGH_S = 600.0
MAX_LAUNCH_FAILURES = 8
SERVICE_AWAY = 69
REFUSED = 77
LAST_LINES = 40
REPEATABLE = frozenset({Cause.APPLICATION_ERROR, Cause.NAN, Cause.OOM_GPU})
"""What the program will do again: the same one twice, without progress in between, ends the run."""


def begin(run: Run, found: Diagnosis | None, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """Stop the attempt. `found` is None when the ranks' own reports are to tell the cause."""
    attempt = run.current
    blame = run.blame if found is None or (run.blame and run.blame.scope is Scope.NODE) else found
    run = replace(enter(run, Phase.STOPPING), blame=blame, attempt=replace(attempt, fencing=True))
    run, timer = set_timer(run, FENCE, policy.fence_s)
    said = () if found is None else (verdict_said(run, found),)
    run, more = check(run, policy)
    return run, (*said, FenceAttempt(attempt=attempt.number, nodes=attempt.nodes), timer, *more)


def check(run: Run, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """Plan as soon as the old attempt is gone from every node that is not condemned, and these nodes can be asked.

    For a node whose agent has just died the plan waits, though not longer than for a fence: else it would be left out
    of the next world, and of all after that.
    """
    attempt = run.current
    if not set(attempt.nodes) - set(run.condemned) <= attempt.fenced or (FENCE in run.timers and away(run)):
        return run, ()
    if len(attempt.finished) == attempt.world_size:
        return leave(run, COMPLETE, policy)
    if (still_s := wait_s(run, policy)) > 0:
        return _hold(run, still_s, policy)
    return plan_next(enter(run, Phase.PLANNING), policy)


def _hold(run: Run, still_s: float, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """Nodes that do not answer may still write into the program's folder: wait until they must have stopped."""
    if GUARD in run.timers:
        return run, ()
    run, timer = set_timer(run, GUARD, still_s)
    text = (
        f"{', '.join(doubtful(run))} may still write into the checkpoint folder: the next attempt waits {still_s:.0f} s"
        f" until no rank can be alive there (heartbeat.deadman_after is {policy.deadman_s:g} s)"
    )
    return run, (Say(text=text, slug="write_guard"), timer)


def on_guard_over(run: Run, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """The wait for ranks that nobody can see is over."""
    return check(run, policy) if run.phase is Phase.STOPPING else (run, ())


def away(run: Run) -> bool:
    """Tell whether a node of the attempt has no agent, or is suspected, while nobody has given it up."""
    nodes = set(run.attempt.nodes) - set(run.condemned) if run.attempt else set()
    return not nodes <= run.agents - set(run.suspects)


def when_heard(run: Run, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """A node is heard again, or given up: perhaps nobody has to be waited for any more."""
    if run.phase is Phase.STOPPING:
        return check(run, policy)
    if run.phase is not Phase.PLANNING or WAIT not in run.timers or away(run):
        return run, ()
    timers = {name: token for name, token in run.timers.items() if name != WAIT}
    return on_relaunch(replace(run, timers=timers), policy, waited=True)


def on_fenced(run: Run, event: NodeFenced) -> Run:
    """Return the run with one more node on which nothing of the attempt is left."""
    attempt = run.attempt
    if attempt is None or event.attempt != attempt.number or event.left or not attempt.fencing:
        return run
    return replace(run, attempt=replace(attempt, fenced=attempt.fenced | {event.node}))


def on_fence_over(run: Run, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """Some nodes did not confirm in time: ask their agents again, and the witnesses about the others."""
    attempt = run.current
    missing = [node for node in attempt.nodes if node not in attempt.fenced and node not in run.condemned]
    if not missing:
        return check(run, policy)
    asked = tuple(node for node in missing if node in run.agents)
    silent = [node for node in missing if node not in run.agents]
    run = replace(run, suspects={**dict.fromkeys(silent, policy.fence_s), **run.suspects})
    run, timer = set_timer(run, FENCE, policy.fence_s)
    probes = tuple(ProbeNode(node=node) for node in silent)
    return run, (FenceAttempt(attempt=attempt.number, nodes=asked), timer, *probes)


def plan_next(run: Run, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """Diagnose the attempt that is gone, choose a plan, and carry it out."""
    attempt = run.current
    found = _concluded(run)
    if found.cause is Cause.LAUNCH_FAILED:
        return _after_launch_failure(run, found, policy)
    run, kept = settle_stopped(run, policy)
    failure = Failure(
        attempt=attempt.number,
        diagnosis=found,
        progressed=_progressed(run, policy),
        newest_step=run.newest_step,
        generation=attempt.generation,
    )
    repeated = _repeated(run, failure)
    run, failure, suspect = judge(run, failure)
    run = replace(run, failures=(*run.failures, failure))
    run, choice = _planned(run, found, policy, repeated=repeated and not failure.demoted)
    cause = () if run.blame and run.blame.cause is found.cause else (verdict_said(run, found),)
    words = _last_words(attempt, found) if choice.kind is Kind.ABORT else ()
    said = (*cause, *suspect, *words, *_left_out(run, policy), _plan_said(choice))
    run, more = carry_out(run, choice, found, policy)
    return run, kept + said + more


def _planned(run: Run, found: Diagnosis, policy: Policy, *, repeated: bool) -> tuple[Run, Plan]:
    """Return the plan, and the run that remembers it."""
    now = situation_of(run, policy, repeated=repeated)
    choice = plan(found, now, policy)
    return replace(run, planned=Planned(found=found, now=now, plan=choice)), choice


def _plan_said(choice: Plan) -> Say:
    """A plan with its price, and the reason and price of each that lost: so they are in the journal."""
    text = f"{choice.kind}: {choice.reason}" + (f"; {choice.price}" if choice.price else "")
    return Say(text=text, slug=f"plan_{choice.kind}", facts={str(kind): why for kind, why in choice.rejected})


def _left_out(run: Run, policy: Policy) -> tuple[Say, ...]:
    """Nodes that could be used and are too ill."""
    fit = frozenset(fit_nodes(run, policy))
    return tuple(
        Say(text=f"{node} is left out of the next attempt: {run.health[node][-1].reason}", slug="node_left_out")
        for node in run.usable
        if node not in fit
    )


def _concluded(run: Run) -> Diagnosis:
    """What all the evidence amounts to. What the attempt was stopped for stands where the whole says nothing surer."""
    if run.blame is not None and run.blame.cause in (Cause.LAUNCH_FAILED, Cause.WRONG_WORLD):
        return run.blame
    found = diagnose(gathered(run))
    return run.blame if run.blame is not None and found.cause is Cause.UNKNOWN else found


def verdict_said(run: Run, found: Diagnosis) -> Say:
    """A verdict in words, with how sure it is, and with the node that was given up for it."""
    excluded = {"excluded": found.where} if run.condemned.get(found.where) == found else {}
    return Say(text=found.reason, slug=found.cause, facts={"confidence": f"{found.confidence:.2f}", **excluded})


def carry_out(run: Run, choice: Plan, found: Diagnosis, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """Turn a plan into actions."""
    if choice.kind in (Kind.RELAUNCH, Kind.SPARE, Kind.SHRINK):
        run, target = next_target(run, policy)
        run, more = launch(enter(run, Phase.RELAUNCHING), choice.nodes, policy)
        return run, target + more
    if choice.kind is Kind.REQUEUE:
        return leave(run, REQUEUE, policy, reason=f"{found.reason}; {choice.reason}")
    return leave(run, FAILED, policy, code=_exit_code(run, found), reason=choice.reason)


def _progressed(run: Run, policy: Policy) -> bool:
    """Without checkpoints to go by, ten minutes of training count as progress."""
    attempt = run.current
    if policy.checkpoints:
        start = attempt.step if attempt.generation else -1
        good = (SavedState.LOCAL, SavedState.DURABLE)
        return any(each.attempt == attempt.number and each.step > start and each.state in good for each in run.saved)
    ended = attempt.failed[0].mono if attempt.failed else attempt.released_mono
    return attempt.released and ended - attempt.released_mono >= LONG_ENOUGH_S


def _repeated(run: Run, failure: Failure) -> bool:
    """The program's own error, the same as the time before, and no checkpoint in between."""
    if failure.progressed or failure.diagnosis.cause not in REPEATABLE:
        return False
    before = [each for each in run.failures if each.diagnosis.cause not in ENVIRONMENT_CAUSES]
    return bool(before) and before[-1].diagnosis.signature == failure.diagnosis.signature


def _exit_code(run: Run, found: Diagnosis) -> int:
    """The code of the rank that began it, where it was a rank; the others' may be our own doing."""
    began = _began(run.attempt, found) if run.attempt else None
    return (began.code if began else 0) or 1


def _began(attempt: Attempt, found: Diagnosis) -> RankExited | None:
    """The end of the rank that the diagnosis names."""
    return next((each for each in attempt.failed if f"{each.rank}@{each.node}" == found.where), None)


def _last_words(attempt: Attempt, found: Diagnosis) -> tuple[Say, ...]:
    """What the rank that began it has said last: the user must not have to look for the traceback."""
    rank = _began(attempt, found)
    if rank is None:
        return ()
    lines = rank.tail.strip().splitlines()[-LAST_LINES:]
    text = "\n".join((f"the last words of rank {rank.rank} on {rank.node}:", *lines))
    return (Say(text=text, slug="last_words"),) if lines else ()


def _after_launch_failure(run: Run, found: Diagnosis, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """Slurm would not start the step: wait a little longer each time, and give up after a few minutes."""
    count = run.launch_failures + 1
    run = replace(run, launch_failures=count)
    if count >= tries(found.signature, MAX_LAUNCH_FAILURES):
        reason = f"the ranks could not be started {count} times in a row; last: {found.reason}"
        return leave(run, FAILED, policy, code=REFUSED if found.signature else SERVICE_AWAY, reason=reason)
    pause_s = min(2.0 ** (count - 1), 30.0)
    run, timer = set_timer(run, RELAUNCH, pause_s)
    return run, (Say(text=f"{found.reason}; trying again in {pause_s:.0f} s", slug=found.cause), timer)


def on_relaunch(run: Run, policy: Policy, *, waited: bool) -> tuple[Run, tuple[Action, ...]]:
    """The pause after a failed launch is over: plan anew with the nodes that are usable now, or will soon be."""
    if away(run) and not waited:
        run, timer = set_timer(run, WAIT, AGENT_WAIT_S)
        return run, (timer,)
    reason = f"launch {run.launch_failures} failed"
    found = Diagnosis(cause=Cause.LAUNCH_FAILED, scope=Scope.JOB, where="", confidence=0.5, reason=reason)
    run, choice = _planned(run, found, policy, repeated=False)
    said = () if choice.kind is Kind.RELAUNCH else (_plan_said(choice),)
    run, more = carry_out(run, choice, found, policy)
    return run, (*said, *more)
