"""docs/how-to/logs.md and trackers.md: their commands work, their files are right, their programs go on with one run."""

from __future__ import annotations

import json
import os
import shlex
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from ftslurm import cli
from ftslurm.runtime.attempt_env import World, of_all
from tests import pages
from tests.insight.journals import Tale, config_policy, make_run


def typed(page: str) -> list[list[str]]:
    """The commands of ftslurm in a page."""
    return [shlex.split(line)[1:] for line in pages.commands(f"how-to/{page}.md") if line.startswith("ftslurm ")]


def test_the_commands_about_logs_work(slurm, root, capfd):
    """Each prints something of a run that has failed."""
    run = make_run(root, Tale(config_policy(), job_id="4711").start().crash(0).launched())
    run.attempt_logs(0).mkdir()
    run.rank_log(0, 0).write_text("step 1\n")
    labels = {"run_id": run.run_id, "job_id": "4711", "attempt": "0", "node": "n3", "rank": "-", "role": "agent"}
    line = {"@timestamp": "2026-02-25T06:13:20.123Z", "log.level": "error", "message": "it broke", "labels": labels}
    run.process_log(0, "agent", "n3").write_text(json.dumps(line) + "\n")
    commands = typed("logs")
    assert len(commands) == 4
    for words in commands:
        assert cli.exit_code(words) == 0, words
        assert capfd.readouterr().out.strip() in (
            "step 1",
            json.dumps(line),
            "2026-02-25 06:13:20 error    n3 agent: it broke",
        )


def test_the_commands_about_trackers_work(slurm, tmp_path, monkeypatch, capfd):
    """The file of the page is right, and its job can be shown."""
    monkeypatch.chdir(tmp_path)
    for name, content in pages.files("how-to/trackers.md").items():
        Path(name).write_text(content)
    Path("train.py").touch()
    for words in typed("trackers"):
        assert cli.exit_code(words) == 0, capfd.readouterr().err


class FakeFlow(types.ModuleType):
    """A server that knows runs by their tags, as MLflow's documentation says."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.known: dict[str, dict[str, str]] = {}

    def set_experiment(self, name: str) -> None:
        self.experiment = name

    def search_runs(self, filter_string: str, output_format: str) -> list[Any]:
        assert output_format == "list"
        wanted = filter_string.removeprefix("tags.ftslurm_run = ").strip("'")
        found = [run_id for run_id, tags in self.known.items() if tags["ftslurm_run"] == wanted]
        return [types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_id)) for run_id in found]

    def start_run(self, run_id: str | None, tags: dict[str, str]) -> str:
        assert run_id is None or run_id in self.known, "MLflow refuses a run that it does not know"
        run_id = run_id or f"server-made-{len(self.known)}"
        self.known[run_id] = tags
        return run_id


def environ_of(attempt: int) -> dict[str, str]:
    """What the ranks of an attempt are told."""
    world = World(
        run_id="gpt-1", run_dir="/shared/gpt-1", attempt=attempt, placement=("n1",), master_addr="10.0.0.1",
        master_port=25000, step=40 * attempt, restored=attempt > 0,
    )  # fmt: skip
    return of_all(world, {})


@pytest.mark.parametrize("name", ["track.py", "flow.py"])
def test_the_programs_go_on_with_one_run(name, monkeypatch):
    """Both attempts open the same run of the tracker, and what is computed again is not there twice."""
    opened: list[Any] = []
    flow = FakeFlow()
    board = types.ModuleType("torch.utils.tensorboard")
    vars(board)["SummaryWriter"] = lambda folder, purge_step: opened.append((folder, purge_step))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    monkeypatch.setitem(sys.modules, "mlflow", flow)
    program: dict[str, Any] = {}
    exec(compile(pages.files("how-to/trackers.md")[name], name, "exec"), program)
    for attempt in (0, 1):
        for variable, value in environ_of(attempt).items():
            monkeypatch.setitem(os.environ, variable, value)
        if name == "track.py":
            program["open_writer"](40 * attempt)
        else:
            opened.append(program["open_run"]("gpt"))
    if name == "track.py":
        assert opened == [("/shared/gpt-1/tensorboard", 0), ("/shared/gpt-1/tensorboard", 40)]
    else:
        assert opened[0] == opened[1]
        assert len(flow.known) == 1
