"""Checkpoints in the life of a run: from files that a node reports to a commit on shared storage.

A checkpoint is the union over nodes of the files of one step of one attempt. It is LOCAL when no node still sees
unfinished files of it and the wait for further nodes is over (or every rank's file is there, where the pattern names
ranks). The newest LOCAL one becomes the single drain target of the job; when all its parts lie on shared storage the
supervisor commits it: DURABLE. Older LOCAL ones are skipped, never queued: storage slower than the save rate must not
starve durability.
"""

from __future__ import annotations

from dataclasses import replace

from ftslurm.core.actions import Action, CleanScratch, CommitDurable, CommitLocal, Drain, Say, SetTimer
from ftslurm.core.events import GenerationDurable, PartDrained, PartPending, PartSaved, StoreScanned
from ftslurm.core.manifest import generation_name, parse_generation
from ftslurm.core.recovery import Policy
from ftslurm.core.state import Run, Saved, SavedState

RETRY_S = 5.0
WHOLE = (SavedState.LOCAL, SavedState.DURABLE)
UNION = "union:"
RETRY = "drain:"


def set_timer(run: Run, name: str, after_s: float) -> tuple[Run, SetTimer]:
    """Return the run with a timer set, replacing one of the same name, and the action that starts it."""
    token = run.next_token
    timers = {**run.timers, name: token}
    return replace(run, timers=timers, next_token=token + 1), SetTimer(name=name, token=token, after_s=after_s)


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


def on_part(run: Run, event: PartSaved, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """A node holds complete files of a checkpoint. A part of an attempt that is not live counts no more."""
    if not _counts(run, event.attempt, event.part.node):
        return run, ()
    name = generation_name(event.step, event.attempt)
    saved = run.find_saved(name) or _fresh(name, event.step, event.attempt, event.world_size)
    if saved.state is not SavedState.PENDING or any(part == event.part for part in saved.parts):
        return run, ()
    parts = (*(part for part in saved.parts if part.node != event.part.node), event.part)
    changed = replace(
        saved, parts=parts, pending=saved.pending - {event.part.node}, world_size=event.world_size or saved.world_size
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
    return _commit_local(run, saved) if _is_whole(run, saved, policy) else (run, ())


def adopt(run: Run, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """A supervisor was started again: the waits for further nodes' parts begin anew."""
    actions: tuple[Action, ...] = ()
    for saved in run.saved:
        if saved.state is SavedState.PENDING and saved.parts and not policy.wants_all_ranks:
            run, timer = _wait_for_union(run, saved, policy)
            actions += (timer,)
    return run, actions


def _wait_for_union(run: Run, saved: Saved, policy: Policy) -> tuple[Run, SetTimer]:
    known = _enough(run, saved, policy) is not None
    return set_timer(run, UNION + saved.generation, policy.union_wait_s if known else policy.first_union_wait_s)


def _is_whole(run: Run, saved: Saved, policy: Policy) -> bool:
    """Tell whether the parts that are there are all: as many as the time before, or nobody can have lost one."""
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
    if policy.wants_all_ranks:
        ranks = {rank for part in saved.parts for rank in part.ranks}
        return _commit_local(run, saved) if len(ranks) >= saved.world_size > 0 else (run, ())
    if saved.holders >= _expected(run):
        return _commit_local(run, saved)
    run, timer = _wait_for_union(run, saved, policy)
    return run, (timer,)


def _expected(run: Run) -> frozenset[str]:
    return frozenset(run.attempt.nodes) if run.attempt else frozenset()


def _commit_local(run: Run, saved: Saved) -> tuple[Run, tuple[Action, ...]]:
    local = replace(saved, state=SavedState.LOCAL)
    run = replace(run.with_saved(local), saw_save=True)
    commit = CommitLocal(
        generation=local.generation, step=local.step, world_size=max(local.world_size, 1), parts=local.parts
    )
    run, more = next_target(run)
    return run, (commit, *more)


def next_target(run: Run) -> tuple[Run, tuple[Action, ...]]:
    """Name the newest LOCAL checkpoint as the job's drain target, unless one is being drained."""
    current = run.find_saved(run.drain_target)
    if current is not None and current.state is SavedState.LOCAL:
        return run, ()
    for saved in reversed(run.saved):
        if saved.state is SavedState.DURABLE:
            break
        if saved.state is SavedState.LOCAL and saved.holders <= run.agents | saved.drained:
            return replace(run, drain_target=saved.generation), (_drain(saved),)
    return replace(run, drain_target=""), ()


def _drain(saved: Saved) -> Drain:
    return Drain(generation=saved.generation, nodes=tuple(sorted(saved.holders - saved.drained)))


def drain_now(run: Run, saved: Saved) -> tuple[Run, tuple[Action, ...]]:
    """Make a LOCAL checkpoint the drain target, whatever is being drained: an attempt waits for it."""
    ask = _durable(saved) if saved.holders <= saved.drained else _drain(saved)
    return replace(run, drain_target=saved.generation), (ask,)


def on_drain_again(run: Run, rest: str) -> tuple[Run, tuple[Action, ...]]:
    """The pause after a failed copy (of one node) or a failed commit is over; the other nodes may still be busy."""
    generation, _, node = rest.partition("/")
    if generation != run.drain_target:
        return run, ()
    return on_agent_back(run, node) if node else _commit_again(run)


def on_agent_back(run: Run, node: str) -> tuple[Run, tuple[Action, ...]]:
    """Ask an agent for what it has failed to do, or the one before it had been asked for."""
    saved = run.find_saved(run.drain_target)
    if saved is None or saved.state is not SavedState.LOCAL:
        return next_target(run)
    if node not in saved.holders - saved.drained:
        return run, ()
    return run, (Drain(generation=saved.generation, nodes=(node,)),)


def on_drained(run: Run, event: PartDrained, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """A node's part lies on shared storage, or could not be copied: then it is tried again after a while."""
    del policy
    saved = run.find_saved(event.generation)
    if saved is None or saved.state is not SavedState.LOCAL or event.node in saved.drained:
        return run, ()
    if event.error:
        run, timer = set_timer(run, f"{RETRY}{event.generation}/{event.node}", RETRY_S)
        text = f"checkpoint {event.generation}: {event.node} cannot copy its part to shared storage yet: {event.error}"
        return run, (Say(text=text, slug="drain_failed"), timer)
    changed = replace(saved, drained=saved.drained | {event.node})
    run = run.with_saved(changed)
    return run, (_durable(changed),) if changed.drained >= changed.holders else ()


def _durable(saved: Saved) -> CommitDurable:
    return CommitDurable(generation=saved.generation, step=saved.step, world_size=saved.world_size, parts=saved.parts)


def on_durable(run: Run, event: GenerationDurable, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """A generation is committed on shared storage: older ones may leave scratch, the next newest may be drained."""
    del policy
    saved = run.find_saved(event.generation)
    if saved is None or saved.state not in (SavedState.LOCAL, SavedState.DURABLE):
        return run, ()
    if event.error:
        run, timer = set_timer(run, RETRY + event.generation, RETRY_S)
        return run, (
            Say(text=f"checkpoint {event.generation}: commit failed: {event.error}", slug="commit_failed"),
            timer,
        )
    run = run.with_saved(replace(saved, state=SavedState.DURABLE))
    order = (saved.step, saved.attempt)
    kept = [each for each in run.saved if each.generation not in event.dropped and not _passed_over(each, order)]
    run, more = next_target(replace(run, saved=tuple(kept)))
    return run, (CleanScratch(watermark=event.generation), *more)


def _passed_over(saved: Saved, order: tuple[int, int]) -> bool:
    """An older checkpoint that never became durable is of no use once a newer one is."""
    return saved.state in (SavedState.LOCAL, SavedState.LOST) and (saved.step, saved.attempt) < order


def on_scanned(run: Run, event: StoreScanned) -> tuple[Run, tuple[Action, ...]]:
    """What lies committed on shared storage is the truth about DURABLE, whatever the journal remembers."""
    found = {name for name, _, _ in event.generations}
    kept = [each for each in run.saved if each.state is not SavedState.DURABLE or each.generation in found]
    kept = [each for each in kept if each.generation not in event.abandoned]
    run = replace(run, saved=tuple(kept), scanned=True)
    for name, step, world in event.generations:
        known = run.find_saved(name)
        if known is not None and known.state is SavedState.DAMAGED:
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
    run, more = _commit_again(run)
    return run, said + more


def _commit_again(run: Run) -> tuple[Run, tuple[Action, ...]]:
    """COMMIT failed, or the supervisor before this one may have died between the last part and COMMIT, or after it."""
    target = run.find_saved(run.drain_target)
    if target is None or target.state is not SavedState.LOCAL:
        return next_target(run)
    return run, (_durable(target),) if target.holders <= target.drained else ()


def forget_node(run: Run, node: str) -> Run:
    """Return the run after a node has been given up: checkpoints that only it held, and that are not safe, are lost."""
    kept = []
    for saved in run.saved:
        exposed = saved.state in (SavedState.LOCAL, SavedState.PENDING) and node in saved.holders - saved.drained
        waiting = saved.state is SavedState.PENDING and node in saved.pending
        kept.append(replace(saved, state=SavedState.LOST) if exposed or waiting else saved)
    lost_target = any(each.generation == run.drain_target and each.state is SavedState.LOST for each in kept)
    return replace(run, saved=tuple(kept), drain_target="" if lost_target else run.drain_target)


def settle_stopped(run: Run, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """The attempt is gone and every live node has told what it holds: what is whole is LOCAL, the rest is dropped.

    What nobody knows is what a lost node held, or what a killed rank would still have written: so a checkpoint counts
    when as many nodes hold parts as of the whole one before it.
    """
    actions: tuple[Action, ...] = ()
    for saved in [each for each in run.saved if each.state is SavedState.PENDING and run.attempt]:
        whole = saved.parts and not saved.pending and _is_whole(run, saved, policy)
        if whole and not _lacks_ranks(saved):
            run, more = _commit_local(run, saved)
            actions += more
    return drop_unfinished(run), actions


def _lacks_ranks(saved: Saved) -> bool:
    """Where files are named by rank, every rank's must be there."""
    ranks = {rank for part in saved.parts for rank in part.ranks}
    return bool(ranks) and len(ranks) < saved.world_size


def drop_unfinished(run: Run) -> Run:
    """Return the run without checkpoints that never became whole: their writers are gone."""
    return replace(run, saved=tuple(each for each in run.saved if each.state is not SavedState.PENDING))


def unsafe(run: Run) -> bool:
    """Tell whether a whole checkpoint still waits to become durable."""
    newest = next((each for each in reversed(run.saved) if each.state in WHOLE), None)
    pending = any(each.state is SavedState.PENDING and each.parts for each in run.saved)
    return pending or (newest is not None and newest.state is SavedState.LOCAL)
