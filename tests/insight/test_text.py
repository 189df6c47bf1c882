from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.insight.text import clock, folded, iso, took, visible, visible_lines


@given(st.text())
def test_nothing_that_acts_on_a_terminal_is_left(text):
    """Whatever comes in, what goes out is one printable line."""
    shown = visible(text)
    assert not [c for c in shown if unicodedata.category(c)[0] == "C" or unicodedata.category(c) in ("Zl", "Zp")]
    assert len(shown.splitlines()) <= 1
    shown.encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain words, grüße 好", "plain words, grüße 好"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("over\rwritten\nline\ttab", "over\\rwritten\\nline\\ttab"),
        ("\x9b2J\x7f", "\\x9b2J\\x7f"),
        ("admin\u202etxt.exe", "admin\\u202etxt.exe"),
        ("\u2028\ud800\U000e0041", "\\u2028\\ud800\\U000e0041"),
        ("<script>[bold]x[/bold]", "<script>[bold]x[/bold]"),
    ],
)
def test_what_is_escaped_and_what_is_not(text, shown):
    """Control, direction and line characters become escapes; letters of any script and markup stay as they are."""
    assert visible(text) == shown


def test_a_tail_keeps_its_lines():
    """Several lines stay several, each made visible."""
    assert visible_lines("a\tb\n\x1b[2Jc\r\nd") == ["a   b", "\\x1b[2Jc", "d"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"), (0.004, "4 ms"), (0.06, "0.1 s"), (0.4, "0.4 s"), (12.34, "12.3 s"), (59.94, "59.9 s"),
        (59.96, "1 min 00 s"), (192, "3 min 12 s"), (3600, "1 h 00 min"), (7505, "2 h 05 min"), (93_600, "1 d 02 h"),
        (-3.0, "-3.0 s"),
    ],
)  # fmt: skip
def test_durations_in_words(seconds, words):
    """A duration is written with two units at most, and never as 60 of a smaller one."""
    assert took(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (5.9, "0:05"), (723, "12:03"), (3723, "1:02:03"), (93_784, "1-02:03:04"), (-1, "0:00")],
)
def test_durations_as_squeue_writes_them(seconds, text):
    """Days and hours appear only when there are some, and nothing is negative."""
    assert clock(seconds) == text


def test_times_are_utc():
    """ISO times carry milliseconds and Z."""
    assert iso(1_772_000_000.1234) == "2026-02-25T06:13:20.123Z"
    assert iso(None) is None


def test_names_that_are_no_nodes_are_listed_visibly():
    """A hostile name in a journal neither raises nor reaches the terminal."""
    assert folded(["n1", "n2", "n4"]) == "n[1-2,4]"
    assert folded(["n1", "\x1b[2J"]) == "n1,\\x1b[2J"
    assert folded([]) == ""
