from __future__ import annotations

import getpass
import json
import os
import signal
import threading
import time

import pytest

from ftslurm import cli
from ftslurm.faults.catalogue import CATALOGUE
from ftslurm.faults.fault import Need
from ftslurm.faults.own import OwnMeans
from ftslurm.faults.truth import Outcome, Truth
from ftslurm.slurm.client import SlurmClient
from tests.faults.conftest import start as start  # noqa: PLC0414 - a fixture
from tests.insight.journals import Tale, config_policy, make_run
from tests.pages import commands

PAGE = "how-to/faults.md"
SCRIPT = "#!/bin/bash\ntrue\n"


@pytest.fixture
def paths(slurm, root):
    """A run of one's own that trains in job 101."""
    job = SlurmClient().submit(SCRIPT, ["--nodes=4"])
    slurm.change("jobs", job, "user", value=getpass.getuser())
    return make_run(root, Tale(config_policy(), job_id=job).start())


@pytest.fixture
def here(monkeypatch):
    """Every node is this machine."""
    monkeypatch.setattr(OwnMeans, "way", lambda self, node, argv: (list(argv), os.environ))


def test_the_list_has_every_fault(capfd):
    """For people and for programs."""
    assert cli.exit_code(["inject", "--list"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[1:]] == list(CATALOGUE)
    assert cli.exit_code(["inject", "--list", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)["faults"]
    assert [each["name"] for each in told] == list(CATALOGUE)
    assert sum(each["weight"] for each in told) == pytest.approx(1.0)


@pytest.mark.parametrize("command", commands(PAGE), ids=lambda command: command.partition(" inject ")[2])
def test_the_pages_commands(paths, monkeypatch, capfd, command):
    """As they stand there, up to the deed."""
    monkeypatch.setattr(OwnMeans, "offers", frozenset(Need) - {Need.LAB})
    words = command.split()[1:]
    assert cli.exit_code([*words, *([] if "--list" in words else ["--dry-run"])]) == 0
    told = capfd.readouterr()
    assert "--list" in words or "would be made" in told.err
    assert not paths.faults.exists()


def test_one_rank_is_killed_and_the_truth_is_told(paths, here, start, capfd):
    """The process that was meant; the record is there with its draw."""
    victim = start(2, FTSLURM_RUN_ID=paths.run_id)
    assert cli.exit_code(["inject", "kill", "101", "--rank", "2", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert victim.wait(30) == -signal.SIGKILL
    (known,) = Truth(paths).read()
    assert (known.outcome, known.rank, known.node, known.draw["drawn"]) == (Outcome.DONE, 2, "n2", 2)
    assert str(victim.pid) in known.note
    assert told["injection"]["id"] == known.id
    assert told["expected"]["causes"] == ["rank_killed"]


def test_ctrl_c_undoes_it(paths, here, start, capfd):
    """With exit code 130, and the end on record."""
    victim = start(0, FTSLURM_RUN_ID=paths.run_id)

    def interrupt() -> None:
        deadline = time.monotonic() + 60
        while not any(each.outcome is Outcome.DONE for each in Truth(paths).read()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert cli.exit_code(["inject", "stop", "101", "--rank", "0", "--for", "1h"]) == 130
    thread.join()
    (known,) = Truth(paths).read()
    assert known.undone_at > known.at
    with open(f"/proc/{victim.pid}/stat", encoding="ascii") as file:  # noqa: PTH123
        assert file.read().rpartition(")")[2].split()[0] != "T"


def test_a_rank_that_is_not_there_is_said(paths, here, capfd):
    """Nothing was done, and the record says so."""
    assert cli.exit_code(["inject", "kill", "101", "--rank", "1"]) == 2
    assert "no process of rank 1" in capfd.readouterr().err
    (known,) = Truth(paths).read()
    assert known.outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["kill"], 2, "which fault, in which run?"),
        (["krill", "101"], 2, "no fault 'krill'"),
        (["kill", "999"], 2, "no run is known"),
        (["kill", "101", "--rank", "9"], 2, "no rank 9"),
        (["stop", "101", "--for", "soon"], 2, "--for: expected a duration"),
        (["node-cut", "101"], 77, "node-cut needs the lab"),
        (["checkpoint-flip", "101"], 77, "your word"),
        (["nan", "101"], 77, "a program that obeys orders"),
        (["checkpoint-flip", "101", "--yes"], 2, "no checkpoint on shared storage yet"),
    ],
)
def test_what_cannot_be_is_refused(paths, capfd, words, code, said):
    """With what is missing; nothing is done, and only what was tried is recorded."""
    assert cli.exit_code(["inject", *words]) == code
    assert said in capfd.readouterr().err
    assert all(each.outcome is Outcome.FAILED for each in Truth(paths).read())


def test_other_peoples_runs_are_left_alone(paths, slurm, capfd, monkeypatch):
    """By the owner of the folder, and by the owner of the job."""
    slurm.change("jobs", "101", "user", value="bob\x1b[31m")
    assert cli.exit_code(["inject", "kill", "101"]) == 77
    assert "job 101 belongs to bob" in (said := capfd.readouterr().err)
    assert "\x1b" not in said
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert cli.exit_code(["inject", "kill", "101"]) == 77
    assert "belongs to" in capfd.readouterr().err
    assert not paths.faults.exists()


def test_a_run_that_has_ended_is_not_broken(slurm, root, capfd):
    """75: there is nothing to break."""
    make_run(root, Tale(config_policy(), job_id="77").start().finish())
    assert cli.exit_code(["inject", "kill", "77"]) == 75
    assert "is not alive" in capfd.readouterr().err
