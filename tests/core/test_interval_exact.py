"""The exact interval between saves: Daly's published values, the root itself, and what efficiency makes of a wait."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.core.interval import daly, efficiency, optimum

# J. T. Daly, FGCS 22 (2006), figures 3 to 5: a save takes 5 min, and M between failures in minutes gives so many minutes.
DALY = [(24 * 60, 117), (6 * 60, 57), (15, 9.1)]


@pytest.mark.parametrize(("mtbf_min", "best_min"), DALY)
def test_the_three_published_values(mtbf_min, best_min):
    """Daly's formula gives the intervals that its paper prints, and the exact one agrees as far as they are printed."""
    assert daly(5 * 60, mtbf_min * 60) / 60 == pytest.approx(best_min, abs=0.5 if best_min > 10 else 0.05)
    assert optimum(5 * 60, mtbf_min * 60) / 60 == pytest.approx(best_min, abs=0.5 if best_min > 10 else 0.1)


@given(share=st.floats(1e-12, 5.0), mtbf_s=st.floats(1e-3, 1e9))
def test_it_is_the_root(share, mtbf_s):
    """(1 - x) e^(x + c) = 1 at the optimum x, which lies between 0 and the time between failures."""
    x = optimum(share * mtbf_s, mtbf_s) / mtbf_s
    assert 0 < x < 1
    assert -x - math.log1p(-x) == pytest.approx(share, rel=1e-4 if share < 1e-6 else 1e-7, abs=1e-12)


@given(share=st.floats(1e-6, 5.0), other=st.floats(0.01, 100.0), restart=st.floats(0, 2.0), wait=st.floats(0, 10.0))
def test_nothing_is_better(share, other, restart, wait):
    """No other interval is more efficient, whatever restarts and waits cost."""
    best = optimum(share, 1.0)
    assert efficiency(best, share, 1.0, restart, wait) >= efficiency(best * other, share, 1.0, restart, wait) * (
        1 - 1e-9
    )


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0.0), (30.0, 1.0), (1e12, 1.0)])
def test_the_ends(share, expected):
    """A save that costs nothing is made all the time; one that is hopeless, once in the time between failures."""
    assert optimum(share, 1.0) == expected


def test_waiting_and_the_impossible():
    """A wait of the time between failures halves what is left; a segment that never ends leaves nothing."""
    assert efficiency(0.5, 0.1, 1.0, 0.0, 1.0) == pytest.approx(efficiency(0.5, 0.1, 1.0) / 2)
    assert efficiency(1.0, 1e6, 1.0) == 0.0


@pytest.mark.parametrize(("cost_s", "mtbf_s"), [(-1.0, 1.0), (1.0, 0.0), (math.nan, 1.0)])
def test_nonsense_is_refused(cost_s, mtbf_s):
    """As the approximations do."""
    with pytest.raises(ValueError, match="no interval"):
        optimum(cost_s, mtbf_s)
