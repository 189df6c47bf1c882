"""Programs that write their checkpoints to shared storage themselves: nothing is copied, and what is half is never used."""

from __future__ import annotations

import hashlib
import importlib.util
import signal
import sys
from pathlib import Path

import pytest

from ftslurm.lab.cluster import Cluster
from tests.lab.longer import long_test
from tests.lab.training import LabRun, let_pass, program, submit, workplace

pytestmark = pytest.mark.lab


def saver(
    lab: Cluster,
    *,
    name: str,
    nodes: int,
    layout: str = "hf",
    options: tuple[object, ...] = (),
    recovery: dict[str, int] | None = None,
) -> LabRun:
    """Submit the program that saves folders in place, as an ordinary user."""
    work = workplace(lab, name, lab.user)
    paths = ("--until", work / "enough", "--output", work / "out put", "--marker", work / "half")
    command = program("folder_saver", *paths, *options)
    names = {"files": "checkpoint-{step}/*"} if layout == "files" else {"files": []}
    saved = {"layout": layout, "mode": "in-place", "folder": str(work / "out put"), **names}
    beats = {"deadman_after": "4s", "suspect_after": "2s", "fabric": "none"}
    sections = {"checkpoint": saved, "heartbeat": beats, "recovery": recovery or {}}
    return submit(lab, command, name=name, nodes=nodes, user=lab.user, work=work, **sections)


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


def half_a_save(lab: Cluster, run: LabRun, victim: int, every: int) -> None:
    """Cut a node in the middle of a save: the run goes on from the newest whole one, where the program left it."""
    out = run.work / "out put"
    run.wait("two committed checkpoints", lambda: len(run.durable()) >= 2)
    assert not list(run.root.glob("checkpoints/gen/*/d"))
    run.wait("half a save", (run.work / "half").exists)
    torn = max(int(path.name.partition("-")[2]) for path in out.iterdir())
    before = digests(out)
    lab.cut(run.launches()[0][victim])
    run.wait("the next attempt", lambda: started_from(run, 1))
    newest = run.restored_steps()[1]
    assert newest == torn - every
    assert started_from(run, 1) == str(out / f"checkpoint-{newest}")
    after = digests(out)
    assert {name: after[name] for name in before if name.startswith(f"checkpoint-{newest}/")}.items() <= before.items()
    assert "may still write into the checkpoint folder" in run.said()


def test_half_a_save_is_passed_over(lab: Cluster) -> None:
    """In a framework's layout: node cut in the middle of a save, and on from the program's newest whole checkpoint."""
    run = saver(lab, name="in-place", nodes=2, options=("--every", 20, "--half-at", 60, "--half-in", "rng_state_1.pth"))
    half_a_save(lab, run, 1, 20)
    run.enough()
    assert run.wait_end() == ("finished", 0)


@long_test("in place, and the batch host is cut")
@pytest.mark.parametrize("layout", ["hf", "files"])
def test_half_a_save_without_the_batch_host(lab: Cluster, layout: str) -> None:
    """The same with another supervisor after it, and for a program of which only the names are known."""
    run = saver(lab, name="in-place", nodes=3, layout=layout, options=("--half-at", 120))
    half_a_save(lab, run, 0, 40)
    run.wait("checkpoints of the next attempt", lambda: run.durable()[-1].endswith("-0001"))
    run.enough()
    assert run.wait_end() == ("finished", 0)


@long_test("one injection after the other, 20 saves that are killed in the middle")
@pytest.mark.timeout(1500)
def test_killed_again_and_again_in_a_save(lab: Cluster) -> None:
    """Rank 0 is killed at twenty moments of its saves: each attempt starts from a whole one, never older than needed."""
    options = ("--every", 10, "--kb", 4096, "--keep", 6)
    recovery = {"max_attempts": 60, "no_progress_limit": 30}
    run = saver(lab, name="injected", nodes=2, options=options, recovery=recovery)
    out, cut = run.work / "out put", 0
    for attempt in range(40):
        run.wait("the next attempt", lambda number=attempt: started_from(run, number), 60)
        run.wait(
            "a checkpoint of it", lambda number=attempt: run.durable() and run.durable()[-1].endswith(f"-{number:04d}")
        )
        (victim,) = [proc for proc in run.processes("rank", attempt=attempt) if proc.rank == 0]
        newest = max((int(path.name.partition("-")[2]) for path in out.iterdir()), default=0)
        let_pass(0.05 * (attempt % 7))
        run.wait(
            "the next save", lambda number=newest: any(int(p.name.partition("-")[2]) > number for p in out.iterdir())
        )
        victim.send(signal.SIGKILL)
        cut += not whole(max(out.iterdir(), key=lambda path: path.stat().st_mtime_ns))
        if cut >= 20:
            break
    assert cut >= 20
    run.wait("the last attempt", lambda: started_from(run, attempt + 1), 60)
    run.enough()
    assert run.wait_end() == ("finished", 0)
    assert "not of step" not in run.output()


def whole(folder: Path) -> bool:
    """Whether the program has written all of a checkpoint: its state comes last."""
    return (folder / "trainer_state.json").exists()


@long_test("a framework's layout on scratch")
def test_a_framework_on_scratch_is_drained(lab: Cluster) -> None:
    """Each node has its ranks' files only: the framework is asked when they are together; a shrunk world takes them."""
    work = workplace(lab, "drained", lab.user)
    command = program("folder_saver", "--until", work / "enough", "--marker", work / "half")
    saved = {"layout": "hf", "files": []}
    run = submit(lab, command, name="drained", nodes=3, user=lab.user, work=work, checkpoint=saved)
    run.wait("two committed checkpoints", lambda: len(run.durable()) >= 2)
    lab.cut(run.launches()[0][2])
    run.wait("the next attempt", lambda: started_from(run, 1))
    newest = run.restored_steps()[1]
    assert newest > 0
    assert started_from(run, 1).endswith(f"/checkpoint-{newest}")
    run.wait("checkpoints of the next attempt", lambda: run.durable()[-1].endswith("-0001"))
    run.enough()
    assert run.wait_end() == ("finished", 0)


@long_test("a damaged newest checkpoint in place")
def test_a_damaged_one_is_refused_in_place(lab: Cluster) -> None:
    """Bytes that changed after they were digested: the one before is handed over, and nothing in the folder is touched."""
    run = saver(lab, name="damaged", nodes=2, options=("--half-at", 120))
    out = run.work / "out put"
    run.wait("half a save", (run.work / "half").exists)
    run.wait("two committed checkpoints", lambda: len(run.durable()) >= 2)
    newest, older = run.durable()[-1], run.durable()[-2]
    victim = out / f"checkpoint-{int(newest[:9])}/pytorch_model.bin"
    with victim.open("r+b") as file:
        file.seek(100_000)
        file.write(b"x")
    before = digests(out)
    for proc in run.processes("rank"):
        proc.send(signal.SIGKILL)
    run.wait("the next attempt", lambda: started_from(run, 1))
    assert run.restored_steps()[1] == int(older[:9])
    # Read back right after its commit, or at the restart: whichever came first has found it.
    assert f"checkpoint {newest} is damaged" in run.said() or f"checkpoint {newest}, read again" in run.said()
    assert {name: digests(out)[name] for name in before if name.startswith(("checkpoint-40/", "checkpoint-80/"))} == {
        name: before[name] for name in before if name.startswith(("checkpoint-40/", "checkpoint-80/"))
    }
    run.enough()
    assert run.wait_end() == ("finished", 0)


EXAMPLES = Path(__file__).parent.parent.parent / "docs/examples"


@long_test("the real frameworks in place, and a node cut")
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("layout", "package", "example", "place", "resume"),
    [
        ("hf", "transformers", "hf-trainer", "--output_dir", "--resume_from_checkpoint"),
        ("lightning", "lightning", "lightning", "--checkpoints", "--ckpt_path"),
    ],
)
def test_a_framework_goes_on_without_a_node(
    lab: Cluster, layout: str, package: str, example: str, place: str, resume: str
) -> None:
    """A Trainer's own script, unmodified: node cut, and on from its newest whole checkpoint, to the end."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: scripts/setup --frameworks")
    work = workplace(lab, layout, lab.user)
    train, out = EXAMPLES / example / "train.py", work / "out put"
    command = [sys.executable, str(train), place, str(out), "--max_steps", "400", "--save_steps", "20"]
    saved = {"layout": layout, "files": [], "mode": "in-place", "folder": str(out)}
    saved |= {"resume_args": [resume, "{checkpoint}"], "keep_last": 3}
    beats = {"deadman_after": "4s", "fabric": "none"}
    sections = {"checkpoint": saved, "heartbeat": beats, "launch": {"env": {"HF_HUB_OFFLINE": "1", "HOME": str(work)}}}
    run = submit(lab, command, name=layout, nodes=2, user=lab.user, work=work, **sections)
    run.wait("two committed checkpoints", lambda: len(run.durable()) >= 2, 300)
    lab.cut(run.launches()[0][1])
    known = run.newest()
    run.wait("the next attempt", lambda: len(run.restored_steps()) == 2)
    assert run.restored_steps()[1] >= known
    (asked,) = [action for action in run.actions("ReleaseRanks") if action["attempt"] == 1][:1]
    assert Path(asked["checkpoint"]).parent == out
    assert run.wait_end(300) == ("finished", 0)
    assert "done at step 400" in run.rank_log(1, 0)
