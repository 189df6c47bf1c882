"""Does the fitted generator reproduce a real fault trace? Judged on what it was fitted to, and on what was held back.

The trace: stepfun-ai/InfiniteHBD-Trace, Apache-2.0, arXiv 2502.03885; 400 GPU nodes, the first 174 of its 348 days.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import machine

from ftslurm.core.lemons import DAY_S
from ftslurm.plan.fit import clustered, fit
from ftslurm.plan.fitted import JudgedOn, Study, document, study, text
from ftslurm.plan.generators import Clustered, Exponential, Generator, Lemons, Weibull
from ftslurm.plan.judging import judge
from ftslurm.plan.measures import Measures, measure
from ftslurm.plan.trace import Trace, read_trace

TRACE = Path(__file__).resolve().parents[3] / "shared" / "data" / "gpu-node-faults-first-174-days.json"
NODES, DAYS = 400, 174.0
GOAL = 0.10
ASKED = {
    "rate": "faults in 1000 node-days",
    "dispersion": "variance/mean of the nodes' counts",
    "within_day": "fault again within a day of the repair",
    "within_week": "within 7 days",
    "top_5": "share of the worst 5 % of the nodes",
    "top_10": "of the worst 10 %",
    "top_20": "of the worst 20 %",
}
PUBLISHED = {"rate": 4.20, "dispersion": 2.58, "within_day": 0.223, "within_week": 0.310, "top_5": 0.245,
             "top_10": 0.409, "top_20": 0.639}  # fmt: skip
"""Of all 348 days, of which the second half is not there to be read."""
INTRODUCTION = """`scripts/bench trace` fits the generators of `ftslurm simulate` to a public trace
(stepfun-ai/InfiniteHBD-Trace, Apache-2.0, arXiv 2502.03885: {faults} faults of 400 GPU nodes in its first 174 days) and
lets each draw as many nodes for as long a time, {replications} times. The trace is not part of this project; `--trace`
names the file. `ftslurm plan fit` does the same with a trace of your own ([how-to](../how-to/fit.md)).
"""
NODES_TEXT = """## Nodes that were held back

The nodes are cut into halves by chance, {cuts} times. The clustered generator is fitted to one half and judged on the
other, both ways. Halves of {faults} faults differ by chance alone, as the last column says, so the means over all
cuts are compared: what is left is the model's own error. Goal: each within 10 %.
"""
TIME_TEXT = """## Time that was held back

The same with the first and the second half of the time. Here the trace itself has changed: in the first half every
third repair is followed by a fault within a day, in the second every fifth. Where the two halves differ by more than
10 %, a model with constant parameters that reproduces the one is not within 10 % of the other; such rows are marked
*the trace changed*. *From itself* is what the model makes of the half that it was fitted to: the difference to
*foretold* is the change, the rest is what 160 faults do not tell. A fleet's relapses are no constant of nature: fit
again from time to time.
"""
BEYOND_TEXT = """## Beyond the trace

The paper's trace goes on for another 174 days, which are not there to be read; of all 348 days these numbers are known.
The generator that was fitted to the first half draws 348 days. The second half has fewer relapses, as above.
"""
SPEED_TEXT = """## Speed

12,500 nodes for 90 days at 6.50 failures in 1,000 node-days: processor time on one core, the middle one of {rounds}.
Goal: well under 0.3 s, so that a simulation's time is its own.
"""


def numbers(trace: Trace) -> dict[str, float]:
    """What was asked about, of a trace."""
    return chosen(measure(trace.outages, trace.nodes, trace.span_s))


def chosen(found: Measures) -> dict[str, float]:
    """What was asked about."""
    return {name: getattr(found, name) for name in ASKED}


def drawn(generator: Generator, like: Trace, seed: str, replications: int) -> dict[str, float]:
    """The means of a generator's replications of such a trace."""
    found = judge(generator, like, seed, replications).numbers
    return {name: found[name].mean for name in ASKED}


def cut_nodes(trace: Trace, cuts: int, replications: int) -> list[dict[str, Any]]:
    """For each number: its mean over all halves, the model's, and how far halves differ from each other."""
    own: dict[str, list[float]] = {name: [] for name in ASKED}
    model: dict[str, list[float]] = {name: [] for name in ASKED}
    apart: dict[str, list[float]] = {name: [] for name in ASKED}
    for seed in range(cuts):
        half = set(Random(seed).sample(range(trace.nodes), trace.nodes // 2))  # noqa: S311 - can be repeated
        parts = [trace.only(half), trace.only(set(range(trace.nodes)) - half)]
        seen = [numbers(each) for each in parts]
        for number, part in enumerate(parts):
            other = 1 - number
            found = drawn(clustered(part), parts[other], f"{seed}/{number}", replications)
            for name in ASKED:
                own[name].append(seen[other][name])
                model[name].append(found[name])
                apart[name].append(abs(seen[number][name] / seen[other][name] - 1))
    mean = statistics.fmean
    return [
        {"name": name, "trace": mean(own[name]), "model": mean(model[name]), "halves_apart": mean(apart[name])}
        for name in ASKED
    ]


def cut_time(trace: Trace, replications: int) -> list[dict[str, Any]]:
    """For each number: both halves of the time, and what the model makes of each from the other."""
    middle_s = trace.span_s / 2
    halves = [trace.between(0.0, middle_s), trace.between(middle_s, trace.span_s)]
    seen = [numbers(each) for each in halves]
    models = [clustered(each) for each in halves]
    second, first = drawn(models[0], halves[1], "later", replications), drawn(models[1], halves[0], "", replications)
    own = [drawn(model, half, "own", replications) for model, half in zip(models, halves, strict=True)]
    return [
        {"name": name, "first": seen[0][name], "second": seen[1][name], "second_foretold": second[name],
         "second_itself": own[1][name], "first_retold": first[name], "first_itself": own[0][name]}
        for name in ASKED
    ]  # fmt: skip


def beyond(trace: Trace, replications: int) -> list[dict[str, Any]]:
    """The numbers of all 348 days, and what the generator makes of them that has seen the first half."""
    generator = clustered(trace)
    whole = Trace(outages=trace.outages, nodes=trace.nodes, span_s=2 * trace.span_s)
    found = drawn(generator, whole, "beyond", replications)
    return [{"name": name, "published": PUBLISHED[name], "model": found[name]} for name in ASKED]


def speed(rounds: int) -> list[dict[str, Any]]:
    """How long it takes to draw a large fleet."""
    found = []
    for kind in (Clustered, Lemons, Weibull, Exponential):
        generator, taken, count = kind(per_1000_node_days=6.5), [], 0
        for seed in range(rounds):
            begun = time.process_time()
            count = len(generator.outages(12_500, 90 * DAY_S, Random(seed)))  # noqa: S311 - can be repeated
            taken.append(time.process_time() - begun)
        found.append({"generator": kind.__name__.lower(), "s": statistics.median(taken), "outages": count})
    return found


def render(value: dict[str, Any], told: Study) -> str:
    """The page."""
    number = value["counts"]
    speeds = [[row["generator"], f"{row['s']:.3f} s"] for row in value["speed"]]
    beyond_rows = [
        [ASKED[row["name"]], shown(row["published"]), shown(row["model"]), off(row["model"], row["published"])]
        for row in value["beyond"]
    ]
    parts = [
        "# A real fault trace, and the models fitted to it\n",
        machine.described(value["machine"]),
        INTRODUCTION.format(**number),
        "## The trace that was fitted\n",
        "```text\n" + "\n".join(text(told)) + "\n```\n",
        "The simple models miss what the trace is made of: relapses, bursts, fortnights that are worse than others.\n",
        NODES_TEXT.format(cuts=number["cuts"], faults=number["faults"] // 2),
        nodes_table(value["nodes"]),
        TIME_TEXT,
        time_table(value["time"]),
        BEYOND_TEXT,
        machine.table(["number", "348 days", "model", "off"], beyond_rows),
        SPEED_TEXT.format(rounds=number["rounds"]),
        machine.table(["generator", "drawn in"], speeds),
    ]
    return "\n".join(parts)


def nodes_table(rows: Sequence[dict[str, Any]]) -> str:
    """Of nodes that were held back."""
    header = ["number", "trace", "model", "off", "goal", "two halves of it differ by"]
    cells = [
        [ASKED[row["name"]], shown(row["trace"]), shown(row["model"]), off(row["model"], row["trace"]),
         "met" if abs(row["model"] / row["trace"] - 1) <= GOAL else "missed", f"{row['halves_apart']:.0%}"]
        for row in rows
    ]  # fmt: skip
    return machine.table(header, cells)


def time_table(rows: Sequence[dict[str, Any]]) -> str:
    """Of time that was held back."""
    header = ["number", "first half", "second half", "differ by", "second, foretold from the first",
              "second, from itself", "first, retold from the second", "first, from itself", "verdict"]  # fmt: skip
    cells = [
        [ASKED[row["name"]], shown(row["first"]), shown(row["second"]), off(row["second"], row["first"]),
         off(row["second_foretold"], row["second"]), off(row["second_itself"], row["second"]),
         off(row["first_retold"], row["first"]), off(row["first_itself"], row["first"]), verdict(row)]
        for row in rows
    ]  # fmt: skip
    return machine.table(header, cells)


def off(found: float, wanted: float) -> str:
    """How far a number is from another, in percent."""
    return f"{found / wanted - 1:+.0%}" if wanted else "-"


def shown(value: float) -> str:
    """A number to three digits."""
    return f"{value:.3f}" if value < 1 else f"{value:.2f}"


def verdict(row: dict[str, Any]) -> str:
    """Whether both halves were foretold from each other, as far as the trace allows it."""
    offs = [row["second_foretold"] / row["second"] - 1, row["first_retold"] / row["first"] - 1]
    if max(map(abs, offs)) <= GOAL:
        return "met"
    changed = abs(math.log(row["second"] / row["first"])) > math.log(1 + GOAL)
    return "the trace changed" if changed else "missed"


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, default=TRACE, help="the trace's JSON file")
    parser.add_argument("--quick", action="store_true", help="few replications: to see that it works")
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder of the results")
    asked = parser.parse_args(arguments)
    if not asked.trace.exists():
        print(f"no trace at {asked.trace}: --trace names one", file=sys.stderr)
        return 2
    replications, cuts, rounds = (4, 2, 1) if asked.quick else (200, 50, 7)
    trace = read_trace(asked.trace, NODES, DAYS * DAY_S)
    told = study(trace, JudgedOn.WHOLE, 1, replications)
    value = {
        "machine": machine.describe(""),
        "counts": {
            "faults": len(trace.outages), "replications": replications, "cuts": cuts, "rounds": rounds,
            "models": len(fit(trace)),
        },
        "whole": document(told),
        "nodes": cut_nodes(trace, cuts, max(replications // 10, 2)),
        "time": cut_time(trace, replications),
        "beyond": beyond(trace, replications),
        "speed": speed(rounds),
    }  # fmt: skip
    machine.write_json(asked.out / "trace.json", value)
    page = render(value, told)
    (asked.out / "trace.md").write_text(page, encoding="utf-8")
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
