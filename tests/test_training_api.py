from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from ftslurm.checkpoint import refs
from ftslurm.checkpoint.handover import TOLD, Fetched, Op, Order, write_order
from ftslurm.checkpoint.rollback import add_rollback
from ftslurm.checkpoint.store import read_commit
from ftslurm.core.about import SaveKind
from ftslurm.core.branches import Rollback
from ftslurm.core.savepolicy import SavePolicy
from ftslurm.errors import DataDamaged, StorageError, UsageError
from ftslurm.library import saving
from ftslurm.library.run import policy_of
from ftslurm.training import PerRank, Shard, attach
from tests.checkpoint.fake_agent import FakeAgent


@pytest.fixture
def runs(tmp_path):
    """Makes runs in one folder, and closes them."""
    made = []

    def make(**options):
        made.append(attach(**{"folder": tmp_path / "c", "every": 2, **options}))
        return made[-1]

    yield make
    for run in made:
        run.close()


def wait(run):
    """Until nothing is in flight."""
    assert run._saving._background.wait(30)


def generations(folder):
    """Names of what is committed."""
    return sorted(path.parent.name for path in (folder / "c" / "gen").glob("*/COMMIT.json"))


def test_values(runs, tmp_path):
    """NumPy arrays, boxes, values of every kind and objects with state come back; arrays and objects in place."""

    class Counter:
        def __init__(self, value):
            self.value = value

        def state_dict(self):
            return {"value": self.value}

        def load_state_dict(self, state):
            self.value = state["value"]

    def extra(number):
        return {
            "array": np.full((3, 4), number, dtype=np.float32),
            "box": Shard(np.full((2, 4), number), offsets=(0, 0), global_shape=(2, 4)),
            "tensor": torch.full((2,), float(number)),
            "plain": {"b": [number, None], "a": (1.5, "x")},
            "own": PerRank(np.full(2, number)),
            "counter": Counter(number),
            "empty": np.zeros((0, 2)),
        }

    run = runs(extra=extra(1))
    assert run.restore() is None
    assert run.save(5)
    wait(run)
    other = runs(extra=extra(2))
    array, counter = other.extra["array"], other.extra["counter"]
    assert other.restore() == 5
    assert (array == 1).all()
    assert other.extra["array"] is array
    assert (other.extra["box"].array == 1).all()
    assert other.extra["tensor"].tolist() == [1, 1]
    assert other.extra["plain"] == {"b": [1, None], "a": (1.5, "x")}
    assert list(other.extra["plain"]) == ["b", "a"]
    assert other.extra["own"].value.tolist() == [1, 1]
    assert other.extra["counter"] is counter
    assert counter.value == 1
    assert generations(tmp_path) == ["000000005-0000"]


def test_steps_and_retention(runs, tmp_path):
    """A save every two steps; three stay; a later run is another incarnation and goes on from the newest."""
    run = runs(extra={"n": 0})
    for step in range(1, 10):
        run.extra["n"] = step
        assert run.step(step, loss=1 / step, epoch=step / 4, metrics={"odd": float("nan")}) == (step % 2 == 0)
        wait(run)
    assert generations(tmp_path) == ["000000004-0000", "000000006-0000", "000000008-0000"]
    about = read_commit(tmp_path / "c", "000000008-0000")[0].about
    assert (about.reason, about.epoch, about.parent) == ("step 8: every 2 steps", 2.0, "000000006-0000")
    assert (about.metrics, about.odd) == ({"loss": 0.125}, {"odd": "nan"})
    other = runs(extra={"n": 0})
    assert (other.restore(), other.extra["n"]) == (8, 8)
    assert not other.save(8)
    assert other.save(9)
    wait(other)
    assert generations(tmp_path)[-1] == "000000009-0001"


def test_should_save_and_save(runs, tmp_path):
    """The program may ask and save by itself, at the step that it was asked for or at any other."""
    run = runs(extra={"n": 0})
    assert [step for step in range(1, 5) if run.should_save(step) and run.save()] == [2, 4]
    with pytest.raises(UsageError, match="needs the step"):
        run.save()
    wait(run)
    assert run.save(5, reason="by hand")
    wait(run)
    assert read_commit(tmp_path / "c", "000000005-0000")[0].about.reason == "by hand"


def test_signal_saves_and_stops(runs, tmp_path):
    """SIGTERM asks for a save and an end; a handler that was there before is called too, and comes back afterwards."""
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        run = runs(extra={"n": 0}, every=1000)
        assert not run.step(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert not run.should_stop()
        assert run.step(2)
        assert run.should_stop()
        run.close()
        assert heard == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is not run._signals._handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert generations(tmp_path) == ["000000002-0000"]


def test_metric_time_and_epoch(runs):
    """What a clock, a metric or the end of an epoch asks for."""
    run = runs(extra={"n": 0}, every={"metric": {"name": "loss"}})
    saved = []
    for step, loss in enumerate([3.0, 4.0, 2.0, float("nan"), 2.5, 1.0], start=1):
        if run.step(step, loss=loss):
            saved.append(step)
        wait(run)
    assert saved == [1, 3, 6]
    run = runs(extra={"n": 0}, every={"epoch": True})
    assert [step for step in range(10, 20) if run.step(step, epoch=(step + 1) / 3)] == [11, 14, 17]


def test_differential_saves(runs, tmp_path):
    """What has not changed since the last full save is not written again; it comes back, and the base stays."""
    frozen, moving = np.arange(2_000_000.0), np.zeros(3)
    policy = SavePolicy(every_steps=1, full_every=3)
    run = runs(extra={"frozen": frozen, "moving": moving}, every=policy, keep_last=1)
    sizes, kinds = {}, []
    for step in range(1, 6):
        moving[:] = step
        assert run.step(step)
        wait(run)
        name = f"{step:09d}-0000"
        sizes[step] = sum(path.stat().st_size for path in (tmp_path / "c" / "gen" / name / "d").glob("*.bin"))
        kinds.append(read_commit(tmp_path / "c", name)[0].about.kind)
    assert kinds == [SaveKind.FULL, SaveKind.DIFF, SaveKind.DIFF, SaveKind.FULL, SaveKind.DIFF]
    assert [step for step, size in sizes.items() if size > 1_000_000] == [1, 4]
    assert generations(tmp_path) == ["000000001-0000", "000000004-0000", "000000005-0000"]
    frozen[:] = moving[:] = 0
    other = runs(extra={"frozen": frozen, "moving": moving})
    assert other.restore() == 5
    assert frozen[-1] == 1_999_999
    assert moving.tolist() == [5, 5, 5]


def test_names_follow_the_commits(runs, tmp_path, caplog):
    """`latest` is the newest, `best` that of the lowest loss, which stays; a damaged tag costs no save, and is told."""
    run = runs(extra={"n": 0}, every=1)
    for step, loss in enumerate([3.0, 1.0, 2.0, 2.5, 4.0, 5.0], start=1):
        run.step(step, loss=loss)
        wait(run)
    assert generations(tmp_path) == ["000000002-0000", *(f"00000000{step}-0000" for step in (4, 5, 6))]
    assert {name: refs.read(tmp_path / "c", name).generation for name in ("latest", "best")} == {
        "latest": "000000006-0000",
        "best": "000000002-0000",
    }
    (tmp_path / "c" / "refs" / "stable").write_text("{")
    run.step(7, loss=6.0)
    wait(run)
    assert len(generations(tmp_path)) == 5
    assert "old checkpoints" in caplog.text


def test_a_rollback_is_respected(runs, tmp_path):
    """What a rollback has left behind is not restored, and what comes next is told apart from it."""
    run = runs(extra={"n": 0}, every=1)
    for step in (1, 2, 3):
        run.extra["n"] = step
        run.step(step)
        wait(run)
    add_rollback(tmp_path / "c", Rollback(to="000000002-0000", digest="", attempt=7, at=0.0))
    other = runs(extra={"n": 0}, every=1)
    assert (other.restore(), other.extra["n"]) == (2, 2)
    other.step(3)
    wait(other)
    assert generations(tmp_path)[-1] == "000000003-0008"


def test_no_room(runs, monkeypatch):
    """Where two generations do not fit, the program hears of it at its first step, with the arithmetic."""
    monkeypatch.setattr(saving, "free_bytes", lambda _: 8191)
    run = runs(extra={"a": np.zeros(1000)})
    with pytest.raises(
        StorageError, match=r"\(2 generations\) x 1 ranks x [\d,]+ bytes = [\d,]+ bytes, 8,191 are free"
    ):
        run.step(1)


def test_a_failed_save_is_told(runs, tmp_path, capfd):
    """A save that cannot be written is a line on stderr; training goes on, and the next one is made."""
    run = runs(extra={"n": 0}, every=1)
    blocked = tmp_path / "c" / "gen" / "000000001-0000"
    blocked.parent.mkdir(exist_ok=True)
    blocked.write_text("in the way")
    assert run.step(1)
    wait(run)
    assert "checkpoint 000000001-0000 of rank 0 failed, training goes on: " in capfd.readouterr().err
    blocked.unlink()
    assert run.step(2)
    wait(run)
    assert generations(tmp_path) == ["000000002-0000"]


def test_damaged_values(runs, tmp_path):
    """Where every checkpoint is damaged, restore raises an error that ends the program with code 65."""
    run = runs(extra={"a": np.arange(9)})
    run.save(3)
    wait(run)
    data = tmp_path / "c" / "gen" / "000000003-0000" / "d" / "00000.bin"
    data.write_bytes(bytes(data.stat().st_size))
    with pytest.raises(DataDamaged) as caught:
        runs(extra={"a": np.arange(9)}).restore()
    assert isinstance(caught.value, SystemExit)
    assert caught.value.code == 65


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"a": np.zeros(4)}, "'extra.a' has the shape"),
        ({"a": np.zeros(3, np.int8)}, "'extra.a' is of float64 there, of int8 here"),
        ({"a": np.zeros(3), "b": np.zeros(2)}, "'extra.b' is not in the checkpoint"),
        ({"a": np.zeros(3), "n": 1}, r"extra\['n'\] is not in the checkpoint"),
    ],
)
def test_another_program(runs, extra, message):
    """A checkpoint of other arrays is the user's mistake; the checkpoint stays where it is."""
    run = runs(extra={"a": np.zeros(3)})
    run.save(1)
    wait(run)
    with pytest.raises(UsageError, match=message):
        runs(extra=extra).restore()
    assert runs(extra={"a": np.zeros(3)}).restore() == 1


def test_under_an_agent(tmp_path, monkeypatch):
    """Under ftslurm a rank writes into the scratch folder, follows orders, and asks nobody else."""
    write = tmp_path / "scratch" / "write"
    write.mkdir(parents=True)
    for name, value in {
        "RUN_ID": "toy-1",
        "ATTEMPT": "4",
        "CHECKPOINT_DIR": str(write),
        "SAVE_POLICY": SavePolicy(every_steps=3).to_json(),
    }.items():
        monkeypatch.setenv(f"FTSLURM_{name}", value)
    run = attach(extra={"n": 0}, every=1, folder=tmp_path / "unused")
    assert run.restore() is None
    assert [step for step in range(1, 5) if run.step(step)] == [3]
    wait(run)
    write_order(write, Order(attempt=4, number=1, stop=True, why="preempt"))
    assert run.step(5)
    assert run.should_stop()
    run.close()
    assert sorted(str(path.relative_to(write)) for path in write.rglob("*.*")) == [
        f"00000000{step}-0004/00000.{kind}" for step in (3, 5) for kind in ("bin", "json")
    ]
    assert not (tmp_path / "unused").exists()
    monkeypatch.setenv("FTSLURM_CHECKPOINT", str(tmp_path))
    with pytest.raises(UsageError, match="is no generation that this library has saved"):
        attach(extra={"n": 0}).restore()


def under_agent(monkeypatch, tmp_path, socket):
    """The environment of a rank that has a checkpoint to restore; returns the checkpoint's folder."""
    write = tmp_path / "scratch" / "write"
    write.mkdir(parents=True)
    (generation,) = (tmp_path / "c" / "gen").iterdir()
    restored = tmp_path / "restore" / generation.name
    shutil.move(generation, restored)
    for name, value in {"RUN_ID": "toy-1", "ATTEMPT": "1", "CHECKPOINT_DIR": write, "CHECKPOINT": restored}.items():
        monkeypatch.setenv(f"FTSLURM_{name}", str(value))
    monkeypatch.setenv("FTSLURM_STORE_SOCKET", str(socket))
    return restored


@pytest.mark.parametrize("damaged", [False, True])
def test_restored_with_an_agent(runs, tmp_path, monkeypatch, damaged, capfd):
    """What is missing on the node is fetched by the agent; a generation that cannot be loaded is told to it."""
    run = runs(extra={"a": np.arange(1000)})
    run.save(3)
    wait(run)
    restored = under_agent(monkeypatch, tmp_path, tmp_path / "store.sock")
    elsewhere = tmp_path / "partner.bin"
    shutil.move(restored / "d" / "00000.bin", elsewhere)
    if damaged:
        elsewhere.write_bytes(bytes(elsewhere.stat().st_size))
    answer = Fetched(elsewhere, "partner").to_bytes()
    agent = FakeAgent(tmp_path / "store.sock", answer, *([TOLD] if damaged else []))
    array = np.zeros(1000, dtype=np.int64)
    other = attach(extra={"a": array})
    if damaged:
        with pytest.raises(SystemExit):
            other.restore()
    else:
        assert other.restore() == 3
        assert array[-1] == 999
        assert "MB fetched" in capfd.readouterr().err
    other.close()
    agent.close()
    assert [each.op for each in agent.asked] == [Op.FETCH, Op.REFUSED][: 1 + damaged]


@pytest.mark.parametrize("every", [0, -1, True, "soon", {}, {"hours": 3}, [1]])
def test_every_that_means_nothing(every):
    """A policy that nobody understands is refused."""
    with pytest.raises(UsageError, match="every="):
        policy_of(every)


def test_policies():
    """What `every` means."""
    assert policy_of(None) == SavePolicy(every_s="auto")
    assert policy_of("90s") == SavePolicy(every_s=90.0)
    assert policy_of(
        {"steps": 5, "time": "auto", "epoch": True, "metric": {"name": "acc", "mode": "max"}}
    ) == SavePolicy(every_steps=5, every_s="auto", epoch_end=True, metric="acc", metric_mode="max")


def test_grad_accumulation(runs):
    """The number of micro-batches, or the nearest global batches that fit."""
    run = runs(extra={"n": 0})
    assert run.grad_accumulation(24, 8) == 3
    with pytest.raises(UsageError, match="global batch of 25") as caught:
        run.grad_accumulation(25, 8)
    assert caught.value.hint == "nearest that can: 24 or 32"


def test_ranks_without_a_way_to_talk(tmp_path):
    """Several ranks that cannot agree are refused at once."""
    environ = {**os.environ, "RANK": "1", "WORLD_SIZE": "4"}
    program = f"from ftslurm.training import attach; attach(extra={{'n': 0}}, folder={str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=False)
    assert "UsageError: the launcher has started 4 ranks, but they cannot talk to each other yet" in done.stderr


def test_the_end_waits(tmp_path):
    """A program that ends without close() has its last checkpoint nevertheless."""
    program = (
        "import numpy as np, sys\nfrom ftslurm.training import attach\n"
        f"run = attach(extra={{'a': np.zeros(3_000_000)}}, folder={str(tmp_path / 'c')!r})\nrun.save(7)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, generations(tmp_path)) == ("False\n", ["000000007-0000"])


def test_a_part_without_state(runs):
    """What has no state_dict is refused by name."""
    with pytest.raises(UsageError, match="scheduler=object has no state_dict"):
        runs(scheduler=object())


def test_a_hanging_storage_costs_one_save(runs, monkeypatch, capfd):
    """While a save hangs, the next one that is due is given up with a word, and training goes on."""
    monkeypatch.setattr(saving, "PATIENCE_S", 0.05)
    run = runs(model=nn.Linear(2, 2), every=1)
    monkeypatch.setattr(run._saving._place, "written", lambda index: time.sleep(0.5))
    assert run.step(1)
    assert not run.step(2)
    assert "no checkpoint at step 2: 000000001-0000 is still being written" in capfd.readouterr().err
    wait(run)
    assert run.step(3)
