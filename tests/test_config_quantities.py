"""Durations, time limits and sizes: what people write, and back."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftslurm import quantities as q


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("30s", 30),
        ("15m", 900),
        ("2h", 7200),
        ("1d", 86400),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("0s", 0),
    ],
)
def test_durations(text, seconds):
    """A duration is its number times its unit, and parts add up."""
    assert q.parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "30", "s", "30 s", "-3s", "1m1h", "1h1h", "1e3s", "٣s", "3S", "1w", "inf", "nans", "3s\n", "9" * 30 + "s"],
)
def test_what_is_no_duration(text):
    """A number without a unit, a wrong order, or anything else is refused with an example of what is right."""
    with pytest.raises(ValueError, match=r"such as 500ms|large to small"):
        q.parse_duration(text)


@given(st.integers(min_value=0, max_value=10**11))
def test_durations_survive_being_written(milliseconds):
    """What is written parses to the same seconds."""
    seconds = milliseconds / 1000
    assert q.parse_duration(q.format_duration(seconds)) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        # The six forms of sbatch(1), --time.
        ("90", "0-01:30:00"),
        ("90:30", "0-01:30:30"),
        ("4:00", "0-00:04:00"),
        ("1:30:00", "0-01:30:00"),
        ("48:00:00", "2-00:00:00"),
        ("2-12", "2-12:00:00"),
        ("2-12:30", "2-12:30:00"),
        ("1-00:00:00", "1-00:00:00"),
        ("90m", "0-01:30:00"),
        ("29s", "0-00:00:29"),
        ("500ms", "0-00:00:01"),
    ],
)
def test_time_limits(text, written):
    """Slurm's forms mean what they mean to Slurm; written back it is always D-HH:MM:SS, never rounded down to 0."""
    assert q.format_slurm_time(q.parse_slurm_time(text)) == written


@pytest.mark.parametrize("text", ["", "1:60:00", "1:00:60", "1-24", "1-", "-1", "1:2:3:4", "UNLIMITED", "1:00 ", "1.5"])
def test_what_is_no_time_limit(text):
    """A field that should have carried, or any other text, is refused."""
    with pytest.raises(ValueError, match=r"below|such as"):
        q.parse_slurm_time(text)


@given(st.integers(min_value=1, max_value=10**9))
def test_time_limits_survive_being_written(seconds):
    """What is written in Slurm's form parses to the same seconds."""
    assert q.parse_slurm_time(q.format_slurm_time(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("0B", 0), ("100B", 100), ("1K", 1024), ("1KiB", 1024), ("1.5G", 3 * 2**29), ("2T", 2**41), ("1P", 2**50)],
)
def test_sizes(text, size):
    """Units are binary, as Slurm counts."""
    assert q.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "5", "5X", "-5G", "5 G", "G", "5g", "1e3K", "inf"])
def test_what_is_no_size(text):
    """A number without a unit or with an unknown one is refused."""
    with pytest.raises(ValueError, match="such as 512K"):
        q.parse_size(text)


def test_decimal_units_are_refused_with_the_binary_one():
    """GB is ambiguous; the message says what to write."""
    with pytest.raises(ValueError, match=re.escape("write 200M (binary")):
        q.parse_rate("200MB/s")


@given(st.integers(min_value=0, max_value=2**58))
def test_rates_survive_being_written(rate):
    """What is written parses to the same bytes a second."""
    assert q.parse_rate(q.format_rate(rate)) == rate
