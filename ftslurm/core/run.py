"""The state machine of a run: every event in every phase, and what follows.

`advance` is total: the world may do anything at any time. What an event means in a phase stands in `TABLE`; one that
means nothing there is listed as `nothing`. Only a move of ours that `core.phases` does not allow raises.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ftslurm.core import (
    asking,
    copies,
    draining,
    ending,
    evidence,
    fabric,
    fitness,
    hanging,
    launching,
    nodes,
    refusal,
    saving,
    situation,
    stopping,
    survey,
    takeover,
    working,
)
from ftslurm.core.actions import Action, LaunchAgents, ProbeNode, Say
from ftslurm.core.conditions import MemoryKilled, NodeChecked, NodeHealth, XidSeen
from ftslurm.core.diagnosis import Cause, Diagnosis, Scope
from ftslurm.core.events import (
    ENDED,
    AgentLost,
    AgentUp,
    AllocationGranted,
    Event,
    GenerationDurable,
    LaunchEnded,
    NodeFenced,
    NodeHeard,
    NodeProbed,
    NodeSuspected,
    PartDrained,
    PartPending,
    PartReplicated,
    PartSaved,
    Phase,
    RankExited,
    RequeueAnswered,
    RestoreReady,
    RestoreRefused,
    SaveRequested,
    ScratchShared,
    SlurmReported,
    StopRequested,
    StorageStalled,
    StoreDiffers,
    StoreScanned,
    TimerFired,
    WorldMustered,
)
from ftslurm.core.phases import LAUNCHING, LIVE, enter
from ftslurm.core.placement import world_problem
from ftslurm.core.recovery import Policy
from ftslurm.core.state import Run
from ftslurm.core.timers import set_timer

Step = tuple[Run, tuple[Action, ...]]
Rule = Callable[[Run, Any, Policy], Step]

AGENTS = takeover.AGENTS
ADOPT_S = takeover.ADOPT_S


def advance(run: Run, event: Event, policy: Policy) -> Step:
    """Return the next state and what must be done. Pure and total.

    Raises:
        IllegalTransition: a rule made a move that the table of phases does not allow; nothing was changed.
    """
    run = situation.clocked(run, event)
    policy = situation.ruled(run, policy)
    return TABLE[type(event)][run.phase](evidence.heard(run, event), event, policy)


def nothing(run: Run, event: Event, policy: Policy) -> Step:
    """The event means nothing in this phase."""
    del event, policy
    return run, ()


# ------------------------------------------------------------------------------------------------- incarnations


def on_allocation(run: Run, event: AllocationGranted, policy: Policy) -> Step:
    """A supervisor has started: in a new incarnation of the job, or again in the same one."""
    if run.phase in ENDED and not event.resumed:
        return run, ()
    if event.same_incarnation and run.phase in ACTIVE:
        # This clock may be another host's: what fell lately counts as fallen now.
        fallen = dict.fromkeys(run.fallen, event.mono)
        run = replace(run, epoch=event.epoch, agents=frozenset(), timers={}, fallen=fallen)
        run = replace(run, suspects={}, doubts={}, self_doubt=False)
        return takeover.adopt(run, event, policy)
    run = takeover.anew(run, event)
    run = replace(run, failures=(), requeues=0, barren=0) if event.resumed else run
    wanted = tuple(node for node in event.nodes if node not in run.condemned)
    run, timer = set_timer(run, AGENTS, policy.agents_s)
    return run, (LaunchAgents(nodes=wanted), timer)


# -------------------------------------------------------------------------------------------------------- ranks


def on_mustered(run: Run, event: WorldMustered, policy: Policy) -> Step:
    """Every rank has registered: is this the world that was planned?"""
    attempt = run.attempt
    if attempt is None or event.attempt != attempt.number or attempt.fencing or attempt.released:
        return run, ()
    problem = world_problem(attempt.nodes, attempt.world_size, event.placement, run.condemned)
    if problem:
        found = Diagnosis(
            cause=Cause.WRONG_WORLD, scope=Scope.JOB, where="", confidence=1.0, reason=problem, signature="wrong_world"
        )
        return stopping.begin(run, found, policy)
    changed = replace(
        attempt,
        placement=event.placement,
        master_addr=event.master_addr,
        master_port=event.master_port,
        released_mono=event.mono,
    )
    return launching.release(replace(run, attempt=changed), policy)


def on_exited(run: Run, event: RankExited, policy: Policy) -> Step:
    """A rank ended. The run is complete only when every launched rank has reported exit code 0."""
    attempt = run.attempt
    if attempt is None or event.attempt != attempt.number or event.rank in attempt.ended:
        return run, ()
    if event.code == 0 and event.signal == 0:
        attempt = replace(attempt, finished=attempt.finished | {event.rank})
        run = replace(run, attempt=attempt)
        if run.phase in LIVE and len(attempt.finished) == attempt.world_size:
            return ending.leave(run, ending.COMPLETE, policy)
        return ending.check(run, policy) if run.phase is Phase.DRAINING else (run, ())
    run = replace(run, attempt=replace(attempt, failed=(*attempt.failed, event)))
    if run.phase is Phase.DRAINING:
        return ending.check(run, policy)
    return stopping.begin(run, None, policy) if run.phase in LIVE | LAUNCHING else (run, ())


def on_launch_ended(run: Run, event: LaunchEnded, policy: Policy) -> Step:
    """The launcher ended. Before the world has mustered that is a failed launch; afterwards it proves nothing."""
    attempt = run.attempt
    if attempt is None or event.attempt != attempt.number or attempt.fencing or attempt.mustered:
        return run, ()
    reason = f"the launcher ended with code {event.code} before every rank was there: {event.output.strip()[-400:]}"
    return stopping.begin(run, _launch_failed(reason, event.output), policy)


def _launch_failed(reason: str, output: str = "") -> Diagnosis:
    signature = refusal.of(output)
    return Diagnosis(
        cause=Cause.LAUNCH_FAILED, scope=Scope.JOB, where="", confidence=0.7, reason=reason, signature=signature
    )


def on_fenced(run: Run, event: NodeFenced, policy: Policy) -> Step:
    """A node confirms that nothing of the attempt is left, or names what would not die."""
    run = stopping.on_fenced(run, event)
    attempt = run.attempt
    if event.left and attempt is not None and event.attempt == attempt.number and run.phase is Phase.STOPPING:
        unkillable = [node for node in attempt.nodes if node not in attempt.fenced and node not in run.condemned]
        if unkillable == [event.node]:
            reason = f"processes on {event.node} cannot be killed: {', '.join(event.left[:5])}"
            found = Diagnosis(
                cause=Cause.NODE_UNKILLABLE, scope=Scope.NODE, where=event.node, confidence=0.9, reason=reason
            )
            return nodes.condemn(run, event.node, found, policy, now=event.mono)
        return run, (Say(text=f"{event.node}: still there: {', '.join(event.left[:5])}", slug="fence_left"),)
    if run.phase is Phase.STOPPING:
        return stopping.check(run, policy)
    return ending.check(run, policy) if run.phase is Phase.DRAINING else (run, ())


# -------------------------------------------------------------------------------------------------- checkpoints


def on_part(run: Run, event: PartSaved, policy: Policy) -> Step:
    """A node holds complete files; while leaving, the save that was asked for may be the one."""
    run, actions = saving.on_part(run, event, policy)
    return _while_leaving(run, actions, policy)


def on_pending(run: Run, event: PartPending, policy: Policy) -> Step:
    """A node sees unfinished files, or sees them no more."""
    run, actions = saving.on_pending(run, event, policy)
    return _while_leaving(run, actions, policy)


def _while_leaving(run: Run, actions: tuple[Action, ...], policy: Policy) -> Step:
    if run.phase is not Phase.DRAINING or not run.saw_save or run.attempt is None or run.attempt.fencing:
        return run, actions
    run, more = ending.check(run, policy)
    return run, actions + more


def on_durable(run: Run, event: GenerationDurable, policy: Policy) -> Step:
    """A commit on shared storage: the end of the run may be waiting for it."""
    run, actions = draining.on_durable(run, event, policy)
    if event.error and not event.gone:
        return run, actions
    run, more = launching.on_digested(run, event.generation, policy)
    actions += more
    if run.phase is Phase.DRAINING and run.stop is not None:
        run, more = ending.check(run, policy)
        return run, actions + more
    return run, actions


def on_drained(run: Run, event: PartDrained, policy: Policy) -> Step:
    """A part is on shared storage, or never will be: an attempt may be waiting for it."""
    run, actions = draining.on_drained(run, event, policy)
    if not event.damaged:
        return run, actions
    run, more = launching.on_digested(run, event.generation, policy)
    run, last = ending.check(run, policy) if run.phase is Phase.DRAINING and run.stop is not None else (run, ())
    return run, actions + more + last


def on_scanned(run: Run, event: StoreScanned, policy: Policy) -> Step:
    """The supervisor has read what is committed on shared storage."""
    run, actions = saving.on_scanned(run, event, policy)
    if run.phase is Phase.STARTING:
        run, more = launching.first(run, policy)
    elif run.phase is Phase.DRAINING:
        run, more = ending.check(run, policy)
    else:
        return run, actions
    return run, actions + more


def on_storage(run: Run, event: StorageStalled, policy: Policy) -> Step:
    """Shared storage hangs, or answers again. Nothing of a healthy run follows from it, but the story tells it."""
    del policy
    if not event.for_s:
        return run, (Say(text="shared storage answers again", slug="storage_back"),)
    what = event.error or "it hangs"
    text = f"shared storage has not taken a write for {event.for_s:.0f} s: {what}"
    return run, (Say(text=text, slug="storage_stalled"),)


# ------------------------------------------------------------------------------------------------------- timers


def on_timer(run: Run, event: TimerFired, policy: Policy) -> Step:
    """A timer ran out; one that has been replaced or dropped since means nothing."""
    if run.timers.get(event.name) != event.token:
        return run, ()
    run = replace(run, timers={name: token for name, token in run.timers.items() if name != event.name})
    kind, _, rest = event.name.partition(":")
    rule = TIMERS[kind]
    return rule(run, rest, policy)


def _agents_over(run: Run, rest: str, policy: Policy) -> Step:
    """Agents that should be there are not: ask the witnesses; at the second time go on without them."""
    expected = run.attempt.nodes if run.attempt is not None and run.phase is not Phase.STARTING else run.nodes
    missing = [node for node in expected if node not in run.agents and node not in run.condemned]
    if not missing:
        return run, ()
    if rest and not _waits_for_first(run):
        return run, ()
    if rest and run.scanned:
        return launching.first_with_what_is_there(run, policy)
    waited_s = policy.agents_s if run.phase is Phase.STARTING else ADOPT_S
    run = replace(run, suspects={**dict.fromkeys(missing, waited_s), **run.suspects})
    run = enter(run, Phase.SUSPECTING) if run.phase is Phase.TRAINING else run
    run, timer = set_timer(run, f"{AGENTS}:again", policy.agents_s)
    return run, (timer, *(ProbeNode(node=node) for node in missing))


def _waits_for_first(run: Run) -> bool:
    return run.phase is Phase.STARTING and run.attempt is None


def _probe_again(run: Run, node: str, policy: Policy) -> Step:
    """A suspect is still undecided, or the agent that was started again has not come."""
    del policy
    return (run, (ProbeNode(node=node),)) if node in run.suspects else (run, ())


def _fence_over(run: Run, rest: str, policy: Policy) -> Step:
    del rest
    if run.phase is Phase.STOPPING:
        return stopping.on_fence_over(run, policy)
    return ending.on_fence_over(run, policy) if run.phase is Phase.DRAINING else (run, ())


def _muster_over(run: Run, rest: str, policy: Policy) -> Step:
    del rest
    if run.phase not in LAUNCHING or run.attempt is None or run.attempt.mustered:
        return run, ()
    return stopping.begin(run, _launch_failed(f"not every rank came up within {policy.muster_s:.0f} s"), policy)


def _when_launching(rule: Callable[[Run, Policy], Step]) -> Rule:
    return lambda run, rest, policy: rule(run, policy) if run.phase in LAUNCHING else (run, ())


def _when_draining(rule: Callable[[Run, Policy], Step]) -> Rule:
    return lambda run, rest, policy: rule(run, policy) if run.phase is Phase.DRAINING else (run, ())


TIMERS: dict[str, Rule] = {
    AGENTS: _agents_over,
    fitness.HOLD.rstrip(":"): fitness.on_hold_over,
    nodes.REPROBE.rstrip(":"): _probe_again,
    nodes.AGENT.rstrip(":"): _probe_again,
    hanging.AUTOPSY: hanging.on_autopsy_over,
    ending.FENCE: _fence_over,
    ending.GRACE: _when_draining(lambda run, policy: ending.fence(run, policy, clean=False)),
    ending.SETTLE: _when_draining(ending.on_settle_over),
    launching.MUSTER: _muster_over,
    launching.RESTORE: _when_launching(launching.on_restore_over),
    launching.AGAIN.rstrip(":"): lambda run, rest, policy: launching.on_restore_again(run, rest),
    stopping.GUARD: lambda run, rest, policy: stopping.on_guard_over(run, policy),
    stopping.RELAUNCH: lambda run, rest, policy: (
        stopping.on_relaunch(run, policy, waited=bool(rest)) if run.phase is Phase.PLANNING else (run, ())
    ),
    saving.UNION.rstrip(":"): saving.on_union_over,
    draining.RETRY.rstrip(":"): draining.on_drain_again,
    draining.DUE: lambda run, rest, policy: draining.next_target(run, policy),
    copies.RETRY.rstrip(":"): copies.on_copy_again,
}


# -------------------------------------------------------------------------------------------------------- table

ACTIVE = frozenset(Phase) - ENDED - {Phase.REQUEUED, Phase.SUBMITTED}


def _only(rule: Rule, phases: frozenset[Phase]) -> dict[Phase, Rule]:
    return {phase: rule if phase in phases else nothing for phase in Phase}


def _stop(run: Run, event: StopRequested, policy: Policy) -> Step:
    return ending.on_stop(run, event, policy)


def _refused(run: Run, event: RestoreRefused, policy: Policy) -> Step:
    return launching.on_restore_refused(run, event, policy)


TABLE: dict[type[Event], dict[Phase, Rule]] = {
    AllocationGranted: _only(on_allocation, frozenset(Phase)),
    AgentUp: _only(nodes.on_agent_up, ACTIVE),
    AgentLost: _only(nodes.on_agent_lost, ACTIVE),
    NodeSuspected: _only(nodes.on_suspected, ACTIVE),
    NodeHeard: _only(nodes.on_heard, ACTIVE),
    NodeProbed: _only(nodes.on_probed, ACTIVE),
    WorldMustered: _only(on_mustered, LAUNCHING),
    RankExited: _only(on_exited, ACTIVE),
    LaunchEnded: _only(on_launch_ended, LAUNCHING),
    NodeFenced: _only(on_fenced, ACTIVE),
    PartSaved: _only(on_part, ACTIVE),
    PartPending: _only(on_pending, ACTIVE),
    PartDrained: _only(on_drained, ACTIVE),
    PartReplicated: _only(copies.on_replicated, ACTIVE),
    ScratchShared: _only(lambda run, event, _: copies.on_shared_scratch(run, event), ACTIVE),
    StoreDiffers: _only(draining.on_differs, ACTIVE),
    SaveRequested: _only(asking.on_requested, ACTIVE),
    GenerationDurable: _only(on_durable, ACTIVE),
    StoreScanned: _only(on_scanned, ACTIVE),
    RestoreReady: _only(launching.on_restore_ready, LAUNCHING),
    RestoreRefused: _only(launching.on_refused_later, LIVE | {Phase.STOPPING}) | dict.fromkeys(LAUNCHING, _refused),
    SlurmReported: _only(nodes.on_slurm, ACTIVE),
    StopRequested: _only(_stop, ACTIVE - {Phase.DRAINING}) | {Phase.DRAINING: ending.on_stop_while_draining},
    RequeueAnswered: _only(ending.on_requeue_answered, frozenset({Phase.DRAINING})),
    TimerFired: _only(on_timer, ACTIVE),
    StorageStalled: _only(on_storage, ACTIVE),
    NodeHealth: _only(fitness.on_health, ACTIVE),
    NodeChecked: _only(fitness.on_checked, ACTIVE),
    XidSeen: _only(fitness.on_xid, ACTIVE),
    MemoryKilled: _only(fitness.on_memory_killed, ACTIVE),
    **{kind: _only(rule, phases) for kind, rule, phases in hanging.RULES},
    **{kind: _only(rule, phases) for kind, rule, phases in working.RULES},
    **{kind: _only(rule, ACTIVE) for kind, rule in fabric.RULES},
    survey.QueueEstimated: _only(situation.on_queue, ACTIVE),
    survey.NodesSurveyed: _only(situation.on_nodes, ACTIVE),
}
