"""Whom a fault hits: where a run is now, and a draw that is written down, so that it can be repeated."""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ftslurm import journal
from ftslurm.core.actions import ReleaseRanks
from ftslurm.core.events import AllocationGranted, Phase
from ftslurm.errors import TryAgain, UsageError
from ftslurm.faults.fault import Fault, Where
from ftslurm.faults.means import Placing, Target
from ftslurm.insight.summary import phase_of
from ftslurm.paths import RunPaths

RUNS = frozenset({Phase.TRAINING, Phase.SUSPECTING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the user asks for; what he leaves open is drawn. `avoid` are nodes that were broken before."""

    node: str = ""
    rank: int | None = None
    seed: int | None = None
    avoid: Collection[str] = ()


def placing(paths: RunPaths, *, training: bool = True) -> Placing:
    """Where a run is, or was last; with `training` it has to train now.

    Raises:
        TryAgain: it does not.
    """
    released: ReleaseRanks | None = None
    allocation: Sequence[str] = ()
    phase = Phase.SUBMITTED
    for entry in journal.read(paths):
        phase = phase_of(entry)
        if isinstance(entry.event, AllocationGranted):
            allocation = entry.event.nodes
        for action in entry.actions:
            released = action if isinstance(action, ReleaseRanks) else released
    if released is None or (training and phase not in RUNS):
        hint = f"`ftslurm status {paths.run_id}` says where it stands"
        raise TryAgain(f"run {paths.run_id} is {phase}: only a run that trains can be broken", hint=hint)
    holder = journal.holder(paths)
    return Placing(
        placement=released.placement,
        host=holder.host if holder else "",
        attempt=released.attempt,
        allocation=tuple(allocation),
    )


def choose(fault: Fault, paths: RunPaths, now: Placing, wish: Wish) -> Target:
    """Whom a fault hits.

    Raises:
        UsageError: the run has no such rank or node, or the fault is not done to one.
    """
    seed = wish.seed if wish.seed is not None else random.SystemRandom().randrange(2**32)
    dice = random.Random(seed)  # noqa: S311 - a draw that can be repeated
    if fault.where in (Where.RANK, Where.PROGRAM):
        ranks = _ranks(fault, now, wish)
        rank = dice.choice(ranks)
        draw = {"seed": seed, "of": ranks, "drawn": rank}
        return Target(paths=paths, node=now.placement[rank], rank=rank, attempt=now.attempt, draw=draw)
    _refuse_rank(fault, wish)
    if fault.where is Where.NODE:
        nodes = _nodes(fault, now, wish)
        node = dice.choice(nodes)
        draw = {"seed": seed, "of": nodes, "drawn": node}
        return Target(paths=paths, node=node, attempt=now.attempt, draw=draw)
    if wish.node:
        raise UsageError(f"{fault.name} is done to the {fault.where}, not to a node of one's choice")
    node = now.host if fault.where in (Where.HOST, Where.SUPERVISOR) else ""
    return Target(paths=paths, node=node, attempt=now.attempt, draw={"seed": seed})


def _refuse_rank(fault: Fault, wish: Wish) -> None:
    if wish.rank is not None:
        raise UsageError(f"{fault.name} is done to the {fault.where}, not to a rank", hint="leave --rank out")


def _ranks(fault: Fault, now: Placing, wish: Wish) -> list[int]:
    count = len(now.placement)
    if wish.rank is not None:
        if not 0 <= wish.rank < count or wish.node not in ("", now.placement[wish.rank]):
            raise UsageError(f"there is no rank {wish.rank} there: the run has ranks 0 to {count - 1}")
        return [wish.rank]
    found = [rank for rank, node in enumerate(now.placement) if wish.node in ("", node) and node not in wish.avoid]
    if not found:
        raise UsageError(f"no rank for {fault.name} runs on {wish.node or 'a node that is well'}")
    return found


def _nodes(fault: Fault, now: Placing, wish: Wish) -> list[str]:
    """The nodes of the attempt; not the supervisor's, as long as there is another and nobody asks for it."""
    nodes = [node for node in dict.fromkeys(now.placement) if node not in wish.avoid]
    if wish.node:
        if wish.node not in nodes:
            raise UsageError(f"the run has no rank on {wish.node}", hint=f"it runs on {', '.join(nodes)}")
        return [wish.node]
    found = [node for node in nodes if node != now.host] or nodes
    if not found:
        raise UsageError(f"no node is left for {fault.name}")
    return found


def await_attempt(paths: RunPaths, after: int, patience_s: float, *, trains: bool) -> None:
    """Wait until an attempt later than `after` was launched, or `trains`.

    Raises:
        TryAgain: that did not come in time.
    """
    from ftslurm.insight.remembered import Cache

    cache, until = Cache(), time.monotonic() + patience_s
    while True:
        now = cache.of(paths)
        if (now.attempt or 0) > after and (not trains or now.phase is Phase.TRAINING):
            return
        if now.over or time.monotonic() > until:
            raise TryAgain(f"the run is {now.phase}: no later attempt than {after} within {patience_s:g} s")
        time.sleep(0.05)
