from __future__ import annotations

import math
from dataclasses import replace
from random import Random
from statistics import fmean, stdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftslurm.core.interval import efficiency
from ftslurm.core.recovery import Kind
from ftslurm.faults.catalogue import CATALOGUE, Expected
from ftslurm.plan.outcome import Loss, Outcome
from ftslurm.plan.simulator import play, simulate
from ftslurm.plan.strikes import Strike, What
from ftslurm.plan.terms import Terms
from tests.lab.longer import long_test
from tests.plan.scenarios import failing, terms

HOUR = 3600.0
# GPUs, failures in 1,000 node-days, and the exact ETTR at Young's interval for each cost of a save and of a restart in
# seconds: reliability.md 1.7.
COSTS = [(60, 600), (10, 300), (10, 120), (1, 60)]
TABLE = [
    (4_096, 6.50, (0.912, 0.961, 0.968, 0.989)),
    (16_384, 6.50, (0.793, 0.903, 0.928, 0.974)),
    (16_384, 3.79, (0.853, 0.933, 0.948, 0.981)),
    (100_000, 2.34, (0.663, 0.831, 0.883, 0.955)),
    (100_000, 3.79, (0.550, 0.763, 0.842, 0.936)),
    (100_000, 6.50, (0.398, 0.655, 0.776, 0.905)),
]
CELLS = [
    (*row[:2], save_s, restart_s, expected)
    for row in TABLE
    for (save_s, restart_s), expected in zip(COSTS, row[2], strict=True)
]


def played(setting: Terms, *strikes: Strike, seed: int = 1) -> Outcome:
    """The outcome of these strikes."""
    return play(setting, sorted(strikes), Random(seed))


def node(at_s: float, number: int, repair_s: float = 1e9) -> Strike:
    """A node breaks."""
    return Strike(at_s, number, What.NODE, repair_s)


def program(at_s: float, number: int = 0) -> Strike:
    """A rank fails."""
    return Strike(at_s, number, What.PROGRAM)


# ------------------------------------------------------------------------------------------------- against the theory


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5, 1, 2])
def test_mean_efficiency_is_that_of_the_renewal_formula(share: float) -> None:
    """Within 3.5 standard errors of the exact value; that it is within 1 % of it is shown by `scripts/bench simulate`."""
    cost_s = share * HOUR
    restart_s = min(cost_s, HOUR / 2)
    setting = failing(
        "1h",
        span="60d",
        restart=f"{restart_s * 1000:.0f}ms",
        checkpoint={"every": "exact", "stall": f"{cost_s * 1000:.0f}ms"},
    )
    found = [simulate(setting, seed).ettr for seed in range(12)]
    expected = efficiency(setting.copies.interval_s, cost_s, HOUR, restart_s)
    assert abs(fmean(found) - expected) <= 3.5 * stdev(found) / math.sqrt(len(found))


@pytest.mark.parametrize(("gpus", "rate", "hours"), [(16_384, 6.50, 1.80), (131_072, 6.50, 0.23)])
def test_published_time_between_failures(gpus: int, rate: float, hours: float) -> None:
    """A job on so many GPUs fails as often as was published (arXiv 2410.21680), within 3 %."""
    setting = terms(nodes=gpus // 8, span="1000d" if hours > 1 else "100d", faults={"rate": rate, "node_share": 0})
    assert simulate(setting, 1).mttf_s == pytest.approx(hours * HOUR, rel=0.03)


@pytest.mark.parametrize(("gpus", "rate", "save_s", "restart_s", "expected"), [CELLS[4], CELLS[20]])
def test_published_efficiency(gpus: int, rate: float, save_s: int, restart_s: int, expected: float) -> None:
    """The exact column of the table of section 1.7 within 0.01; all cells are in `scripts/bench simulate`."""
    setting = terms(
        nodes=gpus // 8,
        span="90d",
        restart=f"{restart_s}s",
        faults={"rate": rate, "node_share": 0},
        checkpoint={"every": "young", "stall": f"{save_s}s"},
    )
    assert fmean(simulate(setting, seed).ettr for seed in range(3)) == pytest.approx(expected, abs=0.01)


@long_test("ten thousand failures of every cell, where the default suite has two cells")
@pytest.mark.parametrize(("gpus", "rate", "save_s", "restart_s", "expected"), CELLS)
def test_whole_published_table(gpus: int, rate: float, save_s: int, restart_s: int, expected: float) -> None:
    """As above."""
    setting = terms(
        nodes=gpus // 8,
        span="365d",
        restart=f"{restart_s}s",
        faults={"rate": rate, "node_share": 0},
        checkpoint={"every": "young", "stall": f"{save_s}s"},
    )
    assert fmean(simulate(setting, seed).ettr for seed in range(5)) == pytest.approx(expected, abs=0.01)


# ----------------------------------------------------------------------------------------------------------- the laws

SETTINGS = st.fixed_dictionaries(
    {
        "nodes": st.integers(1, 12),
        "span": st.sampled_from(["2h", "3d", "40d"]),
        "restart": st.sampled_from(["0s", "60s", "3h"]),
        "fleet": st.none() | st.integers(24, 40),
        "ledger": st.booleans(),
        "resume_after": st.sampled_from(["0s", "8h"]),
        "faults": st.fixed_dictionaries(
            {
                "kind": st.sampled_from(["exponential", "weibull", "lemons", "clustered"]),
                "rate": st.sampled_from([0, 100.0, 20_000.0]),
                "node_share": st.sampled_from([0, 0.5, 1]),
            }
        ),
        "detection": st.fixed_dictionaries(
            {
                "delay": st.sampled_from(["0s", "6s", "30m"]),
                "diagnosis": st.sampled_from(["0s", "10m"]),
                "wrong_exclusions": st.sampled_from([0, 1000.0]),
                "wrong_diagnoses": st.sampled_from([0, 0.3, 0.9]),
            }
        ),
        "repair": st.sampled_from([{"median": "1h", "mean": "2h", "repairers": 1}, {"median": "9d", "mean": "90d"}]),
        "requeue": st.sampled_from([{"delay": "0s"}, {"wait": "5h"}, {"wait_known": False}]),
        "checkpoint": st.sampled_from(
            [
                {"every": "none"},
                {"every": "10m", "stall": "0s"},
                {"every": "10m", "size": "1T", "scratch": "1G/s", "partner": "1G/s", "shared": "1G/s"},
                {"every": "1h", "size": "1T", "shared": "100M/s", "contention": 0.4, "damaged": 0.5},
                {"every": "1h", "reshards": False, "durable_every": "6h"},
            ]
        ),
        "recovery": st.fixed_dictionaries(
            {
                "spares": st.sampled_from([0, 1]),
                "prefer": st.sampled_from(["auto", ["shrink"], ["requeue", "spare"]]),
                "max_attempts": st.sampled_from([5, 1_000_000]),
                "no_progress_limit": st.sampled_from([3, 1_000_000]),
            }
        ),
    }
)


@settings(max_examples=20, deadline=None)
@given(SETTINGS, st.integers(0, 2**32))
def test_every_second_is_accounted_for(changes, seed):
    """Whatever happens, the seven parts are not negative and sum to the wall time, and work is no more than time."""
    setting = terms(**{key: value for key, value in changes.items() if value is not None})
    found = simulate(setting, seed)
    assert sum(found.spent_s.values()) == pytest.approx(found.wall_s, rel=1e-6)
    assert all(seconds >= -1e-6 for seconds in found.spent_s.values())
    assert -1e-6 <= found.work_s <= found.spent_s[Loss.PRODUCTIVE] * (1 + 1e-9)
    assert found.lost_work_s >= -1e-6
    assert simulate(setting, seed) == found


def test_nothing_fails() -> None:
    """Without failures only the first start and the saves cost anything."""
    found = simulate(terms(faults={"rate": 0}, span="3670s", checkpoint={"every": "10m", "stall": "10s"}), 1)
    assert found.spent_s[Loss.RESTARTING] == 60.0
    assert found.spent_s[Loss.SAVING] == pytest.approx(5 * 10 + 10 - 60 % 10, abs=10)
    assert found.failures == 0


@pytest.mark.parametrize(("delay", "diagnosis"), [("6s", "0s"), ("6s", "2s"), ("0s", "10m")])
def test_a_failure_costs_what_the_scenario_says(delay: str, diagnosis: str) -> None:
    """Detection, diagnosis and restart once each, and the work since the last save is done again."""
    setting = terms(span="10h", detection={"delay": delay, "diagnosis": diagnosis})
    found = played(setting, program(60 + 3610 + 600))
    assert found.spent_s[Loss.DETECTING] == setting.detect_s
    assert found.spent_s[Loss.DIAGNOSING] == setting.diagnose_s
    assert found.spent_s[Loss.RESTARTING] == 120.0
    assert found.spent_s[Loss.REDONE] == pytest.approx(600.0)
    assert found.lost_work_s == pytest.approx(600.0)
    assert found.plans[Kind.RELAUNCH] == 1


def test_failures_before_the_plan_are_one_incident() -> None:
    """A second node that fails while the first is being found shares its plan; one in the restart makes another."""
    setting = terms(span="10h", detection={"delay": "10s"}, recovery={"continue": "none"})
    assert played(setting, node(5000, 0), node(5005, 1)).plans[Kind.SHRINK] == 1
    assert played(setting, node(5000, 0), node(5015, 1)).plans[Kind.SHRINK] == 2


def test_a_smaller_world_does_less() -> None:
    """Half of the nodes make half of the work, with the efficiency that the policy says."""
    setting = terms(nodes=2, span="100h", recovery={"continue": "none"}, checkpoint={"every": "none"})
    found = played(setting, node(60.5, 0))
    assert found.plans[Kind.SHRINK] == 1
    assert found.goodput == pytest.approx(found.ettr / 2, rel=0.001)
    less = played(replace(setting, policy=replace(setting.policy, efficiency=0.5)), node(60.5, 0))
    assert less.goodput == pytest.approx(found.ettr / 4, rel=0.001)


def test_spares_replace_lost_nodes_until_there_are_none() -> None:
    """Two spares serve two failures; the third shrinks the world; a spare may fail unnoticed, and serves nobody."""
    setting = terms(recovery={"spares": 2, "continue": "none"})
    plans = played(setting, *(node(5000.0 * (1 + each), each) for each in range(3))).plans
    assert (plans[Kind.SPARE], plans[Kind.SHRINK]) == (2, 1)
    found = played(setting, node(1000, 4), *(node(5000.0 * (1 + each), each) for each in range(2)))
    assert (found.plans[Kind.SPARE], found.plans[Kind.SHRINK], found.spares_lost) == (1, 1, 1)


def test_repaired_nodes_come_back_at_a_requeue() -> None:
    """A requeue waits for the queue or for the repair, whichever takes longer; repairers work one after the other."""
    setting = terms(recovery={"min_nodes": 4}, requeue={"delay": "100s"}, checkpoint={"every": "1m", "stall": "0s"})
    assert played(setting, node(5000, 0, 50)).spent_s[Loss.WAITING] == 100.0
    assert played(setting, node(5000, 0, 900)).spent_s[Loss.WAITING] == 900.0
    both = [node(5000, 0, 900), node(5000, 1, 900)]
    assert played(setting, *both).spent_s[Loss.WAITING] == 900.0
    assert played(replace(setting, repairers=1), *both).spent_s[Loss.WAITING] == 1800.0
    assert played(replace(setting, fleet=6), *both).spent_s[Loss.WAITING] == 100.0


def test_a_run_that_gives_up_waits_for_somebody() -> None:
    """The budgets of the policy hold: after max_attempts the run stands still until it is resumed, and then goes on."""
    setting = terms(span="5d", resume_after="8h", recovery={"max_attempts": 3})
    found = played(setting, *(program(20_000.0 * each) for each in range(1, 9)))
    assert found.plans[Kind.ABORT] == 2
    assert found.spent_s[Loss.WAITING] == 2 * 8 * HOUR


def test_wrong_verdicts() -> None:
    """A broken node that is kept fails the next attempt, too; a healthy one that is given up is a wrong exclusion."""
    always = replace(terms(nodes=8, span="1d", recovery={"continue": "none"}), wrong_diagnoses=1.0)
    kept = played(always, node(80_000, 0))
    assert kept.plans[Kind.RELAUNCH] > 10
    assert kept.right_exclusions == 0
    blamed = played(always, program(50_000))
    assert (blamed.plans[Kind.SHRINK], blamed.wrong_exclusions) == (1, 1)
    alarm = played(terms(recovery={"continue": "none"}), Strike(5000, 1, What.FALSE_ALARM))
    assert (alarm.plans[Kind.SHRINK], alarm.wrong_exclusions, alarm.right_exclusions) == (1, 1, 0)


def test_lemons_are_left_out_where_the_ledger_counts() -> None:
    """Of repaired nodes the one that has failed twice in a week is taken last, if the ledger is asked, else first."""
    changes = {"fleet": 6, "span": "9d", "recovery": {"prefer": ["requeue"]}}
    strikes = [node(86_400.0 * (day + 2), number, 3600) for day, number in enumerate([0, 1, 2, 0, 3, 0])]
    assert played(terms(**changes), *strikes).failures == 6
    assert played(terms(**changes, ledger=True), *strikes).failures == 5


# -------------------------------------------------------------------------------------------------------- checkpoints

LEVELS = {"every": "590s", "stall": "10s", "size": "4T", "scratch": "100G/s", "partner": "10G/s", "shared": "1G/s"}
AT = 60 + 600 * 10 + 100.0


def lost(setting: Terms, *strikes: Strike) -> float:
    """Work that is rolled back after the last of them."""
    return played(replace(setting, span_s=strikes[-1].at_s + 5000), *strikes).lost_work_s


def test_each_level_serves_what_it_can() -> None:
    """A rank needs the nodes' own disks, a lost node its partner's copy, without partners shared storage."""
    keeps = {"continue": "none", "min_nodes": 1}
    setting = terms(checkpoint=LEVELS, recovery=keeps)
    # Ten saves were finished 100 s before; a partner's copy takes 102 s, one to shared storage 4,096 s.
    assert lost(setting, program(AT)) == pytest.approx(100)
    assert lost(setting, node(AT, 0)) == pytest.approx(100 + 590)
    assert lost(setting, node(AT + 10, 0)) == pytest.approx(110)
    alone = terms(checkpoint={key: value for key, value in LEVELS.items() if key != "partner"}, recovery=keeps)
    assert lost(alone, node(AT, 0)) == pytest.approx(100 + 9 * 590)


def test_shared_storage_is_what_is_left_of_a_pair() -> None:
    """In a world of two a second loss before the copies were made again takes the partner's copy, too."""
    setting = terms(nodes=3, checkpoint=LEVELS, recovery={"continue": "none", "min_nodes": 1})
    assert lost(setting, node(AT, 0), node(AT, 1)) == pytest.approx(100 + 9 * 590)


def test_contention_delays_what_becomes_durable() -> None:
    """The busier shared storage, the older what is there."""
    means = [
        fmean(
            play(
                replace(terms(checkpoint={**levels, "contention": busy}, recovery={"continue": "none"}), span_s=1e5),
                [node(6e4, 0)],
                Random(seed),
            ).lost_work_s
            for seed in range(30)
        )
        for levels in [{key: value for key, value in LEVELS.items() if key != "partner"}]
        for busy in (0, 0.3, 0.6)
    ]
    assert means == sorted(means)
    assert means[0] < means[2]


def test_a_damaged_checkpoint_costs_one_interval_more() -> None:
    """It is refused, and the one before it is loaded."""
    setting = terms(checkpoint={**LEVELS, "damaged": 1})
    assert lost(setting, program(AT)) == pytest.approx(100 + 590)


# ---------------------------------------------------------------------------------------------------------- catalogue


@pytest.mark.parametrize("fault", CATALOGUE.values(), ids=CATALOGUE)
def test_every_fault_of_the_catalogue(fault) -> None:
    """What a fault costs leads to the plan that is right: none, the same nodes, a spare, fewer nodes, or an end."""
    ends = fault.expected_action is Expected.END
    strikes = [node(5000, 1)] if fault.costs_node else [program(5000, 1)] if fault.stops_training else []
    strikes = [each._replace(at_s=each.at_s + 86_400 * number) for number in range(2) for each in strikes[:1]]
    policy = {"spares": 1, "continue": "none", **({"max_attempts": 1} if ends else {})}
    setting = terms(span="3d", recovery=policy)
    plans = {kind: count for kind, count in played(setting, *strikes[: 1 if ends else 2]).plans.items() if count}
    expected = {Kind.RELAUNCH: 2} if fault.stops_training else {}
    if fault.costs_node:
        # The second strike hits a node that is not there any more.
        expected = {Kind.SPARE: 1}
    assert plans == ({Kind.ABORT: 1} if ends else expected)
    alone = terms(span="3d", recovery={"continue": "none"})
    if fault.costs_node:
        assert played(alone, *strikes).plans[Kind.SHRINK] == 1
