"""From the nodes to shared storage: one drain target for the whole job, then COMMIT, then what may be deleted.

The newest whole checkpoint is the target; older ones are skipped, never queued, so that storage which is slower than
the save rate does not starve durability. One that builds upon another is drained after that one. Where an owner is gone
the holder of a partner copy copies its part. Not more than `drain_width` nodes copy at a time, in the order of their
names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ftslurm.core.about import SaveKind
from ftslurm.core.actions import Action, CleanScratch, CommitDurable, Drain, Quarantine, Say, SetTimer
from ftslurm.core.events import GenerationDurable, PartDrained, Phase, StoreDiffers
from ftslurm.core.recovery import Policy
from ftslurm.core.state import Run, Saved, SavedState
from ftslurm.core.timers import set_timer

RETRY_S = 5.0
WHOLE = (SavedState.LOCAL, SavedState.DURABLE)
RETRY = "drain:"
DUE = "drain_due"


def next_target(run: Run, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """Name the newest LOCAL checkpoint as the job's drain target, unless one is being drained, or it is too early."""
    current = run.find_saved(run.drain_target)
    if current is not None and current.state is SavedState.LOCAL:
        return run, ()
    run = replace(run, drain_target="")
    saved = _newest_to_drain(run)
    if saved is None:
        return run, ()
    wait_s = _wait_s(run, policy)
    if wait_s > 0:
        return _wait(run, wait_s)
    timers = {name: token for name, token in run.timers.items() if name != DUE}
    run = replace(run, drain_target=saved.generation, drain_named=run.now, urgent=False, timers=timers)
    return run, _ask(run, saved, _window(saved, policy))


def _newest_to_drain(run: Run) -> Saved | None:
    """The newest LOCAL checkpoint that nothing durable is newer than, or the one that it builds upon."""
    for saved in reversed(run.saved):
        if saved.state is SavedState.DURABLE:
            break
        if saved.state is not SavedState.LOCAL or not saved.at_hand(run.agents):
            continue
        base = run.find_saved(saved.base) if saved.base else None
        if not saved.base or (base is not None and base.state is SavedState.DURABLE):
            return saved
        if base is not None and base.state is SavedState.LOCAL and base.at_hand(run.agents):
            return base
    return None


def _wait_s(run: Run, policy: Policy) -> float:
    """How long the next target has to wait. A run that leaves, and a save that somebody waits for, do not wait."""
    if run.drain_named is None or run.urgent or run.phase is Phase.DRAINING:
        return 0.0
    return run.drain_named + policy.durable_every_s - run.now


def _wait(run: Run, wait_s: float) -> tuple[Run, tuple[SetTimer, ...]]:
    if DUE in run.timers:
        return run, ()
    run, timer = set_timer(run, DUE, wait_s)
    return run, (timer,)


def _window(saved: Saved, policy: Policy) -> list[str]:
    """The owners whose parts are copied now."""
    return sorted(saved.holders - saved.drained)[: max(policy.drain_width, 1)]


def _ask(run: Run, saved: Saved, owners: Iterable[str]) -> tuple[Drain, ...]:
    """Ask for these parts: the owner, or who holds a copy; a part that nobody has now is asked for later."""
    workers = {owner: _worker(run, saved, owner) for owner in owners}
    nodes = tuple(owner for owner, worker in workers.items() if worker == owner)
    stand_ins = tuple((owner, worker) for owner, worker in workers.items() if worker not in ("", owner))
    if not nodes and not stand_ins:
        return ()
    base = run.find_saved(saved.base) if saved.base else None
    durable_base = saved.base if base is not None and base.state is SavedState.DURABLE else ""
    return (Drain(generation=saved.generation, nodes=nodes, stand_ins=stand_ins, base=durable_base),)


def _worker(run: Run, saved: Saved, owner: str) -> str:
    if saved.in_place:
        return owner if owner in run.agents else min(run.usable, default="")
    there = saved.keepers(owner) & run.agents
    return owner if owner in there else min(there, default="")


def on_drain_again(run: Run, rest: str, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """The pause after a failed copy (of one node) or a failed commit is over; the other nodes may still be busy."""
    generation, _, node = rest.partition("/")
    if generation != run.drain_target:
        return run, ()
    return on_agent_back(run, node, policy) if node else commit_again(run, policy)


def on_agent_back(run: Run, node: str, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """Ask an agent for what it has failed to do, or the one before it had been asked for."""
    saved = run.find_saved(run.drain_target)
    if saved is None or saved.state is not SavedState.LOCAL:
        return next_target(run, policy)
    mine = [owner for owner in _window(saved, policy) if node in (owner, _worker(run, saved, owner))]
    return run, _ask(run, saved, mine)


def on_loss(run: Run, node: str, policy: Policy) -> tuple[Action, ...]:
    """A node was given up: what it was copying, another one copies."""
    saved = run.find_saved(run.drain_target)
    if saved is None or saved.state is not SavedState.LOCAL:
        return ()
    orphans = [
        owner
        for owner in _window(saved, policy)
        if owner not in run.agents and (saved.in_place or node in saved.keepers(owner))
    ]
    return _ask(run, saved, orphans)


def on_drained(run: Run, event: PartDrained, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """A node's part lies on shared storage, or could not be copied: then it is tried again after a while."""
    saved = run.find_saved(event.generation)
    if saved is None or saved.state is not SavedState.LOCAL or event.node in saved.drained:
        return run, ()
    if event.error and event.damaged:
        if saved.in_place:
            return _gone(run, saved, event.error, policy)
        return _not_there(run, saved, event, policy)
    if event.error:
        run, timer = set_timer(run, f"{RETRY}{event.generation}/{event.node}", RETRY_S)
        text = f"checkpoint {event.generation}: {event.node} cannot copy its part to shared storage yet: {event.error}"
        return run, (Say(text=text, slug="drain_failed"), timer)
    before = _window(saved, policy)
    packed = {owner: part for owner, part in saved.packed.items() if owner != event.node}
    if event.part is not None and event.part not in saved.parts:
        packed |= {event.node: event.part}
    changed = replace(saved, drained=saved.drained | {event.node}, packed=packed)
    run, said = _packing(run.with_saved(changed), changed, event.reason)
    if changed.drained >= changed.holders:
        return run, (*said, durable(run, changed))
    return run, (*said, *_ask(run, changed, [owner for owner in _window(changed, policy) if owner not in before]))


def _gone(run: Run, saved: Saved, why: str, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """The program has removed or changed its files before they were digested: the next one, then."""
    run = replace(run.with_saved(replace(saved, state=SavedState.LOST)), drain_target="")
    text = f"checkpoint {saved.generation} is passed over: {why}"
    run, more = next_target(run, policy)
    return run, (Say(text=text, slug="checkpoint_gone"), *more)


def _not_there(run: Run, saved: Saved, event: PartDrained, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """Who was to copy a part does not hold it: another one may; else this checkpoint will never become durable."""
    keeper = _worker(run, saved, event.node) or event.node
    saved = saved.without(event.node, keeper)
    run = run.with_saved(saved)
    text = f"checkpoint {event.generation}: {keeper} does not hold the part of {event.node} any more: {event.error}"
    if saved.keepers(event.node) - set(run.condemned):
        others = ", ".join(sorted(saved.keepers(event.node)))
        return run, (
            Say(text=f"{text}; there is a copy on {others}", slug="part_gone"),
            *_ask(run, saved, [event.node]),
        )
    run, more = next_target(run.with_saved(replace(saved, state=SavedState.LOST)), policy)
    return run, (Say(text=f"{text}; nobody else does, and it is given up", slug="part_gone"), *more)


def _packing(run: Run, saved: Saved, reason: str) -> tuple[Run, tuple[Say, ...]]:
    """Tell, when it changes, whether saves of this kind go packed to shared storage, and why."""
    if saved.in_place:
        return run, ()
    kind = saved.about.kind if saved.about else SaveKind.FULL
    over = saved.drained >= saved.holders and not saved.packed
    if saved.packed and kind not in run.packs:
        text = f"{kind} checkpoints go packed to shared storage from {saved.generation} on: {reason}"
        return replace(run, packs=run.packs | {kind}), (Say(text=text, slug="drain_packed"),)
    if over and kind in run.packs:
        text = f"{kind} checkpoints go as they are to shared storage from {saved.generation} on: {reason}"
        return replace(run, packs=run.packs - {kind}), (Say(text=text, slug="drain_as_is"),)
    return run, ()


def durable(run: Run, saved: Saved) -> CommitDurable:
    """Ask for the commit of a checkpoint whose parts are all on shared storage."""
    return CommitDurable(
        generation=saved.generation,
        step=saved.step,
        world_size=saved.world_size,
        parts=saved.shared_parts,
        about=saved.about,
        protected=tuple(sorted(needed(run))),
    )


def needed(run: Run) -> frozenset[str]:
    """What no rule about old checkpoints may delete: bases of others, and what is kept for people to look at."""
    bases = {each.base for each in run.saved if each.base and each.state in WHOLE}
    return frozenset(bases | {each.generation for each in run.saved if each.state is SavedState.SUSPECT})


def on_durable(run: Run, event: GenerationDurable, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """A generation is committed on shared storage: older ones may leave scratch, the next newest may be drained."""
    saved = run.find_saved(event.generation)
    if saved is None or saved.state not in WHOLE:
        return run, ()
    if event.gone:
        return _gone(run, saved, event.error, policy)
    if event.error:
        run, timer = set_timer(run, RETRY + event.generation, RETRY_S)
        return run, (
            Say(text=f"checkpoint {event.generation}: commit failed: {event.error}", slug="commit_failed"),
            timer,
        )
    run = run.with_saved(replace(saved, state=SavedState.DURABLE))
    kept = tuple(each for each in run.saved if each.generation not in event.dropped)
    run = without_older(replace(run, saved=kept), saved, needed(run))
    run = without_older(run, saved, needed(run))  # what only those that went had built upon
    run, more = next_target(run, policy)
    return run, (CleanScratch(watermark=event.generation, keep=tuple(sorted(needed(run)))), *more)


def without_older(run: Run, saved: Saved, keep: frozenset[str]) -> Run:
    """Return the run without what never became durable and is older: it is of no use once a newer one is safe."""
    passed_over = (SavedState.LOCAL, SavedState.LOST)
    kept = tuple(
        each
        for each in run.saved
        if each.state not in passed_over or each.order >= saved.order or each.generation in keep
    )
    return replace(run, saved=kept)


def commit_again(run: Run, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """COMMIT failed, or the supervisor before this one may have died between the last part and COMMIT, or after it."""
    target = run.find_saved(run.drain_target)
    if target is None or target.state is not SavedState.LOCAL:
        return next_target(run, policy)
    return run, (durable(run, target),) if target.holders <= target.drained else ()


def on_differs(run: Run, event: StoreDiffers, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """Shared storage does not hold what was written there: where the nodes still do, it is copied once more."""
    saved = run.find_saved(event.generation)
    text = f"checkpoint {event.generation}, read again from shared storage, is not what was written: {event.reason}"
    if saved is not None and saved.in_place and saved.state is SavedState.DURABLE:
        run = run.with_saved(replace(saved, state=SavedState.DAMAGED))
        return run, (Say(text=text, slug="store_differs"), Quarantine(generation=saved.generation, reason=event.reason))
    again = replace(saved, drained=frozenset(), packed={}, state=SavedState.LOCAL) if saved else None
    if again is None or saved is None or saved.state is not SavedState.DURABLE or not saved.parts:
        return run, (Say(text=text, slug="store_differs"),)
    if not again.at_hand(run.agents):
        return run, (Say(text=f"{text}; no node holds it any more", slug="store_differs"),)
    run, more = next_target(replace(run.with_saved(again), urgent=True), policy)
    return run, (Say(text=f"{text}; it is copied again from the nodes", slug="store_copied_again"), *more)


def unsafe(run: Run) -> bool:
    """Tell whether a whole checkpoint still waits to become durable."""
    newest = next((each for each in reversed(run.saved) if each.state in WHOLE), None)
    pending = any(each.state is SavedState.PENDING and each.parts for each in run.saved)
    return pending or (newest is not None and newest.state is SavedState.LOCAL)
