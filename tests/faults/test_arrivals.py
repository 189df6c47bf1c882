from __future__ import annotations

import statistics
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.faults.arrivals import MOST, Draw, Replay, Weibull, draws, read_trace


@given(seed=st.integers(0, 2**63 - 1), mean=st.floats(1, 1e4), shape=st.floats(0.3, 5))
def test_a_seed_gives_the_same_faults_again(seed, mean, shape):
    """The same seed gives the same faults, in order, before the end, each with a place to strike at."""
    source, weights = Weibull(mtbf_s=mean, shape=shape), {"kill": 2.0, "cut": 1.0}
    found = draws(source, weights, Random(seed), 20 * mean)
    assert found == draws(source, weights, Random(seed), 20 * mean)
    assert [each.number for each in found] == list(range(len(found)))
    assert [each.at for each in found] == sorted(each.at for each in found)
    assert all(each.at <= 20 * mean and 0 <= each.pick < 1 and each.fault in weights for each in found)


@pytest.mark.parametrize(("shape", "spread"), [(1.0, 1.0), (0.62, 1.69)])
def test_gaps_have_the_mean_that_was_asked_for(shape, spread):
    """The mean gap is the MTBF whatever the shape; below 1 gaps vary more, as faults that come in clusters do."""
    gaps = Weibull(mtbf_s=30.0, shape=shape).gaps(Random(1))
    found = [next(gaps) for _ in range(50_000)]
    assert statistics.fmean(found) == pytest.approx(30.0, rel=0.03)
    assert statistics.pstdev(found) / 30.0 == pytest.approx(spread, rel=0.05)


def test_weights_are_shares():
    """A fault of twice the weight comes twice as often; one of weight 0 never."""
    found = draws(Weibull(mtbf_s=1.0), {"a": 2.0, "b": 1.0, "c": 0.0}, Random(3), 20_000)
    share = sum(each.fault == "a" for each in found) / len(found)
    assert share == pytest.approx(2 / 3, abs=0.02)
    assert not any(each.fault == "c" for each in found)


@given(pick=st.floats(0, 1, exclude_max=True), names=st.sets(st.text("abc", min_size=1), min_size=1))
def test_a_pick_means_the_same_candidate_in_any_order(pick, names):
    """Whom a draw means depends on who is there, not on the order in which they are told."""
    one = Draw(number=0, at=0.0, fault="kill", pick=pick)
    assert one.choose(names) == one.choose(sorted(names, reverse=True))
    assert one.choose(names) in names


def test_a_trace_is_replayed_as_it_is():
    """Moments and names are the trace's, in order, divided by the speed; moments without a name draw one."""
    found = read_trace("# hours\n7200 node-cut\n3600\n\n10800 kill # a remark\n", 3600.0)
    assert found == Replay((1.0, 2.0, 3.0), ("", "node-cut", "kill"))
    drawn = draws(found, {"stop": 1.0}, Random(0), 2.5)
    assert [(each.at, each.fault) for each in drawn] == [(1.0, "stop"), (2.0, "node-cut")]


@pytest.mark.parametrize("line", ["soon", "-1", "nan", "1 kill n3", "inf"])
def test_a_bad_line_of_a_trace_is_named(line):
    """What is no moment is refused with the number of its line."""
    with pytest.raises(ValueError, match="line 2"):
        read_trace(f"1.5\n{line}\n", 1.0)


def test_too_many_faults_are_a_mistake():
    """A mean that would give more faults than anybody can want is refused."""
    with pytest.raises(ValueError, match=str(MOST)):
        draws(Weibull(mtbf_s=1e-6), {"kill": 1.0}, Random(0), 10.0)
