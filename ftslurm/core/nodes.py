"""What happens to nodes: agents come and go, silence makes suspects, witnesses acquit or condemn."""

from __future__ import annotations

from dataclasses import replace

from ftslurm.core import confirmation, copies, draining, ending, launching, stopping
from ftslurm.core.actions import Action, FenceAttempt, LaunchAgents, ProbeNode, Say
from ftslurm.core.diagnosis import Cause, Diagnosis, Scope
from ftslurm.core.events import (
    ENDED,
    AgentLost,
    AgentUp,
    NodeHeard,
    NodeProbed,
    NodeSuspected,
    Phase,
    SlurmReported,
    StopRequested,
)
from ftslurm.core.phases import LAUNCHING, LIVE, enter
from ftslurm.core.recovery import NONE, Policy
from ftslurm.core.state import Doubt, Run
from ftslurm.core.timers import set_timer
from ftslurm.core.verdict import NodeVerdict, Verdict, judge_node

Step = tuple[Run, tuple[Action, ...]]

REPROBE = "reprobe:"
AGENT = "agent:"
AGENT_BACK_S = 15.0


def on_agent_up(run: Run, event: AgentUp, policy: Policy) -> Step:
    """An agent is there, for the first time or again."""
    if event.node in run.condemned:
        return run, _end_stale_ranks(run, event.node)
    if event.node not in run.nodes:
        return run, ()
    timers = {name: token for name, token in run.timers.items() if name != AGENT + event.node}
    run = replace(_acquit(run, event.node), agents=run.agents | {event.node}, timers=timers)
    run, said = copies.on_scratch(run, event, policy)
    attempt = run.attempt
    if run.phase is Phase.STARTING and attempt is None:
        run, first = launching.first(run, policy)
        return run, (*said, *first)
    run, drain = draining.on_agent_back(run, event.node, policy)
    drain = (*said, *drain, *copies.replicate(run, policy, event.node))
    if attempt is not None and attempt.fencing and event.node not in attempt.fenced:
        return run, (FenceAttempt(attempt=attempt.number, nodes=(event.node,)), *drain)
    run, restore = launching.on_agent_back(run, event.node)
    return _go_on(run, (*drain, *restore), policy)


def _end_stale_ranks(run: Run, node: str) -> tuple[Action, ...]:
    """A node that was given up speaks again: what it still runs belongs to an attempt that is over."""
    attempt = run.attempt
    if attempt is None:
        return ()
    over = attempt.number if node in attempt.nodes else attempt.number - 1
    return (FenceAttempt(attempt=over, nodes=(node,)),) if over >= 0 else ()


def _go_on(run: Run, actions: tuple[Action, ...], policy: Policy) -> Step:
    """Back to training when nobody is suspect any more, or on with a plan that waited for a node."""
    if run.phase not in LIVE:
        run, more = stopping.when_heard(run, policy)
        return run, actions + more
    return (run if run.suspects else replace(enter(run, Phase.TRAINING), incident=())), actions


def on_agent_lost(run: Run, event: AgentLost, policy: Policy) -> Step:
    """An agent's connection was closed by its side: ask the witnesses whether its node is well."""
    del policy
    if event.node not in run.agents:
        return run, ()
    run = replace(run, agents=run.agents - {event.node})
    if run.attempt is not None and event.node in run.attempt.nodes:
        run = replace(run, attempt=replace(run.attempt, blind=run.attempt.blind | {event.node}))
    if event.node in run.suspects:
        return run, ()  # the witnesses are being asked already; what they have said so far counts on
    return _suspect(run, event.node, 0.0, Doubt(wanted=confirmation.rounds_wanted(event.patience)))


def on_suspected(run: Run, event: NodeSuspected, policy: Policy) -> Step:
    """A node has been silent for too long."""
    del policy
    if event.node in run.suspects or event.node not in run.nodes or event.node in run.condemned:
        return run, ()
    doubt = Doubt(wanted=confirmation.rounds_wanted(event.patience))
    run, actions = _suspect(run, event.node, event.silent_s, doubt)
    if run.self_doubt or not confirmation.misses_most(run, event):
        return run, actions
    silent = max(len(run.suspects), event.peers_silent + 1)
    text = (
        f"{silent} other nodes are silent at once: the supervisor's own node may be the one that is cut off,"
        " and no node is given up without hard evidence"
    )
    return replace(run, self_doubt=True), (Say(text=text, slug="observer_doubts_itself"), *actions)


def _suspect(run: Run, node: str, silent_s: float, doubt: Doubt) -> Step:
    run = replace(run, suspects={**run.suspects, node: silent_s}, doubts={**run.doubts, node: doubt})
    run = enter(run, Phase.SUSPECTING) if run.phase is Phase.TRAINING else run
    return run, (ProbeNode(node=node),)


def _acquit(run: Run, node: str) -> Run:
    """Return the run without this suspect."""
    suspects = {each: since for each, since in run.suspects.items() if each != node}
    doubts = {each: doubt for each, doubt in run.doubts.items() if each != node}
    return replace(run, suspects=suspects, doubts=doubts, self_doubt=run.self_doubt and bool(suspects))


def on_heard(run: Run, event: NodeHeard, policy: Policy) -> Step:
    """A suspected node beats again."""
    if event.node not in run.suspects:
        return run, ()
    said = Say(text=f"{event.node} is heard again", slug="node_heard")
    return _go_on(_acquit(run, event.node), (said,), policy)


def on_probed(run: Run, event: NodeProbed, policy: Policy) -> Step:
    """The witnesses have spoken about a suspect."""
    if event.node not in run.suspects:
        return run, ()
    hard = confirmation.wants_hard(run, event.mono)
    verdict = judge_node(event.node, event.findings, run.suspects[event.node], final=event.final, wants_hard=hard)
    if verdict.verdict is Verdict.WELL:
        return _well(run, event.node, verdict)
    doubt = run.doubts.get(event.node, Doubt())
    doubt = confirmation.after_round(doubt, verdict) if event.final else doubt
    if verdict.verdict is Verdict.LOST and (verdict.hard or doubt.wanted == 1 or doubt.agreed >= doubt.wanted):
        return condemn(run, event.node, verdict.diagnosis, policy, now=event.mono)
    if not event.final:
        return run, ()
    if doubt.short >= confirmation.SHORT_ROUNDS and _may_requeue(run, policy):
        reason = f"{verdict.diagnosis.reason}; the job goes back to the queue and excludes nobody for it"
        run, actions = ending.leave(run, ending.REQUEUE, policy, reason=reason)
        return run, (Say(text=reason, slug="too_many_suspects"), *actions)
    return _ask_again(run, event, verdict, doubt, policy)


def _may_requeue(run: Run, policy: Policy) -> bool:
    allowed = policy.continue_by != NONE and run.requeues < policy.max_requeues
    return allowed and run.phase in LIVE | LAUNCHING | {Phase.STOPPING}


def _well(run: Run, node: str, verdict: NodeVerdict) -> Step:
    """The node is well without its agent: start that again, once."""
    if AGENT + node in run.timers:
        return run, ()
    run, timer = set_timer(run, AGENT + node, AGENT_BACK_S)
    text = f"{verdict.diagnosis.reason}: the node is well, its agent is started again"
    return run, (Say(text=text, slug="agent_lost"), LaunchAgents(nodes=(node,)), timer)


def _ask_again(run: Run, event: NodeProbed, verdict: NodeVerdict, doubt: Doubt, policy: Policy) -> Step:
    """A round is over and proves too little: ask again after a while, and tell it where that is news."""
    words = confirmation.words_of(event.findings)
    news = confirmation.is_news(doubt, words, event.mono)
    text = verdict.diagnosis.reason
    if verdict.verdict is Verdict.LOST:
        text += f"; beats come unevenly, so {doubt.wanted} rounds in a row must agree: {doubt.agreed} so far"
    doubt = replace(doubt, said=words, said_at=event.mono) if news else doubt
    run = replace(run, doubts={**run.doubts, event.node: doubt})
    run, timer = set_timer(run, REPROBE + event.node, confirmation.pause_s(doubt, policy.reprobe_s))
    return run, (*((Say(text=text, slug="node_undecided"),) if news else ()), timer)


def condemn(run: Run, node: str, found: Diagnosis, policy: Policy, *, now: float) -> Step:
    """Give a node up for the rest of the run."""
    run = replace(
        _acquit(run, node),
        condemned={**run.condemned, node: found},
        fallen={**run.fallen, node: now},
        agents=run.agents - {node},
        incident=(*run.incident, node),
    )
    run = copies.forget_node(run, node)
    kept = (*draining.on_loss(run, node, policy), *copies.replicate(run, policy))
    attempt = run.attempt
    concerned = attempt is not None and node in attempt.nodes
    if concerned and run.phase in LIVE | LAUNCHING:
        run, more = stopping.begin(run, found, policy)
        return run, kept + more
    said = stopping.verdict_said(run, found)
    if run.phase is Phase.STARTING and attempt is None:
        run, more = launching.first(run, policy)
    elif run.phase in LAUNCHING:
        run, more = launching.on_loss(run, policy)
    elif run.phase is Phase.DRAINING:
        run, more = ending.check(run, policy)
    else:
        run, more = _go_on(replace(run, blame=found) if concerned else run, (), policy)
    return run, (said, *kept, *more)


def on_slurm(run: Run, event: SlurmReported, policy: Policy) -> Step:
    """Slurm's word. A node that it has taken out of the job is lost to this job, however healthy (M19)."""
    actions: tuple[Action, ...] = ()
    if event.job_state == "CANCELLED" and run.phase is not Phase.DRAINING:
        run, actions = ending.on_stop(run, StopRequested(why=ending.CANCEL, save=False), policy)
    # None of them may be in the plan that the loss of the first one leads to.
    run = run if run.phase in ENDED else replace(run, agents=run.agents - set(event.gone))
    for node in event.gone:
        if node in run.nodes and node not in run.condemned and run.phase not in ENDED:
            reason = f"Slurm has taken {node} out of the job"
            found = Diagnosis(cause=Cause.EXCISED, scope=Scope.NODE, where=node, confidence=1.0, reason=reason)
            run, more = condemn(run, node, found, policy, now=event.mono)
            actions += more
    return run, actions
