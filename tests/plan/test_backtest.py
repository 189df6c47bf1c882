from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from random import Random

import pytest

from ftslurm.core.lemons import DAY_S
from ftslurm.plan.backtest import THE_RULE, TOP, Rule, counted, decaying, play
from ftslurm.plan.past import Past
from tests.lab.longer import long_test
from tests.local_ranks import ROOT
from tests.plan.pasts import fleet, past, public, with_trace

SINCE = 28 * DAY_S
ALWAYS_A = Rule("always a", lambda _faults, _now, _fleet: ["a"], top=False)
NOBODY = Rule("nobody", lambda _faults, _now, _fleet: [], top=False)


def test_a_rule_is_scored_by_what_comes_next():
    """One check: a has two of the three coming faults and is one of four nodes."""
    told = past([("a", 10.0), ("a", 30.0), ("a", 40.0), ("b", 50.0), ("c", 60.0)], 57.0, 4)
    found = play(told, ALWAYS_A, since=SINCE)
    assert (found.checks, found.flagged, found.failed, found.caught, found.faults) == (1, 1, 1, 2, 3)
    assert found.base == 0.5
    assert (found.precision.value, found.share.value) == (1.0, pytest.approx(2 / 3))
    assert found.lift.value == pytest.approx((2 / 3) / (1 / 4))


def test_nodes_under_repair_are_left_out_unless_they_are_asked_for():
    """With their faults, on both sides of the ratio."""
    told = past([("a", 20.0), ("a", 40.0), ("b", 45.0)], 57.0, 4, repair_days=9.0)
    left_out = play(told, ALWAYS_A, since=SINCE)
    assert (left_out.flagged, left_out.faults, left_out.precision) == (0, 1, None)
    assert play(told, ALWAYS_A, since=SINCE, away_too=True).caught == 1


def test_a_rule_that_flags_nobody_has_no_precision():
    """And holds nothing; no division by zero."""
    told = past([("a", 10.0), ("b", 45.0)], 57.0, 4)
    found = play(told, NOBODY, since=SINCE)
    assert (found.precision, found.lift, found.share.value, found.share.high) == (None, None, 0.0, None)
    assert play(past([("a", 10.0)], 57.0, 4), NOBODY, since=SINCE).share is None


@pytest.mark.parametrize("rule", [THE_RULE, TOP, counted(28.0), decaying(14.0)])
def test_no_rule_sees_what_is_still_to_come(rule):
    """What a rule is given ends with the check: other coming faults change nothing of what is flagged."""
    dice = Random(1)
    told = fleet({f"n{index}": 0.02 for index in range(60)}, 100.0, dice)
    asked: list[tuple[float, list[str]]] = []

    def spy(faults, now, size):
        assert all(each.at <= now for each in faults)
        asked.append((now, list(rule.ranked(faults, now, size))))
        return asked[-1][1]

    play(told, replace(rule, ranked=spy), since=SINCE)
    first = tuple(asked)
    asked.clear()
    cut = Past(
        faults=tuple(each for each in told.faults if each.at <= SINCE), begun=0.0, until=told.until, fleet=told.fleet
    )
    play(cut, replace(rule, ranked=spy), since=SINCE)
    assert asked[0] == first[0]


def test_lemons_are_held_by_every_score():
    """Two nodes of 100 that fail 20 times as often: the 5 % with the highest score hold many times their part."""
    rates = {f"n{index}": 0.005 for index in range(98)} | {"bad1": 0.1, "bad2": 0.1}
    told = fleet(rates, 200.0, Random(8))
    for rule in (THE_RULE, TOP, counted(28.0), decaying(14.0)):
        found = play(told, rule, since=SINCE)
        assert found.lift.low > 1.5
        assert found.share.low < found.share.value < found.share.high <= 1.0


def test_scores_say_nothing_of_equal_nodes():
    """A lift of 1 lies in the interval."""
    told = fleet({f"n{index}": 0.01 for index in range(200)}, 200.0, Random(9))
    found = play(told, TOP, since=SINCE)
    assert found.lift.low < 1.0 < found.lift.high


@long_test("intervals of 150 fleets")
def test_intervals_of_the_lift_hold_what_they_promise():
    """Equal nodes have a lift of 1: at least 90 % of the 95 % intervals hold it."""
    held = 0
    for seed in range(150):
        told = fleet({f"n{index}": 0.01 for index in range(200)}, 200.0, Random(seed))
        lift = play(told, TOP, since=SINCE).lift
        held += lift.low <= 1.0 <= lift.high
    assert held >= 135


@long_test("the benchmark of the ledger once more")
@with_trace
def test_the_page_is_what_the_benchmark_writes(tmp_path):
    """docs/benchmarks/ledger.md has the numbers of this code."""
    argv = [sys.executable, str(ROOT / "scripts" / "benchmarks" / "ledger.py"), "--out", str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ledger.md").read_text() == (ROOT / "docs" / "benchmarks" / "ledger.md").read_text()


@with_trace
def test_the_rule_on_the_public_trace():
    """What docs/plans.md says: flagged nodes fail 2.6 times as often, the 5 % with the highest score hold 11 %."""
    rule, top = (play(public(), each, since=SINCE) for each in (THE_RULE, TOP))
    assert (round(rule.lift.value, 1), round(top.share.value, 2), round(top.lift.value, 1)) == (2.6, 0.11, 2.6)
    assert rule.precision.value > 1.9 * rule.base
