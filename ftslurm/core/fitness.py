"""What follows from what agents find out about their nodes: words, the user's hook, a node avoided or given up.

A node is not given up in the moment in which its agent reports something bad, but `HOLD_S` later: agents read at the
same moments, so by then it is known whether the same ails more nodes than a fault of one node explains.
"""

from __future__ import annotations

from dataclasses import replace

from ftslurm.core import asking, health, nodes, xids
from ftslurm.core.actions import Action, Say
from ftslurm.core.conditions import CallHook, MemoryKilled, NodeChecked, NodeHealth, XidSeen
from ftslurm.core.diagnosis import Diagnosis, Scope
from ftslurm.core.health import METRICS, Condition, Consequence, Level, acts
from ftslurm.core.phases import LAUNCHING, LIVE
from ftslurm.core.recovery import Policy
from ftslurm.core.state import Run
from ftslurm.core.timers import set_timer
from ftslurm.core.xids import Xid

Step = tuple[Run, tuple[Action, ...]]

HOLD = "health:"
HOLD_S = 4.0
HOOK = "health"


def on_health(run: Run, event: NodeHealth, policy: Policy) -> Step:
    """One level of a node has changed."""
    if event.node not in run.nodes:
        return run, ()
    before = run.health.get(event.node, ())
    old = next((each for each in before if (each.metric, each.device) == (event.metric, event.device)), None)
    kept = tuple(each for each in before if each is not old)
    now = Condition(
        metric=event.metric, device=event.device, level=event.level, action=event.action, reason=event.reason,
        mono=event.mono,
    )  # fmt: skip
    after = kept if event.level is Level.HEALTHY else (*kept, now)
    silent = event.action is Consequence.NONE and (old is None or old.action is Consequence.NONE)
    said = () if silent else (Say(text=f"{event.node}: {event.reason}", slug=f"health_{event.level}"),)
    run = _with(run, event.node, after)
    run, hold = _hold(run, event.node)
    run, save = _save(run, event, before, after, policy) if not silent else (run, ())
    return run, (*said, *_hook(event.node, before, after, event.reason), *hold, *save)


def _with(run: Run, node: str, conditions: tuple[Condition, ...]) -> Run:
    others = {each: held for each, held in run.health.items() if each != node}
    return replace(run, health={**others, node: conditions} if conditions else others)


def _save(
    run: Run, event: NodeHealth, before: tuple[Condition, ...], after: tuple[Condition, ...], policy: Policy
) -> Step:
    """Ask for a checkpoint where the level of the node as a whole has become worse."""
    level = health.level_of(after)
    worse = level.rank > health.level_of(before).rank
    return asking.on_warning(run, event.node, level, policy) if worse else (run, ())


def _hook(node: str, before: tuple[Condition, ...], after: tuple[Condition, ...], reason: str) -> tuple[CallHook, ...]:
    """Call the user's hook where the level of the node as a whole has changed."""
    was, level = health.level_of(before), health.level_of(after)
    if was is level:
        return ()
    return (CallHook(hook=HOOK, facts={"node": node, "level": level.value, "was": was.value, "reason": reason}),)


def _hold(run: Run, node: str) -> Step:
    """Wait a little before a node is given up; once for all that is wrong with it."""
    waits = HOLD + node in run.timers or node in run.condemned
    if waits or not any(each.action is Consequence.EXCLUDE for each in run.health.get(node, ())):
        return run, ()
    run, timer = set_timer(run, HOLD + node, HOLD_S)
    return run, (timer,)


def adopt(run: Run) -> Step:
    """A new supervisor has no timers, and perhaps another clock: wait anew for what the one before waited for."""
    now = {node: tuple(replace(each, mono=run.now) for each in held) for node, held in run.health.items()}
    run = replace(run, health=now)
    actions: tuple[Action, ...] = ()
    for node in run.health:
        run, more = _hold(run, node)
        actions += more
    return run, actions


def on_hold_over(run: Run, node: str, policy: Policy) -> Step:
    """Give the node up, unless it has recovered, or too many others have the same."""
    grounds = [each for each in run.health.get(node, ()) if each.action is Consequence.EXCLUDE]
    if not grounds or node in run.condemned:
        return run, ()
    alone = [each for each in grounds if len(_crowd(run, each)) <= health.cap(len(run.nodes))]
    if not alone:
        return _nobody(run, grounds[0])
    worst = max(alone, key=lambda each: each.level.rank)
    found = Diagnosis(
        cause=METRICS[worst.metric].cause,
        scope=Scope.NODE,
        where=node,
        confidence=0.95,
        reason=f"{node}: {worst.reason}; {_others(run)}",
        signature=worst.metric,
    )
    return nodes.condemn(run, node, found, policy, now=run.now)


def _crowd(run: Run, condition: Condition) -> tuple[str, ...]:
    return health.crowd(run.health, run.nodes, condition)


def _others(run: Run) -> str:
    """Say why it speaks against this node: it is not what many of them have."""
    return f"not more than {health.cap(len(run.nodes))} of {len(run.nodes)} nodes have it at once"


def _nobody(run: Run, condition: Condition) -> Step:
    """Too many nodes have the same at the same time: exclude none of them, and say so once per metric."""
    many = _crowd(run, condition)
    text = (
        f"{condition.metric} is bad on {len(many)} of {len(run.nodes)} nodes at once ({', '.join(many[:8])}): a check"
        " that is broken, or something that they share; no node is excluded for it"
    )
    return _once(run, f"shared {condition.metric}", Say(text=text, slug="health_shared"))


def _once(run: Run, what: str, said: Say) -> Step:
    return (run, ()) if what in run.told else (replace(run, told=run.told | {what}), (said,))


def on_checked(run: Run, event: NodeChecked, policy: Policy) -> Step:
    """A round of probes is over: what an agent before this one found, and this one does not, is over.

    What a probe could not find out is said once per reason, and blames nobody.
    """
    del policy
    if event.node not in run.nodes:
        return run, ()
    before = run.health.get(event.node, ())
    after = tuple(each for each in before if _name(each) in event.bad or (each.metric == XID and acts(each)))
    run = run if after == before else _with(run, event.node, after)
    actions: tuple[Action, ...] = _hook(event.node, before, after, "a new round of probes does not find it any more")
    for probe, reason in event.unknown:
        text = f"{event.node}: {probe} is unknown: {reason}; this speaks against no node"
        run, said = _once(run, f"unknown {probe}: {reason}", Say(text=text, slug="probe_unknown"))
        actions += said
    return run, actions


XID = "gpu_xid"


def _name(condition: Condition) -> str:
    return f"{condition.metric}/{condition.device}" if condition.device else condition.metric


def on_xid(run: Run, event: XidSeen, policy: Policy) -> Step:
    """A GPU's driver has reported an error. By itself it is acted upon only while it can have been the first cause."""
    if event.node not in run.nodes:
        return run, ()
    new = Xid(node=event.node, gpu=event.gpu, code=event.xid, at=event.at)
    run = replace(run, xids=xids.remember(run.xids, new))
    judged = xids.judge(run.xids, new)
    if judged.level is Level.HEALTHY or event.node in run.condemned:
        return run, ()
    level, action, reason = judged.level, judged.action, judged.reason
    if action in (Consequence.AVOID, Consequence.EXCLUDE) and not _may_be_first(run, event):
        level, action = Level.WARNING, Consequence.SAY
        reason += "; the attempt had ended before for another reason, so nothing follows from this alone"
    stands = [each for each in run.health.get(event.node, ()) if (each.metric, each.device) == (XID, event.gpu)]
    if any(acts(each) and each.level.rank >= level.rank for each in stands):
        return run, (Say(text=f"{event.node}: {reason}", slug=f"health_{level}"),)
    found = NodeHealth(
        at=event.at, mono=event.mono, node=event.node, level=level, metric=XID, device=event.gpu,
        value=float(event.xid), reason=reason, action=action,
    )  # fmt: skip
    return on_health(run, found, policy)


def _may_be_first(run: Run, event: XidSeen) -> bool:
    """Whether an error can have been the cause of what is going on, rather than a consequence.

    An attempt that ended for what is wrong with another node, or without a failed rank, did not end for an error of a
    GPU; nor did one that ended too long before.
    """
    attempt = run.attempt
    if attempt is None or run.phase in LIVE | LAUNCHING:
        return True
    if run.blame is not None and (run.blame.scope is Scope.NODE and run.blame.where != event.node):
        return False
    return bool(attempt.failed) and xids.attributable(event.mono, attempt.failed[0].mono)


def on_memory_killed(run: Run, event: MemoryKilled, policy: Policy) -> Step:
    """The kernel's memory killer has struck: said here; as evidence on the attempt `core.evidence` keeps it."""
    del policy
    attempt = run.attempt
    if event.node not in run.nodes or attempt is None or event.attempt != attempt.number:
        return run, ()
    many = "a process" if event.kills == 1 else f"{event.kills} processes"
    text = f"{event.node}: the kernel killed {many} of the job for memory"
    return run, (Say(text=text, slug="memory_killed"),)
