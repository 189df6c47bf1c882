from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftslurm.plan.rates import BAD, TYPICAL
from ftslurm.plan.reliability import availability, failure_probability, k_of_n, series_rate, spares

HOUR = 3600.0


@pytest.mark.parametrize(
    ("nodes", "rate", "repair_h", "wanted"),
    [(2048, TYPICAL, 2.2, 3), (2048, TYPICAL, 20, 13), (2048, TYPICAL, 133, 59), (12_500, BAD, 133, 500)],
)
def test_spares_are_the_99th_percentile_of_the_nodes_in_repair(nodes, rate, repair_h, wanted):
    """The published figures: 3, 13, 59 and 500."""
    assert spares(nodes, rate.per_second, repair_h * HOUR) == wanted


@settings(max_examples=40)
@given(mean=st.floats(0, 500), wanted=st.floats(0.5, 0.9999))
def test_one_spare_less_would_not_do(mean, wanted):
    """The number found suffices, and is the least that does: Poisson terms, summed one by one."""
    count = spares(1, 1.0, mean, wanted)
    terms = [math.exp(number * math.log(mean) - mean - math.lgamma(number + 1)) if mean else float(not number)
             for number in range(count + 1)]  # fmt: skip
    assert math.fsum(terms) >= wanted - 1e-9
    assert math.fsum(terms[:-1]) < wanted + 1e-9


def test_a_device_fails_with_1_minus_e_to_the_minus_lambda_t():
    """Also where the chance is too small for 1 - e^-x; a node fails with any of its devices."""
    assert failure_probability(1e-6, 1e6) == pytest.approx(1 - math.exp(-1))
    assert failure_probability(1e-20, 1.0) == 1e-20
    assert failure_probability(0.0, 1e9) == 0.0
    node = series_rate([(1e-7, 8), (5e-8, 2)])
    alive = (1 - failure_probability(1e-7, 1e6)) ** 8 * (1 - failure_probability(5e-8, 1e6)) ** 2
    assert 1 - failure_probability(node, 1e6) == pytest.approx(alive)


@settings(max_examples=50)
@given(total=st.integers(0, 40), data=st.data(), alive=st.fractions(0, 1, max_denominator=30))
def test_k_of_n_is_the_binomial_sum(total, data, alive):
    """In fractions, for every k."""
    needed = data.draw(st.integers(-1, total + 1))
    wanted = sum(
        (math.comb(total, count) * alive**count * (1 - alive) ** (total - count)
         for count in range(max(needed, 0), total + 1)), Fraction(0),
    )  # fmt: skip
    assert k_of_n(needed, total, float(alive)) == pytest.approx(float(wanted), rel=1e-12, abs=1e-300)


def test_k_of_n_is_stable_for_a_hundred_thousand():
    """Against exact integers: at 99.9 %, and far out in both tails, where factorials overflow and terms vanish."""
    total = 100_000
    for needed in (99_850, 99_900, 99_960):
        term, whole = math.comb(total, needed) * 999**needed, 0
        for count in range(needed, total + 1):
            whole += term
            term = term * (total - count) * 999 // (count + 1)
        wanted = whole * 10**40 // 1000**total / 10**40
        assert k_of_n(needed, total, 0.999) == pytest.approx(wanted, rel=1e-9)
    assert k_of_n(1, total, 0.999) == 1.0
    assert k_of_n(total, total, 0.999) == pytest.approx(0.999**total, rel=1e-9)


@pytest.mark.parametrize("needed", range(0, 2050, 41))
def test_more_needed_is_never_likelier(needed):
    """Monotone in k, between 0 and 1."""
    more, less = k_of_n(needed + 1, 2048, 0.98), k_of_n(needed, 2048, 0.98)
    assert 0 <= more <= less <= 1


def test_availability_is_up_time_over_all_time():
    """MTTF / (MTTF + MTTR)."""
    assert availability(1 / (99 * HOUR), HOUR) == pytest.approx(0.99)
    assert availability(0.0, HOUR) == 1.0


@pytest.mark.parametrize(
    "call",
    [
        lambda: failure_probability(-1e-9, 1),
        lambda: failure_probability(1e-9, math.nan),
        lambda: series_rate([(1e-9, -1)]),
        lambda: k_of_n(1, 2, 1.01),
        lambda: k_of_n(1, -2, 0.5),
        lambda: spares(8, -1e-9, 60),
        lambda: spares(8, 1e-9, math.inf),
        lambda: spares(8, 1e-9, 60, 1.0),
        lambda: availability(-1, 60),
    ],
)
def test_what_cannot_be_is_refused(call):
    """Negative rates and times, probabilities above 1."""
    with pytest.raises(ValueError, match=r"no|not"):
        call()
