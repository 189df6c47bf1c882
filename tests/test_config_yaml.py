"""YAML as we read it: the traps of YAML 1.1 closed, limits kept, every mistake with its place."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ftslurm.yamldoc import MAX_CHARACTERS, MAX_DEPTH, MAX_NODES, Place, WrittenFloat, WrittenInt, read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12:30:00", "12:30:00"),
        ("24:00:00", "24:00:00"),
        ("1-00:00:00", "1-00:00:00"),
        ("2024-01-31", "2024-01-31"),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("No", "No"),
        ("y", "y"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-3", -3),
        ("1e3", 1000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("true", True),
        ("False", False),
        ("tRUE", "tRUE"),
        ("null", None),
        ("~", None),
        ("", None),
        ("'3'", "3"),
        ("!!str 3", "3"),
        ("2-4", "2-4"),
        ("NULLs", "NULLs"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, value):
    """A scalar means what the core schema of YAML 1.2 says, whatever PyYAML's own 1.1 would make of it."""
    document = read(f"key: {text}\n")
    assert document.problems == []
    assert document.value == {"key": value}
    assert isinstance(document.value["key"], type(value))


@pytest.mark.parametrize("text", ["010", "1e-3", "1.50", "+7", "0x1F", ".5"])
def test_numbers_remember_how_they_were_written(text):
    """A number can be handed on exactly as the user typed it."""
    number = read(f"- {text}").value[0]
    assert isinstance(number, WrittenInt | WrittenFloat)
    assert number.text == text


def test_places_are_those_of_keys_and_items():
    """Lines and columns count from 1; an alias is placed where it is used."""
    document = read("a: 1\nb:\n  c: [x,\n      y]\n  d: &l [p]\n  e: *l\n")
    assert document.place(("a",)) == Place(1, 1)
    assert document.place(("b", "c")) == Place(3, 3)
    assert document.place(("b", "c", 1)) == Place(4, 7)
    assert document.place(("b", "e")) == Place(6, 3)
    assert document.place(("b", "missing", "deeper")) == Place(2, 1)


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", Place(3, 1), "given twice; the first is on line 1"),
        ("a:\n  b: 1\n  b: 1\n", Place(3, 3), "given twice; the first is on line 2"),
        ("a: 1\n'a': 3\n", Place(2, 1), "given twice; the first is on line 1"),
        ("<<: {a: 1}\n", Place(1, 1), "merge keys (<<) are not part of YAML 1.2; write the keys out"),
        ("1: x\n", Place(1, 1), "a key must be text, got '1'; put it in quotes"),
        ("? [a]\n: b\n", Place(1, 3), "a key must be text, got a list or a mapping; put it in quotes"),
        (
            "a: !!python/object/apply:os.system [id]\n",
            Place(1, 4),
            "tag !!python/object/apply:os.system is not allowed here",
        ),
        ("a: !!binary aGk=\n", Place(1, 4), "tag !!binary is not allowed here"),
        ("a: !!int x\n", Place(1, 4), "tag !!int is not allowed here"),
        ("a: !mine x\n", Place(1, 4), "tag !mine is not allowed here"),
        ("a: &x [*x]\n", Place(1, 4), "an alias that contains itself"),
        ("a: *x\n", Place(1, 4), "not valid YAML: found undefined alias 'x'"),
        ("a: 1\n---\nb: 2\n", Place(2, 1), "a second document starts here; one file holds one"),
        ("a: \0\n", Place(1, 4), "character U+0000 is not allowed in YAML"),
        ("x: 1\na: \x1b[0m\n", Place(2, 4), "character U+001B is not allowed in YAML"),
        ("a: b: c\n", Place(1, 5), "not valid YAML: mapping values are not allowed here"),
        (f"a: {'9' * 50}\n", Place(1, 4), "a number of 50 digits; put it in quotes if it is text"),
    ],
)
def test_mistakes_have_their_place(text, place, message):
    """Each kind of mistake is one problem, at its line and column."""
    assert [(p.place, p.message) for p in read(text).problems] == [(place, message)]


def test_a_billion_laughs_end_at_the_limit():
    """Aliases count every time they are used, so nine levels of nine stay cheap."""
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    text += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))
    (problem,) = read(text).problems
    assert f"at most {MAX_NODES}" in problem.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, f"at most {MAX_DEPTH} levels"),
        ("- " * 1000 + "x", f"at most {MAX_DEPTH} levels"),
        ("a: [" + "1, " * (2 * MAX_NODES) + "]", f"at most {MAX_NODES}"),
        ("# " + "x" * MAX_CHARACTERS, f"at most {MAX_CHARACTERS}"),
    ],
)
def test_limits(text, message):
    """What is too deep, too many or too large is refused before it costs time or the stack."""
    (problem,) = read(text).problems
    assert message in problem.message


@given(
    st.text(
        alphabet=st.one_of(st.sampled_from(list(" \n:-[]{}&*!|>'\"#%@`,?~<=ab01.\t")), st.characters()), max_size=60
    )
)
@example("a: !<x> b")
@example("%YAML 9.9\n---\na")
@example("? ")
@example("{a: 1, a: 1}: b")
def test_any_text_is_read_or_explained(text):
    """No text makes reading raise; every problem stands inside the text."""
    document = read(text)
    lines = text.count("\n") + text.count("\r") + text.count("\x85") + text.count("\u2028") + text.count("\u2029") + 1
    for problem in document.problems:
        assert 1 <= problem.place.line <= lines + 1
        assert problem.message
