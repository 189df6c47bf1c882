from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.core.health import (
    DEFAULT_RULES,
    METRICS,
    Condition,
    Consequence,
    Level,
    Reading,
    Rule,
    cap,
    crowd,
    digest,
    fit,
    fit_nodes,
    level_of,
    quantity,
    rules_with,
)
from ftslurm.core.recovery import Policy
from ftslurm.core.state import Run

LOW = Rule(metric="scratch_free", limit=5, above=False)
LOWER = Rule(metric="scratch_free", limit=1, above=False, readings=1, severity=Level.CRITICAL, action=Consequence.AVOID)


def told(rules, values, metric="scratch_free"):
    """Return the level after each value, where it changed."""
    tallies, levels = {}, []
    for value in values:
        tallies, changes = digest(rules, tallies, [Reading(metric=metric, value=value)])
        levels.append(changes[0].level if changes else None)
    return levels


def test_a_level_rises_after_its_readings_and_falls_after_twice_as_many():
    """Hysteresis: three bad readings in a row, six good ones in a row."""
    assert told([LOW], [3, 3, 50, 3, 3, 3]) == [None] * 5 + [Level.WARNING]
    falling = [50] * 5 + [3] + [50] * 6
    assert told([LOW], [3, 3, 3, *falling])[2:] == [Level.WARNING, *[None] * 11, Level.HEALTHY]


def test_a_worse_rule_takes_over_and_leaves_the_milder_one_behind():
    """The worst rule that holds is the level; each rule has its own count."""
    levels = told([LOW, LOWER], [0.5, 0.5, 0.5, 3, 3, 50, 50, 50, 50, 50, 50])
    assert levels == [Level.CRITICAL, None, None, None, Level.WARNING, None, None, None, None, None, Level.HEALTHY]


def test_unknown_changes_nothing():
    """A probe that could not answer neither raises a level nor lets it fall, and does not begin the count anew."""
    assert told([LOW], [3, None, 3, None, 3])[-1] is Level.WARNING
    assert told([LOW], [3, 3, 3, *[None] * 20])[3:] == [None] * 20


def test_devices_are_judged_one_by_one():
    """A lost GPU says nothing about the others; other metrics are not touched."""
    readings = [Reading(metric="gpu_lost", value=float(n == 5), device=f"gpu{n}", detail="0000:3b") for n in range(8)]
    _, changes = digest(DEFAULT_RULES, {}, [*readings, Reading(metric="load_per_core", value=1.0)])
    assert [(each.device, each.level, each.action) for each in changes] == [("gpu5", Level.FAILED, Consequence.EXCLUDE)]
    assert changes[0].reason == "gpu_lost of gpu5 is 1 (0000:3b), above 0"


def test_a_reason_has_the_numbers():
    """What it is, on which side of what, for how long."""
    tallies, _ = digest([LOW], {}, [Reading(metric="scratch_free", value=3, detail="/scratch")] * 2)
    tallies, changes = digest([LOW], tallies, [Reading(metric="scratch_free", value=2.123456, detail="/scratch")])
    assert changes[0].reason == "scratch_free is 2.123% (/scratch), below 5%, for 3 readings"
    _, changes = digest([LOW], tallies, [Reading(metric="scratch_free", value=60)] * 6)
    assert changes[0].reason == "scratch_free is 60%: no longer below 5%, for 6 readings"
    assert quantity("load_per_core", 2.5) == "2.5"


@given(st.lists(st.floats(0, 100) | st.none(), max_size=40))
def test_levels_alternate(values):
    """Two rules of one metric never report the same level twice in a row."""
    levels = [level for level in told([LOW, LOWER], values) if level]
    assert all(one is not two for one, two in pairwise(levels))
    assert not levels or levels[0] is not Level.HEALTHY


def test_the_users_rules_replace_the_built_in_ones_of_their_metric():
    """All of them, also those of another severity; the others stay."""
    mine = Rule(metric="scratch_free", limit=50, above=False)
    rules = rules_with([mine])
    assert [rule for rule in rules if rule.metric == "scratch_free"] == [mine]
    assert len(rules) == len(DEFAULT_RULES) - 1
    assert rules_with(()) == DEFAULT_RULES


def test_built_in_rules_are_about_metrics_and_shared_storage_blames_nobody():
    """What all nodes share never costs one of them."""
    assert {rule.metric for rule in DEFAULT_RULES} <= set(METRICS)
    shared = [rule for rule in DEFAULT_RULES if rule.metric.startswith("shared_")]
    assert shared
    assert all(rule.action is Consequence.SAY for rule in shared)


def ill(metric="gpu_lost", level=Level.FAILED, action=Consequence.EXCLUDE, mono=0.0):
    """Return what is wrong with a node."""
    return (Condition(metric=metric, level=level, action=action, reason="r", mono=mono),)


@pytest.mark.parametrize(("nodes", "most"), [(1, 1), (4, 1), (39, 1), (40, 2), (4096, 204)])
def test_the_cap_is_a_twentieth_and_at_least_one(nodes, most):
    """max(1, 5 %)."""
    assert cap(nodes) == most


def test_a_crowd_is_what_is_bad_at_the_same_time():
    """Ten minutes make a coincidence; what is only said does not count, nor does another metric."""
    health = {"a": ill(), "b": ill(mono=500), "c": ill(mono=601), "d": ill(action=Consequence.SAY, level=Level.WARNING)}
    health["e"] = ill("gpu_missing")
    assert crowd(health, "abcdef", health["a"][0]) == ("a", "b")
    assert crowd(health, "abcdef", health["c"][0]) == ("b", "c")
    assert level_of(()) is Level.HEALTHY
    assert level_of((*health["d"], *health["a"])) is Level.FAILED


def test_ill_nodes_are_left_out_while_enough_remain():
    """The worst first; those that have what many have stay."""
    health = {
        "a": ill("scratch_free", Level.CRITICAL, Consequence.AVOID),
        "b": ill(),
        "c": ill("load_per_core", action=Consequence.NONE),
    }
    assert fit("abcd", health, "abcd", 1) == ("c", "d")
    assert fit("abcd", health, "abcd", 3) == ("a", "c", "d")
    assert fit("abcd", health, "abcd", 4) == tuple("abcd")
    assert fit("ab", health, "abcd", 3) == ("a", "b")
    same = {"a": ill(), "b": ill()}
    assert fit("abcd", same, "abcd", 1) == tuple("abcd")


def test_fit_nodes_keep_a_world_of_an_allowed_size():
    """A node is not left out when the rest makes no legal world, and nothing is left out when nothing fits anyway."""
    run = Run(nodes=tuple("abcd"), agents=frozenset("abcd"), health={"b": ill()})
    assert fit_nodes(run, Policy(ranks_per_node=1)) == tuple("acd")
    assert fit_nodes(run, Policy(ranks_per_node=1, min_nodes=3, world_multiple_of=4)) == tuple("abcd")
    assert fit_nodes(run, Policy(ranks_per_node=1, min_nodes=9)) == tuple("abcd")
