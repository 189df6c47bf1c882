"""The patterns in the past of the nodes as text: each number with what it rests on (`ftslurm nodes --analyze`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftslurm.insight.text import aligned, count, day, visible

if TYPE_CHECKING:
    from ftslurm.plan.backtest import Score, Value
    from ftslurm.plan.breaks import Break
    from ftslurm.plan.past import Past
    from ftslurm.plan.patterns import Patterns

MOST_NODES = 10
MOST_CAUSES = 12
MOST_NAMED = 4
_NAME_CHARS = 40
_DAY_S = 86400.0
_WEEK = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def sources(past: Past) -> Iterator[str]:
    """Where faults were looked for, and what rates run on."""
    rows: list[tuple[str, ...]] = [("SOURCE", "FAULTS", "FROM", "TO", "WHAT")]
    for each in past.sources:
        span = ("-" if t is None else when(t, past) for t in (each.begun, each.until))
        rows.append((visible(each.name), str(each.faults), *span, visible(each.words)))
    yield from aligned(rows)


def lines(found: Patterns) -> Iterator[str]:
    """The whole analysis, for people."""
    past = found.past
    yield from sources(past)
    for heading, part in (
        ("", _headline(found)),
        ("Causes", _causes(found)),
        ("Over time", _over_time(found)),
        ("Over nodes", _over_nodes(found)),
        (
            f"Most unreliable nodes ({min(MOST_NODES, len(found.ranking))} of {len(found.ranking)} with faults)",
            _worst(found),
        ),
        ("Changes of the rate", _changes(found)),
        ("Failing again after a repair", _again(found)),
        ("Hours and days", _rhythms(found)),
        ("Would the rule for lemons have helped?", _rules(found)),
    ):
        yield ""
        if heading:
            yield heading
        yield from part


def _headline(found: Patterns) -> Iterator[str]:
    past = found.past
    fleet = f" of {past.fleet}" if past.fleet else ""
    hit = (
        f"{count(len(past.faults), 'fault')} on {count(len(found.ranking), 'node')}{fleet} in {past.span_days:.1f} days"
    )
    if past.exposure is None or past.rate is None:
        yield f"{hit}. For how long nodes were watched is unknown: there are no rates."
        return
    unrated = len(past.faults) - len(past.rated)
    without = f" ({count(unrated, 'fault')} outside of it left out)" if unrated else ""
    yield (
        f"{hit}: {1000 * past.rate:.2f} in 1000 node-days, by {past.exposure.total:,.0f} node-days"
        f" ({visible(past.exposure.words)}){without}"
    )


def _causes(found: Patterns) -> Iterator[str]:
    rows = [("  CAUSE", "FAULTS", "NODES")]
    rows += [(f"  {short(cause)}", str(faults), str(nodes)) for cause, faults, nodes in found.causes[:MOST_CAUSES]]
    yield from aligned(rows)
    rest = found.causes[MOST_CAUSES:]
    if rest:
        yield f"  {count(len(rest), 'other cause')} with {sum(faults for _, faults, _ in rest)} faults"


def _over_time(found: Patterns) -> Iterator[str]:
    gaps = found.spacing
    if gaps is None:
        yield "  too few faults to say how they follow each other"
        return
    yield (
        f"  a fault every {gaps.mean_s / 3600:.1f} h on average (n = {gaps.gaps} gaps); coefficient of variation"
        f" {gaps.cv:.2f}, for Poisson 1"
    )
    verdict = (
        "no more clustered than Poisson"
        if gaps.p > 0.05
        else "clustered"
        if gaps.shape < 1
        else "more even than Poisson"
    )
    without = f"; {gaps.zero} gaps of 0 left out" if gaps.zero else ""
    yield (
        f"  Weibull shape {gaps.shape:.2f} (95 %: {gaps.low:.2f} to {gaps.high:.2f}), for Poisson 1: {verdict}"
        f" (p {chance(gaps.p)}{without})"
    )


def _over_nodes(found: Patterns) -> Iterator[str]:
    told = found.spread
    if told is None:
        yield "  how many nodes there are is unknown: nothing to compare with"
        return
    if told.index is not None and told.p is not None and told.never_expected is not None:
        yield (
            f"  {told.mean:.2f} faults a node; dispersion {told.index:.2f}, for Poisson 1"
            f" (chi-square, p {chance(told.p)})"
        )
        yield f"  {told.never} of {told.nodes} nodes had none, for Poisson {told.never_expected:.0f}"
    tops = ", ".join(f"{share:.0%} have {part:.1%}" for share, part in told.tops)
    yield f"  of the faults, the worst {tops} (whichever nodes are the worst by hindsight)"


def _worst(found: Patterns) -> Iterator[str]:
    soon = {each.node: each.again for each in found.offenders}
    rated = found.past.exposure is not None
    rows: list[tuple[str, ...]] = [
        ("  NODE", "FAULTS", *(("DAYS", "RATE", "95 %", "EXPECTED", "CHANCE") if rated else ()), "AGAIN 1/7/28 d")
    ]
    for each in found.ranking[:MOST_NODES]:
        numbers: tuple[str, ...] = ()
        if each.rate is not None and each.low is not None and each.high is not None:
            span = f"{1000 * each.low:.1f} to {1000 * each.high:.1f}"
            expected = f"{1000 * (each.expected or 0.0):.1f}"
            numbers = (f"{each.days:.1f}", f"{1000 * each.rate:.1f}", span, expected, chance(each.p or 0.0))
        again = "/".join(map(str, soon.get(each.node, (0, 0, 0))))
        rows.append((f"  {short(each.node)}", str(each.faults), *numbers, again))
    yield from aligned(rows)
    if rated:
        yield "  RATE, EXPECTED: faults in 1000 node-days; what was (95 %: Gamma posterior of the node alone), and what"
        yield "  to expect of it by what the whole fleet shows. CHANCE: that any node had so many, were all alike"
        yield "  (Poisson x nodes). AGAIN: how many of its faults were followed by another within so many days"


def _changes(found: Patterns) -> Iterator[str]:
    past = found.past
    for each in found.breaks:
        yield f"  {when(each.at, past)}: the fleet, {_rates(each, past)}, p {chance(each.p)}"
    for node, each in found.node_breaks:
        yield f"  {when(each.at, past)}: {short(node)}, {_rates(each, past)}, p {chance(each.p)} over all nodes tested"
    if not found.breaks and not found.node_breaks:
        yield "  none that chance does not make as well"
    yield (
        "  Poisson likelihood ratio, p by seeded draws: of the fleet by shuffled gaps, 5 % a test; of"
        f" {count(found.tested_nodes, 'node')} with four"
    )
    yield "  faults or more by Poisson, 5 % over all of them together (Bonferroni)"
    if past.exposure is None:
        yield "  taken as watched alike all the time, which nobody knows: more use looks like more faults"


def _rates(each: Break, past: Past) -> str:
    if past.exposure is None:
        return f"{each.before:.2f} -> {each.after:.2f} faults a day"
    return f"{1000 * each.before:.1f} -> {1000 * each.after:.1f} in 1000 node-days"


def _again(found: Patterns) -> Iterator[str]:
    if not found.again:
        yield "  too little time has passed"
        return
    rows = [("  WITHIN", "FAULTS", "AGAIN", "SHARE", "95 %", "BY CHANCE")]
    for each in found.again:
        by = "unknown" if each.chance is None or each.p is None else f"{each.chance:.1%} (p {chance(each.p)})"
        span = f"{each.low:.1%} to {each.high:.1%}"
        rows.append((f"  {each.days:g} d", str(each.faults), str(each.again), f"{each.share:.1%}", span, by))
    yield from aligned(rows)
    unknown = sum(each.over is None for each in found.past.faults)
    if unknown:
        yield f"  counted from the fault itself for {count(unknown, 'fault')} without a known repair: at least so many"
    if found.offenders:
        worst = [f"{short(each.node)} ({each.again[2]} of {each.faults})" for each in found.offenders[:MOST_NAMED]]
        yield f"  most often, within 28 d: {', '.join(worst)}"


def _rhythms(found: Patterns) -> Iterator[str]:
    for each in found.rhythms:
        if each.period_s == _DAY_S:
            begin = "o'clock" if found.past.dated else "hours after the hour at which the trace began"
            what = f"most around {each.peak_s / 3600:.0f} {begin}"
        elif found.past.dated:
            what = f"most around {_WEEK[int(each.peak_s // _DAY_S)]}"
        else:
            what = f"most around day {each.peak_s / _DAY_S:.1f} of every seven since the trace began"
        yield f"  {what} (Rayleigh, p {chance(each.p)})"
    if not found.rhythms:
        yield "  no hour and no day that chance does not prefer as well (Rayleigh, p > 0.01, or fewer than 20 moments)"


def _rules(found: Patterns) -> Iterator[str]:
    if not found.rules:
        yield "  nobody can say: that takes a known fleet, and 77 days"
        return
    yield "  asked every week, of the next 28 days, with what was known by then; nodes under repair left out"
    rows: list[tuple[str, ...]] = [("  RULE", "FLAGGED", "OF THESE FAILED", "OF ALL FAILED", "FAULTS HELD", "LIFT")]
    rows += [_rule(each) for each in found.rules]
    yield from aligned(rows)
    yield "  intervals (95 %) are over nodes; neither rule has a number that was chosen on this data"


def _rule(each: Score) -> tuple[str, ...]:
    held = "-" if each.share is None else f"{interval(each.share, percent=True)}, n = {each.faults}"
    failed = "-" if each.precision is None else interval(each.precision, percent=True)
    lift = "-" if each.lift is None else interval(each.lift)
    return (f"  {each.rule}", f"{each.flagged / each.checks:.1f}", failed, f"{each.base:.1%}", held, lift)


def interval(each: Value, *, percent: bool = False) -> str:
    """`12.3% (8.1% to 17.0%)`."""
    form = ".1%" if percent else ".1f"
    high = "?" if each.high is None else format(each.high, form)
    return f"{each.value:{form}} ({each.low:{form}} to {high})"


def chance(p: float) -> str:
    """A probability as it is quoted."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def when(t: float, past: Past) -> str:
    """A day: of the calendar, or of the trace."""
    return day(t) if past.dated else f"day {t / _DAY_S:.1f}"


def short(name: str) -> str:
    """A name from outside, safe for a terminal and not too long."""
    seen = visible(name)
    return seen if len(seen) <= _NAME_CHARS else f"{seen[: _NAME_CHARS - 1]}+"
