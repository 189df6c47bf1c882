"""Which checkpoints stay. Only durable ones are considered here, by number and never by text.

A rule keeps; nothing deletes by itself: a generation goes when no rule keeps it and nothing protects it. Protected
are, whatever the rules say, the newest one, what the caller names (references, tags, what is on its way or being
loaded), the full generation that a kept differential one refers to, and, where there are differential ones, the two
newest full ones: one flipped bit must not take all generations with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ftslurm.core.manifest import parse_generation

BASES = 2
"""Full generations that are kept where others refer to them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the user wants to keep: any of these.

    Attributes:
        last: the newest so many; less than 1 counts as 1.
        best: the best so many by `metric`.
        metric: what the program reported with its steps; "" for none.
        mode: what best means.
        every_steps: the first one at or after each multiple of so many steps; 0: none.
        max_age_s: those that are younger; 0: none.
        abandoned: all that lie on abandoned branches (`ftslurm.core.branches`); they count for no other rule.
    """

    last: int = 5
    best: int = 0
    metric: str = ""
    mode: Literal["min", "max"] = "min"
    every_steps: int = 0
    max_age_s: float = 0.0
    abandoned: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A durable generation, as far as retention looks at it.

    Attributes:
        generation: its name.
        at: wall-clock seconds of its commit.
        metrics: what the program reported.
        base: the full generation that it refers to; "" for a full one.
        live: whether it lies on the branch that the training is on.
    """

    generation: str
    at: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    base: str = ""
    live: bool = True

    @property
    def order(self) -> tuple[int, int]:
        """Step and attempt."""
        return parse_generation(self.generation)


def stay(durable: Sequence[Kept], rules: Rules, protected: Mapping[str, str], now: float) -> dict[str, str]:
    """Return the generations that stay, each with the first reason why.

    Args:
        durable: all that are durable, in any order.
        rules: what is wanted.
        protected: generations that must not go, with the reason; some may not be durable.
        now: wall-clock seconds.
    """
    everything = sorted(durable, key=lambda each: each.order, reverse=True)
    live = [each for each in everything if each.live]
    reasons: dict[str, str] = {}

    def keep(some: Sequence[Kept], reason: str) -> None:
        for each in some:
            reasons.setdefault(each.generation, reason)

    keep(live[:1], "the newest")
    for each in everything:
        if each.generation in protected:
            keep([each], protected[each.generation])
    keep(live[: max(rules.last, 1)], f"one of the last {max(rules.last, 1)}")
    keep(best(live, rules), f"one of the best {rules.best} by {rules.metric}")
    keep(_spaced(live, rules.every_steps), f"the first of {rules.every_steps} steps")
    keep([each for each in live if 0 < rules.max_age_s > now - each.at], f"younger than {rules.max_age_s:.0f} s")
    if any(each.base for each in live):
        keep([each for each in live if not each.base][:BASES], f"one of the newest {BASES} full ones")
    keep([each for each in everything if rules.abandoned and not each.live], "on an abandoned branch")
    _keep_bases(everything, reasons)
    return reasons


def best(durable: Sequence[Kept], rules: Rules) -> list[Kept]:
    """Return the best generations by the metric of the rules, the best first; of equals the newer one is better."""
    known = [each for each in durable if math.isfinite(each.metrics.get(rules.metric, math.nan))]
    sign = 1 if rules.mode == "min" else -1
    known.sort(key=lambda each: each.order, reverse=True)
    known.sort(key=lambda each: sign * each.metrics[rules.metric])
    return known[: max(rules.best, 0)]


def _spaced(durable: Sequence[Kept], every_steps: int) -> list[Kept]:
    """The first generation at or after each multiple: stable, however many are deleted between them."""
    if every_steps <= 0:
        return []
    first: dict[int, Kept] = {}
    for each in sorted(durable, key=lambda each: (each.order[0], -each.order[1])):
        first.setdefault(each.order[0] // every_steps, each)
    return [each for multiple, each in first.items() if multiple or each.order[0] == 0]


def _keep_bases(durable: Sequence[Kept], reasons: dict[str, str]) -> None:
    """What a kept generation refers to stays with it."""
    bases = {each.generation: each.base for each in durable}
    waiting = list(reasons)
    while waiting:
        name = waiting.pop()
        base = bases.get(name, "")
        if base and base not in reasons:
            reasons[base] = f"the base of {name}"
            waiting.append(base)
