"""Checkpoints in the life of a run: from files that a node reports to a whole that counts.

A checkpoint is the union over nodes of the files of one step of one attempt. It is LOCAL when no node still sees
unfinished files of it and the wait for further nodes is over (or every rank's file is there, where the pattern names
ranks). Then `core.draining` brings it to shared storage, and `core.copies` to partners.
"""

from __future__ import annotations

from dataclasses import replace

from ftslurm.core.actions import Action, CommitLocal, Quarantine, Say, SetTimer
from ftslurm.core.copies import replicate
from ftslurm.core.draining import WHOLE, commit_again, next_target
from ftslurm.core.events import Part, PartPending, PartSaved, StoreScanned
from ftslurm.core.manifest import generation_name, parse_generation
from ftslurm.core.recovery import Policy
from ftslurm.core.state import Run, Saved, SavedState
from ftslurm.core.timers import set_timer

UNION = "union:"
KEPT = (SavedState.DAMAGED, SavedState.SUSPECT)
"""Words about shared storage do not make these good again."""


def on_pending(run: Run, event: PartPending, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """A node sees unfinished files, or sees them no more."""
    if not _counts(run, event.attempt, event.node):
        return run, ()
    name = generation_name(event.step, event.attempt)
    saved = run.find_saved(name)
    if saved is None:
        if event.gone:
            return run, ()
        saved = _fresh(name, event.step, event.attempt, 0)
    if saved.state is not SavedState.PENDING:
        return run, ()
    pending = saved.pending - {event.node} if event.gone else saved.pending | {event.node}
    changed = replace(saved, pending=pending, torn=saved.torn | {event.node} if event.gone else saved.torn)
    if not changed.pending and not changed.parts:
        return replace(run, saved=tuple(each for each in run.saved if each.generation != name)), ()
    return _settle(run.with_saved(changed), changed, policy)


def _agreed(run: Run, saved: Saved) -> bool:
    """Tell whether every node of the attempt calls the same files complete: each vouches for its own writers."""
    told = {part.manifest_digest for part in saved.parts}
    return len(told) == 1 and saved.holders >= _expected(run)


def _is_same(one: Part, other: Part) -> bool:
    return one.manifest_digest == other.manifest_digest


def _again(run: Run, saved: Saved) -> tuple[Run, Saved]:
    """The program has written more into a checkpoint that every node called complete: it is thought of anew."""
    target = "" if run.drain_target == saved.generation else run.drain_target
    fresh = _fresh(saved.generation, saved.step, saved.attempt, saved.world_size)
    return replace(run, drain_target=target), replace(fresh, in_place=True)


def on_part(run: Run, event: PartSaved, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """A node holds complete files of a checkpoint. A part of an attempt that is not live counts no more."""
    if not _counts(run, event.attempt, event.part.node):
        return run, ()
    name = generation_name(event.step, event.attempt)
    saved = run.find_saved(name) or _fresh(name, event.step, event.attempt, event.world_size)
    if saved.in_place and saved.state in WHOLE and not any(_is_same(part, event.part) for part in saved.parts):
        run, saved = _again(run, saved)
    if saved.state is not SavedState.PENDING or any(part == event.part for part in saved.parts):
        return run, ()
    parts = (*(part for part in saved.parts if part.node != event.part.node), event.part)
    changed = replace(
        saved,
        in_place=policy.in_place,
        parts=parts,
        pending=saved.pending - {event.part.node},
        world_size=event.world_size or saved.world_size,
        about=event.about or saved.about,
    )
    return _settle(run.with_saved(changed), changed, policy)


def on_union_over(run: Run, name: str, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """The wait for further nodes' parts is over, unless a node that has none may be lost in the middle of the save.

    What is not whole by its usual holders waits for them; when the attempt is stopped, `settle_stopped` decides.
    """
    saved, attempt = run.find_saved(name), run.attempt
    if saved is None or saved.state is not SavedState.PENDING or saved.pending or not saved.parts:
        return run, ()
    if attempt is None or attempt.number != saved.attempt or attempt.fencing:
        return run, ()
    if set(attempt.nodes) - saved.holders - (run.agents - set(run.suspects)):
        run, timer = set_timer(run, UNION + name, policy.union_wait_s)
        return run, (timer,)
    return _commit_local(run, saved, policy) if _is_whole(run, saved, policy) else (run, ())


def adopt(run: Run, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """A supervisor was started again: the waits for further nodes' parts begin anew."""
    actions: tuple[Action, ...] = ()
    for saved in run.saved:
        if saved.state is SavedState.PENDING and saved.parts and not (policy.wants_all_ranks or policy.in_place):
            run, timer = _wait_for_union(run, saved, policy)
            actions += (timer,)
    return run, actions


def _wait_for_union(run: Run, saved: Saved, policy: Policy) -> tuple[Run, SetTimer]:
    known = _enough(run, saved, policy) is not None
    return set_timer(run, UNION + saved.generation, policy.union_wait_s if known else policy.first_union_wait_s)


def _is_whole(run: Run, saved: Saved, policy: Policy) -> bool:
    """Tell whether the parts that are there are all: as many as the time before, or nobody can have lost one."""
    if policy.in_place:
        return _agreed(run, saved)
    attempt = run.current
    # A rank that was asked to save and then left by itself had its time to write.
    asked = run.stop is not None and run.stop.save
    killed = {each.node for each in attempt.failed if each.signal or not asked}
    clean = len(attempt.ended) == attempt.world_size and not killed
    enough = None if clean else _enough(run, saved, policy)
    if enough is not None:
        return enough
    if attempt.fencing and not clean:
        return saved.holders >= set(attempt.nodes)
    return not (saved.torn | attempt.blind | killed | set(run.incident)) - saved.holders


def _enough(run: Run, saved: Saved, policy: Policy) -> bool | None:
    """Tell whether as many nodes hold parts of a checkpoint as did of the one before; None for the first of all."""
    before = [each for each in run.saved if each.state in WHOLE and each.parts and each is not saved]
    if not before:
        return None
    if before[-1].attempt == saved.attempt:
        return saved.holders >= before[-1].holders
    holders, nodes = len(before[-1].holders), _expected(run)
    everyone = holders * policy.ranks_per_node >= before[-1].world_size
    return saved.holders >= nodes if everyone else len(saved.holders) >= min(holders, len(nodes))


def _counts(run: Run, attempt: int, node: str) -> bool:
    """Only the live attempt's files count: of an older one, a late part alone would pass for a whole checkpoint."""
    return run.attempt is not None and run.attempt.number == attempt and node not in run.condemned


def _fresh(name: str, step: int, attempt: int, world_size: int) -> Saved:
    return Saved(generation=name, step=step, attempt=attempt, world_size=world_size, state=SavedState.PENDING)


def _settle(run: Run, saved: Saved, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """Commit locally when nothing is missing; else wait for the other nodes."""
    if saved.pending or not saved.parts:
        return run, ()
    if policy.in_place:
        return _commit_local(run, saved, policy) if _agreed(run, saved) else (run, ())
    if policy.wants_all_ranks:
        ranks = {rank for part in saved.parts for rank in part.ranks}
        return _commit_local(run, saved, policy) if len(ranks) >= saved.world_size > 0 else (run, ())
    if saved.holders >= _expected(run):
        return _commit_local(run, saved, policy)
    run, timer = _wait_for_union(run, saved, policy)
    return run, (timer,)


def _expected(run: Run) -> frozenset[str]:
    return frozenset(run.attempt.nodes) if run.attempt else frozenset()


def _commit_local(run: Run, saved: Saved, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    first = run.current.spoilt_from
    if first is not None and saved.step >= first:
        reason = f"the loss was no number at step {first}"
        damaged = replace(saved, state=SavedState.DAMAGED)
        return run.with_saved(damaged), (Quarantine(generation=saved.generation, reason=reason),)
    local = replace(saved, state=SavedState.LOCAL)
    run = replace(run.with_saved(local), saw_save=True)
    run, more = next_target(run, policy)
    return run, (_local(local), *replicate(run, policy), *more)


def _local(saved: Saved) -> CommitLocal:
    return CommitLocal(
        generation=saved.generation,
        step=saved.step,
        world_size=max(saved.world_size, 1),
        parts=saved.parts,
        about=saved.about,
    )


def whole_on_nodes(run: Run) -> tuple[CommitLocal, ...]:
    """What an agent has to be told that was not there before: its ranks may build upon these.

    They are the LOCAL ones, and the newest of those that are DURABLE.
    """
    known = [each for each in run.saved if each.parts and each.state in WHOLE]
    newest = [each for each in known if each.state is SavedState.DURABLE][-1:]
    return tuple(_local(each) for each in known if each.state is SavedState.LOCAL or each in newest)


def on_scanned(run: Run, event: StoreScanned, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """What lies committed on shared storage is the truth about DURABLE, whatever the journal remembers."""
    found = {name for name, _, _ in event.generations}
    kept = [each for each in run.saved if each.state is not SavedState.DURABLE or each.generation in found]
    kept = [each for each in kept if each.generation not in event.abandoned]
    run = replace(run, saved=tuple(kept), scanned=True)
    for name, step, world in event.generations:
        known = run.find_saved(name)
        if known is not None and known.state in KEPT:
            continue
        attempt = int(name.rpartition("-")[2])
        base = known or _fresh(name, step, attempt, world)
        run = run.with_saved(replace(base, state=SavedState.DURABLE, pending=frozenset()))
    said = tuple(
        Say(text=f"checkpoint {name} is damaged and not used: {why}", slug="checkpoint_refused")
        for name, why in event.refused
    )
    for name, _ in event.refused:
        # Remembered, so that a run whose checkpoints are all damaged never starts from the beginning silently.
        step, attempt = parse_generation(name)
        base = run.find_saved(name) or _fresh(name, step, attempt, 0)
        run = run.with_saved(replace(base, state=SavedState.DAMAGED, pending=frozenset()))
    run, more = commit_again(run, policy)
    return run, said + more


def settle_stopped(run: Run, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """The attempt is gone and every live node has told what it holds: what is whole is LOCAL, the rest is dropped.

    What nobody knows is what a lost node held, or what a killed rank would still have written: so a checkpoint counts
    when as many nodes hold parts as of the whole one before it.
    """
    actions: tuple[Action, ...] = ()
    for saved in [each for each in run.saved if each.state is SavedState.PENDING and run.attempt]:
        whole = saved.parts and not saved.pending and _is_whole(run, saved, policy)
        if whole and not _lacks_ranks(saved):
            run, more = _commit_local(run, saved, policy)
            actions += more
    return drop_unfinished(run), actions


def _lacks_ranks(saved: Saved) -> bool:
    """Where files are named by rank, every rank's must be there."""
    ranks = {rank for part in saved.parts for rank in part.ranks}
    return bool(ranks) and len(ranks) < saved.world_size


def drop_unfinished(run: Run) -> Run:
    """Return the run without checkpoints that never became whole: their writers are gone."""
    return replace(run, saved=tuple(each for each in run.saved if each.state is not SavedState.PENDING))
