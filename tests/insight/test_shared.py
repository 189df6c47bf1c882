from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from ftslurm.errors import ServiceUnavailable
from ftslurm.insight import shared
from ftslurm.insight.shared import Answer, Shared
from ftslurm.slurm.records import JobInfo, JobState, Source

JOB = "101"


class Slurm:
    """A Slurm that knows every job, or is away; it counts who asks about what."""

    def __init__(self) -> None:
        self.environ: dict[str, str] = {}
        self.state = JobState.RUNNING
        self.away = False
        self.asked: list[str] = []

    def jobs(self, job_ids: Iterable[str], /) -> dict[str, JobInfo]:
        wanted = list(job_ids)
        self.asked.append(",".join(wanted))
        if self.away:
            raise ServiceUnavailable("squeue: connection refused")
        return {job: JobInfo(job_id=job, state=self.state, source=Source.CONTROLLER) for job in wanted}


@pytest.fixture
def slurm() -> Slurm:
    """Give a Slurm."""
    return Slurm()


class Clock:
    """Epoch seconds as the test wants them."""

    def __init__(self) -> None:
        self.now = time.time()

    def __getattr__(self, name: str) -> object:
        return (lambda: self.now) if name == "time" else getattr(time, name)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give the clock that answers are dated by."""
    made = Clock()
    monkeypatch.setattr(shared, "time", made)
    return made


def display(slurm: Slurm, tmp_path: Path) -> Shared:
    """One of the displays of a user on a host."""
    return Shared(slurm, tmp_path / "host")


def test_an_answer_is_shared_and_lasts_five_seconds(slurm, clock, tmp_path):
    """Displays take what another one was told, whole, until it is five seconds old; then one of them asks."""
    displays = [display(slurm, tmp_path) for _ in range(3)]
    answers = [each.answer([JOB]) for each in displays]
    assert [each.jobs[JOB].state for each in answers] == [JobState.RUNNING] * 3
    assert answers[0] == answers[1] == answers[2]
    assert len(slurm.asked) == 1
    clock.now += 4.9
    displays[1].answer([JOB])
    assert len(slurm.asked) == 1
    clock.now += 0.2
    for each in displays:
        each.answer([JOB])
    assert len(slurm.asked) == 2


def test_who_asks_asks_for_all(slurm, clock, tmp_path):
    """A job that is new is asked about together with those of the others; one that nobody wants any more is left out."""
    one, two = "101", "102"
    first, second = display(slurm, tmp_path), display(slurm, tmp_path)
    first.answer([one])
    second.answer([two])
    assert slurm.asked[-1] == f"{one},{two}"
    first.answer([one])
    assert len(slurm.asked) == 2
    clock.now += 120.0
    second.answer([two])
    assert slurm.asked[-1] == two


def test_slurm_is_asked_more_seldom_while_nothing_changes(slurm, clock, tmp_path):
    """Answers that are the same last longer and longer, to half a minute; one that differs is asked again in 5 s."""
    mine = display(slurm, tmp_path)
    pauses = []
    for _ in range(4):
        pauses.append(mine.answer([JOB]).pause_s)
        clock.now += 31.0
    assert pauses == [5.0, 7.5, 11.25, 16.875]
    slurm.state = JobState.CANCELLED
    assert mine.answer([JOB]).pause_s == 5.0


def test_no_answer_is_shared_as_well(slurm, clock, tmp_path):
    """While Slurm is away the displays do not ask it one after the other, and nothing is taken for lost."""
    slurm.away = True
    found = [display(slurm, tmp_path).answer([JOB]) for _ in range(3)]
    assert [each.jobs for each in found] == [None] * 3
    assert "Slurm cannot be asked" in found[2].problem
    assert len(slurm.asked) == 1


def test_while_one_asks_the_others_go_on_with_what_there_is(slurm, clock, tmp_path):
    """A display that finds another one asking shows the last answer, and never waits for Slurm."""
    mine = display(slurm, tmp_path)
    before = mine.answer([JOB])
    clock.now += 10.0
    with mine._file.with_suffix(".lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert display(slurm, tmp_path).answer([JOB]) == before
    assert len(slurm.asked) == 1


def test_the_first_answer_is_waited_for(slurm, clock, tmp_path):
    """Where there is none at all, the displays that do not ask wait for the one that does."""
    found: list[Answer] = []
    threads = [
        threading.Thread(target=lambda: found.append(display(slurm, tmp_path).answer([JOB]))) for _ in range(3)
    ]  # fmt: skip
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert [each.jobs[JOB].state for each in found] == [JobState.RUNNING] * 3
    assert len(slurm.asked) == 1


@pytest.mark.parametrize("damage", ["{", "[]", "[1, 2]", "link", "open", "future"])
def test_a_file_that_cannot_be_trusted_is_none(slurm, clock, tmp_path, damage):
    """Damaged, open to others, a link, from the future: Slurm is asked, and the file written anew."""
    mine = display(slurm, tmp_path)
    mine.answer([JOB])
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
    assert display(slurm, tmp_path).answer([JOB]).jobs[JOB].state is JobState.RUNNING
    assert len(slurm.asked) == 2
    assert file.stat().st_mode & 0o777 == 0o600
    assert not file.is_symlink()
    assert json.loads(file.read_text())


def test_a_folder_of_somebody_else_is_not_used(slurm, clock, tmp_path):
    """Where nothing private can lie each display asks for itself, as seldom."""
    (tmp_path / "host").mkdir()
    (tmp_path / "host").chmod(0o777)
    mine = display(slurm, tmp_path)
    assert mine.answer([JOB]).jobs[JOB].state is JobState.RUNNING
    mine.answer([JOB])
    assert len(slurm.asked) == 1
    assert os.listdir(tmp_path / "host") == []


def test_another_slurm_has_answers_of_its_own(slurm, tmp_path):
    """What one cluster says of job 101 is nothing about another one's."""
    one = Shared(slurm, tmp_path / "host")
    second = Slurm()
    second.environ = {"SLURM_CONF": "/etc/other.conf"}
    other = Shared(second, tmp_path / "host")
    assert one._file != other._file
    assert one.answer([]).jobs == {}
    assert slurm.asked == []
