"""Programs that write their checkpoints to shared storage themselves: nothing is copied, and what is half is never used."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ftslurm.lab.cluster import Cluster
from tests.lab.training import LabRun, program, submit, workplace

pytestmark = pytest.mark.lab


def saver(lab: Cluster, *, name: str, nodes: int, layout: str = "files", options: tuple[object, ...] = ()) -> LabRun:
    """Submit the program that saves folders in place, as an ordinary user."""
    work = workplace(lab, name, lab.user)
    paths = ("--until", work / "enough", "--output", work / "out put", "--marker", work / "half")
    command = program("folder_saver", *paths, *options)
    names = {"files": "checkpoint-{step}/*"} if layout == "files" else {"files": []}
    saved = {"layout": layout, "mode": "in-place", "folder": str(work / "out put"), **names}
    beats = {"deadman_after": "4s", "suspect_after": "2s"}
    return submit(lab, command, name=name, nodes=nodes, user=lab.user, work=work, checkpoint=saved, heartbeat=beats)


def digests(folder: Path) -> dict[str, tuple[str, int]]:
    """Content and time of every file below a folder, as somebody sees it who does not ask ftslurm."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def started_from(run: LabRun, attempt: int, rank: int = 0) -> str:
    """What a rank of an attempt says that it has started from."""
    lines = run.rank_log(attempt, rank).splitlines()
    return next((line.partition(" from ")[2] for line in lines if " starts at step " in line), "")


def test_half_a_save_is_passed_over(lab: Cluster) -> None:
    """A node is cut in the middle of a save: the run goes on from the newest whole checkpoint, where the program left it."""
    run = saver(lab, name="in-place", nodes=3, options=("--half-at", 120))
    out = run.work / "out put"
    run.wait("two committed checkpoints", lambda: len(run.durable()) >= 2)
    assert not list(run.root.glob("checkpoints/gen/*/d"))
    run.wait("half a save", (run.work / "half").exists)
    torn = max(out.glob("checkpoint-*/optimizer.pt"), key=lambda path: path.stat().st_mtime_ns)
    before = digests(out)
    lab.cut(run.launches()[0][0])
    run.wait("the next attempt", lambda: started_from(run, 1))
    assert run.launches()[1] == run.launches()[0][1:]
    newest = run.restored_steps()[1]
    assert newest == int(torn.parent.name.partition("-")[2]) - 40
    assert started_from(run, 1) == str(out / f"checkpoint-{newest}")
    after = digests(out)
    assert {name: after[name] for name in before if name.startswith(f"checkpoint-{newest}/")}.items() <= before.items()
    assert "may still write into the checkpoint folder" in run.said()
    run.wait("checkpoints of the next attempt", lambda: run.durable()[-1].endswith("-0001"))
    run.enough()
    assert run.wait_end() == ("finished", 0)
