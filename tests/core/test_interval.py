from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.core.interval import daly, efficiency, young

# The cost of a save as a share of the time between failures; the error of Young's and of Daly's interval against the
# exact optimum, in percent; the waste at the optimum, in percent. Exponential failures; a restart
# costs as much as a save.
PUBLISHED = [
    (0.001, 1.5, -0.00, 4.5),
    (0.01, 4.9, -0.00, 14.3),
    (0.1, 16.7, -0.04, 44.2),
    (0.5, 43, -0.55, 81.7),
    (1, 68, -1.8, 94.2),
]
MTBF_S = 10_000.0


def exact_optimum(cost_s: float, mtbf_s: float) -> float:
    """The root of (1 - t/M) e^((t + C)/M) = 1, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if (1 - middle) * math.exp(middle + cost_s / mtbf_s) > 1:
            low = middle
        else:
            high = middle
    return low * mtbf_s


@pytest.mark.parametrize(("share", "young_error", "daly_error", "waste"), PUBLISHED)
def test_published_table(share: float, young_error: float, daly_error: float, waste: float) -> None:
    """Both formulas miss the exact optimum by what the table says, and the waste there is the table's."""
    cost_s = share * MTBF_S
    best_s = exact_optimum(cost_s, MTBF_S)
    assert 100 * (young(cost_s, MTBF_S) / best_s - 1) == pytest.approx(young_error, abs=0.51 if share > 0.1 else 0.051)
    assert 100 * (daly(cost_s, MTBF_S) / best_s - 1) == pytest.approx(daly_error, abs=0.051 if share >= 1 else 0.0051)
    assert 100 * (1 - efficiency(best_s, cost_s, MTBF_S, cost_s)) == pytest.approx(waste, abs=0.051)


def test_first_order_of_daly() -> None:
    """Young's interval without the cost of a save is Daly's first order: 9.4 % too short at a tenth."""
    cost_s = 0.1 * MTBF_S
    assert (young(cost_s, MTBF_S) - cost_s) / exact_optimum(cost_s, MTBF_S) == pytest.approx(1 - 0.094, abs=0.0005)


@given(share=st.floats(1e-6, 1.0), restart=st.floats(0, 1.0))
def test_daly_is_near_the_best(share: float, restart: float) -> None:
    """No interval does better than Daly's by more than a fiftieth, whatever a restart costs."""
    cost_s, restart_s = share * MTBF_S, restart * MTBF_S
    best = efficiency(exact_optimum(cost_s, MTBF_S), cost_s, MTBF_S, restart_s)
    assert best * 0.98 <= efficiency(daly(cost_s, MTBF_S), cost_s, MTBF_S, restart_s) <= best * (1 + 1e-9)


@given(cost_s=st.floats(0, 1e9), mtbf_s=st.floats(1e-3, 1e9), factor=st.floats(1e-3, 1e3))
def test_scaling(cost_s: float, mtbf_s: float, factor: float) -> None:
    """The unit of time does not matter."""
    for formula in (young, daly):
        assert formula(cost_s * factor, mtbf_s * factor) == pytest.approx(factor * formula(cost_s, mtbf_s), rel=1e-6)


@pytest.mark.parametrize("ratio", [2.0, 3.0, 1e6])
def test_hopeless(ratio: float) -> None:
    """Where a save costs more than twice the time between failures, the interval is that time."""
    assert daly(ratio * MTBF_S, MTBF_S) == MTBF_S


@pytest.mark.parametrize(("cost_s", "mtbf_s"), [(-1.0, 1.0), (1.0, 0.0), (1.0, -1.0), (math.nan, 1.0), (1.0, math.nan)])
def test_nonsense_is_refused(cost_s: float, mtbf_s: float) -> None:
    """A negative cost and a time between failures that is not positive have no interval."""
    for formula in (young, daly):
        with pytest.raises(ValueError, match="no interval"):
            formula(cost_s, mtbf_s)
