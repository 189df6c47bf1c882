from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ftslurm.core.diagnosis import Cause, Diagnosis, Scope
from ftslurm.core.placement import Strategy
from ftslurm.core.recovery import Kind, Policy, Situation, plan
from ftslurm.plan.decisions import Decider, Moment

FOUND = Diagnosis(cause=Cause.NODE_DOWN, scope=Scope.NODE, where="x", confidence=1.0, reason="it is down")
NAMES = tuple(f"node-{number}" for number in range(24))
MOMENTS = st.integers(1, 12).flatmap(
    lambda nodes: st.builds(
        Moment,
        nodes=st.just(nodes),
        kept=st.integers(0, nodes),
        idle=st.integers(0, 8),
        attempts=st.integers(1, 25),
        fruitless=st.integers(0, 4),
        requeues=st.integers(0, 12),
        restart_s=st.integers(0, 900),
        queue_wait_s=st.none() | st.floats(0, 1e6),
    )
)
POLICIES = st.builds(
    Policy,
    ranks_per_node=st.integers(1, 8),
    min_nodes=st.integers(1, 12),
    world_multiple_of=st.sampled_from([1, 2, 8]),
    world_sizes=st.sampled_from([(), (4,), (8, 16)]),
    placement=st.sampled_from(Strategy),
    efficiency=st.sampled_from([0.5, 1.0]),
    prefer=st.lists(st.sampled_from(["shrink", "requeue", "spare"]), unique=True).map(tuple),
    continue_by=st.sampled_from(["requeue", "none"]),
    reshards=st.booleans(),
)


@settings(max_examples=40, deadline=None)
@given(
    moments=st.lists(MOMENTS, min_size=1, max_size=5),
    policy=POLICIES,
    wanted=st.integers(1, 14),
    dice=st.randoms(use_true_random=False),
    redo_s=st.floats(0, 1e5),
    interval_s=st.floats(0, 1e5),
)
def test_a_remembered_decision_is_the_cores_own(moments, policy, wanted, dice, redo_s, interval_s):
    """With any names in any order, any work to do again and all numbers as they are, the core plans the same."""
    decider = Decider(policy, wanted, interval_s)
    for moment in [*moments, *moments]:
        names = dice.sample(NAMES, len(NAMES))
        nodes = tuple(names[: moment.nodes])
        kept = dice.sample(nodes, moment.kept)
        live = [*kept, *names[moment.nodes : moment.nodes + moment.idle]]
        dice.shuffle(live)
        situation = Situation(
            nodes=nodes,
            live=tuple(live),
            wanted=wanted,
            no_kill=True,
            lost=tuple(sorted(set(nodes) - set(kept))),
            attempts=moment.attempts,
            fruitless=moment.fruitless,
            requeues=moment.requeues,
            restart_s=float(moment.restart_s),
            redo_s=redo_s,
            interval_s=interval_s,
            queue_wait_s=moment.queue_wait_s,
        )
        choice = plan(FOUND, situation, policy)
        assert decider.decide(moment) == (choice.kind, len(choice.nodes))
        if choice.kind in (Kind.SPARE, Kind.SHRINK):
            taken = len(choice.nodes) - min(len(choice.nodes), len(kept))
            assert len(set(choice.nodes) - set(kept)) == taken
