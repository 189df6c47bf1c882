from __future__ import annotations

import math
import statistics
from collections import Counter
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftslurm.core.lemons import DAY_S
from ftslurm.plan.generators import REPAIR, Clustered, Exponential, Lemons, Lognormal, Replay, Weibull
from ftslurm.plan.measures import gaps_s, measure
from ftslurm.plan.trace import Outage, Trace

HOUR_S = 3600.0
SHORT = Lognormal(HOUR_S, 2 * HOUR_S)
KINDS = [Exponential, Weibull, Lemons, Clustered]


@settings(max_examples=25)
@given(
    kind=st.sampled_from(KINDS),
    nodes=st.integers(0, 60),
    days=st.floats(0, 200),
    rate=st.floats(0, 400),
    seed=st.integers(0, 2**32),
)
def test_outages_are_in_order_and_of_nodes_that_are_up(kind, nodes, days, rate, seed):
    """Within the span, of nodes that there are, and never while the node is out; the same seed gives the same."""
    generator = kind(per_1000_node_days=rate, repair=SHORT)
    found = generator.outages(nodes, days * DAY_S, Random(seed))
    assert [*found] == [*generator.outages(nodes, days * DAY_S, Random(seed))]
    up_at = dict.fromkeys(range(nodes), 0.0)
    last = 0.0
    for each in found:
        assert last <= each.at_s <= days * DAY_S
        assert up_at[each.node] <= each.at_s
        assert 0 <= each.repair_s < math.inf
        up_at[each.node], last = each.end_s, each.at_s


@pytest.mark.parametrize("kind", KINDS)
def test_the_rate_is_the_one_that_was_asked_for(kind):
    """Of nodes that are up, over many draws."""
    generator = kind(per_1000_node_days=6.5, repair=SHORT)
    counts = [len(generator.outages(2000, 90 * DAY_S, Random(seed))) for seed in range(30)]
    mean, error = statistics.fmean(counts), statistics.stdev(counts) / math.sqrt(len(counts))
    assert mean == pytest.approx(0.0065 * 2000 * 90, abs=3.5 * error)


def test_exponential_gaps_are_exponential():
    """Mean and standard deviation of the gaps are equal; nodes are hit evenly."""
    found = Exponential(per_1000_node_days=10, repair=SHORT).outages(1000, 365 * DAY_S, Random(1))
    gaps = gaps_s(found)
    assert statistics.stdev(gaps) / statistics.fmean(gaps) == pytest.approx(1, abs=0.06)
    assert measure(found, 1000, 365 * DAY_S).dispersion == pytest.approx(1, abs=0.16)


def test_weibull_gaps_have_the_variation_of_their_shape():
    """Shape 0.62 has 1.67; shape 1 is Poisson."""
    for shape, wanted in ((0.62, 1.67), (1.0, 1.0)):
        found = Weibull(per_1000_node_days=10, shape=shape, repair=SHORT).outages(2000, 365 * DAY_S, Random(2))
        gaps = gaps_s(found)
        assert statistics.stdev(gaps) / statistics.fmean(gaps) == pytest.approx(wanted, rel=0.1)


def test_lemons_have_their_share():
    """15 % of the nodes, five times as bad, have 5 x 15 / (5 x 15 + 85) = 47 % of the faults."""
    found = Lemons(per_1000_node_days=20, repair=SHORT).outages(1000, 365 * DAY_S, Random(3))
    counts = sorted(Counter(each.node for each in found).values(), reverse=True)
    assert sum(counts[:150]) / len(found) == pytest.approx(0.469, abs=0.02)
    assert len(Lemons(per_1000_node_days=20, share=0.0).outages(50, 365 * DAY_S, Random(3))) > 100


def test_repairs_are_lognormal():
    """Half are below the median; the mean is the mean, cut or not; equal, they are a constant."""
    dice = Random(4)
    for repair in (Lognormal(HOUR_S, 2 * HOUR_S), Lognormal(HOUR_S, 4 * HOUR_S, 30 * HOUR_S)):
        times = sorted(repair.draw(dice) for _ in range(20_000))
        assert times[10_000] == pytest.approx(repair.median_s, rel=0.04)
        assert statistics.fmean(times) == pytest.approx(repair.mean_s, rel=0.04)
        assert times[-1] <= repair.longest_s
    assert Lognormal(60, 60).draw(dice) == 60.0


def test_relapses_come_as_often_and_as_soon_as_they_were_told():
    """A chance after a first fault, another after a relapse, most of them within a day."""
    generator = Clustered(
        per_1000_node_days=2, relapse=0.3, again=0.6, soon=0.7, burst_share=0, quality=math.inf, steadiness=math.inf,
        repair=SHORT, hasty=0.5,
    )  # fmt: skip
    found = generator.outages(10_000, 365 * DAY_S, Random(5))
    kinds: dict[int, list[Outage]] = {}
    for each in found:
        kinds.setdefault(each.node, []).append(each)
    pairs = [pair for each in kinds.values() for pair in pairwise(each)]
    followed = {"fault": 0, "relapse": 0}
    soon, hasty = 0, []
    for before, after in pairs:
        if after.kind == "relapse":
            followed[before.kind] += 1
            soon += after.at_s - before.end_s <= DAY_S
            hasty.append(before.repair_s)
    total = {kind: sum(each.kind == kind for each in found) for kind in followed}
    assert followed["fault"] / total["fault"] == pytest.approx(0.3, abs=0.02)
    assert followed["relapse"] / total["relapse"] == pytest.approx(0.6, abs=0.02)
    assert soon / sum(followed.values()) == pytest.approx(0.7, abs=0.02)
    ends = statistics.fmean(each.repair_s for each in found)
    assert ends == pytest.approx(2 * HOUR_S, rel=0.05)
    assert statistics.fmean(hasty) < 0.75 * ends


def test_a_burst_hits_several_nodes_at_one_moment_and_they_are_repaired_together():
    """Of the size and frequency that was told; of a fleet's few nodes it hits few."""
    generator = Clustered(
        per_1000_node_days=2, relapse=0, burst_share=0.2, burst_size=5, quality=math.inf, steadiness=math.inf
    )
    found = generator.outages(20_000, 90 * DAY_S, Random(6))
    moments: dict[float, list[Outage]] = {}
    for each in found:
        moments.setdefault(each.at_s, []).append(each)
    several = [each for each in moments.values() if len(each) > 1]
    assert len(several) / len(moments) == pytest.approx(0.2, abs=0.03)
    assert statistics.fmean(map(len, several)) == pytest.approx(5, rel=0.1)
    assert all(len({outage.repair_s for outage in each}) == 1 for each in several)
    few = generator.outages(8, 3650 * DAY_S, Random(6))
    assert measure(few, 8, 3650 * DAY_S).together < 0.1


def test_a_replay_is_exact():
    """All nodes: the trace itself, as long as is asked for; fewer: some of its nodes, numbered anew."""
    outages = tuple(Outage(number % 7, 10.0 * number, 5.0, "x") for number in range(70))
    replay = Replay(trace=Trace(outages=outages, nodes=9, span_s=700))
    assert replay.outages(9, 700, Random(1)) == [*outages]
    assert replay.outages(9, 100, Random(1)) == [*outages[:10]]
    some = replay.outages(3, 700, Random(1))
    assert {each.node for each in some} <= {0, 1, 2}
    assert {each.at_s for each in some} <= {each.at_s for each in outages}
    for nodes, span_s in ((10, 700), (9, 701)):
        with pytest.raises(ValueError, match="cannot be replayed"):
            replay.outages(nodes, span_s, Random(1))


@pytest.mark.parametrize(
    "call",
    [
        lambda: Exponential(per_1000_node_days=-1),
        lambda: Exponential(per_1000_node_days=math.nan),
        lambda: Weibull(per_1000_node_days=1, shape=0),
        lambda: Lemons(per_1000_node_days=1, share=1.5),
        lambda: Lemons(per_1000_node_days=1, factor=0),
        lambda: Clustered(per_1000_node_days=1, relapse=1.0),
        lambda: Clustered(per_1000_node_days=1, burst_size=1),
        lambda: Clustered(per_1000_node_days=1, hasty=0),
        lambda: Clustered(per_1000_node_days=1, delay=REPAIR, soon=math.nan),
        lambda: Clustered(per_1000_node_days=1, delay=Lognormal(2 * DAY_S, 3 * DAY_S)),
        lambda: Lognormal(0, 1),
        lambda: Lognormal(2, 1),
        lambda: Lognormal(1, 2, 3),
    ],
)
def test_what_cannot_be_is_refused(call):
    """Negative rates, shares beyond 1, bursts of one node, relapses that never come in time."""
    with pytest.raises(ValueError, match=r"not|no|least"):
        call()
