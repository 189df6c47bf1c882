"""What happens to nodes: agents come and go, silence makes suspects, witnesses acquit or condemn."""

from __future__ import annotations

from dataclasses import replace

from ftslurm.core import ending, launching, saving, stopping
from ftslurm.core.actions import Action, FenceAttempt, LaunchAgents, ProbeNode, Say
from ftslurm.core.diagnosis import Cause, Diagnosis, Scope, Verdict, judge_node
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
from ftslurm.core.recovery import Policy
from ftslurm.core.state import Run

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
    suspects = {node: since for node, since in run.suspects.items() if node != event.node}
    timers = {name: token for name, token in run.timers.items() if name != AGENT + event.node}
    run = replace(run, agents=run.agents | {event.node}, suspects=suspects, timers=timers)
    attempt = run.attempt
    if run.phase is Phase.STARTING and attempt is None:
        return launching.first(run, policy)
    run, drain = saving.on_agent_back(run, event.node)
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
    if event.node not in run.agents:
        return run, ()
    run = replace(run, agents=run.agents - {event.node})
    if run.attempt is not None and event.node in run.attempt.nodes:
        run = replace(run, attempt=replace(run.attempt, blind=run.attempt.blind | {event.node}))
    return _suspect(run, event.node, 0.0, policy)


def on_suspected(run: Run, event: NodeSuspected, policy: Policy) -> Step:
    """A node has been silent for too long."""
    if event.node in run.suspects or event.node not in run.nodes or event.node in run.condemned:
        return run, ()
    return _suspect(run, event.node, event.silent_s, policy)


def _suspect(run: Run, node: str, silent_s: float, policy: Policy) -> Step:
    del policy
    run = replace(run, suspects={**run.suspects, node: silent_s})
    run = enter(run, Phase.SUSPECTING) if run.phase is Phase.TRAINING else run
    return run, (ProbeNode(node=node),)


def on_heard(run: Run, event: NodeHeard, policy: Policy) -> Step:
    """A suspected node beats again."""
    if event.node not in run.suspects:
        return run, ()
    suspects = {node: since for node, since in run.suspects.items() if node != event.node}
    said = Say(text=f"{event.node} is heard again", slug="node_heard")
    return _go_on(replace(run, suspects=suspects), (said,), policy)


def on_probed(run: Run, event: NodeProbed, policy: Policy) -> Step:
    """The witnesses have spoken about a suspect."""
    if event.node not in run.suspects:
        return run, ()
    verdict = judge_node(
        event.node, event.findings, run.suspects[event.node], final=event.final, wants_hard=len(run.incident) >= 1
    )
    if verdict.verdict is Verdict.LOST:
        return condemn(run, event.node, verdict.diagnosis, policy)
    if verdict.verdict is Verdict.WELL and AGENT + event.node in run.timers:
        return run, ()
    if verdict.verdict is Verdict.WELL:
        run, timer = saving.set_timer(run, AGENT + event.node, AGENT_BACK_S)
        text = f"{verdict.diagnosis.reason}: the node is well, its agent is started again"
        return run, (Say(text=text, slug="agent_lost"), LaunchAgents(nodes=(event.node,)), timer)
    if not event.final:
        return run, ()
    run, timer = saving.set_timer(run, REPROBE + event.node, policy.reprobe_s)
    return run, (Say(text=verdict.diagnosis.reason, slug="node_undecided"), timer)


def condemn(run: Run, node: str, found: Diagnosis, policy: Policy) -> Step:
    """Give a node up for the rest of the run."""
    run = replace(
        run,
        condemned={**run.condemned, node: found},
        suspects={each: since for each, since in run.suspects.items() if each != node},
        agents=run.agents - {node},
        incident=(*run.incident, node),
    )
    run = saving.forget_node(run, node)
    attempt = run.attempt
    concerned = attempt is not None and node in attempt.nodes
    if concerned and run.phase in LIVE | LAUNCHING:
        return stopping.begin(run, found, policy)
    said = Say(text=found.reason, slug=found.cause)
    if run.phase is Phase.STARTING and attempt is None:
        run, more = launching.first(run, policy)
    elif run.phase in LAUNCHING:
        run, more = launching.on_loss(run, policy)
    elif run.phase is Phase.DRAINING:
        run, more = ending.check(run, policy)
    else:
        run, more = _go_on(replace(run, blame=found) if concerned else run, (), policy)
    return run, (said, *more)


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
            run, more = condemn(run, node, found, policy)
            actions += more
    return run, actions
