from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ftslurm.core.detector import History, Settings, limit_s, observe, suspects, suspicion

SETTINGS = st.builds(
    Settings,
    interval_s=st.floats(0.05, 5.0),
    suspect_after_s=st.floats(0.1, 30.0),
    deviations=st.floats(0.0, 20.0),
)
GAPS = st.lists(st.floats(-1.0, 60.0), max_size=40)
SILENT = st.floats(0.0, 1e6)
HALF = math.log10(2) + 1e-9


def beats(gaps, settings, start=1000.0):
    """Return the history after beats with these gaps, and the time of the last."""
    now = start
    history = observe(None, now, settings)
    for gap in gaps:
        now += gap
        history = observe(history, now, settings)
    return history, now


@given(GAPS, SETTINGS, SILENT, SILENT)
def test_suspicion_grows_with_silence(gaps, settings, first, second):
    """Phi never falls while nothing is heard, and is never negative."""
    history, now = beats(gaps, settings)
    sooner, later = sorted((first, second))
    assert 0.0 <= suspicion(history, now + sooner, settings) <= suspicion(history, now + later, settings)


@given(GAPS, SETTINGS, SILENT)
def test_suspicion_falls_on_a_beat(gaps, settings, silent):
    """A node that was heard just now is not suspicious, however long it was silent before."""
    history, now = beats(gaps, settings)
    before = suspicion(history, now + silent, settings)
    after = suspicion(observe(history, now + silent, settings), now + silent, settings)
    assert after <= HALF
    assert after <= max(before, HALF)


@given(GAPS, SETTINGS)
def test_limit_is_bounded_whatever_is_learnt(gaps, settings):
    """Learning can make the detector more patient, three times at most, and never less patient than asked."""
    history, _ = beats(gaps, settings)
    assert settings.suspect_after_s <= limit_s(history, settings) <= 3 * settings.suspect_after_s


@given(st.lists(st.floats(0.4, 0.6), min_size=2, max_size=199))
def test_moments_are_those_of_the_intervals(gaps):
    """Mean and deviation are the sample's, within rounding, while the weight is not exhausted."""
    history, _ = beats(gaps, Settings())
    assert history.count == len(gaps)
    assert history.mean_s == pytest.approx(statistics.fmean(gaps), rel=1e-6)
    assert history.deviation_s == pytest.approx(statistics.pstdev(gaps), abs=1e-6)


def test_old_beats_are_forgotten():
    """After a change of pace the moments follow: the weight of the past is bounded."""
    history, now = beats([0.5] * 400, Settings())
    for _ in range(2000):
        now += 1.5
        history = observe(history, now, Settings())
    assert history.count == 200
    assert history.mean_s == pytest.approx(1.5, abs=0.01)
    assert history.deviation_s < 0.2


@given(GAPS, SETTINGS, st.floats(1.0, 1e6))
def test_outage_teaches_nothing(gaps, settings, excess):
    """The interval that spans an outage restarts the clock and leaves the statistics alone."""
    history, now = beats(gaps, settings)
    back = now + limit_s(history, settings) + excess
    after = observe(history, back, settings)
    assert (after.count, after.mean_s, after.spread) == (history.count, history.mean_s, history.spread)
    assert after.last == back


@given(GAPS, SETTINGS, st.floats(0.001, 1e6))
def test_clock_that_goes_back_teaches_nothing(gaps, settings, jump):
    """A beat from the past is taken as the newest, and raises no suspicion."""
    history, now = beats(gaps, settings)
    assume(now - jump < history.last)
    after = observe(history, now - jump, settings)
    assert (after.count, after.last) == (history.count, now - jump)
    assert suspicion(after, after.last, settings) <= HALF


def test_first_beat_is_enough_to_be_missed():
    """A node that beats once and dies is noticed like any other."""
    histories = {"n1": observe(None, 10.0, Settings()), "n2": observe(None, 12.5, Settings())}
    assert suspects(histories, 13.0, Settings()) == {}
    assert suspects(histories, 13.1, Settings()) == {"n1": pytest.approx(3.1)}
    assert set(suspects(histories, 16.0, Settings())) == {"n1", "n2"}


@pytest.mark.parametrize(
    ("deviations", "expected"),
    # -log10 of the normal distribution's upper tail, from tables (5: 2.867e-7, 8: 6.221e-16) and mpmath (25 and 30).
    [(0, 0.30103), (1, 0.79955), (5, 6.54265), (8, 15.20614), (25, 137.51475), (30, 197.30921)],
)
def test_phi_is_the_exact_tail(deviations, expected):
    """Where an approximation would be wrong, or overflow, the tail of the normal distribution is exact."""
    history = History(last=0.0, count=10, mean_s=1.0, spread=0.0)
    settings = Settings(interval_s=1.0)
    assert suspicion(history, 1.0 + deviations * 0.25, settings) == pytest.approx(expected, abs=2e-4)


@given(st.floats(-1e9, 1e9), SETTINGS)
def test_phi_is_a_number_for_any_moment(now, settings):
    """No moment makes the arithmetic fail."""
    assert math.isfinite(suspicion(History(last=0.0), now, settings))


def test_jitter_makes_patient():
    """Where beats come unevenly, the limit is above the floor; it returns when they come evenly again."""
    uneven, now = beats([0.2, 2.0] * 60, Settings())
    assert 3.0 < limit_s(uneven, Settings()) <= 9.0
    for _ in range(1000):
        now += 0.5
        uneven = observe(uneven, now, Settings())
    assert limit_s(uneven, Settings()) == 3.0
