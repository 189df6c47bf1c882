from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from pathlib import Path

import pytest

from ftslurm.insight import shared
from ftslurm.insight.shared import Answer, Shared
from ftslurm.slurm.client import SlurmClient
from ftslurm.slurm.records import JobState
from tests.slurm.fake import FakeSlurm

SCRIPT = "#!/bin/bash\ntrue\n"


@pytest.fixture
def slurm(tmp_path: Path) -> FakeSlurm:
    """Give a Slurm of four nodes."""
    (tmp_path / "slurm").mkdir()
    return FakeSlurm(tmp_path / "slurm")


class Clock:
    """Epoch seconds as the test wants them."""

    def __init__(self) -> None:
        self.now = time.time()

    def time(self) -> float:
        return self.now

    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give the clock that answers are dated by."""
    made = Clock()
    monkeypatch.setattr(shared, "time", made)
    return made


def squeues(slurm: FakeSlurm) -> list[str]:
    """The jobs that squeue was asked about, each time."""
    return [call[call.index("-j") + 1] for call in slurm.calls if call[0] == "squeue"]


def display(slurm: FakeSlurm, tmp_path: Path) -> Shared:
    """One of the displays of a user on a host."""
    return Shared(SlurmClient(environ=slurm.environ), tmp_path / "host")


def submitted(slurm: FakeSlurm) -> str:
    """A job."""
    return SlurmClient(environ=slurm.environ).submit(SCRIPT, ["--nodes=1"])


def test_an_answer_is_shared_and_lasts_five_seconds(slurm, clock, tmp_path):
    """Displays take what another one was told, whole, until it is five seconds old; then one of them asks."""
    job = submitted(slurm)
    displays = [display(slurm, tmp_path) for _ in range(3)]
    answers = [each.answer([job]) for each in displays]
    assert [each.jobs[job].state for each in answers] == [JobState.RUNNING] * 3
    assert answers[0] == answers[1] == answers[2]
    assert len(squeues(slurm)) == 1
    clock.now += 4.9
    displays[1].answer([job])
    assert len(squeues(slurm)) == 1
    clock.now += 0.2
    for each in displays:
        each.answer([job])
    assert len(squeues(slurm)) == 2


def test_who_asks_asks_for_all(slurm, clock, tmp_path):
    """A job that is new is asked about together with those of the others; one that nobody wants any more is left out."""
    one, two = submitted(slurm), submitted(slurm)
    first, second = display(slurm, tmp_path), display(slurm, tmp_path)
    first.answer([one])
    second.answer([two])
    assert squeues(slurm)[-1] == f"{one},{two}"
    first.answer([one])
    assert len(squeues(slurm)) == 2
    clock.now += 120.0
    second.answer([two])
    assert squeues(slurm)[-1] == two


def test_slurm_is_asked_more_seldom_while_nothing_changes(slurm, clock, tmp_path):
    """Answers that are the same last longer and longer, to half a minute; one that differs is asked again in 5 s."""
    job, mine = submitted(slurm), display(slurm, tmp_path)
    pauses = []
    for _ in range(7):
        pauses.append(mine.answer([job]).pause_s)
        clock.now += 31.0
    assert pauses == [5.0, 7.5, 11.25, 16.875, 25.3125, 30.0, 30.0]
    slurm.change("jobs", job, "state", value="CANCELLED")
    assert mine.answer([job]).pause_s == 5.0


def test_no_answer_is_shared_as_well(slurm, clock, tmp_path):
    """While Slurm is away the displays do not ask it one after the other, and nothing is taken for lost."""
    job = submitted(slurm)
    slurm.fail("squeue", "down", times=9)
    found = [display(slurm, tmp_path).answer([job]) for _ in range(3)]
    assert [each.jobs for each in found] == [None] * 3
    assert "Slurm cannot be asked" in found[2].problem
    assert len(squeues(slurm)) == 1


def test_while_one_asks_the_others_go_on_with_what_there_is(slurm, clock, tmp_path):
    """A display that finds another one asking shows the last answer, and never waits for Slurm."""
    job, mine = submitted(slurm), display(slurm, tmp_path)
    before = mine.answer([job])
    clock.now += 10.0
    with mine._file.with_suffix(".lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert display(slurm, tmp_path).answer([job]) == before
    assert len(squeues(slurm)) == 1


def test_the_first_answer_is_waited_for(slurm, tmp_path):
    """Where there is none at all, the displays that do not ask wait for the one that does."""
    job = submitted(slurm)
    found: list[Answer] = []
    threads = [
        threading.Thread(target=lambda: found.append(display(slurm, tmp_path).answer([job]))) for _ in range(3)
    ]  # fmt: skip
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert [each.jobs[job].state for each in found] == [JobState.RUNNING] * 3
    assert len(squeues(slurm)) == 1


@pytest.mark.parametrize("damage", ["{", "[]", "[1, 2]", "link", "open", "future"])
def test_a_file_that_cannot_be_trusted_is_none(slurm, clock, tmp_path, damage):
    """Damaged, open to others, a link, from the future: Slurm is asked, and the file written anew."""
    job, mine = submitted(slurm), display(slurm, tmp_path)
    mine.answer([job])
    file = mine._file
    if damage == "open":
        file.chmod(0o644)
    elif damage == "link":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    elif damage == "future":
        clock.now -= 3600.0
    else:
        file.write_text(damage)
    assert display(slurm, tmp_path).answer([job]).jobs[job].state is JobState.RUNNING
    assert len(squeues(slurm)) == 2
    assert file.stat().st_mode & 0o777 == 0o600
    assert not file.is_symlink()
    assert json.loads(file.read_text())


def test_a_folder_of_somebody_else_is_not_used(slurm, clock, tmp_path):
    """Where nothing private can lie each display asks for itself, as seldom."""
    (tmp_path / "host").mkdir()
    (tmp_path / "host").chmod(0o777)
    job, mine = submitted(slurm), display(slurm, tmp_path)
    assert mine.answer([job]).jobs[job].state is JobState.RUNNING
    mine.answer([job])
    assert len(squeues(slurm)) == 1
    assert os.listdir(tmp_path / "host") == []


def test_another_slurm_has_answers_of_its_own(slurm, tmp_path):
    """What one cluster says of job 101 is nothing about another one's."""
    one = Shared(SlurmClient(environ=slurm.environ), tmp_path / "host")
    other = Shared(SlurmClient(environ={**slurm.environ, "SLURM_CONF": "/etc/other.conf"}), tmp_path / "host")
    assert one._file != other._file
    assert one.answer([]).jobs == {}
    assert slurm.calls == []
