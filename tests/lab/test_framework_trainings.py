"""Real frameworks train on the lab, and fall in the middle of a save: what was cut in half is never resumed from.

Which checkpoints are whole is said by `tests/programs/framework_judge.py`, which loads them with torch; what training
must end with, by the same program without ftslurm.
"""

from __future__ import annotations

import importlib.util
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ftslurm.lab.cluster import Cluster
from tests.lab.longer import long_test
from tests.lab.processes import Proc
from tests.lab.training import LabRun, program, submit, workplace
from tests.local_ranks import PROGRAMS, Ranks

pytestmark = pytest.mark.lab

EVERY = 10
CUTS = 20
MOST_ROUNDS = 60
POLL_S = 0.001
PATIENCE_S = 480.0
UNDISTURBED_S = 1800.0
"""Two ranks that import a framework on a busy machine take their time; hundreds of steps take more."""
STARTS = re.compile(r"^rank (\d+) of (\d+) starts at step (\d+) from (.*)$", re.MULTILINE)
ENDS = re.compile(r"^rank 0 ends at step (\d+) with (\w+)$", re.MULTILINE)


def last_is_missing(folder: Path) -> bool:
    """Whether the Trainer has not written all of a checkpoint: its state and both random states come last."""
    return not all((folder / name).exists() for name in ("trainer_state.json", "rng_state_0.pth", "rng_state_1.pth"))


@dataclass(frozen=True, slots=True)
class Framework:
    """How a framework saves, as far as somebody sees it who only looks into the folder.

    `stops`: whether it stands still when it is stopped. The kernel copies a whole file for Lightning before it lets
    the process stop, but not before it lets it die.
    """

    package: str
    name: str
    is_torn: Callable[[Path], bool]
    victims: tuple[int, ...]
    resume_args: tuple[str, ...]
    stops: bool = True


FRAMEWORKS = {
    "dcp": Framework(
        "torch", "step-{}", lambda path: not (path / ".metadata").exists(), (0, 1), ("--load-step", "{step}")
    ),
    "hf": Framework("transformers", "checkpoint-{}", last_is_missing, (0,), ("--resume", "{checkpoint}")),
    "lightning": Framework(
        "lightning",
        "epoch=0-step={}.ckpt",
        lambda path: not zipfile.is_zipfile(path),
        (0,),
        ("--resume", "{checkpoint}"),
        stops=False,
    ),
}


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A place for temporary files, on another file system than the checkpoints."""
    folder = Path("/dev/shm") / f"ftslurm-test-{random.randrange(10**12)}"
    folder.mkdir()
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


@dataclass(slots=True)
class Training:
    """A training on the lab, and the judge of its checkpoints."""

    run: LabRun
    layout: str
    judge: subprocess.Popen[str]

    @property
    def framework(self) -> Framework:
        """How it saves."""
        return FRAMEWORKS[self.layout]

    @property
    def out(self) -> Path:
        """The folder of its checkpoints."""
        return self.run.work / "out put"

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.out / self.framework.name.format(step)

    def whole(self) -> list[int]:
        """The steps of the checkpoints that can be loaded."""
        assert self.judge.stdin is not None
        assert self.judge.stdout is not None
        self.judge.stdin.write(f"{self.out}\n")
        self.judge.stdin.flush()
        found: list[int] = json.loads(self.judge.stdout.readline())["whole"]
        return found

    def started(self, attempt: int) -> tuple[int, str]:
        """The step that rank 0 of an attempt says that it starts at, and from what; waits until it says so."""
        self.run.wait("the next attempt", lambda: STARTS.search(self.run.rank_log(attempt, 0)), PATIENCE_S)
        said = STARTS.search(self.run.rank_log(attempt, 0))
        assert said is not None
        return int(said[3]), said[4]

    def restored(self, attempt: int) -> int:
        """The step that ftslurm has handed over to an attempt."""
        return next(
            action.get("step", 0) for action in self.run.actions("ReleaseRanks") if action["attempt"] == attempt
        )

    def ranks(self, attempt: int) -> dict[int, Proc]:
        """The processes of an attempt."""
        found = self.run.processes("rank", attempt=attempt)
        return {proc.rank: proc for proc in found if proc.rank is not None and "--every" in proc.words}


@pytest.fixture
def train(lab: Cluster, temporary: Path, tmp_path: Path) -> Iterator[Callable[..., Training]]:
    """Submits a training, as an ordinary user."""
    judges = []

    def start(layout: str, *, nodes: int, resume_args: tuple[str, ...]) -> Training:
        package = FRAMEWORKS[layout].package
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: scripts/setup --frameworks")
        work = workplace(lab, layout, lab.user)
        out = work / "out put"
        words = ("--output", out, "--until", work / "enough", "--every", EVERY, "--pace", 0.15)
        saved = {"layout": layout, "files": [], "mode": "in-place", "folder": str(out), "resume_args": resume_args}
        environ = {"HF_HUB_OFFLINE": "1", "HOME": str(work), "TMPDIR": str(temporary)}
        run = submit(
            lab, program("framework_trainings", layout, *words), name=layout, nodes=nodes, user=lab.user, work=work,
            checkpoint=saved, launch={"env": environ}, resources={"time": "2:00:00"},
            heartbeat={"deadman_after": "4s", "suspect_after": "2s", "fabric": "none"},
            recovery={"max_attempts": 200, "no_progress_limit": 50},
        )  # fmt: skip
        argv = [sys.executable, "-W", "ignore", str(PROGRAMS / "framework_judge.py"), layout, "--world", "2"]
        with (tmp_path / "judge.log").open("w") as errors:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
            judges.append(subprocess.Popen(argv, text=True, **pipes))
        return Training(run, layout, judges[-1])

    yield start
    for judge in judges:
        judge.kill()
        judge.communicate()


def await_save(training: Training, attempt: int) -> tuple[int, dict[int, Proc]]:
    """Wait until a checkpoint of an attempt is durable and the save after it begins; return that save's step."""
    run = training.run
    run.wait("a checkpoint", lambda: run.durable() and run.durable()[-1].endswith(f"-{attempt:04d}"), PATIENCE_S)
    ranks = training.ranks(attempt)
    wanted, deadline = run.newest() + EVERY, time.monotonic() + PATIENCE_S
    while not training.path(wanted).exists():
        assert time.monotonic() < deadline, run.story()
        time.sleep(POLL_S)
    return wanted, ranks


def how_long(training: Training) -> float:
    """The seconds that a save takes which nobody disturbs; from then on the judge is awake, too."""
    step, _ = await_save(training, 0)
    began = time.monotonic()
    while training.framework.is_torn(training.path(step)):
        time.sleep(POLL_S)
    took_s = time.monotonic() - began
    assert step - EVERY in training.whole()
    return took_s


def stand_still_in_a_save(training: Training, attempt: int, took_s: float) -> tuple[int, dict[int, Proc]]:
    """Stop all ranks at some moment of a save, with the checkpoint before it durable; return the save's step."""
    for _ in range(MOST_ROUNDS):
        step, ranks = await_save(training, attempt)
        time.sleep(random.uniform(0, took_s))
        for proc in ranks.values():
            proc.send(signal.SIGSTOP)
        if training.framework.is_torn(training.path(step)) and training.run.newest() == step - EVERY:
            return step, ranks
        for proc in ranks.values():
            proc.send(signal.SIGCONT)
        training.run.wait("the save is durable", lambda at=step: training.run.newest() >= at, PATIENCE_S)
    raise AssertionError(f"not one save was met in its middle\n{training.run.story()}")


def kill_in_a_save(training: Training, attempt: int, took_s: float) -> int:
    """Kill a rank at some moment of a save, with the checkpoint before it durable; return the save's step."""
    victim = random.choice(training.framework.victims)
    if not training.framework.stops:
        step, ranks = await_save(training, attempt)
        ranks[victim].send(signal.SIGKILL)
        return step
    step, ranks = stand_still_in_a_save(training, attempt, took_s)
    ranks.pop(victim).send(signal.SIGKILL)
    for proc in ranks.values():
        proc.send(signal.SIGCONT)
    return step


def assert_rightly_started(started: int, step: int, whole: list[int]) -> None:
    """The newest whole checkpoint, which is the one before the save that was cut; or that save, if it had come to its end."""
    if step in whole:
        assert started in (step - EVERY, step), whole
    else:
        assert started == max(whole) == step - EVERY


def check_end(training: Training, world: int, folder: Path, *first: tuple[int, int]) -> None:
    """The run ends with the weights of a training that nobody disturbs; `first`: so many ranks up to such a step."""
    run = training.run
    run.enough()
    assert run.wait_end(PATIENCE_S) == ("finished", 0)
    found = ENDS.search(run.rank_log(len(run.launches()) - 1, 0))
    assert found is not None
    final = ()
    for ranks, until in (*first, (world, int(found[1]))):
        argv = [PROGRAMS / "framework_trainings.py", training.layout, "--output", folder / "out", "--steps", until]
        more = ["--every", until] if (ranks, until) in first else ["--every", 10**6]
        environ = {"LOCAL_WORLD_SIZE": str(ranks), "TORCHELASTIC_RUN_ID": "undisturbed", "GROUP_RANK": "0"}
        with Ranks([str(word) for word in (*argv, *more)], ranks, folder / f"{ranks}-{until}", **environ) as others:
            done = others.wait(UNDISTURBED_S)
        assert set(done.codes) == {0}, done.outputs[0][-3000:]
        final = ENDS.search(done.outputs[0])
    assert final is not None
    assert final.groups() == found.groups()


@long_test("a rank is killed in more than 20 saves of a real framework, one after the other")
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("layout", FRAMEWORKS)
def test_a_save_that_was_cut_is_never_resumed_from(train: Callable[..., Training], tmp_path: Path, layout: str) -> None:
    """Killed in a save, again and again: each attempt starts from the newest whole checkpoint, and the end is right."""
    training = train(layout, nodes=2, resume_args=FRAMEWORKS[layout].resume_args)
    run, cut, rounds = training.run, 0, 0
    took_s, attempt = how_long(training), 0
    while cut < CUTS and rounds < MOST_ROUNDS:
        rounds += 1
        step = kill_in_a_save(training, attempt, took_s)
        run.wait("the end of its ranks", lambda gone=attempt: not run.processes("rank", attempt=gone), PATIENCE_S)
        whole = training.whole()
        run.wait("the next attempt", lambda gone=attempt: len(run.launches()) > gone + 1, PATIENCE_S)
        attempt = len(run.launches()) - 1
        started, _ = training.started(attempt)
        assert started == training.restored(attempt)
        assert_rightly_started(started, step, whole)
        cut += step not in whole
        print(f"{layout}: killed in the save of {step}, whole are {whole}; attempt {attempt} from {started}; {cut} cut")
    assert cut >= CUTS
    run.wait("a checkpoint of the last attempt", lambda: run.durable()[-1].endswith(f"-{attempt:04d}"), PATIENCE_S)
    check_end(training, 2, tmp_path)


@long_test("a program that saves in the same way is in tests/lab/test_in_place.py")
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("resume_args", [(), ("--load-step", "{step}")], ids=["by itself", "told"])
def test_fsdp_goes_on_without_a_node(
    lab: Cluster, train: Callable[..., Training], tmp_path: Path, resume_args: tuple[str, ...]
) -> None:
    """A loop like torchtitan's: node cut in a save, and on from its own newest whole checkpoint, right to the end."""
    training = train("dcp", nodes=3, resume_args=resume_args)
    run = training.run
    step, ranks = stand_still_in_a_save(training, 0, how_long(training))
    lab.cut(run.launches()[0][2])
    for proc in ranks.values():
        proc.send(signal.SIGCONT)
    run.wait("the end of its ranks", lambda: not run.processes("rank", attempt=0), PATIENCE_S)
    whole = training.whole()
    started, path = training.started(1)
    assert_rightly_started(started, step, whole)
    assert training.restored(1) == started or step in whole
    assert path == str(training.path(started))
    run.wait("checkpoints of the next attempt", lambda: run.durable()[-1].endswith("-0001"), PATIENCE_S)
    assert STARTS.search(run.rank_log(1, 0))[2] == "2"
    check_end(training, 2, tmp_path, (3, started))
