from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.cli.plan import plan
from ftslurm.cli.planfit import fit as command
from ftslurm.core.lemons import DAY_S
from ftslurm.errors import UsageError
from ftslurm.plan.fit import clustered, fit, repair_of, shape_of
from ftslurm.plan.fitted import JudgedOn, document, study, text
from ftslurm.plan.generators import Clustered, Exponential, Lognormal, Replay, Weibull
from ftslurm.plan.judging import judge
from ftslurm.plan.measures import distance, gaps_s, groups, measure, returns_s
from ftslurm.plan.trace import Outage, Trace
from tests.plan.public_trace import TRACE, needs_trace, public_trace

HOUR_S = 3600.0
SHORT = Lognormal(5 * HOUR_S, 10 * HOUR_S)
ASKED = ("rate", "dispersion", "within_day", "within_week", "top_5", "top_10", "top_20")


def drawn(generator: Exponential | Weibull | Clustered, nodes: int, days: float, seed: int = 1) -> Trace:
    """A trace that a generator made."""
    span_s = days * DAY_S
    return Trace(outages=tuple(generator.outages(nodes, span_s, Random(seed))), nodes=nodes, span_s=span_s)


def test_outages_are_measured():
    """By hand: 4 nodes for 10 days; one comes back within a day, one within a week, two come together."""
    day = DAY_S
    outages = [
        Outage(0, 0.0, day), Outage(1, 30.0, day), Outage(0, 1.5 * day, day), Outage(1, 5 * day, math.inf),
        Outage(0, 9.5 * day, day),
    ]  # fmt: skip
    found = measure(outages, 4, 10 * day)
    assert found.rate == 125.0
    assert found.dispersion == pytest.approx(statistics.variance([3, 2, 0, 0]) / 1.25)
    assert (found.within_day, found.within_week) == (1 / 3, 1.0)
    assert returns_s(outages, 10 * day) == pytest.approx([0.5 * day, 4 * day - 30, 7 * day])
    assert found.together == 0.4
    assert [len(each) for each in groups(outages)] == [2, 1, 1, 1]
    assert found.repair_h == 24.0
    assert found.out == (1 + 1 + 1 + 5 + 0.5) / 40
    assert measure([Outage(0, 1.0, 5.0)] * 3, 20, 100.0).top_5 == 1.0


def test_nothing_is_measured_of_nothing():
    """No faults: a rate of 0, and what nobody knows is not a number."""
    found = measure([], 5, DAY_S)
    assert (found.rate, found.out) == (0.0, 0.0)
    assert all(math.isnan(each) for each in (found.dispersion, found.within_day, found.top_5, found.gap_variation))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_the_distance_is_the_largest_gap_of_the_shares(some, others):
    """Against the definition, at every value of either; symmetric."""
    some, others = sorted(some), sorted(others)
    share = lambda sample, value: sum(each <= value for each in sample) / len(sample)  # noqa: E731
    wanted = max(abs(share(some, value) - share(others, value)) for value in some + others)
    assert distance(some, others) == pytest.approx(wanted)
    assert distance(others, some) == pytest.approx(wanted)


def test_a_clustered_fleet_is_recognised():
    """What was put into the generator comes out of the fit."""
    put = Clustered(
        per_1000_node_days=6, relapse=0.3, again=0.55, soon=0.7, burst_share=0.1, burst_size=4, quality=2.0,
        steadiness=math.inf, repair=SHORT, hasty=0.5, fleet=3000,
    )  # fmt: skip
    found = clustered(drawn(put, 3000, 250))
    assert found.per_1000_node_days == pytest.approx(6, rel=0.05)
    assert found.relapse == pytest.approx(0.3, abs=0.03)
    assert found.again == pytest.approx(0.55, abs=0.03)
    assert found.soon == pytest.approx(0.7, abs=0.04)
    assert found.hasty == pytest.approx(0.5, abs=0.08)
    assert found.burst_size == pytest.approx(4, rel=0.15)
    assert found.quality == pytest.approx(2.0, rel=0.3)
    assert found.steadiness > 20
    assert found.repair.median_s == pytest.approx(5 * HOUR_S, rel=0.15)


def test_in_a_fleet_without_a_memory_none_is_found():
    """Of equal, independent nodes the fit says that they are; its draws cannot be told from theirs."""
    trace = drawn(Exponential(per_1000_node_days=5, repair=SHORT), 1000, 200)
    found = clustered(trace)
    assert (found.relapse, found.burst_share) == pytest.approx((0, 0), abs=0.02)
    assert min(found.quality, found.steadiness) > 5
    judged = judge(found, trace, "s", 25)
    for name in ("dispersion", "top_5", "gap_variation"):
        assert judged.numbers[name].off == pytest.approx(0, abs=0.1)


def test_a_weibull_shape_is_found():
    """From the variation of the gaps."""
    trace = drawn(Weibull(per_1000_node_days=10, shape=0.62, repair=SHORT), 2000, 365)
    assert shape_of(trace) == pytest.approx(0.62, abs=0.05)


def test_repairs_that_are_not_over_count():
    """Longer than the median, and with the time that was seen of them: the mean is all time out over all ends."""
    outages = tuple(Outage(number, 10.0 * number, 100.0 if number < 6 else math.inf) for number in range(10))
    found = repair_of(Trace(outages=outages, nodes=10, span_s=1000))
    assert found.median_s == 100.0
    assert found.mean_s == pytest.approx((600 + 940 + 930 + 920 + 910) / 6)
    with pytest.raises(UsageError, match="nothing is known of repairs"):
        repair_of(Trace(outages=outages[6:], nodes=10, span_s=1000))


def test_a_perfect_model_has_no_distance():
    """A replay of the trace is the trace: every number is its own, and nothing is unusual."""
    trace = drawn(Weibull(per_1000_node_days=20, repair=SHORT), 100, 60)
    judged = judge(Replay(trace=trace), trace, "s", 3)
    assert all(each.usual and abs(each.off) < 1e-9 for each in judged.numbers.values())
    assert all(each.found <= 1e-9 for each in judged.distances.values())
    with pytest.raises(ValueError, match="at least 2"):
        judge(Replay(trace=trace), trace, "s", 1)


def test_too_little_is_not_fitted():
    """Twenty faults are the least."""
    with pytest.raises(UsageError, match="2 faults are too few"):
        fit(Trace(outages=(Outage(0, 1.0, 1.0), Outage(1, 2.0, 1.0)), nodes=4, span_s=100))


def as_csv(path: Path, trace: Trace) -> Path:
    """The trace as a file."""
    rows = [f"n{each.node},{each.at_s},{each.end_s if each.end_s <= trace.span_s else ''},x" for each in trace.outages]
    path.write_text("\n".join(["node,start,end,kind", *rows]) + "\n")
    return path


@pytest.mark.parametrize("judged_on", [each.value for each in JudgedOn])
def test_the_command_tells_the_same_twice(tmp_path, judged_on):
    """Table and JSON, byte for byte; JSON holds numbers and null only; another seed is another draw."""
    path = as_csv(tmp_path / "t.csv", drawn(Clustered(per_1000_node_days=8, repair=SHORT), 200, 120))
    options = [str(path), "--nodes", "200", "--days", "120", "--judge-on", judged_on, "--replications", "5"]
    said = [
        CliRunner().invoke(command, [*options, *more]) for more in ([], [], ["--json"], ["--json"], ["--seed", "2"])
    ]
    assert all(each.exit_code == 0 for each in said), said[0].output
    assert said[0].stdout == said[1].stdout != said[4].stdout
    assert said[2].stdout == said[3].stdout
    found = json.loads(said[2].stdout)
    assert [*found["models"]] == ["clustered", "lemons", "weibull", "exponential"]
    assert found["trace"]["nodes"] == 200
    assert found["judged"]["on"] == judged_on
    assert found["models"]["clustered"]["parameters"]["repair"]["median_s"] > 0
    assert "NaN" not in said[2].stdout
    assert max(map(len, said[0].stdout.splitlines())) <= 120
    assert ("FITTED" in said[0].stdout) is (judged_on != "whole")


def test_fit_is_a_command_of_plan(tmp_path):
    """`ftslurm plan fit TRACE`, beside `ftslurm plan CONFIG`."""
    path = as_csv(tmp_path / "t.csv", drawn(Exponential(per_1000_node_days=8, repair=SHORT), 50, 120))
    said = CliRunner().invoke(plan, ["fit", str(path), "--nodes", "50", "--replications", "2"])
    assert said.exit_code == 0, said.output
    assert "of 50 nodes in" in said.stdout


def test_a_fleet_that_was_not_told_is_said(tmp_path):
    """The nodes that a trace names are taken for all, and a note says so; a bad trace is refused where it is bad."""
    path = as_csv(tmp_path / "t.csv", drawn(Exponential(per_1000_node_days=8, repair=SHORT), 50, 120))
    said = CliRunner().invoke(command, [str(path), "--replications", "2"])
    assert said.exit_code == 0
    assert "those that the trace names" in said.stderr
    path.write_text(path.read_text() + "n1,5,6,x\n")
    refused = CliRunner().invoke(command, [str(path)])
    assert isinstance(refused.exception, UsageError)
    assert "out of order" in str(refused.exception)


@needs_trace
def test_the_public_trace_is_reproduced():
    """Within 10 %: rate, dispersion, faults again within 1 and 7 days, concentration; no simpler model is near."""
    models = study(public_trace(), JudgedOn.WHOLE, replications=40).models
    off = {name: {asked: judged.numbers[asked].off for asked in ASKED} for name, (_, judged) in models.items()}
    assert all(abs(each) <= 0.1 for each in off.pop("clustered").values())
    assert all(abs(each["dispersion"]) > 0.25 and abs(each["within_week"]) > 0.8 for each in off.values())


@needs_trace
def test_nodes_that_were_held_back_are_foretold():
    """Fitted to half of the nodes and judged on the other half, both ways: within 10 % in the mean of the cuts."""
    trace = public_trace()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ASKED}
    for seed in range(15):
        half = set(Random(seed).sample(range(trace.nodes), trace.nodes // 2))
        parts = [trace.only(half), trace.only(set(range(trace.nodes)) - half)]
        for own, other in (parts, parts[::-1]):
            judged = judge(clustered(own), other, f"{seed}", 10)
            for name in ASKED:
                found[name].append((judged.numbers[name].mean, judged.numbers[name].trace))
    for name, pairs in found.items():
        means, traces = zip(*pairs, strict=True)
        assert sum(means) / sum(traces) == pytest.approx(1, abs=0.1), name


@needs_trace
def test_the_command_reads_the_public_trace():
    """All of it, and JSON with what was asked of it."""
    options = [str(TRACE), "--nodes", "400", "--days", "174", "--replications", "3", "--json"]
    found = json.loads(CliRunner().invoke(command, options).stdout)
    assert found["trace"] == {"faults": 312, "nodes": 400, "days": 174.0, "not_over": 3}
    assert document(study(public_trace(), JudgedOn.WHOLE, 1, 3))["models"] == found["models"]
    assert text(study(public_trace(), JudgedOn.WHOLE, 1, 3))[0].startswith("312 faults of 400 nodes")
    assert len(gaps_s(public_trace().outages)) == 311
