from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from ftslurm import cli
from ftslurm.paths import RunPaths
from ftslurm.slurm.client import SlurmClient
from tests.cli.onterminal import LIMIT_S, Terminal, terminal, without_sequences
from tests.insight.journals import Tale, config_policy, make_run

SCRIPT = "#!/bin/bash\ntrue\n"
WATCH = [sys.executable, "-m", "ftslurm", "status", "--watch", "--interval", "0.2"]


@pytest.fixture
def live(slurm, root: Path) -> tuple[Tale, RunPaths]:
    """Give a run that trains in a job of the fake Slurm, and its story."""
    job_id = SlurmClient().submit(SCRIPT, ["--nodes=4"])
    tale = Tale(config_policy(), job_id=job_id).start().save(100, after=10)
    return tale, make_run(root, tale)


def squeues(slurm) -> int:
    """How often squeue was asked."""
    return sum(call[0] == "squeue" for call in slurm.calls)


def assert_given_back(on: Terminal) -> None:
    """The cursor, the screen and the modes of the terminal are as they were."""
    assert on.written.count("\x1b[?1049h") == on.written.count("\x1b[?1049l") > 0
    assert on.written.rindex("\x1b[?25h") > on.written.rindex("\x1b[?25l")
    assert termios.tcgetattr(on.slave) == on.modes


def test_a_picture_is_painted_kept_up_to_date_and_taken_away(live):
    """It shows the run, sends only the lines that change, repaints after a resize, and `q` gives the terminal back."""
    tale, paths = live
    with terminal(WATCH) as on:
        first = on.read("q leaves")
        assert "\x1b[?1049h" in first
        assert "training" in first
        assert "oooo" in first
        tale.silent("n3")
        tale.write(paths)
        news = on.read("n3 suspected")
        assert "q leaves" not in news
        on.resize((60, 12))
        small = on.read("the smaller picture", lambda text: "\x1b[2J" in text and "q leaves" in text)
        picture = small[small.rindex("\x1b[2J") :]
        assert all(len(line) <= 60 for line in plain_lines(picture))
        assert max(map(int, re.findall(r"\x1b\[(\d+);1H", picture))) <= 12
        on.press("q")
        assert on.end() == 0
        assert_given_back(on)
        # The last picture stays.
        assert "n3 suspected" in on.written[on.written.rindex("\x1b[?1049l") :]


def plain_lines(picture: str) -> list[str]:
    """The lines of a painted picture, without colours."""
    return [without_sequences(line) for line in re.split(r"\x1b\[\d+;1H", picture)[1:]]


@pytest.mark.parametrize("how", ["key", "SIGTERM"])
def test_an_interrupted_picture_leaves_nothing_behind(live, how):
    """Ctrl-C (or SIGTERM) gives the terminal back, prints nothing more, and the exit code is 130."""
    with terminal(WATCH) as on:
        on.read("q leaves")
        if how == "key":
            on.press("\x03")
        else:
            on.process.send_signal(signal.SIGTERM)
        assert on.end() == 130
        assert_given_back(on)
        assert on.written[on.written.rindex("\x1b[?1049l") + len("\x1b[?1049l") :].strip() in {"", "^C"}


def test_a_stopped_picture_goes_on_where_it_was(live):
    """Ctrl-Z gives the shell its terminal, and the picture is painted anew when it goes on."""
    with terminal(WATCH) as on:
        on.read("q leaves")
        on.process.send_signal(signal.SIGTSTP)
        on.read("\x1b[?1049l")
        assert termios.tcgetattr(on.slave) == on.modes
        assert os.WIFSTOPPED(os.waitpid(on.process.pid, os.WUNTRACED)[1])
        on.process.send_signal(signal.SIGCONT)
        on.read("the picture again", lambda text: "\x1b[?1049h" in text and "q leaves" in text)
        on.press("q")
        assert on.end() == 0
        assert_given_back(on)


def test_the_picture_ends_with_the_runs_that_were_named(live):
    """With every run named at its end the picture stays, and the command returns."""
    tale, paths = live
    with terminal([*WATCH, paths.run_id]) as on:
        on.read("q leaves")
        tale.finish().write(paths)
        on.read("\x1b[?1049l")
        assert on.end() == 0
        assert "finished" in on.written


def test_off_a_terminal_there_is_a_line_for_each_change(live):
    """Nothing is painted: a line for what the run is at, one for each change, and the end with the run."""
    tale, paths = live
    with subprocess.Popen(
        [*WATCH, paths.run_id], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline()]
            tale.save(200, after=10).write(paths)
            lines.append(process.stdout.readline())
            tale.lose("n3").launched().write(paths)
            lines += [process.stdout.readline() for _ in range(2)]
            tale.finish().write(paths)
            lines += process.stdout.readlines()
            assert process.wait(timeout=LIMIT_S) == 0
        finally:
            process.kill()
    assert "training attempt=0 nodes=4 ranks=8 step=100" in lines[0]
    assert "step=200" in lines[1]
    assert "! node_unreachable" in lines[2]
    assert "attempt 1 trains from step 200" in lines[2]
    assert "training attempt=1 nodes=3 ranks=6 step=200 durable=200 (n3 lost)" in lines[3]
    assert "finished" in lines[-1]
    assert not any("\x1b" in line for line in lines)


def test_json_is_an_object_a_change(slurm, root, capfd):
    """Programs get one line of JSON for each change: the run as `status --json` has it, its nodes, what happened."""
    make_run(root, Tale(config_policy(), job_id="77").start().save(100, after=10).lose("n3").launched().finish())
    assert cli.exit_code(["status", "77", "--watch", "--json"]) == 0
    (line,) = capfd.readouterr().out.splitlines()
    told = json.loads(line)
    assert set(told) == {"meta", "run", "node_marks", "steps_per_s", "happened"}
    assert told["run"]["phase"] == "finished"
    assert told["node_marks"] == {"n1": "healthy", "n2": "healthy", "n3": "lost", "n4": "healthy"}
    assert [each["cause"] for each in told["happened"]] == ["node_unreachable"]


def test_columns_off_a_terminal(slurm, root, capfd):
    """`--parsable` gives the columns of a run at each of its changes, below one line of headers."""
    make_run(root, Tale(config_policy(), job_id="77").start().finish())
    assert cli.exit_code(["status", "77", "--watch", "--parsable", "-o", "NAME,PHASE"]) == 0
    assert capfd.readouterr().out == "NAME|PHASE\ngpt-small|finished\n"
    assert cli.exit_code(["status", "77", "--interval", "3"]) == 2


def test_three_watchers_ask_slurm_once(live, slurm):
    """However many watch, squeue is asked by one of them."""
    patient = (
        "import sys; from ftslurm import cli; from ftslurm.insight import shared; shared.EVERY_S = 3600.0; cli.main()"
    )
    argv = [sys.executable, "-c", patient, *WATCH[3:]]
    watchers = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    try:
        for each in watchers:
            assert each.stdout is not None
            assert "training" in each.stdout.readline()
    finally:
        for each in watchers:
            each.kill()
            each.communicate(timeout=LIMIT_S)
    assert squeues(slurm) == 1


def test_an_interrupted_watch_is_130(live):
    """Ctrl-C ends the lines without a traceback, or a word."""
    with subprocess.Popen(WATCH, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "training" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            # click ends the line on which a terminal has shown ^C.
            assert process.communicate(timeout=LIMIT_S)[1].strip() == ""
            assert process.returncode == 130
        finally:
            process.kill()
