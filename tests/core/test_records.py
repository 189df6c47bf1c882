from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping
from enum import Enum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftslurm.core.about import About, SaveKind
from ftslurm.core.actions import Action, EndRun, Say
from ftslurm.core.events import AgentUp, Event, Finding, NodeProbed, Outcome, Part, PartSaved, Phase, Witness
from ftslurm.core.records import _KINDS, from_record, to_record
from ftslurm.errors import DataDamaged

ROOTS = (Event, Action)
KINDS = tuple(kind for kind in _KINDS.values() if kind not in ROOTS)
FLOATS = st.floats(allow_nan=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


NAMES = st.text(st.characters(codec="ascii", min_codepoint=33, exclude_characters="\x7f"), min_size=1, max_size=8)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
ABOUT = st.builds(About, reason=NAMES, epoch=st.none() | FINITE, metrics=st.dictionaries(NAMES, FINITE, max_size=3))


def values(hint):
    """Return a strategy for a field of an event or an action."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return st.none() | values(arguments[0])
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*(values(each) for each in arguments))
    if origin in (dict, Mapping):
        return st.dictionaries(st.text(), st.text(), max_size=3)
    if issubclass(hint, Enum):
        return st.sampled_from(hint)
    if hint is About:
        return ABOUT | st.just(About(kind=SaveKind.DIFF, base="000000010-0000"))
    plain = {str: st.text(), int: st.integers(), float: FLOATS, bool: st.booleans()}
    return plain[hint] if hint in plain else records(hint)


def records(kind):
    """Return a strategy for a record of this kind; some fields keep their defaults."""
    return st.builds(kind, **{name: values(hint) for name, hint in typing.get_type_hints(kind).items()})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=20)
@given(data=st.data())
def test_every_record_survives_json(kind, data):
    """What is written is what is read, for every event and every action."""
    value = data.draw(records(kind))
    assert from_record(json.loads(json.dumps(to_record(value)))) == value


def test_defaults_are_left_out():
    """A record names only what is special about it."""
    assert to_record(AgentUp(node="n1", address="a", port=0)) == {
        "type": "AgentUp",
        "node": "n1",
        "address": "a",
        "port": 0,
    }
    assert to_record(Say(text="x")) == {"type": "Say", "text": "x"}


def test_enums_and_nested_records_are_plain():
    """JSON holds words and objects, and gives back the members."""
    found = Finding(witness=Witness.SSH, outcome=Outcome.FAILED)
    record = to_record(NodeProbed(node="n1", findings=(found,), final=True))
    assert record["findings"] == [{"witness": "ssh", "outcome": "failed"}]
    end = from_record(to_record(EndRun(phase=Phase.FAILED, code=1, reason="r")))
    assert end.phase is Phase.FAILED


@pytest.mark.parametrize(
    "record",
    [
        None,
        5,
        [],
        "AgentUp",
        {},
        {"type": "NoSuchEvent"},
        {"type": ["AgentUp"]},
        {"type": "Event", "colour": "red"},
        {"type": "AgentUp", "node": "n1", "address": "a"},
        {"type": "AgentUp", "node": "n1", "address": "a", "port": "1"},
        {"type": "AgentUp", "node": "n1", "address": "a", "port": True},
        {"type": "AgentUp", "node": 7, "address": "a", "port": 1},
        {"type": "AgentUp", "node": "n1", "address": "a", "port": 1, "attempt": "0"},
        {"type": "AgentUp", "node": "n1", "address": "a", "port": 1, "at": "now"},
        {"type": "AgentUp", "node": "n1", "address": "a", "port": 1, "at": 10**400},
        {"type": "AgentUp", "node": "n1", "address": "a", "port": 1, "newer_field": 1},
        {"type": "LaunchAgents", "nodes": "abc"},
        {"type": "LaunchAgents", "nodes": [["n1"]]},
        {"type": "NodeProbed", "node": "n1", "final": True, "findings": [{"witness": "ssh", "outcome": "perhaps"}]},
        {"type": "NodeProbed", "node": "n1", "final": True, "findings": ["ssh"]},
        {"type": "NodeProbed", "node": "n1", "final": 1, "findings": []},
        {"type": "StoreScanned", "generations": [["g", 1]]},
        {"type": "PartSaved", "attempt": 0, "step": 1, "part": None},
        {"type": "Say", "text": "x", "facts": ["y"]},
        {"type": "EndRun", "phase": "happy", "code": 0, "reason": ""},
    ],
)
def test_what_cannot_have_been_written_is_refused(record):
    """A journal of a newer version, or a damaged one, is never replayed into other decisions."""
    with pytest.raises(DataDamaged):
        from_record(record)


@given(JSON, st.sampled_from([kind.__name__ for kind in KINDS]), st.sampled_from(["part", "nodes", "node", "at", "x"]))
def test_no_json_whatever_breaks_the_reader(value, name, field):
    """Any JSON is a record or damaged: no other error comes out."""
    for record in (value, {"type": name, field: value}, {**(value if isinstance(value, dict) else {}), "type": name}):
        try:
            read = from_record(record)
        except DataDamaged:
            continue
        assert isinstance(read, KINDS)


def test_part_is_read_back_as_a_part():
    """A nested record comes back as what it was."""
    part = Part(node="n1", manifest_digest="d", files=1, size_bytes=2, ranks=(0, 3))
    event = PartSaved(attempt=1, step=2, part=part, world_size=4)
    assert from_record(json.loads(json.dumps(to_record(event)))).part == part
