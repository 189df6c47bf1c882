"""How often the diagnosis is right, on the labelled incidents of tests/data/incidents.

Every incident's evidence goes through the same rules as in a live run. Beside the plain score stand scores with worse
evidence: reports heard in the opposite order, the last five lines of each rank only, no word of the launcher.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import machine

from ftslurm.core.diagnosis import FailureClass
from ftslurm.core.events import Event, LaunchEnded, RankExited
from tests.corpus import Incident, incidents

Evidence = tuple[Event, ...]
CLASSES = [each.value for each in FailureClass]
SHORT = {"node_unreachable": "unreach.", "program_hang": "hang", "application": "applic.", "preemption": "preempt."}
ORIGIN = """The rules were written and mended with these incidents in view: the plain score says that they do what they
are meant to, and not how they do on logs that nobody has seen. When the rules met the incidents for the first time,
they were right on 65 of the 67 recorded ones and on 45 of the 50 written ones.
"""
METHOD = """*Recorded* incidents happened on the lab, under a real Slurm and real programs; `scripts/record-incidents`
makes them happen again. What a lab without GPUs and InfiniBand cannot make is *written* in the words that the libraries
publish. *Right* means the right class. A diagnosis below a confidence of 0.5 is *unknown*; unknown is right where
nothing in the evidence says who began it. The place is right when rank and node are (or the node, where the label
names no rank).
"""


def _reversed(evidence: Evidence) -> Evidence:
    return tuple(reversed(evidence))


def _short_tails(evidence: Evidence) -> Evidence:
    return tuple(
        replace(each, tail="\n".join(each.tail.splitlines()[-5:])) if isinstance(each, RankExited) else each
        for each in evidence
    )


def _no_launcher(evidence: Evidence) -> Evidence:
    return tuple(each for each in evidence if not isinstance(each, LaunchEnded))


WORSE: dict[str, Callable[[Evidence], Evidence]] = {
    "everything heard in the opposite order": _reversed,
    "only the last five lines of each rank": _short_tails,
    "no word of the launcher": _no_launcher,
}


def score(corpus: Sequence[Incident]) -> dict[str, Any]:
    """Everything that the page needs."""
    rows = [_row(each) for each in corpus]
    recorded = [row for row in rows if row["recorded"]]
    placed = [row for row in rows if row["place_right"] is not None]
    return {
        "incidents": len(rows),
        "recorded": len(recorded),
        "right": _right(rows),
        "right_recorded": _right(recorded),
        "placed": len(placed),
        "place_right": sum(row["place_right"] for row in placed),
        "abstained": sum(row["found"] == "unknown" for row in rows),
        "wrongly_abstained": sum(row["found"] == "unknown" != row["truth"] for row in rows),
        "macro_f1": macro_f1(rows),
        "node_blamed_for_application": [
            row["name"] for row in rows if row["truth"] == "application" and row["excludes"]
        ],
        "worse": {name: _right([_row(_with(each, change)) for each in corpus]) for name, change in WORSE.items()},
        "wrong": [row for row in rows if row["truth"] != row["found"]],
        "matrix": Counter(f"{row['truth']}>{row['found']}" for row in rows),
    }


def _with(incident: Incident, change: Callable[[Evidence], Evidence]) -> Incident:
    return replace(incident, evidence=change(incident.evidence))


def _row(incident: Incident) -> dict[str, Any]:
    found, label = incident.diagnosed(), incident.label
    return {
        "name": incident.name,
        "recorded": incident.recorded,
        "truth": label["class"],
        "found": found.failure_class.value,
        "cause": found.cause.value,
        "confidence": found.confidence,
        "place_right": incident.is_right_place(found) if "where" in label else None,
        "excludes": found.blames_node,
    }


def _right(rows: Sequence[dict[str, Any]]) -> int:
    return sum(row["truth"] == row["found"] for row in rows)


def macro_f1(rows: Sequence[dict[str, Any]]) -> float:
    """The mean over the classes that occur of 2 TP / (2 TP + FP + FN)."""
    scores = []
    for name in sorted({row["truth"] for row in rows}):
        true = sum(row["truth"] == name == row["found"] for row in rows)
        wrong = sum((row["truth"] == name) != (row["found"] == name) for row in rows)
        scores.append(2 * true / (2 * true + wrong))
    return round(sum(scores) / len(scores), 3)


def render(value: dict[str, Any]) -> str:
    """The page."""
    used = [name for name in CLASSES if any(name in key.split(">") for key in value["matrix"])]
    header = ["truth \\ verdict", *(SHORT.get(name, name) for name in used)]
    matrix = [[name, *(str(value["matrix"].get(f"{name}>{other}", "") or "") for other in used)] for name in used]
    total = value["incidents"]
    figures = [
        ["right class", f"{value['right']} of {total}", f"{value['right'] / total:.1%}"],
        ["right class, recorded ones", *_share(value["right_recorded"], value["recorded"])],
        ["right class, written ones", *_share(value["right"] - value["right_recorded"], total - value["recorded"])],
        ["right place, where the label has one", *_share(value["place_right"], value["placed"])],
        ["macro-F1 over the classes", f"{value['macro_f1']:.3f}", ""],
        ["unknown", *_share(value["abstained"], total)],
        ["unknown, though the cause could be known", *_share(value["wrongly_abstained"], total)],
        ["node blamed for the program's failure", str(len(value["node_blamed_for_application"])), ""],
        *([f"right class, {name}", *_share(right, total)] for name, right in value["worse"].items()),
    ]
    wrong = [[row["name"], row["truth"], row["found"], f"{row['confidence']:.2f}"] for row in value["wrong"]]
    parts = [
        "# Diagnosis: how often the cause is found\n",
        f"{total} incidents, {value['recorded']} of them recorded on the lab.\n",
        METHOD,
        ORIGIN,
        machine.table(["", "count", "share"], figures),
        "## Confusion matrix\n",
        machine.table(header, matrix),
    ]
    if wrong:
        parts += ["## Wrong ones\n", machine.table(["incident", "truth", "verdict", "confidence"], wrong)]
    return "\n".join(parts)


def _share(part: int, whole: int) -> list[str]:
    return [f"{part} of {whole}", f"{part / whole:.1%}" if whole else ""]


def main() -> int:
    """Score and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the same: there is nothing to shorten")
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder of the results")
    args = parser.parse_args()
    value = score(list(incidents()))
    machine.write_json(args.out / "diagnosis.json", value)
    (args.out / "diagnosis.md").write_text(render(value), encoding="utf-8")
    print(render(value))
    return 0


if __name__ == "__main__":
    sys.exit(main())
