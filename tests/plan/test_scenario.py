from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftslurm.complaints import known_keys
from ftslurm.errors import ConfigError, UsageError
from ftslurm.plan.example import EXAMPLE
from ftslurm.plan.scenario import Scenario
from ftslurm.plan.study import MOST_CASES, parse, with_changes
from ftslurm.plan.terms import terms_of

GOOD = "nodes: 4\ncheckpoint: {stall: 10s}\n"
MISTAKES = [
    ("nodes: 4\nfaults: {rate: -1}\n", "s.yaml:2:10: faults.rate: failures in 1,000 node-days must be from 0 to"),
    ("nodes: 4\nfaults:\n  rate: awful\n", "s.yaml:3:3: faults.rate: expected good, typical, bad or failures in"),
    ("nodes: 4\ndetection: {wrong_exclusions: -0.1}\n", "s.yaml:2:13: detection.wrong_exclusions: must be at least 0"),
    ("nodes: 4\nspar: 2\n", "s.yaml:2:1: spar: unknown key; did you mean span?"),
    ("nodes: 4\nfaults: {rates: 2}\n", "s.yaml:2:10: faults.rates: unknown key; did you mean rate?"),
    (GOOD + "recovery:\n  spares: 5\n", "s.yaml:4:3: recovery.spares: 5 spares are more than nodes (4)"),
    (GOOD + "recovery: {min_nodes: 5}\n", "s.yaml:3:12: recovery.min_nodes: 5 is more than nodes (4)"),
    (GOOD + "gpus_per_node: 3\nrecovery: {world_multiple_of: 8}\n", "s.yaml:4:12: recovery.world_multiple_of: nodes x"),
    (GOOD + "fleet: 4\nrecovery: {spares: 1}\n", "s.yaml:3:1: fleet: 4 nodes are fewer than nodes and recovery.spares"),
    (GOOD + "repair: {median: 2h, mean: 1h}\n", "s.yaml:3:22: repair.mean: must be at least repair.median"),
    (GOOD + "faults: {kind: trace}\n", "s.yaml:3:1: faults: a trace needs both"),
    (GOOD + "faults: {rate: 1, mtbf: 3h}\n", "s.yaml:3:19: faults.mtbf: give rate or mtbf, not both"),
    (GOOD + "span: 3650d\nfaults: {mtbf: 1s}\n", "s.yaml:4:10: faults.mtbf: 3.2e+08 failures in one run are too many"),
    (GOOD + "detection: {wrong_diagnoses: 1}\n", "s.yaml:3:13: detection.wrong_diagnoses: must be at most 0.9"),
    (GOOD + "span: 30\n", "s.yaml:3:1: span: a duration needs a unit; write 30s or 30ms"),
    (GOOD + "span: 30d\nspan: 40d\n", "s.yaml:4:1: span: given twice"),
    ("nodes: 4\n", "s.yaml:1:1: checkpoint: give stall, or both size and scratch"),
    ("nodes: 4\ncheckpoint: {every: soon, stall: 1s}\n", "s.yaml:2:14: checkpoint.every: expected a duration"),
    ("nodes: 4\ncheckpoint: {stall: 1s, shared: 1G/s}\n", "s.yaml:2:1: checkpoint.size: required with a bandwidth"),
    ("nodes: 4\ncheckpoint: {stall: 1s, contention: 1.5}\n", "s.yaml:2:25: checkpoint.contention: must be at most 0.9"),
    (GOOD + "sweep: {nods: [1, 2]}\n", "s.yaml:3:9: sweep.nods: there is no such key; did you mean nodes?"),
    (GOOD + "sweep: {nodes: 3}\n", "s.yaml:3:9: sweep.nodes: expected a list of values, got 3"),
    (GOOD + "sweep: {seed: [3]}\n", "s.yaml:3:9: sweep.seed: cannot be swept"),
    (GOOD + "sweep: {faults: [3]}\n", "s.yaml:3:9: sweep.faults: cannot be swept"),
    (GOOD + "sweep: 7\n", "s.yaml:3:1: sweep: expected a section"),
    (GOOD + "sweep:\n  nodes:\n    - 4\n    - -3\n", "s.yaml:6:7: nodes: must be at least 1, got -3"),
    (GOOD + "sweep:\n  recovery.spares: [0, 9]\n", "s.yaml:4:24: recovery.spares: 9 spares are more than nodes (4)"),
    (GOOD + "sweep:\n  faults.rate: [1, -2]\n", "s.yaml:4:20: faults.rate: failures in 1,000 node-days must be"),
    (GOOD + f"sweep: {{nodes: {list(range(1, 1003))}}}\n", "s.yaml:3:1: sweep: 1002 combinations are too many"),
    ("[1, 2]\n", "s.yaml:1:1: expected lines of `key: value`"),
    ("nodes: [\n", "not valid YAML"),
    (GOOD + "faults: {kind: trace, trace: nowhere.json}\n", "s.yaml:3:23: faults.trace: "),
    ("", "s.yaml is empty"),
]


@pytest.mark.parametrize(("text", "expected"), MISTAKES)
def test_a_bad_scenario_is_refused(text: str, expected: str, tmp_path: Path) -> None:
    """With file, line, column, key and reason."""
    with pytest.raises(ConfigError) as refused:
        parse(text, "s.yaml", tmp_path)
    assert expected in str(refused.value)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """Each once, however many cases of the sweep have it."""
    with pytest.raises(ConfigError) as refused:
        parse("nodes: 4\nspan: 0s\nrestart: -3\nsweep: {faults.rate: [1, 2]}\n", "s.yaml", tmp_path)
    assert str(refused.value).startswith("2 problems in s.yaml\n")


TRACE = "node,start,end,kind\na,{},200,gpu\nb,{},400,gpu\n"


def test_a_trace_out_of_order_is_refused(tmp_path: Path) -> None:
    """With its own file and line."""
    (tmp_path / "t.csv").write_text(TRACE.format(100, 50))
    with pytest.raises(ConfigError, match=r"s\.yaml:4:23: faults\.trace: .*t\.csv:3: out of order"):
        parse(GOOD + "span: 1m\nfaults: {kind: trace, trace: t.csv, trace_nodes: 9}\n", "s.yaml", tmp_path)


def test_a_trace_is_replayed(tmp_path: Path) -> None:
    """Its nodes and its time have to suffice; all of its faults cost their node."""
    (tmp_path / "t.csv").write_text(TRACE.format(100, 150))
    faults = "faults: {kind: trace, trace: t.csv, trace_nodes: 9}\n"
    case = parse(GOOD + "span: 1m\n" + faults, "s.yaml", tmp_path).cases[0]
    assert terms_of(case).node_share == 1
    assert terms_of(case).program_rate == 0
    with pytest.raises(ConfigError, match=r"span: the trace covers 0\.0 days"):
        parse(GOOD + "span: 1h\n" + faults, "s.yaml", tmp_path)
    with pytest.raises(ConfigError, match=r"faults\.trace: it has 9 nodes, and 40 are simulated"):
        parse(GOOD + "span: 1m\nfleet: 40\n" + faults, "s.yaml", tmp_path)


def test_a_sweep_is_every_combination(tmp_path: Path) -> None:
    """Each key in the order of the file, each value as it was written."""
    study = parse(GOOD + "sweep: {faults.rate: [1.50, bad], nodes: [2, 4]}\n", "s.yaml", tmp_path)
    assert study.keys == ("faults.rate", "nodes")
    assert [case.swept for case in study.cases] == [
        (("faults.rate", rate), ("nodes", nodes)) for rate in ("1.50", "bad") for nodes in ("2", "4")
    ]
    assert [(case.scenario.rate, case.scenario.nodes) for case in study.cases] == [
        (1.5, 2),
        (1.5, 4),
        (6.5, 2),
        (6.5, 4),
    ]


def test_the_example_is_good(tmp_path: Path) -> None:
    """What `--example` prints has no mistake, and is the file of the documentation."""
    assert 1 < len(parse(EXAMPLE, "scenario.yaml", tmp_path).cases) <= MOST_CASES
    beside = Path(__file__).parents[2] / "docs" / "examples" / "simulate" / "scenario.yaml"
    assert beside.read_text() == EXAMPLE


KEYS = [".".join(path) for path in known_keys(Scenario)]
VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.lists(st.integers(), max_size=3)
)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.sampled_from([*KEYS, "sweep", "x"]), VALUES, max_size=4), st.text(max_size=40))
def test_nothing_but_a_refusal_comes_of_nonsense(given_values, text) -> None:
    """Any values at any keys, and any text, are accepted or refused in words."""
    import json

    value: dict = {"nodes": 2}
    for key, item in given_values.items():
        section, _, name = key.rpartition(".")
        target = value.setdefault(section, {}) if section else value
        if isinstance(target, dict):
            target[name] = item
    for each in (json.dumps(value), json.dumps({**value, "sweep": {**given_values}}), text):
        with contextlib.suppress(ConfigError):
            parse(each, "s.yaml", Path("/nonexistent"))


def test_too_many_runs_are_refused(tmp_path: Path) -> None:
    """Also where the number comes from the command line; fewer are what is asked for."""
    study = parse(GOOD + f"sweep: {{nodes: {list(range(1, 12))}}}\n", "s.yaml", tmp_path)
    with pytest.raises(UsageError, match="1,100,000 runs are too many"):
        with_changes(study, {"replications": 100_000})
    changed = with_changes(study, {"replications": 3, "seed": 9})
    assert {(case.scenario.replications, case.scenario.seed) for case in changed.cases} == {(3, 9)}
