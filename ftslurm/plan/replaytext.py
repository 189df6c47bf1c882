"""A comparison as text, for a terminal of 80 to 120 columns; nothing in it can act on the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from math import inf

from ftslurm.core.recovery import Kind
from ftslurm.insight.text import count, day, folded, time_of_day, took, visible
from ftslurm.plan.comparison import Comparison, Projection
from ftslurm.plan.otherpolicy import Change, Other
from ftslurm.plan.projection import TERMS, Outcome
from ftslurm.plan.replay import Choice, Decision, Difference, Replayed

_LABEL = 10
_INDENT = 4
UNKNOWN = "-"


def render(found: Comparison, width: int) -> str:
    """All of it, its lines ended by newlines; `width` is in columns."""
    return "".join(f"{line}\n" for line in _lines(found, width))


def _lines(found: Comparison, width: int) -> Iterator[str]:
    yield from _wrapped(_headline(found), width, "")
    if found.replayed.mismatch is not None:
        yield from _mismatch(found.replayed, width)
    if found.other is not None:
        yield ""
        yield from _policy(found, found.other, width)
    if found.replayed.decisions:
        yield ""
        yield from _decisions(found, width)
    if found.replayed.differences:
        yield ""
        yield from _differences(found.replayed, width)
    if found.other is not None:
        yield ""
        yield from _wrapped(_course(found.replayed), width, "")
    if found.projection is not None:
        yield ""
        yield from _projection(found.projection, width)


def _headline(found: Comparison) -> str:
    told = found.replayed
    name = visible(f"run {found.paths.run_id}")
    if not told.entries:
        return f"{name}: nothing has happened yet: no supervisor has started"
    what = f"{count(told.entries, 'entry').replace('entrys', 'entries')}, {count(len(told.decisions), 'decision')}"
    if told.mismatch is None:
        return f"{name}: {what}; this release decides everything as it was recorded"
    return f"{name}: {what}; this release decides {told.mismatches} of them otherwise than was recorded"


def _mismatch(told: Replayed, width: int) -> Iterator[str]:
    first = told.mismatch
    if first is None:
        return
    yield from _wrapped(f"the first is entry {first.number}, {first.event} at {time_of_day(first.t)}:", width, "  ")
    yield from _field("recorded", "; ".join(first.recorded), width)
    yield from _field("now", "; ".join(first.now), width)


def _policy(found: Comparison, other: Other, width: int) -> Iterator[str]:
    name = visible(str(found.file))
    if not other.changes:
        yield from _wrapped(f"{name} is the run's own policy", width, "")
        return
    kept = [each for each in other.changes if each.counts]
    if kept:
        yield from _wrapped(f"{name} differs from the run's own policy in", width, "")
    else:
        yield from _wrapped(f"{name} differs from the run's own policy in nothing that is replayed", width, "")
    for each in other.changes:
        yield from _wrapped(_change(each), width, "  ")


def _change(change: Change) -> str:
    text = f"{change.key}: {change.own} -> {change.other}"
    remark = change.remark if change.counts else f"not replayed: {change.why}"
    return f"{text} ({remark})" if remark else text


def _decisions(found: Comparison, width: int) -> Iterator[str]:
    text = "decisions; prices are expected losses in node-seconds, by what the run's own policy assumes"
    yield from _wrapped(text, width, "")
    date = ""
    for each in found.replayed.decisions:
        if day(each.t) != date:
            date = day(each.t)
            yield date
        yield from _decision(each, width, with_other=found.other is not None)


def _decision(each: Decision, width: int, *, with_other: bool) -> Iterator[str]:
    stamp = f"{time_of_day(each.t)} entry {each.number}: "
    yield from _wrapped(f"attempt {each.attempt} is over: {each.found.reason}", width, stamp)
    yield from _field("recorded", _choice(each.own), width)
    if not with_other:
        return
    if each.same:
        yield from _field("other", "the same", width)
        return
    yield from _field("other", _choice(each.other), width)
    yield from _field("", _dearer(each), width)


def _choice(choice: Choice | None) -> str:
    if choice is None:
        return "no plan is made in this moment"
    plan = choice.plan
    where = f" on {folded(plan.nodes)}" if plan.nodes else ""
    price = f"{choice.price_node_s:,.0f} node-s" if choice.price_node_s is not None else "no price: the run ends"
    return f"{plan.kind}{where} ({price}): {plan.reason}"


def _dearer(each: Decision) -> str:
    if each.own is None or each.other is None or each.own.price_node_s is None or each.other.price_node_s is None:
        ends = next((choice for choice in (each.own, each.other) if choice and choice.plan.kind is Kind.ABORT), None)
        return "different; what a run that ends has lost has no price" if ends else "different"
    more = each.other.price_node_s - each.own.price_node_s
    return f"different: expected to lose {abs(more):,.0f} node-s {'more' if more > 0 else 'less'}"


def _differences(told: Replayed, width: int) -> Iterator[str]:
    yield "otherwise, in the recorded situations"
    for each in told.differences:
        yield from _difference(each, width)


def _difference(each: Difference, width: int) -> Iterator[str]:
    times = f" ({each.count} times, first here)" if each.count > 1 else ""
    yield from _wrapped(f"{each.at}{times}", width, f"{time_of_day(each.t)} entry {each.number}: ")
    yield from _field("recorded", "; ".join(each.own) or "nothing", width)
    yield from _field("other", "; ".join(each.other) or "nothing", width)


def _course(told: Replayed) -> str:
    first = told.first
    waits = f" {count(told.harmless, 'wait')} of another length made no difference." if told.harmless else ""
    if first is None:
        return f"The other policy would have decided nothing otherwise in what was recorded.{waits}"
    when = f"{day(first.t)} {time_of_day(first.t)}"
    return (
        f"The other policy leaves the recorded course at entry {first.number} ({when}). Every answer above holds for"
        f" its recorded situation alone: what came after the first is not what would have happened.{waits}"
    )


# ---------------------------------------------------------------------------------------------------- projection


def _projection(found: Projection, width: int) -> Iterator[str]:
    yield from _wrapped("projection: the recorded failures, played through a model of the run", width, "")
    columns = [("measured", found.measured), ("model, own", found.own)]
    columns += [("model, other", found.other)] if found.other is not None else []
    yield f"{'':<26}" + "".join(f"{name:>16}" for name, _ in columns)
    apart = [found.found.interval_s, *(each.interval_s for each in (found.own_assumed, found.other_assumed) if each)]
    yield f"{'work between two saves':<26}" + "".join(f"{_apart(seconds):>16}" for seconds in apart)
    for name, cells in _rows([outcome for _, outcome in columns]):
        yield f"{name:<26}" + "".join(f"{cell:>16}" for cell in cells)
    yield from _wrapped(f"the model's error for the run's own policy: {_error(found)}", width, "")
    for name, outcome in columns[1:]:
        end = f"{name.removeprefix('model, ')} policy: {outcome.end}{_undone(outcome, found.measured)}"
        yield from _wrapped(end, width, "end, ")
        plans = ", ".join(f"{kind} at {time_of_day(t)}" for t, kind in outcome.plans)
        yield from _wrapped(f"its plans in the model: {plans or 'none'}", width, "     ")
    for sentence in assumptions(found):
        yield from _wrapped(sentence, width, "assumed: ")


_ALWAYS = (
    "a node fails when it failed, and nobody meets that who does not hold it",
    "the program fails where it failed in its work; nothing else fails; the newest save survives where it did",
    "Slurm gives as many nodes as are asked for; a smaller world is as efficient as the run's own policy believes",
)


def assumptions(found: Projection) -> list[str]:
    """Everything that the projection rests on, each once."""
    own, other = found.own_assumed.words, found.other_assumed.words if found.other_assumed else ()
    told = [f"{each} (other policy)" if each not in own else each for each in dict.fromkeys((*own, *other))]
    general = list(_ALWAYS)
    apart = [each.interval_s for each in (found.own_assumed, found.other_assumed) if each and each.interval_s < inf]
    if apart:
        most = max(apart) * found.found.wanted
        chance = "where between two saves a failure falls is chance: it moves redo by"
        general.append(f"{chance} up to {most:,.0f} node-s for each failure")
    if not found.found.finished:
        general.append("the run had not finished: the model ends where the record ends")
    return [*told, *general]


def _apart(seconds: float | None) -> str:
    return UNKNOWN if seconds is None or seconds == inf else took(seconds)


def _rows(outcomes: list[Outcome]) -> Iterator[tuple[str, list[str]]]:
    yield "time", [took(each.took_s) for each in outcomes]
    yield "ETTR", [UNKNOWN if each.ettr is None else f"{each.ettr:.3f}" for each in outcomes]
    yield "work kept, node-s", [f"{each.useful:,.0f}" for each in outcomes]
    yield "lost, node-s", [f"{each.lost_node_s:,.0f}" for each in outcomes]
    for term in TERMS:
        yield f"  {term}", [f"{each.lost[term]:,.0f}" for each in outcomes]
    yield "spares idle, node-s", [UNKNOWN if each.idle is None else f"{each.idle:,.0f}" for each in outcomes]
    yield "attempts", [f"{each.attempts}" for each in outcomes]
    yield "requeues", [f"{each.requeues}" for each in outcomes]
    yield "failures that met nobody", [UNKNOWN if each.unmet is None else f"{each.unmet}" for each in outcomes]


def _undone(outcome: Outcome, real: Outcome) -> str:
    """A run that ends early loses little, and does little."""
    less = real.useful - outcome.useful
    early = outcome.over and less >= 0.005 * max(real.useful, 1.0)
    return f"; {less:,.0f} node-s of the work that was done in the recorded run are not done" if early else ""


def _error(found: Projection) -> str:
    real, model = found.measured, found.own
    points = UNKNOWN if real.ettr is None or model.ettr is None else f"{100 * (model.ettr - real.ettr):+.1f} points"
    return f"ETTR {points}, lost {model.lost_node_s - real.lost_node_s:+,.0f} node-s"


def _field(label: str, text: str, width: int) -> Iterator[str]:
    yield from _wrapped(text, width, f"{'':<{_INDENT}}{label:<{_LABEL}}")


def _wrapped(text: str, width: int, first: str) -> list[str]:
    """`text` made visible and wrapped, behind `first`, with a hanging indent."""
    lines = textwrap.wrap(
        visible(text), width, initial_indent=first, subsequent_indent=" " * len(first), break_on_hyphens=False
    )
    return lines or [first.rstrip()]
