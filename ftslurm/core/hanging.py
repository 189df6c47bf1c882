"""What follows from the symptoms of `core.symptoms`: an autopsy before the kill, a new attempt, or only a sentence.

A stall is answered by an autopsy: what every rank was doing is written down before its processes are killed, because
afterwards nobody can know. Then the attempt is stopped and started again on the same nodes; the node of the odd rank is
left out only when it was the odd one twice in a row, at different steps. A slow rank and a strange loss are said, and
end nothing.

A collective's own time-out (NCCL's watchdog) may be shorter than the limit of a hang, and leaves nobody to be looked
at. So the ranks are looked at before it, early; nothing is ended then, but what was seen is kept for the diagnosis.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ftslurm.core import evidence, nodes, stopping
from ftslurm.core.actions import Action, Quarantine, Say, TakeAutopsy
from ftslurm.core.diagnosis import Cause, Diagnosis, Scope
from ftslurm.core.events import Event, Phase
from ftslurm.core.phases import LIVE
from ftslurm.core.placement import usable
from ftslurm.core.recovery import Policy
from ftslurm.core.state import Run, SavedState
from ftslurm.core.symptoms import (
    BLOCKED,
    GONE,
    STOPPED,
    AutopsyTaken,
    LossAlarm,
    ProgressSignal,
    RanksResumed,
    RanksStalled,
    Stack,
    StragglerSeen,
)
from ftslurm.core.timers import set_timer

Step = tuple[Run, tuple[Action, ...]]

AUTOPSY = "autopsy"
DEADLINE_S = 10.0
PATIENCE_S = 20.0
NAMED = 8
_WAITS = re.compile(
    r"all_?reduce|all_?gather|reduce_?scatter|all_?to_?all|broadcast|barrier|\brecv|\bsend|wait_tensor|synchronize|"
    r"\bwait\b|Allreduce|Bcast|monitored_barrier",
    re.IGNORECASE,
)
"""Functions in which a rank waits for others, or for its device."""


def on_signal(run: Run, event: ProgressSignal, policy: Policy) -> Step:
    """It is known by what the progress of the program can be seen, or that it cannot be seen."""
    del policy
    if run.attempt is None or event.attempt != run.attempt.number:
        return run, ()
    text = f"progress is seen by {event.source}: an attempt that makes none is stopped and started again"
    if not event.source:
        text = (
            "the program shows no progress (no ftslurm.training.beat, no progress.log_pattern, no progress.files): "
            "a hang will not be noticed"
        )
    return run, (Say(text=text, slug="progress_seen" if event.source else "progress_unseen"),)


def on_stalled(run: Run, event: RanksStalled, policy: Policy) -> Step:
    """Ranks stand still: look at all of them before anything is killed."""
    del policy
    attempt = run.attempt
    if attempt is None or event.attempt != attempt.number or attempt.fencing or AUTOPSY in run.timers:
        return run, ()
    run, timer = set_timer(replace(run, attempt=replace(attempt, stall=event)), AUTOPSY, PATIENCE_S)
    asked = tuple(node for node in attempt.nodes if node in run.agents)
    more = ": a collective's time-out is near (progress.collective_timeout)" if event.early else ""
    said = Say(text=f"{_stall(event)}{more}; looking at what the ranks are doing", slug="ranks_stalled")
    return run, (said, TakeAutopsy(attempt=attempt.number, nodes=asked, deadline_s=DEADLINE_S), timer)


def on_autopsy(run: Run, event: AutopsyTaken, policy: Policy) -> Step:
    """It is known what the ranks were doing."""
    attempt = run.attempt
    if attempt is None or event.attempt != attempt.number or AUTOPSY not in run.timers:
        return run, ()
    timers = {name: token for name, token in run.timers.items() if name != AUTOPSY}
    return _decide(replace(run, timers=timers), event, policy)


def on_autopsy_over(run: Run, rest: str, policy: Policy) -> Step:
    """Nobody could say what the ranks were doing: they stand still all the same."""
    del rest
    return _decide(run, AutopsyTaken(attempt=run.current.number, notes=("no autopsy came in time",)), policy)


def _decide(run: Run, autopsy: AutopsyTaken, policy: Policy) -> Step:
    """Stop the attempt, unless something else has begun to explain the silence."""
    attempt = run.current
    stall = attempt.stall
    run = replace(run, attempt=replace(attempt, stall=None))
    if stall is None or run.phase is not Phase.TRAINING or attempt.fencing:
        return run, ()
    alive = replace(run, evidence=tuple(each for each in run.evidence if not evidence.of_stall(each)))
    if autopsy.resumed:
        return alive, (Say(text="the ranks have gone on by themselves meanwhile", slug="stall_over"),)
    ranks = sum(stack.count for stack in autopsy.stacks)
    blocked = sum(stack.count for stack in autopsy.stacks if stack.state == BLOCKED)
    if blocked > 1 and 2 * blocked > ranks:
        text = f"{blocked} of {ranks} ranks wait in the kernel, for storage as a rule: no hang of the program, waiting"
        return alive, (Say(text=text, slug="stall_storage"),)
    found = diagnose(stall, autopsy, attempt.placement)
    if stall.early:
        seen = evidence.Judged(at=autopsy.at, mono=autopsy.mono, diagnosis=found)
        text = f"{found.reason}; nothing is ended, but a collective's time-out may end it"
        return evidence.heard(run, seen), (Say(text=text, slug="stall_early"),)
    node = found.where.partition("@")[2]
    if node and autopsy.stacks and _was_odd_before(run, found) and _can_spare(run, policy):
        reason = f"{found.reason}; {node} had the odd rank in the hang before, too"
        found = replace(found, scope=Scope.NODE, where=node, confidence=0.9, reason=reason)
        return nodes.condemn(run, node, found, policy, now=autopsy.mono)
    return stopping.begin(run, found, policy)


def on_resumed(run: Run, event: RanksResumed, policy: Policy) -> Step:
    """Ranks that were looked at early go on: what was seen explains nothing any more, and `core.evidence` drops it."""
    del policy
    attempt = run.attempt
    if attempt is None or event.attempt != attempt.number:
        return run, ()
    if attempt.stall is not None and attempt.stall.early:
        timers = {name: token for name, token in run.timers.items() if name != AUTOPSY}
        run = replace(run, attempt=replace(attempt, stall=None), timers=timers)
    return run, (Say(text="the ranks have gone on by themselves meanwhile", slug="stall_over"),)


def _was_odd_before(run: Run, found: Diagnosis) -> bool:
    """Whether the hang before points to the same node; the same rank at the same step points to the program."""
    last = run.failures[-1].diagnosis if run.failures else None
    if last is None or last.cause is not Cause.PROGRAM_HANG or last.signature == found.signature:
        return False
    return last.where.partition("@")[2] == found.where.partition("@")[2]


def _can_spare(run: Run, policy: Policy) -> bool:
    """Whether the run can go on here with one node fewer."""
    left = usable(run.usable[:-1], policy.ranks_per_node, policy.world_multiple_of)
    return run.no_kill and left >= max(policy.min_nodes, 1)


# ------------------------------------------------------------------------------------------------------ the verdict


def diagnose(stall: RanksStalled, autopsy: AutopsyTaken, placement: Sequence[str]) -> Diagnosis:
    """Return the verdict on a stall: whose fault it looks like, by what the ranks were doing."""
    odd, why = odd_ones(autopsy.stacks, stall.behind)
    text = _stall(stall)
    notes = "; ".join(autopsy.notes)
    if not odd:
        reason = "; ".join(part for part in (text, why, notes) if part)
        return Diagnosis(
            cause=Cause.PROGRAM_HANG, scope=Scope.JOB, where="", confidence=0.87, reason=reason, signature="hang"
        )
    first = odd[0]
    node = placement[first] if first < len(placement) else ""
    others = f" (and {len(odd) - 1} more)" if len(odd) > 1 else ""
    reason = f"{text}; the odd one out is rank {first} on {node}{others}: {why}"
    return Diagnosis(
        cause=Cause.PROGRAM_HANG,
        scope=Scope.RANK,
        where=f"{first}@{node}",
        confidence=0.9,
        reason=f"{reason}; {notes}" if notes else reason,
        signature=f"hang {first} {stall.step}",
    )


def _stall(event: RanksStalled) -> str:
    who = f"rank{'s' if event.count > 1 else ''} {_listed(event.ranks, event.count)}"
    at = f" after step {event.step}" if event.step >= 0 else ""
    return f"no progress of {who} for {event.silent_s:.1f} s in phase {event.phase}{at} (limit {event.limit_s:.1f} s)"


def _listed(ranks: Sequence[int], count: int) -> str:
    named = ", ".join(map(str, ranks[:NAMED]))
    return f"{named} and {count - NAMED} more" if count > NAMED else named


def odd_ones(stacks: Sequence[Stack], behind: Sequence[int]) -> tuple[tuple[int, ...], str]:
    """Return the ranks that the others wait for, and why they are thought to be these.

    In this order: a rank whose process is stopped or gone; the minority by stack; the one that has done fewer steps;
    the one that is in no operation in which it would wait for others.
    """
    total = sum(stack.count for stack in stacks)
    still = [stack for stack in stacks if stack.state in (STOPPED, GONE)]
    if still and sum(stack.count for stack in still) < total:
        return _ranks(still), f"its process is {still[0].state} (in {_place(still[0], _other(stacks, still[0]))})"
    largest = max(stacks, key=lambda stack: stack.count, default=None)
    if largest is not None and 2 * largest.count > total > largest.count:
        rest = [stack for stack in stacks if stack is not largest]
        many = f"{largest.count} of {total} ranks are in {_place(largest, rest[0])}"
        return _ranks(rest), f"it is in {_place(rest[0], largest)}, while {many}"
    if behind:
        return tuple(behind), "it has done fewer steps than the others"
    free = [stack for stack in stacks if stack.frames and not any(_WAITS.search(frame) for frame in stack.frames)]
    if free and len(free) < len(stacks):
        return _ranks(free), f"it is in {_place(free[0], _other(stacks, free[0]))} and waits for no other rank"
    if len(stacks) == 1 and total > 1:
        return (), f"all {total} ranks are in {_place(stacks[0], None)}"
    return (), f"{len(stacks)} groups of ranks, none of them the odd one out" if stacks else ""


def _ranks(stacks: Sequence[Stack]) -> tuple[int, ...]:
    return tuple(sorted(rank for stack in stacks for rank in stack.ranks))


def _other(stacks: Sequence[Stack], one: Stack) -> Stack:
    return next(stack for stack in stacks if stack is not one)


def _place(stack: Stack, other: Stack | None) -> str:
    """Name the innermost frame, and the two where the way to it parts from that of another stack."""
    frames = stack.frames
    common = 0
    for ours, theirs in zip(reversed(frames), reversed(other.frames if other else ()), strict=False):
        if ours != theirs:
            break
        common += 1
    parts = max(len(frames) - common - 1, 1)
    named = dict.fromkeys((*frames[:1], *frames[parts - 1 : parts + 1]))
    return " < ".join(named) or "an unknown place"


# ----------------------------------------------------------------------------------------------- slow, and no number


def on_straggler(run: Run, event: StragglerSeen, policy: Policy) -> Step:
    """One rank is slower than the others, and keeps all of them waiting. It is said; nobody is killed for it."""
    del policy
    attempt = run.attempt
    if attempt is None or event.attempt != attempt.number:
        return run, ()
    more = 100 * (event.own_s / event.median_s - 1) if event.median_s else 0.0
    text = (
        f"rank {event.rank} on {event.node} is slow: {event.own_s:.3g} s of its own a step, {more:.0f} % over the "
        f"median of {event.median_s:.3g} s, in {event.windows} windows in a row (score {event.score:.1f})"
    )
    facts = {"rank": str(event.rank), "node": event.node, "own_s": f"{event.own_s:.6g}"}
    return run, (Say(text=text, slug="straggler", facts=facts),)


def on_loss(run: Run, event: LossAlarm, policy: Policy) -> Step:
    """A loss is not what it should be. Where the user wants it, NaN goes back to the checkpoint before it."""
    attempt = run.attempt
    if attempt is None or event.attempt != attempt.number:
        return run, ()
    where = f"rank {event.rank}, step {event.step}"
    if event.kind != "nan":
        text = f"the loss has jumped to {event.value} ({where}): {event.score:.1f} deviations over {event.median:.6g}"
        return run, (Say(text=text, slug="loss_spike"),)
    text = f"the loss is {event.value} ({where})"
    if policy.on_nan != "rollback":
        return run, (
            Say(text=f"{text}; what follows is the program's business (progress.on_nan: say)", slug="loss_nan"),
        )
    run, aside = _set_aside(run, event.step)
    if run.phase not in LIVE:
        return run, aside  # it is being stopped already; a thousand ranks may say the same
    node = attempt.placement[event.rank] if event.rank < len(attempt.placement) else ""
    found = Diagnosis(
        cause=Cause.NAN,
        scope=Scope.RANK,
        where=f"{event.rank}@{node}",
        confidence=0.9,
        reason=f"{text}: back to the checkpoint before it",
        signature="nan",
    )
    run, more = stopping.begin(run, found, policy)
    return run, aside + more


def _set_aside(run: Run, step: int) -> tuple[Run, tuple[Action, ...]]:
    """What was saved from that step on may hold the same NaN, and so may what is still being saved."""
    actions: tuple[Action, ...] = ()
    attempt = run.current
    first = step if attempt.spoilt_from is None else min(step, attempt.spoilt_from)
    run = replace(run, attempt=replace(attempt, spoilt_from=first))
    for saved in run.saved:
        if saved.step >= step and saved.state in (SavedState.PENDING, SavedState.LOCAL, SavedState.DURABLE):
            run = run.with_saved(replace(saved, state=SavedState.DAMAGED))
            actions += (Quarantine(generation=saved.generation, reason=f"the loss was no number at step {step}"),)
    return run, actions


RULES: tuple[tuple[type[Event], Callable[[Run, Any, Policy], Step], frozenset[Phase]], ...] = (
    (ProgressSignal, on_signal, LIVE),
    (RanksStalled, on_stalled, frozenset({Phase.TRAINING})),
    (RanksResumed, on_resumed, LIVE),
    (AutopsyTaken, on_autopsy, LIVE),
    (StragglerSeen, on_straggler, LIVE),
    (LossAlarm, on_loss, LIVE | {Phase.STOPPING}),
)
"""What each symptom leads to, and in which phases it means something."""
