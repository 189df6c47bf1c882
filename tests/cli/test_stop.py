from __future__ import annotations

import json
import threading
import time

import pytest

from ftslurm import cli
from ftslurm.cli import stop
from ftslurm.paths import RunPaths
from tests.insight.journals import Tale, config_policy, make_run

FILES = {"files": "step_*.pt"}


def heard_by_somebody(paths: RunPaths) -> list[str]:
    """Take the request away as a supervisor does; returns what it says, once it is there."""
    said: list[str] = []

    def take() -> None:
        path, deadline = paths.stops[0], time.monotonic() + 20
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        said.append(path.read_text().strip())
        path.unlink()

    threading.Thread(target=take, daemon=True).start()
    return said


@pytest.mark.parametrize(("words", "said"), [((), "now"), (("--after-save",), "after-save")])
def test_the_supervisor_is_asked(slurm, root, capfd, words, said):
    """The command returns when the run has heard it."""
    paths = make_run(root, Tale(config_policy(), job_id="77").start(), checkpoint=FILES)
    heard = heard_by_somebody(paths)
    assert cli.exit_code(["stop", "77", *words, "--json"]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert (answer["run_id"], answer["outcome"]) == (paths.run_id, "stopping")
    assert heard == [said]


def test_nobody_hears_it(slurm, root, capfd, monkeypatch):
    """75, with what ends a job that waits; the request does not stay behind."""
    monkeypatch.setattr(stop, "TAKEN_S", 0.1)
    paths = make_run(root, Tale(config_policy(), job_id="77").start(), checkpoint=FILES)
    assert cli.exit_code(["stop", "77"]) == 75
    assert "`ftslurm cancel 77` ends its jobs" in capfd.readouterr().err
    assert not paths.stops[0].exists()


def test_a_run_that_has_ended_is_left_alone(slurm, root, capfd):
    """There is nothing to stop, and nothing wrong."""
    make_run(root, Tale(config_policy(), job_id="77").start().finish(), checkpoint=FILES)
    assert cli.exit_code(["stop", "77", "--after-save"]) == 0
    assert "has ended already: finished" in capfd.readouterr().err


@pytest.mark.parametrize("command", [["stop", "--after-save", "77"], ["checkpoint", "now", "77"]])
@pytest.mark.parametrize(
    ("saved", "why"),
    [({**FILES, "save_on": "none"}, "checkpoint.save_on is none"), ({}, "no checkpoints are watched")],
)
def test_a_program_that_cannot_be_asked_is_not_waited_for(slurm, root, capfd, command, saved, why):
    """2, at once, with the reason."""
    make_run(root, Tale(config_policy(), job_id="77").start(), checkpoint=saved)
    assert cli.exit_code(command) == 2
    assert why in capfd.readouterr().err
