"""What to do after a failure: list the plans, price each, take the cheapest that is feasible, keep the losers' reasons.

A price is in expected lost node-seconds. Shrinking loses the given-up nodes for the rest of the horizon and one
restart of the others; a requeue loses every node for Slurm's delay and for the wait in the queue. Nobody knows that
wait, so it is taken to be as long as the horizon: a requeue is the plan of last resort unless the user prefers it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from ftslurm.core.diagnosis import Cause, Diagnosis
from ftslurm.core.placement import usable

HORIZON_S = 4 * 3600.0
REQUEUE_DELAY_S = 129.0
"""Slurm's own delay before a requeued job may start again: cred_expire + 1 s, and what the scheduler adds."""
RESTART_S = 5.0


class Kind(StrEnum):
    """What a plan does."""

    RELAUNCH = "relaunch"
    SHRINK = "shrink"
    REQUEUE = "requeue"
    ABORT = "abort"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the user allows, and how long the core waits for what; the unit of every `_s` is seconds.

    Attributes:
        continue_by: "requeue" or "none"; "auto" has been resolved before.
        wants_all_ranks: a checkpoint is complete only with a file of every rank.
        checkpoints: the run has checkpoints that ftslurm watches.
        union_wait_s: how long to wait for further nodes' parts of a checkpoint.
        first_union_wait_s: the same for the first one, before it is known which nodes hold parts. Too low: a node
            that is lost in the first save leaves half a checkpoint that looks whole.
        can_ask_to_save: there is a way to ask the program for a save.
    """

    ranks_per_node: int = 1
    min_nodes: int = 1
    world_multiple_of: int = 1
    prefer: tuple[str, ...] = ()
    continue_by: str = "requeue"
    max_attempts: int = 20
    no_progress_limit: int = 3
    max_requeues: int = 10
    checkpoints: bool = False
    wants_all_ranks: bool = False
    can_ask_to_save: bool = False
    union_wait_s: float = 1.0
    first_union_wait_s: float = 6.0
    agents_s: float = 30.0
    muster_s: float = 90.0
    fence_s: float = 15.0
    restore_s: float = 600.0
    grace_s: float = 60.0
    settle_s: float = 60.0
    reprobe_s: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Everything a plan depends on, besides the policy.

    Attributes:
        nodes: the nodes of the attempt that failed.
        live: the nodes that can be used now.
        wanted: how many nodes the user asked for.
        no_kill: the job survives the loss of a node.
        lost: nodes given up in this incident.
        attempts: how many attempts there have been.
        fruitless: attempts in a row that ended without a new checkpoint.
        repeated: the same application error as the time before, without progress in between.
        requeues: how many requeues there have been.
        remaining_s: seconds until the time limit, where known.
    """

    nodes: tuple[str, ...]
    live: tuple[str, ...]
    wanted: int
    no_kill: bool
    lost: tuple[str, ...] = ()
    attempts: int = 1
    fruitless: int = 0
    repeated: bool = False
    requeues: int = 0
    remaining_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The choice, its reason, and why each of the others lost."""

    kind: Kind
    nodes: tuple[str, ...]
    reason: str
    cost_node_s: float = 0.0
    rejected: tuple[tuple[Kind, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Option:
    kind: Kind
    nodes: tuple[str, ...]
    cost: float
    reason: str
    refusal: str = ""


def plan(found: Diagnosis, now: Situation, policy: Policy) -> Plan:
    """Return the cheapest feasible plan, or the one that the user's order of preference names first."""
    stop = _budget_stop(found, now, policy)
    if stop:
        return Plan(kind=Kind.ABORT, nodes=(), reason=stop)
    options = (_relaunch(now), _shrink(now, policy), _requeue(now, policy))
    feasible = [option for option in options if not option.refusal]
    refused = [(option.kind, option.refusal) for option in options if option.refusal]
    if not feasible:
        why = "; ".join(f"{kind}: {text}" for kind, text in refused)
        return Plan(kind=Kind.ABORT, nodes=(), reason=f"nothing is feasible ({why})", rejected=tuple(refused))
    chosen = min(feasible, key=lambda option: (_preference(option.kind, policy), option.cost))
    losers = [
        (
            option.kind,
            f"costs {option.cost:.0f} node-s against {chosen.cost:.0f}" if not policy.prefer else "preferred less",
        )
        for option in feasible
        if option is not chosen
    ]
    return Plan(
        kind=chosen.kind,
        nodes=chosen.nodes,
        reason=chosen.reason,
        cost_node_s=chosen.cost,
        rejected=tuple(refused + losers),
    )


def _budget_stop(found: Diagnosis, now: Situation, policy: Policy) -> str:
    """Return why no further attempt is worth it, or nothing. Crash loops end here."""
    if now.repeated:
        return f"the same application error twice without progress: {found.reason}"
    if now.attempts >= policy.max_attempts:
        return f"{now.attempts} attempts were made, max_attempts is {policy.max_attempts}; last: {found.reason}"
    if now.fruitless >= policy.no_progress_limit:
        return (
            f"{now.fruitless} attempts in a row ended without a new checkpoint, no_progress_limit is "
            f"{policy.no_progress_limit}; last: {found.reason}"
        )
    return ""


def _preference(kind: Kind, policy: Policy) -> int:
    if kind is Kind.RELAUNCH or not policy.prefer:
        return 0
    return policy.prefer.index(kind) + 1 if kind in policy.prefer else len(policy.prefer) + 1


def _relaunch(now: Situation) -> _Option:
    gone = [node for node in now.nodes if node not in now.live]
    if gone:
        return _Option(Kind.RELAUNCH, (), 0.0, "", f"{', '.join(gone)} cannot be used")
    cost = RESTART_S * len(now.nodes)
    return _Option(Kind.RELAUNCH, now.nodes, cost, f"all {len(now.nodes)} nodes of the attempt are usable")


def _shrink(now: Situation, policy: Policy) -> _Option:
    if all(node in now.live for node in now.nodes):
        return _Option(Kind.SHRINK, (), 0.0, "", "no node was lost")
    count = usable(now.live[: now.wanted], policy.ranks_per_node, policy.world_multiple_of)
    if count < max(policy.min_nodes, 1):
        return _Option(Kind.SHRINK, (), 0.0, "", f"{count} usable nodes are fewer than min_nodes {policy.min_nodes}")
    if not now.no_kill and now.lost:
        why = "the job was not submitted with --no-kill: Slurm ends it when the node goes DOWN"
        return _Option(Kind.SHRINK, (), 0.0, "", why)
    horizon = min(now.remaining_s, HORIZON_S) if now.remaining_s is not None else HORIZON_S
    missing = max(now.wanted, len(now.nodes)) - count
    cost = missing * horizon + RESTART_S * count
    reason = f"{count} of {len(now.nodes)} nodes are left, min_nodes is {policy.min_nodes}"
    return _Option(Kind.SHRINK, now.live[:count], cost, reason)


def _requeue(now: Situation, policy: Policy) -> _Option:
    if policy.continue_by != "requeue":
        return _Option(Kind.REQUEUE, (), 0.0, "", f"recovery.continue is {policy.continue_by}")
    if now.requeues >= policy.max_requeues:
        return _Option(Kind.REQUEUE, (), 0.0, "", f"{now.requeues} requeues were made already")
    horizon = min(now.remaining_s, HORIZON_S) if now.remaining_s is not None else HORIZON_S
    cost = now.wanted * (REQUEUE_DELAY_S + horizon)
    reason = f"{len(now.live)} usable nodes are left; Slurm is asked for {now.wanted} other ones"
    return _Option(Kind.REQUEUE, (), cost, reason)


ENVIRONMENT_CAUSES = frozenset({Cause.NODE_UNREACHABLE, Cause.NODE_FROZEN, Cause.NODE_DOWN, Cause.EXCISED})
"""Failures that are the cluster's fault: they never count against the program's no-progress budget."""


def fruitless_after(history: Sequence[tuple[Cause, bool]]) -> int:
    """Return how many attempts in a row, up to the last, ended by the program's doing and without progress.

    Args:
        history: per attempt, oldest first, why it ended and whether it got past the checkpoint it started from.
    """
    count = 0
    for cause, progressed in reversed(history):
        if progressed:
            break
        count += cause not in ENVIRONMENT_CAUSES
    return count
