"""The plan of a campaign: one YAML file, as strict as the configuration of a run.

    name: nightly
    config: train.yaml
    mtbf: 30s
    duration: 20m
    targets: {lab: {nodes: 4}}

An unknown key is an error with a suggestion; every mistake is told at once, with file, line and column. What faults
there are is an argument (`ftslurm.faults.catalogue`), and so are their usual weights.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError

from ftslurm.complaints import explain, report
from ftslurm.errors import ConfigError
from ftslurm.faults.arrivals import Replay, Weibull, read_trace
from ftslurm.fields import (
    AbsolutePath,
    Count,
    CountOrNone,
    Line,
    Name,
    Texts,
    Word,
    list_to_tuple,
    shown,
)
from ftslurm.fields import duration as seconds
from ftslurm.quantities import format_duration, parse_duration
from ftslurm.sections import Section
from ftslurm.yamldoc import Document, Problem, read

LEAST_S, MOST_S = 1.0, 365 * 86400.0
WEIGHTS = r"digest[ =:]+(?P<digest>[0-9a-f]{8,128})"
"""What rank 0 prints of its final weights, unless the plan says otherwise."""


def _means(value: object) -> object:
    """One mean, or a list of them for a sweep."""
    found = []
    for item in value if isinstance(value, list | tuple) else [value]:
        if not isinstance(item, str):
            raise ValueError(f"expected a duration such as 30s, or a list of them, got {shown(item)}")  # noqa: TRY004 - pydantic collects ValueErrors only
        seconds = parse_duration(item)
        if not LEAST_S <= seconds <= MOST_S:
            raise ValueError(f"must be between {format_duration(LEAST_S)} and {format_duration(MOST_S)}")
        found.append(seconds)
    if not found:
        raise ValueError("expected at least one duration")
    return tuple(found)


def _pattern(text: object) -> object:
    if not isinstance(text, str):
        raise ValueError(f"expected a regular expression, got {shown(text)}")  # noqa: TRY004 - as above
    try:
        groups = re.compile(text).groupindex
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    if "digest" not in groups:
        raise ValueError(r"must have a group named digest, as in DONE (?P<digest>\w+)")
    return text


Means = Annotated[
    tuple[float, ...],
    BeforeValidator(_means),
    PlainSerializer(lambda means: [format_duration(each) for each in means], return_type=list[str]),
]
Pattern = Annotated[str, BeforeValidator(_pattern)]
Weight = Annotated[float, Field(ge=0, le=1e6, strict=False, allow_inf_nan=False)]


class Arrivals(Section):
    """When faults come."""

    kind: Literal["poisson", "weibull", "trace"] = Field("poisson", description="How the gaps between faults are drawn")
    shape: Annotated[float, Field(ge=0.2, le=10, strict=False)] = Field(
        0.62, description="Of weibull: below 1 faults come in clusters; 0.62 is what a fleet has shown"
    )
    trace: Line | None = Field(
        None, description="Of trace: a file with a line for each fault, seconds and perhaps a name"
    )
    speed: Annotated[float, Field(gt=0, le=1e9, strict=False)] = Field(
        1.0, description="Of trace: how many times as fast it is replayed"
    )


class Lab(Section):
    """The lab that is broken; it is brought up where it is not there."""

    name: Word = Field("campaign", description="Its name")
    nodes: Annotated[Count, Field(le=200)] = Field(4, description="How many nodes it has")
    storage: Literal["auto", "well", "ill"] = Field(
        "auto", description="ill: runs lie on storage that can be made ill; auto: where a fault of the mix needs that"
    )


class Targets(Section):
    """Whom faults may hit: a lab, or runs of one's own."""

    lab: Lab | None = Field(None, description="A lab on this machine; `config` is submitted there again and again")
    runs: Texts = Field((), description="Runs of your own that train now: by folder, run id or job id")


class Budget(Section):
    """What a campaign may cost; it ends when that is used up."""

    injections: Count = Field(100, description="At most so many injections")
    node_losses: CountOrNone = Field(100, description="At most so many of them cost a node")


class Plan(Section):
    """A whole plan."""

    name: Name = Field(description="Name of the campaign; reports put those of one name side by side")
    config: Line | None = Field(None, description="The configuration to run, beside the plan; needed with a lab")
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] | None = Field(
        None, description="Of all that is drawn; left out: a new one each time, which is recorded"
    )
    duration: Annotated[float, *seconds(1, 30 * 86400)] = Field(
        1200.0, description="How long faults come; with a sweep: for each mean"
    )
    mtbf: Means = Field((60.0,), description="Mean time between faults; a list is a sweep, one leg after the other")
    arrivals: Arrivals = Arrivals()
    faults: dict[str, Weight] = Field({}, description="How often each fault comes, relative to the others")
    pace: Literal["settled", "wall"] = Field(
        "settled", description="settled: a fault waits until the one before it is over; wall: it comes when it is due"
    )
    double_at: Literal["usual", "detection", "relaunch", "load"] = Field(
        "usual", description="When the second of two faults strikes: as the list of faults says, or all at one moment"
    )
    targets: Targets
    budget: Budget = Budget()
    allow: Annotated[tuple[Word, ...], BeforeValidator(list_to_tuple)] = Field(
        (), description="Faults that cannot be undone and cost something, each by its name"
    )
    stop_file: AbsolutePath | None = Field(None, description="While this file exists nothing is injected")
    settle: Annotated[float, *seconds(5, 86400)] = Field(
        120.0, description="Time for a run to train again after a fault; then the fault counts as not recovered from"
    )
    weights: Pattern = Field(WEIGHTS, description="Regular expression for what rank 0 prints of its final weights")


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a plan may name: every fault with its usual weight.

    `destructive` have to be allowed by name, `storage` are those that make a lab's storage ill.
    """

    weights: Mapping[str, float]
    destructive: frozenset[str] = frozenset()
    storage: frozenset[str] = frozenset()


def load(path: Path, known: Known) -> Plan:
    """Read and check a plan. Raises ConfigError with all that is wrong, each with line and column."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}", hint="ftslurm campaign run PLAN.yaml") from error
    return parse(text, str(path), known)


def parse(text: str, file: str, known: Known) -> Plan:
    """Check the text of a plan; `file` is how messages call it."""
    document = read(text)
    problems = list(document.problems)
    if document.value is None and not problems:
        raise ConfigError(f"{file} is empty", hint="a plan needs at least name and targets")
    plan = None
    if document.value is not None:
        try:
            plan = Plan.model_validate(document.value)
        except ValidationError as error:
            more = explain(error, document, Plan)
            problems += [problem for problem in more if problem.path not in document.lost]
    if plan is not None:
        problems += [_problem(document, path, sentence) for path, sentence in _findings(plan, known)]
        if not problems:
            return plan
    raise ConfigError(report(problems, file), hint="docs/how-to/campaigns.md describes every key")


def _problem(document: Document, path: tuple[str, ...], message: str) -> Problem:
    return Problem(place=document.place(path), path=path, message=message)


def _findings(plan: Plan, known: Known) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong between values that are right one by one, and names that do not exist."""
    for name in plan.faults:
        if name not in known.weights:
            near = difflib.get_close_matches(name, known.weights, n=1)
            yield ("faults", name), f"there is no such fault{f'; did you mean {near[0]}?' if near else ''}"
        elif plan.faults[name] and name in forbidden(plan, known):
            yield ("faults", name), f"cannot be undone and costs something: it needs `allow: [{name}]`"
    if plan.faults and not any(plan.faults.values()):
        yield ("faults",), "no fault has a weight"
    for name in sorted(set(plan.allow) - known.destructive):
        yield (
            ("allow",),
            f"{name} needs no allowance; those that do are {', '.join(sorted(known.destructive)) or 'none'}",
        )
    if (plan.targets.lab is None) == (not plan.targets.runs):
        yield ("targets",), "expected either lab or runs"
    if plan.targets.lab is not None and plan.config is None:
        yield ("config",), "required with targets.lab, but missing"
    if (plan.arrivals.kind == "trace") != (plan.arrivals.trace is not None):
        yield ("arrivals",), "a trace needs both `kind: trace` and `trace: FILE`"


def weights_of(plan: Plan, known: Known) -> dict[str, float]:
    """How often each fault comes: as the plan says, else as usual, without those that would have to be allowed."""
    chosen = plan.faults or {
        name: weight for name, weight in known.weights.items() if name not in forbidden(plan, known)
    }
    return {name: weight for name, weight in chosen.items() if weight}


def forbidden(plan: Plan, known: Known) -> frozenset[str]:
    """The faults that cannot be undone and cost something, and that the plan does not allow."""
    return known.destructive - set(plan.allow)


def on_ill_storage(plan: Plan, known: Known) -> bool:
    """Whether the runs of a plan lie on storage that can be made ill."""
    if plan.targets.lab is None or plan.targets.lab.storage == "well":
        return False
    return plan.targets.lab.storage == "ill" or not known.storage.isdisjoint(weights_of(plan, known))


def source_of(plan: Plan, mtbf_s: float, folder: Path) -> Weibull | Replay:
    """When faults come; `folder` is the plan's, a trace lies beside it.

    Raises:
        ConfigError: the trace cannot be read.
    """
    wanted = plan.arrivals
    if wanted.trace is None:
        return Weibull(mtbf_s=mtbf_s, shape=wanted.shape if wanted.kind == "weibull" else 1.0)
    path = folder / wanted.trace
    try:
        return read_trace(path.read_text(encoding="utf-8"), wanted.speed)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}", hint="a line for each fault: seconds, and perhaps its name") from error


def plain(plan: Plan) -> dict[str, Any]:
    """The plan with its defaults, ready for JSON."""
    return plan.model_dump(mode="json")
