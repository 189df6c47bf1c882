"""A healthy run on a sick site: nothing may be excluded, killed or taken over.

One job trains on four nodes while one disturbance follows the other: packet loss and jitter, starved cores, slurmctld
away, shared storage frozen and then over quota, a supervisor that is stopped for 20 s; saves of 30 s go on all the
time. None of them is a lost node, so the journal must show one attempt, no fence, no exclusion, one epoch; only where
the supervisor itself stands still for longer than `takeover_after` another one takes over, as it should.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
from detection import PROGRAM, Session, settle
from faults import DidNotCome
from injections import supervisor_of
from laboratory import laboratory
from machine import described, table
from methods import make_place, submit_ftslurm
from split import entries

from ftslurm.lab.cluster import Cluster
from ftslurm.lab.passthrough import Fault

SPELL_S = 60.0
FREEZE, QUOTA = 2.0, 1.0
STOP_S = 20.0
REST_S = 10.0
BUSY = 4
BURN = "import sys, time\nuntil = time.time() + float(sys.argv[1])\nwhile time.time() < until: pass"

CONFIG = """name: soak
command: {command}
run_root: {runs}
resources: {{nodes: 4, ranks_per_node: 1, time: "4:00:00"}}
launch: {{mpi: none}}
recovery: {{min_nodes: 2}}
checkpoint:
  files: "step_*.pt"
  resume_args: ["--resume", "{{checkpoint}}"]
"""
HEADER = ["disturbance", "times", "seconds", "suspicions", "excluded", "ranks killed", "takeovers"]
METHOD = """One job on four nodes, one rank each, saves of 30 s, default settings. Suspicions are silent nodes that were
asked after, which is no mistake; the three columns beside them must be zero. Where the supervisor itself stands still
for longer than 6 s another one takes over: that is no mistake either, as long as it excludes and kills nobody.
"""


def lossy(session: Session, seconds: float) -> None:
    """20 % of the packets to two nodes are lost, the others come up to a second late."""
    for node in session.lab.nodes[1:3]:
        session.lab.slow(node, delay_ms=500, jitter_ms=500, loss_percent=20)
    time.sleep(seconds)
    for node in session.lab.nodes[1:3]:
        session.lab.slow(node)


def starved(session: Session, seconds: float) -> None:
    """More busy processes than the machine has cores."""
    del session
    busy = [subprocess.Popen([sys.executable, "-I", "-c", BURN, str(seconds)]) for _ in range(BUSY)]
    for each in busy:
        each.wait(seconds + SPELL_S)


def without_slurmctld(session: Session, seconds: float) -> None:
    """Slurm's controller is killed, and started again."""
    session.lab.kill("slurmctld")
    time.sleep(seconds)
    session.lab.start("slurmctld")


def ill_storage(session: Session, seconds: float) -> None:
    """Shared storage takes no call for two minutes, then every write is over quota for one."""
    storage = session.lab.storage
    storage.freeze()
    time.sleep(FREEZE * seconds)
    storage.thaw()
    storage.fail(Fault.OVER_QUOTA)
    time.sleep(QUOTA * seconds)
    storage.restore()


def stopped_supervisor(session: Session, seconds: float) -> None:
    """The supervisor that acts stands still for 20 s and wakes up."""
    pid = supervisor_of(session.run).pid
    os.kill(pid, signal.SIGSTOP)
    time.sleep(min(STOP_S, seconds))
    with contextlib.suppress(ProcessLookupError):  # the agent that takes over ends the successor before it
        os.kill(pid, signal.SIGCONT)


STOPPED = "supervisor stopped for 20 s"
DISTURBANCES: dict[str, Callable[[Session, float], None]] = {
    "20 % loss, delay of 0 to 1 s": lossy,
    f"{BUSY} busy processes": starved,
    "slurmctld killed and started": without_slurmctld,
    "shared storage frozen, then over quota": ill_storage,
    STOPPED: stopped_supervisor,
}


def begin(lab: Cluster, save_s: float) -> Session:
    """Submit the job; its run's folder is on the storage that falls ill, its progress files are not."""
    lab.storage.attach()
    place = make_place(lab, f"{time.time_ns()}-soak", 5, 0.05)
    options = ["--every", "600", "--save-s", str(save_s), "--progress", str(place.progress)]
    text = CONFIG.format(command=[sys.executable, str(PROGRAM), *options], runs=lab.storage.path / "soak")
    session = Session(lab, place, lab.storage.backing / "soak", submit_ftslurm(lab, place, text))
    settle(session)
    return session


def counted(session: Session, since: int) -> tuple[dict[str, int], int]:
    """What the journal tells of the time since its entry `since`, and how long it is now."""
    found = entries(session.run)
    new = found[since:]
    kinds = [entry["event"]["type"] for entry in new]
    orders = [action["type"] for entry in new for action in entry["actions"]]
    epochs = {entry["epoch"] for entry in found[: since or 1]} | {entry["epoch"] for entry in new}
    told = {
        "suspicions": kinds.count("NodeSuspected") + kinds.count("AgentLost"),
        "excluded": len(session.condemned()),
        "killed": orders.count("FenceAttempt") + kinds.count("RankExited"),
        "takeovers": len(epochs) - len({entry["epoch"] for entry in found[: since or 1]}),
    }
    return told, len(found)


def soak(session: Session, minutes: float, spell_s: float) -> list[dict[str, Any]]:
    """All disturbances in turn, again and again, until the time is over and each was there once."""
    until = time.monotonic() + 60 * minutes
    found: list[dict[str, Any]] = []
    _, known = counted(session, 0)
    while time.monotonic() < until or not found:
        for name, disturb in DISTURBANCES.items():
            began = time.monotonic()
            disturb(session, spell_s)
            time.sleep(REST_S * spell_s / SPELL_S)
            told, known = counted(session, known)
            found.append({"disturbance": name, "seconds": round(time.monotonic() - began, 1), **told})
            print(found[-1], file=sys.stderr, flush=True)
    return found


def render(value: dict[str, Any]) -> str:
    """The page."""
    rows = []
    for name in DISTURBANCES:
        these = [each for each in value["spells"] if each["disturbance"] == name]
        sums = [sum(each[key] for each in these) for key in ("suspicions", "excluded", "killed", "takeovers")]
        seconds = sum(each["seconds"] for each in these)
        rows.append([name, str(len(these)), f"{seconds:.0f}", *map(str, sums)])
    total = sum(each["seconds"] for each in value["spells"]) / 60
    head = f"# Soak: {total:.0f} minutes of a healthy run on a sick site\n"
    return "\n".join([head, described(value["machine"]), value["limits"] + "\n", METHOD, table(HEADER, rows)])


def main() -> int:
    """Soak and write; 1 when a node was excluded, a rank killed, or the run taken over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (default 30)")
    parser.add_argument("--quick", action="store_true", help="each disturbance once, for 5 s")
    parser.add_argument("--lab", default="", help="use this lab, which is up, and leave it up")
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder of the results")
    asked = parser.parse_args()
    with laboratory(asked.lab) as lab:
        session = begin(lab, 3.0 if asked.quick else 30.0)
        try:
            spells = soak(session, 0 if asked.quick else asked.minutes, 5.0 if asked.quick else SPELL_S)
        except DidNotCome as error:
            print(f"the run is gone: {error}", file=sys.stderr)
            return 1
        finally:
            lab.restore(timeout=120.0)
        value = {"machine": machine.describe(machine.slurm_version(lab)), "limits": machine.limits(), "spells": spells}
    machine.write_json(asked.out / "soak.json", value)
    (asked.out / "soak.md").write_text(render(value), encoding="utf-8")
    print(render(value))
    return 0 if all(is_right(each) for each in spells) else 1


def is_right(spell: dict[str, Any]) -> bool:
    """Nobody was excluded, killed or replaced for nothing."""
    replaced = spell["takeovers"] if spell["disturbance"] != STOPPED else 0
    return not (spell["excluded"] or spell["killed"] or replaced)


if __name__ == "__main__":
    sys.exit(main())
