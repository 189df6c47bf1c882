"""recovery.json as a page for people."""

from __future__ import annotations

from statistics import median
from typing import Any

from machine import described, table
from split import PHASES

NAMES = {
    "floor": "floor: `srun` of the program, nothing else",
    "ftslurm": "**ftslurm**",
    "torchrun": "torchrun, elastic 3:4, as it comes",
    "torchrun-tuned": "torchrun, elastic 3:4, tuned",
    "requeue": "Slurm requeue (`--nodes=3-4`)",
}
PEERS = ("ftslurm", "torchrun", "torchrun-tuned", "requeue")
TITLES = {"kill": "A rank is SIGKILLed", "cut": "A node's network is cut", "host": "The batch host's network is cut"}
HEADER = [
    "method",
    "came back",
    "median",
    "range",
    "fault → new processes",
    "processes → first step",
    "steps lost",
    "load",
]

METHOD = """Four nodes, one rank each, a small DDP loop over gloo with 20 steps a second, a checkpoint every 20 steps.
The clock runs from the fault to the first step that is further than any step before it, done by a new process. All
times in seconds. *load* is the load average of the machine, which has few cores, at the moment of the fault (range).
`scripts/bench recovery` measures all of it again; the samples are in `recovery.json`.

For every peer a collective operation fails after 30 s instead of torch's 30 minutes. *tuned* torchrun has a store of
its own for every round of its rendezvous, a last call of 3 s, and gives a node up after 3 s of silence. No ratio can be
more than the peer's time over the floor's.
"""
LEGEND = """*detect*: until the supervisor knows of something that a healthy run does not do; *decide*: until it orders
the old attempt to be killed; *stop*: until the old attempt is gone and the new one is ordered; *launch*: until all
ranks are there, checked, and told to start; *first*: until the first new step. Medians, from the journal.
"""
NONE = "-"

Sample = dict[str, Any]


def render(value: dict[str, Any]) -> str:
    """The whole page."""
    samples: list[Sample] = value["samples"]
    parts = [
        "# Recovery: from the fault to the first new training step\n",
        described(value["machine"]),
        value["limits"] + "\n",
        METHOD,
    ]
    for fault, title in TITLES.items():
        rows = [_row(method, _of(samples, method, fault)) for method in PEERS]
        floors = _row("floor", _of(samples, "floor", "none"))
        parts += [f"## {title}\n", table(HEADER, [row for row in (floors, *rows) if row]), _ratio(samples, fault)]
    return "\n".join([*filter(None, parts), *_phases(samples)])


def _of(samples: list[Sample], method: str, fault: str) -> list[Sample]:
    return [one for one in samples if (one["method"], one["fault"]) == (method, fault)]


def _row(method: str, samples: list[Sample]) -> list[str]:
    """One line of the table; empty when nothing was measured."""
    if not samples:
        return []
    back = [one for one in samples if one["back"]]
    cells = [NAMES[method], f"{len(back)} of {len(samples)}"]
    if not back:
        return [
            *cells,
            f"did not come back in {samples[0]['limit_s']:g} s",
            *[NONE] * (len(HEADER) - 4),
            _load(samples),
        ]
    starts = [one["process_start_s"] for one in back]
    steps = [one["first_step_s"] - one["process_start_s"] for one in back]
    lost = NONE if method == "floor" else f"{median(one['lost_steps'] for one in back):g}"
    times = [_median(samples), _range(samples), f"{median(starts):.1f}", f"{median(steps):.1f}"]
    return [*cells, *times, lost, _load(samples)]


def _load(samples: list[Sample]) -> str:
    loads = sorted(one["load"] for one in samples)
    return f"{loads[0]:.0f} to {loads[-1]:.0f}"


def _times(samples: list[Sample]) -> list[float]:
    """Seconds to the first new step; infinite for a sample that did not come back."""
    return [one["new_step_s"] if one["back"] else float("inf") for one in samples]


def _median(samples: list[Sample]) -> str:
    middle = median(_times(samples))
    return f"{middle:.1f}" if middle < float("inf") else f"not in {samples[0]['limit_s']:g}"


def _range(samples: list[Sample]) -> str:
    times = sorted(_times(samples))
    last = f"{times[-1]:.1f}" if times[-1] < float("inf") else f"not in {samples[0]['limit_s']:g}"
    return f"{times[0]:.1f} to {last}"


def _ratio(samples: list[Sample], fault: str) -> str:
    """How many times longer the peers take."""
    ours = _times(_of(samples, "ftslurm", fault))
    if not ours or median(ours) == float("inf"):
        return ""
    sentences = []
    for method in PEERS[1:]:
        theirs = _times(_of(samples, method, fault))
        if theirs:
            factor = median(theirs) / median(ours)
            came = f"takes {factor:.1f} times as long" if factor < float("inf") else "did not come back"
            sentences.append(f"{method} {came}")
    return f"Against ftslurm's median: {'; '.join(sentences)}.\n" if sentences else ""


def _phases(samples: list[Sample]) -> list[str]:
    """Where the time of ftslurm went, phase by phase."""
    rows = []
    for fault, title in TITLES.items():
        found = [one["phases"] for one in _of(samples, "ftslurm", fault) if one.get("phases")]
        if found:
            cells = [[phases[name] for phases in found if name in phases] for name in PHASES]
            rows.append([title, *(f"{median(one):.2f}" if one else NONE for one in cells)])
    if not rows:
        return []
    return ["## Where ftslurm's time goes\n", table(["fault", *PHASES], rows), LEGEND]
