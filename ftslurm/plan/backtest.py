"""Does a rule for lemons pay? Played over what has happened, with nothing but what was known at the time.

At the end of every week the rule sees the faults so far and flags nodes. Then the next 28 days are looked at: how many
of the flagged nodes failed (precision), which part of all faults they had (share), and how many times more than as many
nodes taken by chance (lift). Weeks overlap, and one bad node is seen in many of them, so that the intervals are taken
over nodes, not over faults: ratios of sums, linearised on the log (Cochran, *Sampling Techniques*, 1977, chapter 6).
Where few nodes are bad they are a little too narrow: over simulated fleets nine of ten hold the truth.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from ftslurm.core.lemons import DAY_S, DECAY_DAYS, SHARE, Evidence, Mark, Record, judge
from ftslurm.core.lemons import Standing as Verdict
from ftslurm.plan.past import Fault, Past, by_node

AHEAD_DAYS = 28.0
EVERY_DAYS = 7.0


@dataclass(frozen=True, slots=True)
class Rule:
    """Names nodes, the worst first: of the faults so far, at a moment, in a fleet of so many. `top`: flag 5 %."""

    name: str
    ranked: Callable[[Sequence[Fault], float, int], Sequence[str]]
    top: bool = True


@dataclass(frozen=True, slots=True)
class Value:
    """A number with its 95 % interval; `high` is None where none of it was seen."""

    value: float
    low: float
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a rule was worth.

    Attributes:
        rule: its name.
        checks: how often it was asked.
        flagged: how many nodes it flagged, over all checks.
        failed: how many of these failed within the next 28 days.
        caught: how many faults they had, of `faults` in all.
        base: the share of all nodes that failed.
        precision: failed / flagged; None where nothing was flagged.
        share: caught / faults; None where there were none.
        lift: share over the part of the nodes that was flagged.
    """

    rule: str
    checks: int
    flagged: int
    failed: int
    caught: int
    faults: int
    base: float
    precision: Value | None
    share: Value | None
    lift: Value | None


@dataclass(slots=True)
class _Node:
    """One node over all checks: how often it was there, flagged, failing, both; its faults, and those while flagged."""

    there: int = 0
    flagged: int = 0
    failing: int = 0
    right: int = 0
    faults: int = 0
    caught: int = 0


def play(past: Past, rule: Rule, *, since: float, away_too: bool = False) -> Score:
    """Return what a rule was worth from `since` on.

    Args:
        past: with a known fleet.
        rule: what is played.
        since: the first check; the last is 28 days before the end.
        away_too: also flag nodes that are being repaired, and count their faults; they come back soon.
    """
    fleet = past.fleet or 0
    nodes = {each.node: _Node() for each in past.faults}
    unnamed = _Node()
    checks, now = 0, since
    while now + AHEAD_DAYS * DAY_S <= past.until:
        seen = [each for each in past.faults if each.at <= now]
        away = set() if away_too else {each.node for each in seen if each.over is not None and now < each.over}
        ranked = [node for node in rule.ranked(seen, now, fleet) if node not in away]
        chosen = set(ranked[: max(int(SHARE * fleet), 1)] if rule.top else ranked)
        coming = by_node(each for each in past.faults if now < each.at <= now + AHEAD_DAYS * DAY_S)
        _take(nodes, chosen, away, {node: len(faults) for node, faults in coming.items()})
        unnamed.there += 1
        checks += 1
        now += EVERY_DAYS * DAY_S
    rest = max(fleet - len(nodes), 0)
    return _score(rule.name, checks, [*nodes.values()], unnamed.there * rest)


def _take(nodes: dict[str, _Node], chosen: Collection[str], away: Collection[str], coming: dict[str, int]) -> None:
    for name, node in nodes.items():
        if name in away:
            continue
        faults, flagged = coming.get(name, 0), name in chosen
        node.there += 1
        node.flagged += flagged
        node.failing += faults > 0
        node.right += flagged and faults > 0
        node.faults += faults
        node.caught += faults if flagged else 0


def _score(rule: str, checks: int, nodes: Sequence[_Node], unnamed: int) -> Score:
    there = sum(each.there for each in nodes) + unnamed
    flagged, failed = sum(each.flagged for each in nodes), sum(each.right for each in nodes)
    faults, caught = sum(each.faults for each in nodes), sum(each.caught for each in nodes)
    return Score(
        rule=rule,
        checks=checks,
        flagged=flagged,
        failed=failed,
        caught=caught,
        faults=faults,
        base=sum(each.failing for each in nodes) / there if there else 0.0,
        precision=_value(nodes, [(1, "right"), (-1, "flagged")], 0, most=1.0),
        share=_value(nodes, [(1, "caught"), (-1, "faults")], 0, most=1.0),
        lift=_value(nodes, [(1, "caught"), (-1, "faults"), (-1, "flagged"), (1, "there")], unnamed),
    )


def _value(
    nodes: Sequence[_Node], terms: Sequence[tuple[int, str]], unnamed: int, most: float = math.inf
) -> Value | None:
    """A product of sums over nodes, each to the power +1 or -1; None where it divides by 0.

    The log of it moves with a node by the sum of (power x its part of each sum); nodes without a name add to `there`.
    """
    sums = {name: sum(getattr(each, name) for each in nodes) + (unnamed if name == "there" else 0) for _, name in terms}
    if not all(sums[name] for power, name in terms if power < 0):
        return None
    if not all(sums.values()):
        return Value(0.0, 0.0, None)
    value = math.prod(float(sums[name]) ** power for power, name in terms)
    moves = (sum(power * getattr(each, name) / sums[name] for power, name in terms) for each in nodes)
    error = math.sqrt(math.fsum(move * move for move in moves))
    return Value(value, value * math.exp(-1.96 * error), min(value * math.exp(1.96 * error), most))


# ------------------------------------------------------------------------------------------------------------- rules


def marks(faults: Iterable[Fault]) -> list[Mark]:
    """The marks that runs would have left."""
    return [Mark(node=each.node, at=each.at, cause=each.cause, evidence=Evidence.HARD) for each in faults]


def _judged(faults: Sequence[Fault], now: float, fleet: int) -> tuple[Record, ...]:
    return judge(marks(faults), (), now, fleet)


def _lemons(faults: Sequence[Fault], now: float, fleet: int) -> list[str]:
    return [each.node for each in _judged(faults, now, fleet) if each.standing is Verdict.LEMON]


def _by_score(faults: Sequence[Fault], now: float, fleet: int) -> list[str]:
    found = sorted(_judged(faults, now, fleet), key=lambda each: (-each.score, each.node))
    return [each.node for each in found if each.score > 0.0]


def counted(days: float) -> Rule:
    """The faults of the last so many days; of equals the one that failed last, also longer ago."""

    def ranked(faults: Sequence[Fault], now: float, _fleet: int) -> list[str]:
        last = {each.node: each.at for each in faults}
        recent = Counter(each.node for each in faults if now - each.at <= days * DAY_S)
        return sorted(last, key=lambda node: (-recent[node], -last[node], node))

    name = "all faults so far" if math.isinf(days) else f"faults in {days:g} days"
    return Rule(name, ranked)


def decaying(half_days: float) -> Rule:
    """Every fault counts, half as much after so many days."""

    def ranked(faults: Sequence[Fault], now: float, _fleet: int) -> list[str]:
        known = by_node(faults)
        scores = {
            node: sum(0.5 ** ((now - each.at) / (half_days * DAY_S)) for each in of_node)
            for node, of_node in known.items()
        }
        return sorted(scores, key=lambda node: (-scores[node], node))

    return Rule(f"decay, half in {half_days:g} days", ranked)


THE_RULE = Rule("the rule of `submit`", _lemons, top=False)
TOP = Rule(f"5 % by score (half in {DECAY_DAYS:g} days)", _by_score)
