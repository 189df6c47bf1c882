from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ftslurm.core.detector import (
    DAY_S,
    Health,
    History,
    Settings,
    deviations_at,
    late,
    limit_s,
    misses_many,
    observe,
    suspects,
    suspicion,
)

SETTINGS = st.builds(
    Settings,
    interval_s=st.floats(0.05, 5.0),
    suspect_after_s=st.floats(0.1, 30.0),
    nodes=st.integers(1, 200_000),
    false_suspicions_s=st.floats(60.0, 1e9),
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


# ------------------------------------------------------------------------------- how many false suspicions are allowed


@pytest.mark.parametrize(
    ("nodes", "phi"),
    # One false suspicion of any node in 30 days, a beat a second.
    [(8, 7.3), (128, 8.5), (1_250, 9.5), (12_500, 10.5), (100_000, 11.4)],
)
def test_threshold_grows_with_the_number_of_nodes(nodes, phi):
    """Phi is log10(N T / eta)."""
    assert Settings(interval_s=1.0, nodes=nodes).threshold == pytest.approx(phi, abs=0.05)
    hourly = Settings(interval_s=1.0, nodes=nodes, false_suspicions_s=30 * DAY_S / 1000)
    assert hourly.threshold == pytest.approx(phi - 3, abs=0.05)


@given(st.floats(0.31, 1e7))
def test_the_limit_is_where_phi_reaches_the_threshold(phi):
    """The inverse of the tail is its inverse, near zero and where no tail can be computed any more."""
    at = deviations_at(phi)
    settings = Settings(interval_s=1.0)
    assert suspicion(History(last=0.0), 1.0 + at * 0.25, settings) == pytest.approx(phi, rel=1e-6, abs=1e-6)


@given(st.floats(allow_nan=False))
def test_inverse_is_total(phi):
    """Any phi has a finite number of deviations, and more phi never fewer."""
    at = deviations_at(phi)
    assert math.isfinite(at)
    assert at >= 0.0
    assert deviations_at(phi + 1.0) >= at


@given(GAPS, SETTINGS)
def test_nobody_is_suspect_below_the_threshold(gaps, settings):
    """At the limit, phi is the threshold, or the limit is the floor or the ceiling."""
    history, now = beats(gaps, settings)
    limit = limit_s(history, settings)
    phi = suspicion(history, now + limit, settings)
    floor, ceiling = settings.suspect_after_s, 3 * settings.suspect_after_s
    if limit < ceiling:
        assert phi >= settings.threshold - 1e-3
    if limit > floor:
        assert phi <= settings.threshold + 1e-3


@given(st.integers(1, 200_000), st.integers(1, 200_000))
def test_more_nodes_never_make_less_patient(few, many):
    """A larger run waits as long or longer for each of its nodes."""
    few, many = sorted((few, many))
    history, _ = beats([0.3, 0.9] * 20, Settings())
    assert limit_s(history, Settings(nodes=few)) <= limit_s(history, Settings(nodes=many))


# ------------------------------------------------------------------------------------------------ the observer's health


def test_health_is_bounded_and_recovers():
    """An observer that is ill waits longer, four times at most, and as before when it is well again."""
    health = Health()
    assert health.patience == 1.0
    for _ in range(10):
        health = health.worse()
    assert health.patience == 4.0
    for _ in range(10):
        health = health.better()
    assert health == Health()


def test_ill_observer_waits_longer():
    """Patience stretches every limit."""
    histories = {"n1": observe(None, 10.0, Settings())}
    ill = Health().worse()
    assert set(suspects(histories, 13.5, Settings())) == {"n1"}
    assert suspects(histories, 15.9, Settings(), ill) == {}
    assert set(suspects(histories, 16.1, Settings(), ill)) == {"n1"}


def test_who_falls_silent_at_once_is_seen_before_the_first_is_suspect():
    """Half of the floor is enough to count as silent too."""
    histories = {name: observe(None, at, Settings()) for name, at in (("n1", 10.0), ("n2", 11.0), ("n3", 12.5))}
    assert late(histories, 13.1, Settings()) == {"n1", "n2"}
    assert set(suspects(histories, 13.1, Settings())) == {"n1"}


@pytest.mark.parametrize(
    ("silent", "watched", "many"),
    [(0, 0, False), (1, 1, False), (1, 3, False), (2, 3, True), (3, 3, True), (2, 4, False), (500, 999, True)],
)
def test_missing_most_of_the_others_is_the_observers_doing(silent, watched, many):
    """Most, and at least two: a single node that is lost says nothing about the observer."""
    assert misses_many(silent, watched) is many
