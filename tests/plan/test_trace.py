from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftslurm.core.lemons import DAY_S
from ftslurm.errors import StorageError, UsageError
from ftslurm.plan.trace import Outage, Trace, read_trace
from tests.plan.public_trace import needs_trace, public_trace

FAULT = {"Level": "Hardware Failure", "Class": "GPU", "Desc": "DBE"}


def event(node: object = "a", day: object = 1.0, kind: str = "fault_start", **more: object) -> dict[str, object]:
    """One event of the JSON form."""
    return {"node_id": node, "event_time": day, "event_type": kind, "fault_type": FAULT, **more}


def written(folder: Path, content: object, name: str = "t.json") -> Path:
    """A file: text as it is, all else as JSON with an event a line."""
    path = folder / name
    if not isinstance(content, str):
        content = "[\n" + ",\n".join(json.dumps(each) for each in content) + "\n]\n"
    path.write_text(content)
    return path


def test_json_is_read(tmp_path):
    """Days become seconds, names numbers in the order of their first fault; what has no end is out for ever."""
    events = [event("b", 0.5), event("a", 1), event("b", 1.5, "fault_end"), event("b", 2.25)]
    found = read_trace(written(tmp_path, events), nodes=5, span_s=3 * DAY_S)
    assert found.outages == (
        Outage(0, 0.5 * DAY_S, DAY_S, "GPU"), Outage(1, DAY_S, math.inf, "GPU"), Outage(0, 2.25 * DAY_S, math.inf, "GPU"),
    )  # fmt: skip
    assert (found.nodes, found.span_s, found.names) == (5, 3 * DAY_S, ("b", "a"))


def test_csv_is_read(tmp_path):
    """Seconds; empty lines are passed over; the fleet is what is named and the end the last event, unless given."""
    text = 'node,start,end,kind\r\nn1,10,20.5,GPU\r\n\r\n"n,2",20.5,,"fan, left"\r\nn1,20.5,21,\r\n'
    found = read_trace(written(tmp_path, text, "t.csv"))
    assert found.outages == (
        Outage(0, 10, 10.5, "GPU"), Outage(0, 20.5, 0.5, ""), Outage(1, 20.5, math.inf, "fan, left"),
    )  # fmt: skip
    assert (found.nodes, found.span_s, found.names) == (2, 21.0, ("n1", "n,2"))


@pytest.mark.parametrize(
    ("events", "line", "reason"),
    [
        ([event(day=2), event("b", 1)], 3, "out of order: 1 comes after 2"),
        ([event(day=-1)], 2, "at least 0, not -1"),
        ([event(day="1")], 2, "at least 0, not '1'"),
        ([event(day=True)], 2, "at least 0"),
        ([event(), event(day=2)], 3, "out since line 2"),
        ([event(kind="fault_end")], 2, "has not begun"),
        ([event(), event(day=2, kind="fault_over")], 3, "event_type is one of"),
        ([event(colour="red")], 2, "unknown key 'colour'"),
        ([{"node_id": "a"}], 2, "key event_time is missing"),
        ([event(fault_type={**FAULT, "Rack": "7"})], 2, "unknown key 'Rack'"),
        ([event(fault_type={**FAULT, "Desc": 7})], 2, "object of texts"),
        ([event(node="")], 2, "printable characters"),
        ([event(node="a\x1b[2J")], 2, r"'a\\x1b\[2J'"),
        ([event(node=7)], 2, "printable characters, not 7"),
        ([7], 2, "an event is an object"),
        ([], 1, "no outage"),
    ],
)
def test_bad_events_are_refused_with_file_line_and_reason(tmp_path, events, line, reason):
    """Nothing is mended; what a file holds reaches no terminal as it is."""
    path = written(tmp_path, events)
    with pytest.raises(UsageError, match=rf"t\.json:{line}: .*{reason}") as caught:
        read_trace(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("{}", 1, "a list of events"),
        ("", 1, "a list of events"),
        ("[\n{\n]", 3, "not JSON"),
        ("[" + json.dumps(event()) + "\n" + json.dumps(event("b")) + "]", 2, "expected a comma"),
        ("[" + json.dumps(event()) + "]\nmore", 2, "after the list"),
        ("[\n" + "[" * 100_000, 2, "not JSON"),
        ('[\n{"node_id": "a", "node_id": "b"}]', 2, "twice"),
        (json.dumps([event(day=math.nan)]), 1, "at least 0"),
        (json.dumps([event(day=math.inf)]), 1, "at least 0"),
        ("[\n" + json.dumps(event()).replace("1.0", "1" + "0" * 400) + "]", 2, "at least 0"),
    ],
)
def test_what_is_no_list_of_events_is_refused(tmp_path, text, line, reason):
    """Also what would exhaust the stack, and numbers that are none."""
    with pytest.raises(UsageError, match=rf"t\.json:{line}: .*{reason}"):
        read_trace(written(tmp_path, text))


@pytest.mark.parametrize(
    ("rows", "line", "reason"),
    [
        ("node,begin,end,kind\n", 1, "the header is node,start,end,kind"),
        ("", 1, "the header is"),
        ("node,start,end,kind\nn1,1,2\n", 2, "4 columns are wanted, 3 are there"),
        ("node,start,end,kind\nn1,5,6,\nn2,1,2,\n", 3, "out of order: 1 comes after 5"),
        ("node,start,end,kind\nn1,-5,6,\n", 2, "at least 0, not -5"),
        ("node,start,end,kind\nn1,5,4,\n", 2, "ends at 4, before it begins at 5"),
        ("node,start,end,kind\nn1,5,9,\nn1,7,8,\n", 3, "out since line 2"),
        ("node,start,end,kind\nn1,soon,9,\n", 2, "not 'soon'"),
        ("node,start,end,kind\nn1,1,nan,\n", 2, "at least 0"),
        ('node,start,end,kind\nn1,1,2,"x\n', 2, "not CSV"),
        ("node,start,end,kind\n", 1, "no outage"),
    ],
)
def test_bad_rows_are_refused_with_file_line_and_reason(tmp_path, rows, line, reason):
    """CSV is read as strictly."""
    with pytest.raises(UsageError, match=rf"t\.csv:{line}: .*{reason}"):
        read_trace(written(tmp_path, rows, "t.csv"))


def test_a_fleet_that_is_too_small_is_refused(tmp_path):
    """Fewer nodes, or a shorter time, than the trace has; and what is no text."""
    path = written(tmp_path, [event("a", 1), event("b", 3)])
    with pytest.raises(UsageError, match="2 nodes failed, of a fleet of 1"):
        read_trace(path, nodes=1)
    with pytest.raises(UsageError, match=r"lasts 3\.00 days, not 2\.00"):
        read_trace(path, span_s=2 * DAY_S)
    path.write_bytes(b"[\n\xff]")
    with pytest.raises(UsageError, match=r"t\.json:2: .*UTF-8"):
        read_trace(path)
    with pytest.raises(StorageError, match="No such file"):
        read_trace(tmp_path / "nowhere.json")


@settings(max_examples=40)
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(tmp_path_factory, text):
    """No other error than ours."""
    path = tmp_path_factory.mktemp("t") / "t.csv"
    path.write_bytes(("node,start,end,kind\n" + text).encode("utf-8", "surrogatepass"))
    with contextlib.suppress(UsageError):
        assert read_trace(path).outages


def test_a_part_of_a_trace_is_a_trace():
    """Of the time: what lasts beyond has no end; of the nodes: numbered anew."""
    whole = Trace(outages=(Outage(0, 1, 2), Outage(2, 4, 9), Outage(0, 6, 1)), nodes=3, span_s=20, names=("a", "b"))
    later = whole.between(4, 10)
    assert later.outages == (Outage(2, 0, math.inf), Outage(0, 2, 1))
    assert (later.nodes, later.span_s) == (3, 6)
    some = whole.only({1, 2})
    assert (some.outages, some.nodes, some.span_s) == ((Outage(1, 4, 9),), 2, 20)


@needs_trace
def test_the_public_trace_is_read():
    """312 faults of 159 nodes, three of which were not over."""
    trace = public_trace()
    assert len(trace.outages) == 312
    assert len(trace.names) == 159
    assert sum(math.isinf(each.repair_s) for each in trace.outages) == 3
