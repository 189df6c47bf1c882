from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.core.diagnosis import Cause, Diagnosis, Scope
from ftslurm.core.placement import NOWHERE, Places, Strategy
from ftslurm.core.recovery import ENVIRONMENT_CAUSES, Kind, Policy, Situation, fruitless_after, plan

FOUND = Diagnosis(cause=Cause.RANK_KILLED, scope=Scope.RANK, where="1@n1", confidence=0.8, reason="rank 1 was killed")
FOUR = ("n1", "n2", "n3", "n4")
WHOLE = Situation(nodes=FOUR, live=FOUR, wanted=4, no_kill=True)
ONE_LOST = replace(WHOLE, live=("n1", "n3", "n4"), lost=("n2",))
SPARED = replace(ONE_LOST, live=("n1", "n3", "n4", "n5"))
ISLANDS = Places(switches={"n1": "a", "n3": "a", "n4": "b", "n5": "c", "n6": "a"})


@pytest.mark.parametrize(
    ("now", "policy", "kind", "nodes"),
    [
        (WHOLE, Policy(), Kind.RELAUNCH, FOUR),
        (WHOLE, Policy(prefer=("requeue", "shrink")), Kind.RELAUNCH, FOUR),
        (ONE_LOST, Policy(), Kind.SHRINK, ("n1", "n3", "n4")),
        (ONE_LOST, Policy(prefer=("requeue", "shrink")), Kind.REQUEUE, ()),
        (ONE_LOST, Policy(prefer=("shrink",)), Kind.SHRINK, ("n1", "n3", "n4")),
        (ONE_LOST, Policy(min_nodes=4), Kind.REQUEUE, ()),
        (ONE_LOST, Policy(min_nodes=4, continue_by="none"), Kind.ABORT, ()),
        (ONE_LOST, Policy(world_multiple_of=2), Kind.SHRINK, ("n1", "n3")),
        (ONE_LOST, Policy(world_multiple_of=8), Kind.REQUEUE, ()),
        (replace(ONE_LOST, no_kill=False), Policy(), Kind.REQUEUE, ()),
        (replace(ONE_LOST, requeues=10), Policy(min_nodes=4), Kind.ABORT, ()),
        (SPARED, Policy(), Kind.SPARE, ("n1", "n3", "n4", "n5")),
        (SPARED, Policy(prefer=("shrink", "requeue")), Kind.SPARE, ("n1", "n3", "n4", "n5")),
        (SPARED, Policy(prefer=("shrink", "spare")), Kind.SHRINK, ("n1", "n3", "n4")),
        (SPARED, Policy(prefer=("requeue", "spare")), Kind.REQUEUE, ()),
        (SPARED, Policy(min_nodes=4), Kind.SPARE, ("n1", "n3", "n4", "n5")),
        (replace(SPARED, no_kill=False), Policy(), Kind.REQUEUE, ()),
        (replace(SPARED, live=("n1", "n3", "n4", "n5", "n6")), Policy(), Kind.SPARE, ("n1", "n3", "n4", "n5")),
        (replace(SPARED, live=("n1", "n3", "n5"), lost=("n2", "n4")), Policy(), Kind.SHRINK, ("n1", "n3", "n5")),
        (replace(WHOLE, nodes=("n1", "n2", "n3")), Policy(), Kind.SPARE, FOUR),
        (replace(WHOLE, nodes=("n1", "n2", "n3")), Policy(world_sizes=(3,)), Kind.RELAUNCH, ("n1", "n2", "n3")),
        (ONE_LOST, Policy(world_sizes=(1, 2, 4)), Kind.SHRINK, ("n1", "n3")),
        (ONE_LOST, Policy(world_sizes=(4,)), Kind.REQUEUE, ()),
        (replace(ONE_LOST, queue_wait_s=60.0), Policy(), Kind.REQUEUE, ()),
        (replace(ONE_LOST, queue_wait_s=60.0, remaining_s=600.0), Policy(), Kind.SHRINK, ("n1", "n3", "n4")),
        (replace(ONE_LOST, queue_wait_s=7200.0), Policy(), Kind.SHRINK, ("n1", "n3", "n4")),
        (replace(ONE_LOST, queue_wait_s=3600.0), Policy(efficiency=0.5), Kind.REQUEUE, ()),
        (
            replace(SPARED, places=ISLANDS, live=("n1", "n3", "n4", "n5", "n6")),
            Policy(placement=Strategy.TOPOLOGY),
            Kind.SPARE,
            ("n1", "n3", "n6", "n4"),
        ),
        (replace(ONE_LOST, live=()), Policy(), Kind.REQUEUE, ()),
        (replace(WHOLE, repeated=True), Policy(), Kind.ABORT, ()),
        (replace(WHOLE, attempts=20), Policy(), Kind.ABORT, ()),
        (replace(WHOLE, fruitless=3), Policy(), Kind.ABORT, ()),
        (replace(WHOLE, attempts=19, fruitless=2), Policy(), Kind.RELAUNCH, FOUR),
    ],
)
def test_plan_for_a_situation(now, policy, kind, nodes):
    """The cheapest feasible plan, or the one that the user prefers, within the budgets."""
    choice = plan(FOUND, now, policy)
    assert (choice.kind, choice.nodes) == (kind, nodes)


SITUATIONS = st.builds(
    Situation,
    nodes=st.just(FOUR),
    live=st.lists(st.sampled_from((*FOUR, "n5")), unique=True).map(lambda each: tuple(sorted(each))),
    wanted=st.integers(1, 5),
    no_kill=st.booleans(),
    lost=st.sampled_from([(), ("n2",)]),
    attempts=st.integers(1, 25),
    fruitless=st.integers(0, 4),
    repeated=st.booleans(),
    requeues=st.integers(0, 12),
    remaining_s=st.none() | st.floats(0, 1e6),
    places=st.sampled_from([NOWHERE, ISLANDS]),
    restart_s=st.floats(0, 600),
    redo_s=st.floats(0, 1e5),
    interval_s=st.floats(0, 1e5),
    queue_wait_s=st.none() | st.floats(0, 1e6),
)
POLICIES = st.builds(
    Policy,
    ranks_per_node=st.integers(1, 8),
    min_nodes=st.integers(0, 5),
    world_multiple_of=st.integers(0, 8),
    world_sizes=st.sampled_from([(), (4,), (8, 16)]),
    spares=st.integers(0, 2),
    placement=st.sampled_from(Strategy),
    prefer=st.lists(st.sampled_from(["shrink", "requeue", "spare"]), unique=True).map(tuple),
    continue_by=st.sampled_from(["requeue", "none"]),
)


@given(SITUATIONS, POLICIES)
def test_every_situation_has_a_plan_with_its_reasons(now, policy):
    """A plan is feasible, says why, and keeps the reason of each plan that lost."""
    choice = plan(FOUND, now, policy)
    assert choice.reason
    assert all(text for _, text in choice.rejected)
    if choice.kind is Kind.ABORT:
        assert not choice.nodes
        return
    kinds = {kind for kind, _ in choice.rejected} | {choice.kind}
    assert kinds == {Kind.RELAUNCH, Kind.SPARE, Kind.SHRINK, Kind.REQUEUE}
    assert choice.price.startswith("expected to lose ")
    assert not now.repeated
    assert now.attempts < policy.max_attempts
    assert now.fruitless < policy.no_progress_limit
    if choice.kind is Kind.REQUEUE:
        assert policy.continue_by == "requeue"
        assert now.requeues < policy.max_requeues
        assert not choice.nodes
    else:
        assert set(choice.nodes) <= set(now.live)
        assert choice.cost_node_s >= 0
    if choice.kind is Kind.SPARE:
        assert len(choice.nodes) >= len(now.nodes)
        assert set(choice.nodes) - set(now.nodes)
    if choice.kind in (Kind.SPARE, Kind.SHRINK):
        assert max(policy.min_nodes, 1) <= len(choice.nodes) <= now.wanted
        assert len(choice.nodes) * policy.ranks_per_node % max(policy.world_multiple_of, 1) == 0
        assert not policy.world_sizes or len(choice.nodes) * policy.ranks_per_node in policy.world_sizes
        assert now.no_kill or not now.lost


def test_a_requeue_costs_more_than_a_node_and_less_than_nothing_left():
    """Near the time limit a lost node is cheap; a requeue is dear at any time."""
    soon = plan(FOUND, replace(ONE_LOST, remaining_s=60.0), Policy())
    later = plan(FOUND, ONE_LOST, Policy())
    assert soon.cost_node_s < later.cost_node_s
    assert soon.kind is later.kind is Kind.SHRINK
    assert dict(later.rejected)[Kind.REQUEUE].startswith("costs 58116 node-s against 14415")
    assert later.price == (
        "expected to lose 14415 node-s (missing 14400, restart 15); "
        "a node is taken to do as much as ever: the steps of no other world size are known"
    )


def test_every_plan_has_the_same_work_to_do_again():
    """Work since the last checkpoint is part of each price, and decides nothing."""
    before, after = (plan(FOUND, replace(ONE_LOST, redo_s=redo_s), Policy()) for redo_s in (0.0, 1000.0))
    assert after.kind is before.kind
    assert after.cost_node_s == before.cost_node_s + 4000.0
    assert "redo 4000" in after.price


def test_a_known_wait_is_told():
    """The reason of a requeue says what is known of the queue."""
    choice = plan(FOUND, replace(ONE_LOST, queue_wait_s=60.0, restart_s=20.0), Policy(spares=1))
    assert choice.reason == "3 usable nodes are left; Slurm is asked for 5 other ones"
    assert choice.price == (
        "expected to lose 836 node-s (waiting 756, restart 80); the queue's wait is expected to be 60 s"
    )


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([], 0),
        ([(Cause.RANK_KILLED, False)], 1),
        ([(Cause.RANK_KILLED, True)], 0),
        ([(Cause.RANK_KILLED, True), (Cause.RANK_CRASHED, False), (Cause.APPLICATION_ERROR, False)], 2),
        ([(Cause.RANK_KILLED, False), (Cause.RANK_KILLED, True), (Cause.RANK_KILLED, False)], 1),
        ([(Cause.RANK_KILLED, False), (Cause.NODE_UNREACHABLE, False), (Cause.RANK_KILLED, False)], 2),
        ([(cause, False) for cause in sorted(ENVIRONMENT_CAUSES)], 0),
    ],
)
def test_fruitless_attempts_are_the_programs_own(history, expected):
    """What the cluster did never counts against the program; a checkpoint wipes the slate."""
    assert fruitless_after(history) == expected
