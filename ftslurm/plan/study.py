"""A scenario file with its sweep: the cases to simulate, each checked as if it had been written out by itself.

`sweep` names keys, with a dot between section and key, and the values that each takes; all combinations are simulated:

    sweep: {nodes: [512, 1024], recovery.spares: [0, 8]}

A value of a sweep that is wrong is told with its own line, whatever key of which section it stands for.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ftslurm.complaints import explain, known_keys, report
from ftslurm.config import Config, text_of
from ftslurm.errors import ConfigError, FtslurmError, UsageError
from ftslurm.fields import shown
from ftslurm.plan.scenario import Scenario
from ftslurm.plan.trace import Trace, read_trace
from ftslurm.yamldoc import Document, Problem, read
from ftslurm.yamldoc import Path as Keys

MOST_CASES = 1000
MOST_RUNS = 1_000_000
MOST_STRIKES = 5_000_000
"""Failures in one run: more are a mistake of somebody's, and would fill the memory."""
SWEEP = "sweep"
NOT_SWEPT = frozenset({"name", "seed", "replications"})
HINT = "docs/how-to/simulate.md describes every key; `ftslurm simulate --example` prints one to begin with"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One combination: the swept keys with their values as they were written, and the scenario that they make."""

    swept: tuple[tuple[str, str], ...]
    scenario: Scenario
    trace: Trace | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Everything that one file asks for; the keys of the sweep in the order of the file."""

    keys: tuple[str, ...]
    cases: tuple[Case, ...]

    @property
    def first(self) -> Scenario:
        """The first case: what is not swept is the same in all of them."""
        return self.cases[0].scenario


def load(path: Path) -> Study:
    """Read and check a scenario file; a trace lies beside it.

    Raises:
        ConfigError: all that is wrong, each with line and column; of a trace with its own file and line, too.
    """
    return parse(text_of(path), str(path), path.parent)


def with_changes(study: Study, changes: Mapping[str, object]) -> Study:
    """Return the study with these values of `seed` and `replications` in every case.

    Raises:
        UsageError: it would be too many runs.
    """
    runs = len(study.cases) * int(str(changes.get("replications", study.first.replications)))
    if runs > MOST_RUNS:
        raise UsageError(
            f"{runs:,} runs are too many (at most {MOST_RUNS:,})", hint="fewer replications, or less swept"
        )
    cases = (replace(case, scenario=case.scenario.model_copy(update=dict(changes))) for case in study.cases)
    return replace(study, cases=tuple(cases))


def parse(text: str, file: str, folder: Path) -> Study:
    """Check the text of a scenario; `file` is how messages call it, `folder` is where a trace lies."""
    document = read(text)
    problems = list(document.problems)
    if document.value is None and not problems:
        raise ConfigError(f"{file} is empty", hint=HINT)
    if document.value is not None and not isinstance(document.value, dict):
        problems.append(Problem(place=document.place(()), path=(), message="expected lines of `key: value`"))
    cases: list[Case] = []
    traces = _Traces(folder)
    if not problems:
        swept, problems = _sweep(document)
        for combination in product(*swept.values()) if not problems else ():
            case, more = _case(document, dict(zip(swept, combination, strict=True)), traces)
            problems += [each for each in more if each not in problems]
            cases += [case] if case is not None else []
    if problems:
        raise ConfigError(report(problems, file), hint=HINT)
    return Study(keys=tuple(dict.fromkeys(name for case in cases for name, _ in case.swept)), cases=tuple(cases))


def _sweep(document: Document) -> tuple[dict[str, range], list[Problem]]:
    """The places of each swept key's values, and what is wrong with the section itself."""
    given = document.value.get(SWEEP, {})
    if not isinstance(given, dict):
        message = f"expected a section (lines of `key: [value, ...]`), got {shown(given)}"
        return {}, [Problem(place=document.place((SWEEP,)), path=(SWEEP,), message=message)]
    problems, count = [], 1
    keys = [".".join(path) for path in known_keys(Scenario)]
    sections = {key.rpartition(".")[0] for key in keys}
    for key, values in given.items():
        sentence = ""
        if key in NOT_SWEPT or key in sections:
            sentence = "cannot be swept"
        elif key not in keys:
            near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
            sentence = f"there is no such key{f'; did you mean {near[0]}?' if near else ''}"
        elif not isinstance(values, list) or not values:
            sentence = f"expected a list of values, got {shown(values)}"
        if sentence:
            problems.append(Problem(place=document.place((SWEEP, key)), path=(SWEEP, key), message=sentence))
        else:
            count *= len(values)
    if count > MOST_CASES:
        message = f"{count} combinations are too many (at most {MOST_CASES})"
        problems.append(Problem(place=document.place((SWEEP,)), path=(SWEEP,), message=message))
    return {key: range(len(values)) for key, values in given.items() if isinstance(values, list)}, problems


def _case(document: Document, chosen: dict[str, int], traces: _Traces) -> tuple[Case | None, list[Problem]]:
    """One combination; the document with it laid over keeps the places of what was written."""
    laid = _laid_over(document, chosen)
    try:
        scenario = Scenario.model_validate(laid.value)
    except ValidationError as error:
        return None, [each for each in explain(error, laid, Scenario) if each.path not in laid.lost]
    findings = [*_findings(scenario), *_recovery(scenario, laid)]
    trace = None
    if scenario.faults.trace is not None and not findings:
        trace, findings = traces.of(scenario)
    problems = [Problem(place=laid.place(path), path=path, message=sentence) for path, sentence in findings]
    swept = tuple((key, _written(document.value[SWEEP][key][index])) for key, index in chosen.items())
    return Case(swept=swept, scenario=scenario, trace=trace), problems


def _laid_over(document: Document, chosen: dict[str, int]) -> Document:
    value = {key: dict(item) if isinstance(item, dict) else item for key, item in document.value.items()}
    value.pop(SWEEP, None)
    places = dict(document.places)
    for key, index in chosen.items():
        section, _, name = key.rpartition(".")
        place = places[SWEEP, key, index]
        target = value.setdefault(section, {}) if section else value
        if isinstance(target, dict):  # else the section itself is wrong, and is told as such
            target[name] = document.value[SWEEP][key][index]
        path: Keys = (section, name) if section else (name,)
        for depth in range(1, len(path) + 1):
            places[path[:depth]] = place if depth == len(path) else places.get(path[:depth], place)
    return Document(value=value, places=places, lost=document.lost)


def _written(value: Any) -> str:  # noqa: ANN401 - YAML holds anything
    if isinstance(value, list):
        return "[" + ", ".join(map(_written, value)) + "]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(getattr(value, "text", value))


Finding = tuple[tuple[str, ...], str]


def _findings(scenario: Scenario) -> Iterator[Finding]:
    """What is wrong between values that are right one by one."""
    faults, saved, spares = scenario.faults, scenario.checkpoint, scenario.recovery.spares
    if spares > scenario.nodes:
        yield ("recovery", "spares"), f"{spares} spares are more than nodes ({scenario.nodes})"
    if scenario.fleet is not None and scenario.fleet < scenario.held:
        yield ("fleet",), f"{scenario.fleet} nodes are fewer than nodes and recovery.spares ({scenario.held})"
    if scenario.repair.mean < scenario.repair.median:
        yield ("repair", "mean"), "must be at least repair.median: a lognormal's mean is"
    if (faults.kind == "trace") != (faults.trace is not None):
        yield ("faults",), "a trace needs both `kind: trace` and `trace: FILE`"
    if faults.kind == "trace" and (faults.mtbf is not None or "rate" in faults.model_fields_set):
        yield ("faults",), "a trace has its own rate: neither rate nor mtbf goes with it"
    if scenario.expected_strikes > MOST_STRIKES:
        key = "mtbf" if faults.mtbf is not None else "rate"
        text = f"{scenario.expected_strikes:.2g} failures in one run are too many (at most {MOST_STRIKES:.2g})"
        yield ("faults", key), f"{text}: a shorter span, or fewer failures"
    if faults.mtbf is not None and "rate" in faults.model_fields_set:
        yield ("faults", "mtbf"), "give rate or mtbf, not both"
    if saved.stall is None and (saved.size is None or saved.scratch is None) and saved.every != "none":
        yield ("checkpoint",), "give stall, or both size and scratch: what does a save cost?"
    if saved.size is None and (saved.scratch, saved.partner, saved.shared) != (None, None, None):
        yield ("checkpoint", "size"), "required with a bandwidth, but missing"


def _recovery(scenario: Scenario, laid: Document) -> Iterator[Finding]:
    """The rules of a run's own configuration on `recovery` hold here, too."""
    try:
        as_config(scenario)
    except ValidationError as error:
        for each in explain(error, laid, Config):
            yield (
                tuple(map(str, each.path)),
                each.message.replace("resources.nodes", "nodes").replace("resources.ranks_per_node", "gpus_per_node"),
            )


def as_config(scenario: Scenario) -> Config:
    """The configuration of a run with this scenario's recovery."""
    return Config.model_validate(
        {
            "name": scenario.name,
            "command": ("train",),
            "resources": {"nodes": scenario.nodes, "ranks_per_node": scenario.gpus_per_node},
            "recovery": scenario.recovery,
        }
    )


class _Traces:
    """Traces that were read: each once, however many cases it serves."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[tuple[str, int | None], Trace] = {}

    def of(self, scenario: Scenario) -> tuple[Trace | None, list[Finding]]:
        """The scenario's trace, or why it does not serve; where the trace itself is wrong, with its file and line."""
        faults = scenario.faults
        key = str(faults.trace), faults.trace_nodes
        if key not in self._read:
            try:
                self._read[key] = read_trace(self._folder / key[0], faults.trace_nodes)
            except FtslurmError as error:
                return None, [(("faults", "trace"), str(error))]
        trace = self._read[key]
        if scenario.among > trace.nodes:
            return None, [(("faults", "trace"), f"it has {trace.nodes} nodes, and {scenario.among} are simulated")]
        if scenario.span > trace.span_s:
            days = trace.span_s / 86400
            return None, [
                (("span",), f"the trace covers {days:.1f} days, and {scenario.span / 86400:.1f} are simulated")
            ]
        return trace, []
