"""What it costs to be seen: metrics, logs and samples of a run, and the commands that show runs.

Two runs of two nodes each lie beside each other on the lab, one with everything on that observes it, one with all of it
off, for some minutes; then they change nodes. The CPU time of ftslurm's processes is read from /proc at both ends, so
the difference is what observing costs, under the same load at the same time. Logs cannot be turned off: a line's price
is measured by itself, and lines are counted in the run's own files.

The commands are measured on a journal with many entries and on a run root with many runs, beside Slurm's commands of
the tests, which answer that they know no such job.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import bigruns
import machine
from faults import wait_until
from laboratory import laboratory
from methods import Place, make_place, submit_ftslurm
from overhead import cpu_times

from ftslurm.config import Config
from ftslurm.paths import RunPaths
from ftslurm.runtime import logs
from tests.slurm.fake import FakeSlurm

if TYPE_CHECKING:
    from ftslurm.lab.cluster import Cluster

START_S = 600.0
"""Two runs start at once, on a machine that may be busy."""
SETTLE_S = 45.0
"""The start is not the rest; on a busy machine it takes longer until the rings are up."""
OFF = {"metrics": "none", "sample_every": "none"}
CONFIG = """name: {name}
command: [sleep, "{sleep_s}"]
run_root: {runs}
resources: {{nodes: 2, ranks_per_node: 1, time: "60:00", sbatch: {{nodelist: "{nodes}"}}}}
launch: {{mpi: none}}
"""
GOALS = """Goals: `report` of 10,000 entries in 5 s, `status` of 1,000 runs in 1 s, by the clock; Python's start is in
all of them, and in `status` that of the stand-in for squeue, which is a Python program, too. Where the load average is
above the number of cores, others had a part of them, and the CPU time says more. `report` uses a second process where
there is a second core.

The runs of `status` have a checkpoint every ten minutes for one to four hours, and eight of ten have ended. *From
journals*: nothing is known but the journals, as with runs that were killed, or that have neither metrics nor
notifications. *The first time*: the runs have left their summaries at their ends, and this user has not asked before.
"""
BESIDE = """Two runs of two nodes beside each other, one with observing off ({off}), which is the floor; then they
change nodes: each cell has the two turns. The load average was {loads}. The goal is 0.2 % of a core on each node. The
observer is one process for the whole run, on the batch host.
"""
PAIRS = (("n1,n2", "n3,n4"), ("n3,n4", "n1,n2"))


def off_section() -> dict[str, str]:
    """What turns observing off, as far as this version has it."""
    field = Config.model_fields.get("observe")
    known = getattr(field.annotation, "model_fields", {}) if field is not None else {}
    return {name: value for name, value in OFF.items() if name in known}


def side_by_side(lab: Cluster, seconds: float) -> list[dict[str, Any]]:
    """CPU share (1.0 is one core) of each role on each node of both runs, in both orders."""
    found = []
    for turn, (on, off) in enumerate(PAIRS):
        jobs = {"on": _submit(lab, turn, "on", on, seconds), "off": _submit(lab, turn, "off", off, seconds)}
        for job_id, _ in jobs.values():
            wait_until("all ranks", START_S, lambda job_id=job_id: _wrappers(job_id) >= 2)  # type: ignore[misc]
        time.sleep(min(SETTLE_S, seconds))
        before, began = {name: _reading(*job) for name, job in jobs.items()}, time.monotonic()
        time.sleep(seconds)
        after, took_s = {name: _reading(*job) for name, job in jobs.items()}, time.monotonic() - began
        found.append(_plain_row(turn, "both", "load average", os.getloadavg()[0]))
        for name, (cpu, lines) in after.items():
            found += _shares(turn, name, (before[name][0], cpu), took_s)
            found.append(_plain_row(turn, name, "log lines a second", (lines - before[name][1]) / took_s))
        lab.restore(timeout=240)
    return found


def _plain_row(turn: int, observing: str, what: str, value: float) -> dict[str, Any]:
    """Something that is of no node."""
    return {"turn": turn, "observing": observing, "node": "", "role": what, "share": round(value, 6)}


def _submit(lab: Cluster, turn: int, name: str, nodes: str, seconds: float) -> tuple[str, Place]:
    place = make_place(lab, f"{time.time_ns()}-observing-{turn}-{name}", 0, 0)
    runs = json.dumps(str(place.runs))
    config = CONFIG.format(name=name, sleep_s=int(seconds) + 900, runs=runs, nodes=nodes)
    section = off_section() if name == "off" else {}
    config += f"observe: {json.dumps(section)}\n" if section else ""
    return submit_ftslurm(lab, place, config), place


def _wrappers(job_id: str) -> int:
    return sum(role == "wrapper" for _, role, _ in cpu_times(job_id))


def _reading(job_id: str, place: Place) -> tuple[dict[tuple[str, str, int], float], int]:
    """CPU seconds of the run's processes so far, and lines in its log files."""
    lines = sum(path.read_bytes().count(b"\n") for path in place.runs.glob("*/logs/[0-9]*/*.ndjson"))
    return cpu_times(job_id), lines


def _shares(
    turn: int, name: str, both: tuple[Mapping[tuple[str, str, int], float], ...], took_s: float
) -> list[dict[str, Any]]:
    before, after = both
    shares: dict[tuple[str, str], float] = defaultdict(float)
    for (node, role, pid), used in after.items():
        shares[node, role] += (used - before.get((node, role, pid), 0.0)) / took_s
    return [
        {"turn": turn, "observing": name, "node": node, "role": role, "share": round(share, 6)}
        for (node, role), share in sorted(shares.items())
    ]


def price_of_a_line(number: int) -> float:
    """CPU seconds of this process for one line of a log, its thread included."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    with tempfile.TemporaryDirectory() as folder:
        paths = RunPaths(Path(folder) / "run")
        logs.to_file(logs.Process(paths=paths, role="agent", job_id="101", node="n1"), speaks=False)
        log, began = logging.getLogger("bench"), time.process_time()
        for index in range(number):
            if index % 1000 == 0:
                time.sleep(0.05)  # the queue is bounded: a burst would measure what is dropped
            log.info("checkpoint %s is at hand in %s: %s", index, folder, "own", extra=logs.event("restore", well=True))
        logs.finish(120.0)
        took_s = time.process_time() - began
        written = paths.process_log(0, "agent", "n1").read_bytes().count(b"\n")
    root.handlers[:] = handlers
    root.setLevel(level)
    return took_s / written


def commands(events: int, runs: int, times: int) -> dict[str, dict[str, Any]]:
    """Seconds of each command that shows runs, on a long journal and on many runs.

    `status` is measured where nothing is known of the runs but their journals, where the runs have left summaries, and
    where the user has asked before: then everything that has not changed comes from one file.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        environ = _environ(place)
        with _environment(environ):
            run = bigruns.long_run(place / "long" / "runs", events)
        bigruns.many_runs(place / "many" / "runs", runs)
        entries, samples = bigruns.lines_of(place / "many" / "runs", "*/journal.*"), bigruns.lines_of(run.samples, "*")
        of_long, of_many = f"{events:,} entries", f"{runs:,} runs, {entries:,} entries"
        timing = functools.partial(_seconds, place=place, times=times)
        long, many = ({**environ, "FTSLURM_HOME": str(place / name)} for name in ("long", "many"))
        forget = functools.partial(shutil.rmtree, place / "many" / "cache", ignore_errors=True)
        found = {
            "explain": {"of": of_long, **timing(["explain", "101"], long)},
            "report": {
                "of": f"{of_long}, {samples:,} samples",
                **timing(["report", "101", "--out", str(place / "report")], long),
            },
            "status, from journals": {"of": of_many, **timing(["status"], many, before=forget)},
        }
        bigruns.summed_up(place / "many" / "runs")
        found["status, the first time"] = {"of": of_many, **timing(["status"], many, before=forget)}
        found["status"] = {"of": of_many, **timing(["status"], many)}
        found["status --json"] = {"of": of_many, **timing(["status", "--json"], many)}
        return found


def _environ(place: Path) -> dict[str, str]:
    (place / "slurm").mkdir()
    environ = FakeSlurm(place / "slurm").environ
    keep = {name: value for name, value in environ.items() if not name.startswith("FTSLURM")}
    return {**keep, "FTSLURM_HOME": str(place / "long"), "XDG_CONFIG_HOME": str(place / "config"), "COLUMNS": "120"}


class _environment:  # noqa: N801 - it is used as a statement
    """This process's environment for a while: the generators find the run root by it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ, self._before = environ, dict(os.environ)

    def __enter__(self) -> None:
        os.environ.clear()
        os.environ.update(self._environ)

    def __exit__(self, *_: object) -> None:
        os.environ.clear()
        os.environ.update(self._before)


def _seconds(
    argv: list[str], environ: Mapping[str, str], *, place: Path, times: int, before: Callable[[], object] = lambda: None
) -> dict[str, list[float]]:
    """Time of each call by the clock, and of the processor, and how busy the machine was: its load average."""
    took: dict[str, list[float]] = {"seconds": [], "cpu": [], "load": []}
    for _ in range(times):
        before()
        took["load"].append(round(os.getloadavg()[0], 2))
        began, cpu = time.monotonic(), _cpu_of_children()
        command = [sys.executable, "-m", "ftslurm", *argv]
        done = subprocess.run(
            command, env=dict(environ), cwd=place, capture_output=True, text=True, timeout=600, check=False
        )
        took["seconds"].append(round(time.monotonic() - began, 4))
        took["cpu"].append(round(_cpu_of_children() - cpu, 4))
        if done.returncode != 0:
            raise SystemExit(f"ftslurm {' '.join(argv)}: code {done.returncode}: {done.stderr[-2000:]}")
    return took


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# ------------------------------------------------------------------------------------------------------- the page


HOST, OTHER = "batch host", "other node"


def by_kind(rows: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows that are of nodes, with what kind of node it is: batch hosts carry the supervisor and the observer."""
    hosts = {(row["turn"], row["observing"]): row["node"] for row in rows if row["role"] == "supervisor"}
    for row in rows:
        if row["node"]:
            yield HOST if row["node"] == hosts.get((row["turn"], row["observing"])) else OTHER, row


def per_node(rows: list[dict[str, Any]]) -> dict[tuple[str, str], list[float]]:
    """Share of a core by (kind of node, on or off), one value for each turn."""
    sums: dict[tuple[str, str, int], float] = defaultdict(float)
    for kind, row in by_kind(rows):
        sums[kind, row["observing"], row["turn"]] += row["share"]
    found: dict[tuple[str, str], list[float]] = {}
    for (kind, name, _), share in sorted(sums.items()):
        found.setdefault((kind, name), []).append(share)
    return found


def per_role(rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, float]]:
    """Mean share of a core by (kind of node, role), with observing on and off."""
    sums: dict[tuple[str, str], dict[str, float]] = defaultdict(lambda: {"on": 0.0, "off": 0.0})
    turns = len({row["turn"] for row in rows})
    for kind, row in by_kind(rows):
        sums[kind, row["role"]][row["observing"]] += row["share"] / turns
    return sums


def at_rest(value: dict[str, Any]) -> list[str]:
    """The part of the page on runs that are observed and not."""
    rows, nodes = value["rest"], per_node(value["rest"])
    lines = median(row["share"] for row in rows if row["role"] == "log lines a second" and row["observing"] == "on")
    logged = lines / 2 * value["line_s"]
    cells = []
    for kind in (HOST, OTHER):
        on, off = nodes[kind, "on"], nodes[kind, "off"]
        apart = [one - other for one, other in zip(on, off, strict=True)]
        cells.append([kind, _shares_in_words(on), _shares_in_words(off), _shares_in_words(apart), f"{logged:.4%}"])
    roles = [[*which, f"{one['on']:.3%}", f"{one['off']:.3%}"] for which, one in sorted(per_role(rows).items())]
    off_words = ", ".join(f"`{name}: {word}`" for name, word in value["off"].items())
    loads = ", ".join(f"{row['share']:.1f}" for row in rows if row["role"] == "load average")
    return [
        f"## Share of one core on each node, over twice {value['seconds']:g} s\n",
        BESIDE.format(off=off_words, loads=loads),
        machine.table(["node", "on", "off", "difference", "log lines"], cells),
        machine.table(["node", "process", "on", "off"], roles),
    ]


def _shares_in_words(shares: list[float]) -> str:
    return ", ".join(f"{share:.3%}" for share in shares)


def render(value: dict[str, Any]) -> str:
    """The page."""
    parts = ["# What it costs to be seen\n", machine.described(value["machine"]), value["limits"] + "\n"]
    parts += at_rest(value) if value["rest"] else []
    parts += [
        "## A line of a log\n",
        f"{value['line_s'] * 1e6:.0f} µs of CPU time, the writing thread included.\n",
        "## Commands\n",
        machine.table(
            ["command", "of", "best", "median", "most", "CPU time", "load average"],
            [_command_cells(name, one) for name, one in value["commands"].items()],
        ),
        GOALS,
    ]
    return "\n".join(parts)


def _command_cells(name: str, one: dict[str, Any]) -> list[str]:
    seconds, load = one["seconds"], one["load"]
    command, _, how = name.partition(", ")
    return [
        f"`ftslurm {command}`" + (f", {how}" if how else ""),
        one["of"],
        *(f"{value:.2f} s" for value in (min(seconds), median(seconds), max(seconds))),
        f"{median(one['cpu']):.2f} s",
        f"{min(load):.1f} to {max(load):.1f}",
    ]


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180.0, help="how long a pair of runs is watched (default 180)")
    parser.add_argument("--events", type=int, default=10_000, help="entries of the long journal (default 10000)")
    parser.add_argument("--runs", type=int, default=1000, help="runs in the run root (default 1000)")
    parser.add_argument("--times", type=int, default=5, help="calls of each command (default 5)")
    parser.add_argument("--quick", action="store_true", help="2 seconds, 300 entries, 20 runs, one time each")
    parser.add_argument("--without-lab", action="store_true", help="commands and lines only; the runs as before")
    parser.add_argument("--lab", default="", help="use this lab, which is up, and leave it up")
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder of the results")
    args = parser.parse_args()
    wanted = (args.seconds, args.events, args.runs, args.times)
    seconds, events, runs, times = (2.0, 300, 20, 1) if args.quick else wanted
    value: dict[str, Any] = {
        "seconds": seconds,
        "off": off_section(),
        "line_s": price_of_a_line(2000 if args.quick else 20_000),
        "commands": commands(events, runs, times),
    }
    value |= _at_rest(args.lab, seconds) if not args.without_lab else _before(args.out)
    machine.write_json(args.out / "observing.json", value)
    (args.out / "observing.md").write_text(render(value), encoding="utf-8")
    print(render(value))
    return 0


def _at_rest(name: str, seconds: float) -> dict[str, Any]:
    with laboratory(name) as lab:
        slurm = machine.slurm_version(lab)
        return {"machine": machine.describe(slurm), "limits": machine.limits(), "rest": side_by_side(lab, seconds)}


def _before(out: Path) -> dict[str, Any]:
    """What an earlier call has found out about the runs on the lab, if there was one."""
    found = {"machine": machine.describe(""), "limits": "", "rest": []}
    path = out / "observing.json"
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        found |= {name: known[name] for name in (*found, "seconds", "off")}
    return found


if __name__ == "__main__":
    sys.exit(main())
