"""A campaign of faults that a real cron daemon drives, and its score: what is noticed, how rightly, and what it costs.

Cron calls scripts/cron-campaign every minute; it begins a campaign on a lab, goes on with one that was cut short, and
does nothing while one is running. The program is tests/programs/whole_numbers.py, whose weights depend on the step
alone: every run has to end with those of the undisturbed one. The first campaign is cut short on purpose.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine
from laboratory import NODES
from machine import described, table

from ftslurm.faults import campaign as campaigns
from ftslurm.faults import reporting
from ftslurm.faults.book import Book, books
from ftslurm.lab.cluster import Cluster
from ftslurm.lab.crond import crond

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "tests" / "programs" / "whole_numbers.py"
LAB = "campaign"
LIMIT_S = 2 * 3600.0
POLL_S = 1.0
FAULTS = {
    "kill": 3, "segv": 2, "abort": 2, "stop": 2, "skip": 1, "exception": 2, "exit": 1, "node-cut": 2, "node-power": 1,
    "node-freeze": 1, "net-one-way": 1, "supervisor-kill": 2, "kill-kill": 1, "net-loss": 1, "controller-stop": 1,
    "slow": 1, "disk-full": 1, "storage-freeze": 1,
}  # fmt: skip
QUICK = {"kill": 1, "supervisor-kill": 1}
CONFIG = """name: whole
command: [{python}, {program}, --steps, "{steps}"]
resources: {{nodes: {nodes}, ranks_per_node: 1, time: "60:00"}}
launch: {{mpi: none, env: {{OBEY_FAULTS: "1"}}}}
progress: {{hang_after: 3s}}
recovery: {{min_nodes: 2, max_attempts: 1000, no_progress_limit: 1000}}
checkpoint: {{files: "step_*.json"}}
"""
PLAN = """name: bench
config: train.yaml
seed: {seed}
mtbf: 4s
duration: 1h
faults: {faults}
budget: {{injections: {injections}}}
targets: {{lab: {{name: {lab}, nodes: {nodes}}}}}
"""
METHOD = """Cron called `scripts/cron-campaign` every minute; {calls}. Faults were drawn by seed {seed}, on average
4 s of training apart, and each was seen to its end before the next one came. Recall: of the injections that have to be
noticed, those that were. Right: those of which the right thing was said; of faults that are nobody's business: nothing.
Precision: of what was said that may rightly be said of this fault, the part that an injection explains.
"""


def files(place: Path, asked: argparse.Namespace) -> Path:
    """The plan and the configuration; return the plan."""
    steps = 200 if asked.quick else 900
    faults = QUICK if asked.quick else FAULTS
    python = json.dumps(sys.executable)
    config = CONFIG.format(python=python, program=json.dumps(str(PROGRAM)), steps=steps, nodes=NODES)
    (place / "train.yaml").write_text(config, encoding="utf-8")
    values = {"seed": asked.seed, "faults": json.dumps(faults), "injections": asked.injections, "nodes": NODES}
    (place / "plan.yaml").write_text(PLAN.format(**values, lab=asked.lab or LAB), encoding="utf-8")
    return place / "plan.yaml"


def crontab(place: Path, plan: Path) -> str:
    """One line; what the script says goes into a file, as it would into a mail."""
    values = {
        "FTSLURM_HOME": place / "home",
        "FTSLURM": Path(sys.executable).parent / "ftslurm",
        "CAMPAIGN_ID": "evidence",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    }
    lines = [f"{name}={value}" for name, value in values.items()]
    command = shlex.join([str(ROOT / "scripts" / "cron-campaign"), str(plan)]).replace("%", "\\%")
    return "\n".join([*lines, f"* * * * * {command} >> {shlex.quote(str(place / 'mail'))} 2>&1", ""])


def drive(place: Path, plan: Path) -> Book:
    """Let cron do it; return the campaign when it is over."""
    home, until, cut = place / "home" / "campaigns" / "bench", time.monotonic() + LIMIT_S, False
    with crond(place / "cron", crontab(place, plan)):
        while time.monotonic() < until:
            time.sleep(POLL_S)
            found = books(home)
            if found and found[0].over:
                return found[0]
            if found and not cut and found[0].count("injected"):
                cut = cut_short(plan)
    raise SystemExit(f"the campaign is not over after {LIMIT_S:g} s; see {place}")


def cut_short(plan: Path) -> bool:
    """End the command that works on the campaign, as a reboot or an impatient person does; whether it was there."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and _is_campaign(folder, plan):
            print("the campaign is cut short", file=sys.stderr, flush=True)
            os.kill(int(folder.name), signal.SIGKILL)
            return True
    return False


def _is_campaign(folder: Path, plan: Path) -> bool:
    try:
        words = (folder / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:  # it ended while we looked
        return False
    return {"campaign", "run", str(plan)} <= set(words) and not words[0].endswith("bash")


def render(value: dict[str, Any], book: Book) -> str:
    """The page."""
    found = campaigns.scored([book])
    parts = [
        f"# A campaign from cron: {found.injected} faults of {len(found.rows)} kinds\n",
        described(value["machine"]),
    ]
    parts += [value["limits"] + "\n", METHOD.format(calls=value["calls"], seed=value["seed"])]
    parts += [f"- {sentence}" for sentence in reporting.sentences(found)[1:]]
    for title, rows in (
        ("Faults", reporting.faults(found)),
        ("What was said of which fault", reporting.confusion(found)),
        ("Times", reporting.times(found)),
    ):
        parts += [f"\n## {title}\n", table(rows[0], rows[1:])]
    return "\n".join(parts)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--injections", type=int, default=0, help="how many (default 64)")
    parser.add_argument("--seed", type=int, default=2026, help="of the schedule (default 2026)")
    parser.add_argument("--quick", action="store_true", help="two injections")
    parser.add_argument("--lab", default="", help="use this lab, and leave it up")
    parser.add_argument("--keep", type=Path, help="work in this folder, and leave it there")
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder of the results")
    asked = parser.parse_args()
    asked.injections = asked.injections or (2 if asked.quick else 64)
    return asked


def main() -> int:
    """Drive and write; 1 when the goals are missed."""
    asked = parse()
    place = asked.keep or Path(tempfile.mkdtemp(prefix="campaign-"))
    place.mkdir(parents=True, exist_ok=True)
    lab = Cluster(asked.lab or LAB)
    try:
        book = drive(place, files(place, asked))
        facts = machine.describe(machine.slurm_version(lab))
    finally:
        if not asked.lab:
            lab.down(purge=True)
    found = campaigns.scored([book])
    calls = "the command was killed once, after its first injection, and the next call went on"
    value = {"machine": facts, "limits": machine.limits(), "seed": asked.seed, "calls": calls, "score": found.plain()}
    machine.write_json(asked.out / "campaign.json", value)
    (asked.out / "campaign.md").write_text(render(value, book), encoding="utf-8")
    print(render(value, book))
    if not asked.keep:
        shutil.rmtree(place)
    recall, right, equal = found.recall or 0, found.right or 0, found.weights["equal"]
    return 0 if recall >= 0.95 and right >= 0.9 and not found.wrong_exclusions and equal == found.runs else 1


if __name__ == "__main__":
    sys.exit(main())
