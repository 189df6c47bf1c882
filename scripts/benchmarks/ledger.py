"""Does the rule for lemons pay? Played over a public fault trace of 400 GPU nodes that it was not tuned on.

At the end of every week a rule sees the faults so far and flags nodes; then the next 28 days are looked at. The first
half of the trace may be used to choose between rules, the second half is held out: nothing is chosen on it. Goal: the
5 % of nodes with the highest score hold 14 % of the coming faults, 2.8 times their part. The trace:
stepfun-ai/InfiniteHBD-Trace, Apache-2.0, arXiv 2502.03885.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import machine

from ftslurm.core.lemons import DAY_S, WINDOWS_DAYS, marks_of_a_lemon, rate_of
from ftslurm.core.pricing import FAILURES_PER_NODE_DAY
from ftslurm.errors import FtslurmError
from ftslurm.plan.backtest import AHEAD_DAYS, THE_RULE, TOP, Value, counted, decaying, marks, play
from ftslurm.plan.findings import interval
from ftslurm.plan.past import Past
from ftslurm.plan.repeaters import again
from ftslurm.plan.sources import of_trace
from ftslurm.plan.trace import read_trace

TRACE = Path(__file__).resolve().parents[3] / "shared" / "data" / "gpu-node-faults-first-174-days.json"
FLEET = 400
GOAL, GOAL_LIFT = 0.14, 2.8
SPANS = ("held out", "held out, with repair", "whole", "whole, with repair")
OTHERS = (
    *(counted(days) for days in (7.0, 14.0, 28.0, 56.0, math.inf)),
    *(decaying(days) for days in (3.5, 7.0, 14.0, 28.0, 56.0)),
)
"""To compare with; none of them replaces the ledger's score."""

INTRO = """`ftslurm submit` leaves out nodes that failed more often than chance allows
([plans.md](../plans.md#the-node-ledger)). Is it right to? Here the rule is played over {faults} faults of {fleet} nodes
in {days:.0f} days (stepfun-ai/InfiniteHBD-Trace, arXiv 2502.03885{part}). At the end of every week it sees the faults
so far; then the next 28 days are looked at. *Failed* are flagged nodes with at least one fault in these days
(precision); *held* is their part of all faults; *lift* is that part over their part of the nodes. A fault counts in
each of the weeks that see it, and a bad node, too: so the intervals (95 %) are over nodes; with so few bad nodes they
are a little too narrow (over simulated fleets of equal nodes nine of ten held the true lift). Made by
`scripts/bench ledger`.

No number of the rule was fitted to this trace, but that nodes fail again was known from it when the rule was written.
Scores that it could have used instead are compared below: days 0 to {half:.0f} may be used to choose between them, days
{half:.0f} to {days:.0f} are held out.
"""
REPAIR = """Nodes that are under repair on the day of the question are left out, with their faults. They could be
flagged as well, and they come back: after {again:.0%} of the repairs a node fails again within a day. *With repair*
counts them, which is what the ledger is asked in practice: shall this node be used when it is back?
"""


def half_of(past: Past) -> float:
    """Where the held-out part begins."""
    return (past.begun + past.until) / 2


def first_half(past: Past) -> Past:
    """What may be used to choose: its last faults are those that its last check looks at."""
    half = half_of(past)
    return Past(
        faults=tuple(each for each in past.faults if each.at <= half), begun=past.begun, until=half, fleet=past.fleet
    )


def measure(past: Past) -> dict[str, Any]:
    """Every rule on the whole and on both halves, with and without nodes that are under repair."""
    since, half = past.begun + AHEAD_DAYS * DAY_S, half_of(past)
    rules = (THE_RULE, TOP, *OTHERS)
    spans = {"first half": (first_half(past), since), "held out": (past, half), "whole": (past, since)}
    scores = {
        name + (", with repair" if away else ""): [asdict(play(told, rule, since=at, away_too=away)) for rule in rules]
        for name, (told, at) in spans.items()
        for away in (False, True)
    }
    choice = scores["first half"][1:]
    best = max(each["share"]["value"] for each in choice)
    return {
        "faults": len(past.faults),
        "fleet": past.fleet,
        "days": past.span_days,
        "half_day": half / DAY_S,
        "again_within_a_day": again(past)[0].share,
        "scores": scores,
        "best_on_first_half": [each["rule"] for each in choice if each["share"]["value"] == best],
        "marks_of_a_lemon": _thresholds(past),
    }


def _thresholds(past: Past) -> dict[str, list[int]]:
    rates = {
        "published": FAILURES_PER_NODE_DAY,
        "last learnt": rate_of(marks(past.faults), past.until, past.fleet or 0),
    }
    return {
        f"{name}, {1000 * rate:.2f} in 1000 node-days": [
            marks_of_a_lemon(rate, days, past.fleet or 0) for days in WINDOWS_DAYS
        ]
        for name, rate in rates.items()
    }


def render(value: dict[str, Any], part: str) -> str:
    """The page."""
    scores = value["scores"]
    figures = {name: value[name] for name in ("faults", "fleet", "days")}
    intro = INTRO.format(**figures, half=value["half_day"], part=part)
    rows = [_row(each, name) for name in SPANS for each in scores[name][:2]]
    header = ["days", "flagged", "nodes a week", "of these failed", "of all failed", "held", "lift", "cases"]
    lemon = [[name, *map(str, counts)] for name, counts in value["marks_of_a_lemon"].items()]
    parts = [
        "# The node ledger: are the nodes that it leaves out the right ones?\n",
        intro,
        machine.table(header, rows),
        REPAIR.format(again=value["again_within_a_day"]),
        _verdict(scores),
        "## Which score is the best\n",
        _choice(value),
        machine.table(
            ["score", "held, first half", "held, held out", "failed, held out", "held, held out, with repair"],
            [_compared(scores, place) for place in range(1, len(scores["whole"]))],
        ),
        "## When a node is a lemon\n",
        machine.table(["rate", *(f"marks in {days:g} days" for days in WINDOWS_DAYS)], lemon),
    ]
    return "\n".join(parts)


def _choice(value: dict[str, Any]) -> str:
    choice, ties = value["scores"]["first half"][1:], value["best_on_first_half"]
    flagged = max(each["flagged"] / each["checks"] for each in choice)
    best = f"the best is {'; '.join(ties)}"
    if len(ties) == len(choice):
        best = f"all {len(choice)} are alike, since at most {flagged:.0f} nodes a week had had any fault by then"
    return (
        f"The 5 % of the nodes with the highest score. On the first half ({choice[0]['checks']} checks) {best}.\n"
        "The rule keeps the numbers that it was written with; what the held-out half likes best is not taken over.\n"
    )


def _verdict(scores: dict[str, Any]) -> str:
    said = []
    for name in SPANS:
        share, lift = scores[name][1]["share"], scores[name][1]["lift"]
        met = share["value"] >= GOAL and lift["value"] >= GOAL_LIFT
        both = share["low"] < GOAL < (share["high"] or 1.0)
        open_ = "; the interval reaches to both sides" if both else ""
        lifted = _shown(lift, percent=False)
        said.append(f"- {name}: {'met' if met else 'missed'}, {_shown(share)}, lift {lifted}{open_}")
    best = max(scores["held out"][2:], key=lambda each: each["share"]["value"])
    return (
        f"Goal: the 5 % with the highest score hold {GOAL:.0%}, a lift of {GOAL_LIFT}.\n\n"
        + "\n".join(said)
        + f"\n\nBy hindsight the best other score on the held-out half is *{best['rule']}*: {_shown(best['share'])}.\n"
        "Most faults fall on nodes without any history, and no ledger foresees them.\n"
    )


def _compared(scores: dict[str, Any], place: int) -> list[str]:
    early, late, every = (scores[name][place] for name in ("first half", "held out", "held out, with repair"))
    return [early["rule"], *map(_shown, (early["share"], late["share"], late["precision"], every["share"]))]


def _row(each: dict[str, Any], name: str) -> list[str]:
    return [
        name,
        each["rule"],
        f"{each['flagged'] / each['checks']:.1f}",
        _shown(each["precision"]),
        f"{each['base']:.1%}",
        _shown(each["share"]),
        _shown(each["lift"], percent=False),
        f"{each['checks']} checks, {each['flagged']} flags, {each['faults']} faults",
    ]


def _shown(value: dict[str, Any] | None, *, percent: bool = True) -> str:
    return "-" if value is None else interval(Value(**value), percent=percent)


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--trace", type=Path, default=TRACE, help="the trace's file")
    parser.add_argument("--fleet", type=int, default=FLEET, help="how many nodes it watched")
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder of the results")
    parser.add_argument("--quick", action="store_true", help="the same: there is nothing to shorten")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, and no files")
    asked = parser.parse_args()
    try:
        past = of_trace(read_trace(asked.trace, asked.fleet), asked.trace.name, whole=True)
    except FtslurmError as error:
        print(f"{error}; --trace names a trace", file=sys.stderr)
        return error.exit_code
    value = measure(past)
    if asked.json:
        print(json.dumps(value, indent=1))
        return 0
    part = ", its first half" if asked.trace == TRACE else ""
    machine.write_json(asked.out / "ledger.json", value)
    (asked.out / "ledger.md").write_text(render(value, part), encoding="utf-8")
    print(render(value, part))
    return 0


if __name__ == "__main__":
    sys.exit(main())
