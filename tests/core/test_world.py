from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftslurm.core.events import Phase
from ftslurm.core.recovery import Policy
from ftslurm.journal import parse_line, replay
from tests.core.faults import KINDS, Fault
from tests.core.ills import ILLS
from tests.core.world import World

FAULTS = st.builds(
    Fault,
    at_s=st.floats(0, 200).map(lambda at: round(at, 1)),
    kind=st.sampled_from(sorted(KINDS)),
    which=st.integers(0, 4),
    for_s=st.sampled_from([2.0, 6.0, 15.0, 40.0, 150.0, 900.0]),
)
POLICIES = st.builds(
    Policy,
    ranks_per_node=st.sampled_from([1, 2]),
    min_nodes=st.sampled_from([1, 2, 4]),
    world_multiple_of=st.sampled_from([1, 2]),
    prefer=st.sampled_from([(), ("requeue", "shrink")]),
    continue_by=st.sampled_from(["requeue", "requeue", "none"]),
    checkpoints=st.just(True),
    can_ask_to_save=st.booleans(),
    partner=st.booleans(),
    durable_every_s=st.sampled_from([0.0, 0.0, 25.0]),
    drain_width=st.sampled_from([1, 16]),
    max_attempts=st.sampled_from([4, 20]),
    max_requeues=st.sampled_from([1, 10]),
    on_nan=st.sampled_from(["say", "rollback"]),
)


def world_with(policy: Policy, faults: list[Fault], seed: int = 0, **others) -> World:
    """Return a world in which these faults wait for their moment."""
    world = World(policy, Random(seed), **others)
    for fault in faults:
        world.later(fault.at_s, lambda fault=fault: fault.strike(world))
    return world


@settings(max_examples=100)
@given(
    policy=POLICIES,
    faults=st.lists(FAULTS, max_size=8),
    seed=st.integers(0, 1000),
    spares=st.integers(0, 1),
    no_kill=st.booleans(),
    sharded=st.booleans(),
)
def test_run_ends_whatever_happens(policy, faults, seed, spares, no_kill, sharded):
    """After any faults a sound cluster leads the run to its end; no law is broken, and the journal tells it all again."""
    names = ("n1", "n2", "n3", "n4", "n5")[: 4 + spares]
    world = world_with(policy, faults, seed, names=names, no_kill=no_kill, sharded=sharded)
    world.live()
    entries = [parse_line(entry.line()) for entry in world.entries]
    assert replay(iter(entries), policy) == (world.run, len(entries))


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"cancel"}))
@pytest.mark.parametrize("at_s", [0.2, 1.0, 12.0, 25.3, 45.0])
@pytest.mark.parametrize("partner", [False, True], ids=["alone", "partnered"])
def test_run_finishes_after_one_fault(kind, at_s, partner):
    """One fault of any kind, at any moment, never keeps a run from success."""
    policy = Policy(checkpoints=True, can_ask_to_save=True, partner=partner, durable_every_s=30.0 * partner)
    world = world_with(policy, [Fault(at_s, kind, which=1, for_s=20.0)])
    world.live()
    assert world.run.phase is Phase.FINISHED, world.story()


@pytest.mark.parametrize("second_s", [0.5, 2.0, 4.0, 7.0, 12.0, 18.0])
@pytest.mark.parametrize("second", ["cut", "power_off", "kill_ranks", "kill_agent", "supervisor", "storage"])
def test_run_finishes_after_a_double_fault(second, second_s):
    """A fault in the middle of the recovery from another one never keeps a run from success."""
    policy = Policy(checkpoints=True, can_ask_to_save=True)
    first = Fault(25.0, "power_off", which=1)
    world = world_with(policy, [first, Fault(25.0 + second_s, second, which=2, for_s=40.0)])
    world.live()
    assert world.run.phase is Phase.FINISHED, world.story()
    assert world.run.usable != world.names


PAIRS = ("kill_ranks", "cut", "supervisor", "damage")


@pytest.mark.parametrize("after_s", [0.0, 1.0, 3.5, 6.0, 9.0, 14.0])
@pytest.mark.parametrize("second", PAIRS)
@pytest.mark.parametrize("first", PAIRS)
def test_run_finishes_after_every_ordered_pair(first, second, after_s):
    """Two faults in either order, the second one during the recovery from the first, or after it."""
    policy = Policy(checkpoints=True, can_ask_to_save=True)
    faults = [Fault(36.0, first, which=1, for_s=400.0), Fault(36.0 + after_s, second, which=2, for_s=400.0)]
    world = world_with(policy, faults)
    world.live()
    assert world.run.phase is Phase.FINISHED, world.story()
    cut = {world.names[index] for index, kind in ((1, first), (2, second)) if kind == "cut"}
    assert set(world.run.condemned) <= cut


@pytest.mark.parametrize("kind", ["cut", "freeze", "kill_ranks", "hang", "supervisor", "unkillable"])
@pytest.mark.parametrize("by_s", [-7200.0, 7200.0])
def test_a_clock_that_jumps_changes_no_decision(kind, by_s):
    """The wall clock of the host jumps by hours, before and after a fault: every event leads to the same actions."""

    def decided(*jumps):
        world = world_with(Policy(checkpoints=True, can_ask_to_save=True), [Fault(25.0, kind, which=1, for_s=20.0)])
        for at_s, wall_s in zip((24.9, 26.5), jumps, strict=True):
            world.later(at_s, lambda wall_s=wall_s: setattr(world, "wall_s", wall_s))
        world.live()
        return [(entry.phase, entry.actions) for entry in world.entries]

    assert decided(by_s, -by_s) == decided(0.0, 0.0)


SICK = {"gpu_lost", "compute_wrong", "xid_of_the_gpu"}


@pytest.mark.parametrize("kind", sorted(ILLS))
def test_an_illness_costs_the_node_that_has_it_or_nobody(kind):
    """Only a GPU that is lost or computes wrongly is a reason to give its node up; all the rest blames nobody."""
    world = world_with(Policy(checkpoints=True, can_ask_to_save=True), [Fault(25.0, kind, which=1, for_s=20.0)])
    world.live()
    assert set(world.run.condemned) == ({"n2"} if kind in SICK else set())
    assert world.run.phase is Phase.FINISHED
    launches = 2 if kind in {*SICK, "out_of_memory", "gpu_memory"} else 1
    assert world.run.next_attempt == launches, world.story()
