"""What to do after a failure: list the plans, price each, take the cheapest that is feasible, keep the losers' reasons.

The plans: start again on the same nodes (relaunch), bring the world to its full size with idle nodes of the allocation
(spare), go on smaller (shrink), ask Slurm for other nodes (requeue), give up (abort). Prices are those of
`core.pricing`. A user's order of preference beats them, except that nobody has to name the two plans that cost no node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from ftslurm.core import pricing
from ftslurm.core.diagnosis import NODE_CAUSES, Cause, Diagnosis
from ftslurm.core.placement import NOWHERE, Places, Strategy, arranged, best_first, usable
from ftslurm.core.pricing import FREE, HORIZON_S, RESTART_S, Price, Rates
from ftslurm.core.scaling import Worth, worth

AS_EVER = "a node is taken to do as much as ever: the steps of no other world size are known"
NONE = "none"
"""A run that cannot go on in another job (`Policy.continue_by`)."""


class Kind(StrEnum):
    """What a plan does."""

    RELAUNCH = "relaunch"
    SPARE = "spare"
    SHRINK = "shrink"
    REQUEUE = "requeue"
    ABORT = "abort"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the user allows, and how long the core waits for what; the unit of every `_s` is seconds.

    Attributes:
        tasks_per_node: tasks of the job on a node, where they are not its ranks; 0: they are.
        continue_by: "requeue", "chain", "resubmit" or "none"; "auto" has been resolved before.
        wants_all_ranks: a checkpoint is complete only with a file of every rank.
        checkpoints: the run has checkpoints that ftslurm watches.
        union_wait_s: how long to wait for further nodes' parts of a checkpoint.
        first_union_wait_s: the same for the first one, before it is known which nodes hold parts. Too low: a node
            that is lost in the first save leaves half a checkpoint that looks whole.
        can_ask_to_save: there is a way to ask the program for a save.
        library: the program saves by `ftslurm.training`: it can be asked without being stopped.
        partner: every part of a checkpoint gets a copy on another node.
        in_place: checkpoints stay where the program writes them, on shared storage.
        reshards: another number of ranks can load a checkpoint.
        deadman_s: a node that hears nobody has ended its ranks after so long.
        durable_every_s: the shortest time between two drain targets; 0: as fast as storage takes them.
        drain_width: how many nodes copy to shared storage at a time.
        min_interval_s: the shortest time between two orders to save that nobody has asked for.
        on_nan: what follows a loss that is no number: "say", or "rollback" to the checkpoint before it.
        spares: nodes that are asked for beyond those that are used.
        world_sizes: the only numbers of ranks that the program can run with; empty: any.
        efficiency: the work of a node in a smaller world, as a share of that in the full one; None: as the run's own
            steps tell.
    """

    ranks_per_node: int = 1
    tasks_per_node: int = 0
    min_nodes: int = 1
    world_multiple_of: int = 1
    world_sizes: tuple[int, ...] = ()
    spares: int = 0
    placement: Strategy = Strategy.ROUND_ROBIN
    efficiency: float | None = None
    prefer: tuple[str, ...] = ()
    continue_by: str = "requeue"
    max_attempts: int = 20
    no_progress_limit: int = 3
    max_requeues: int = 10
    checkpoints: bool = False
    wants_all_ranks: bool = False
    can_ask_to_save: bool = False
    library: bool = False
    partner: bool = False
    in_place: bool = False
    reshards: bool = True
    deadman_s: float = 10.0
    durable_every_s: float = 0.0
    drain_width: int = 16
    min_interval_s: float = 30.0
    union_wait_s: float = 1.0
    first_union_wait_s: float = 6.0
    agents_s: float = 30.0
    muster_s: float = 90.0
    fence_s: float = 15.0
    restore_s: float = 600.0
    grace_s: float = 60.0
    settle_s: float = 60.0
    reprobe_s: float = 2.0
    on_nan: str = "say"


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
        places: what is known of where the nodes are and how loaded.
        restart_s: what a restart costs, as measured in this run.
        redo_s: how long the attempt has trained since its newest checkpoint.
        interval_s: the time between two checkpoints, 0 where not known.
        stepped: (ranks, seconds of a step), as often as measured in this run.
        queue_wait_s: how long a requeued job would wait, where that is known.
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
    places: Places = NOWHERE
    restart_s: float = RESTART_S
    redo_s: float = 0.0
    interval_s: float = 0.0
    stepped: tuple[tuple[int, float], ...] = ()
    queue_wait_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The choice, its reason and its price, and why each of the others lost."""

    kind: Kind
    nodes: tuple[str, ...]
    reason: str
    price: str = ""
    cost_node_s: float = 0.0
    rejected: tuple[tuple[Kind, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Option:
    kind: Kind
    nodes: tuple[str, ...] = ()
    price: Price = FREE
    reason: str = ""
    refusal: str = ""
    known: str = ""
    """What is known, or taken, that the price rests upon."""


def plan(found: Diagnosis, now: Situation, policy: Policy) -> Plan:
    """Return the cheapest feasible plan, or the one that the user's order of preference names first."""
    stop = _budget_stop(found, now, policy)
    if stop:
        return Plan(kind=Kind.ABORT, nodes=(), reason=stop)
    rates, parted = _rates(now), _parted(now)
    spare = _spare(now, policy, rates, parted)
    shrink = _shrink(now, policy, rates, parted) if spare.refusal else _shrink(now, policy, rates, parted.without_idle)
    options = (_relaunch(now, policy, rates, parted), spare, shrink, _requeue(now, policy, rates))
    feasible = [option for option in options if not option.refusal]
    refused = tuple((option.kind, option.refusal) for option in options if option.refusal)
    if not feasible:
        why = "; ".join(f"{kind}: {text}" for kind, text in refused)
        return Plan(kind=Kind.ABORT, nodes=(), reason=f"nothing is feasible ({why})", rejected=refused)
    chosen = min(feasible, key=lambda option: (_preference(option.kind, policy), option.price.total))
    losers = tuple((each.kind, _lost(each, chosen, policy)) for each in feasible if each is not chosen)
    return Plan(
        kind=chosen.kind,
        nodes=chosen.nodes,
        reason=chosen.reason,
        price=_price_words(chosen),
        cost_node_s=chosen.price.total,
        rejected=refused + losers,
    )


def _rates(now: Situation) -> Rates:
    """What prices are made of here. A world that was larger than what is wanted counts as wanted."""
    return Rates(
        wanted=max(now.wanted, len(now.nodes)),
        horizon_s=min(now.remaining_s, HORIZON_S) if now.remaining_s is not None else HORIZON_S,
        restart_s=now.restart_s,
        redo_node_s=now.redo_s * len(now.nodes),
        interval_s=now.interval_s,
        queue_wait_s=now.queue_wait_s,
    )


def worth_of(nodes: int, wanted: int, stepped: Sequence[tuple[int, float]], policy: Policy) -> Worth:
    """Return what a node does in a world of so many: as the user says, as the run's steps tell, else as much as ever.

    Args:
        nodes: the world's.
        wanted: those of the full one.
        stepped: (ranks, seconds of a step), as often as measured.
        policy: what the user says.
    """
    if policy.efficiency is not None:
        return Worth(share=policy.efficiency, reason=f"recovery.efficiency is {policy.efficiency:g}")
    ranks = policy.ranks_per_node
    learnt = worth(stepped, nodes * ranks, wanted * ranks) if nodes < wanted else None
    return learnt or Worth(share=1.0, reason=AS_EVER)


def _going_on(option: _Option, rates: Rates, now: Situation, policy: Policy) -> _Option:
    """The option with the price of going on with its nodes in this allocation."""
    nodes = len(option.nodes)
    found = worth_of(nodes, rates.wanted, now.stepped, policy)
    price = pricing.of_going_on(nodes, replace(rates, efficiency=found.share))
    return replace(option, price=price, known=found.reason if nodes < rates.wanted else "")


def _price_words(option: _Option) -> str:
    """What a plan is expected to cost, and of what that consists."""
    return f"expected to lose {option.price.words()}" + (f"; {option.known}" if option.known else "")


def _lost(option: _Option, chosen: _Option, policy: Policy) -> str:
    """Why a feasible plan was not taken."""
    price = f"costs {option.price.total:.0f} node-s against {chosen.price.total:.0f}"
    price += f"; {option.known}" if option.known else ""
    return f"preferred less; {price}" if policy.prefer else price


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
    free = kind is Kind.RELAUNCH or (kind is Kind.SPARE and kind not in policy.prefer)
    if free or not policy.prefer:
        return 0
    return policy.prefer.index(kind) + 1 if kind in policy.prefer else len(policy.prefer) + 1


@dataclass(frozen=True, slots=True)
class _Parted:
    """The attempt's nodes that are usable, those that are not, and usable ones that stand idle."""

    kept: list[str]
    gone: list[str]
    idle: list[str]

    @property
    def without_idle(self) -> _Parted:
        return _Parted(self.kept, self.gone, [])


def _parted(now: Situation) -> _Parted:
    live = frozenset(now.live)
    kept = [node for node in now.nodes if node in live]
    # With thousands of nodes each pass counts, and mostly none is gone or none stands idle.
    gone = [node for node in now.nodes if node not in live] if len(kept) < len(now.nodes) else []
    idle: list[str] = []
    if len(kept) < len(now.live):
        nodes = frozenset(now.nodes)
        idle = [node for node in now.live if node not in nodes]
    return _Parted(kept, gone, idle)


def _relaunch(now: Situation, policy: Policy, rates: Rates, parted: _Parted) -> _Option:
    if parted.gone:
        return _Option(Kind.RELAUNCH, refusal=f"{', '.join(parted.gone)} cannot be used")
    reason = f"all {len(now.nodes)} nodes of the attempt are usable"
    return _going_on(_Option(Kind.RELAUNCH, now.nodes, reason=reason), rates, now, policy)


def _spare(now: Situation, policy: Policy, rates: Rates, parted: _Parted) -> _Option:
    """Fill the world up, to its size before or more, with nodes that stand idle."""
    kept, idle = parted.kept, parted.idle
    if not idle:
        return _Option(Kind.SPARE, refusal="no idle node is held")
    nodes = _chosen(now, policy, kept, idle)
    added = len(set(nodes) - set(kept))
    if len(nodes) < max(len(now.nodes), policy.min_nodes, 1) or not added:
        text = f"{len(kept)} nodes of the attempt and {len(idle)} idle ones make no larger world than is left"
        return _Option(Kind.SPARE, refusal=text)
    if not now.no_kill and now.lost:
        return _Option(Kind.SPARE, refusal=_NO_KILL)
    reason = f"{added} of {len(idle)} idle nodes of the allocation bring the world to {len(nodes)} nodes"
    return _going_on(_Option(Kind.SPARE, nodes, reason=reason), rates, now, policy)


FIXED_WORLD = "checkpoint.reshards is no: only as many ranks as wrote a checkpoint can load it"
_NO_KILL = "the job was not submitted with --no-kill: Slurm ends it when the node goes DOWN"


def _chosen(now: Situation, policy: Policy, kept: list[str], idle: list[str]) -> tuple[str, ...]:
    """Return the largest allowed world, survivors first, then idle nodes, each as the strategy ranks them."""
    ranked = (
        *best_first(kept, policy.placement, now.places),
        *best_first(idle, policy.placement, now.places, near=kept),
    )[: now.wanted if policy.reshards else len(now.nodes)]
    count = usable(ranked, policy.ranks_per_node, policy.world_multiple_of, policy.world_sizes)
    return arranged(now.live, ranked[:count], policy.placement, now.places)


def _shrink(now: Situation, policy: Policy, rates: Rates, parted: _Parted) -> _Option:
    """Go on smaller; idle nodes help, except where they could make the world whole (that is the other plan)."""
    if not parted.gone:
        return _Option(Kind.SHRINK, refusal="no node was lost")
    if not policy.reshards:
        return _Option(Kind.SHRINK, refusal=FIXED_WORLD)
    nodes = _chosen(now, policy, parted.kept, parted.idle)
    if len(nodes) < max(policy.min_nodes, 1):
        text = f"{len(nodes)} usable nodes are fewer than min_nodes {policy.min_nodes}"
        return _Option(Kind.SHRINK, refusal=text)
    if not now.no_kill and now.lost:
        return _Option(Kind.SHRINK, refusal=_NO_KILL)
    reason = f"{len(nodes)} of {len(now.nodes)} nodes are left, min_nodes is {policy.min_nodes}"
    return _going_on(_Option(Kind.SHRINK, nodes, reason=reason), rates, now, policy)


_ASKED = {
    "requeue": "Slurm is asked for",
    "chain": "the next job of the chain asks for",
    "resubmit": "a new job asks for",
}


def _requeue(now: Situation, policy: Policy, rates: Rates) -> _Option:
    if policy.continue_by == NONE:
        return _Option(Kind.REQUEUE, refusal=f"recovery.continue is {policy.continue_by}")
    if now.requeues >= policy.max_requeues:
        return _Option(Kind.REQUEUE, refusal=f"{now.requeues} requeues were made already")
    reason = (
        f"{len(now.live)} usable nodes are left; {_ASKED[policy.continue_by]} {now.wanted + policy.spares} other ones"
    )
    return _Option(Kind.REQUEUE, (), pricing.of_requeue(rates), reason, known=pricing.wait_words(rates))


def price_of(kind: Kind, nodes: int, now: Situation, policy: Policy) -> Price:
    """Return what a plan on so many nodes costs in a situation, by a policy's assumptions; giving up costs nothing."""
    if kind is Kind.ABORT:
        return FREE
    rates = _rates(now)
    if kind is Kind.REQUEUE:
        return pricing.of_requeue(rates)
    share = worth_of(nodes, rates.wanted, now.stepped, policy).share
    return pricing.of_going_on(nodes, replace(rates, efficiency=share))


ENVIRONMENT_CAUSES = NODE_CAUSES | {Cause.GPU, Cause.FABRIC}
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
