from __future__ import annotations

import re
import signal
import subprocess
import sys

from ftslurm.cli import progress
from ftslurm.cli.progress import waiting
from tests.cli.onterminal import terminal

WORK = """
import sys
from ftslurm import cli
from ftslurm.cli import progress
progress.AFTER_S = 0.0
import click

@click.command()
@click.option("--json", "as_json", is_flag=True)
def work(as_json):
    with progress.waiting("reading \\x1b[31mthings", quiet=as_json, unit=lambda n: f"{n}B", interrupted="it goes on") as wait:
        for done in range(1, 4):
            wait(done, 4)
            sys.stdin.readline()
            with wait.aside():
                click.echo(f"told {done}")

cli.COMMANDS["work"] = cli.Place("__main__", "work", "")
cli.main(["work", *sys.argv[1:]])
"""


ARGV = [sys.executable, "-c", WORK]


def test_a_bar_counts_and_goes_away():
    """At a terminal there is a bar with a count and a speed; what is told stands on lines of its own; it is erased."""
    with terminal(ARGV, stdin=subprocess.PIPE) as on:
        on.read("25 %")
        for number in range(1, 4):
            on.enter()
            on.read(f"told {number}\r\n")
        assert on.end() == 0
    assert "reading \\x1b[31mthings" in on.shown
    assert re.search(r"25 %, 1B of 4B, \d+B/s", on.shown)
    assert "\x1b[31mthings" not in on.written
    assert on.written.rindex("\x1b[2K") > on.written.rindex("%")
    # No cursor is hidden for long: who is killed could not show it again.
    assert on.written.rindex("\x1b[?25h") > on.written.rindex("\x1b[?25l")


def test_after_an_interrupt_there_is_one_line():
    """Ctrl-C takes the bar away, says in one line that something goes on without us, and ends with 130."""
    with terminal(ARGV, stdin=subprocess.PIPE) as on:
        on.read("25 %")
        on.process.send_signal(signal.SIGINT)
        assert on.end() == 130
    after = on.shown[on.shown.rindex("%") :].splitlines()
    assert [line for line in after[1:] if line.strip()] == ["ftslurm: it goes on"]


def test_programs_get_none():
    """With --json, or without a terminal on stderr, there is nothing but what is told."""
    with terminal([*ARGV, "--json"], stdin=subprocess.PIPE) as on:
        for _ in range(3):
            on.enter()
        assert on.end() == 0
        assert on.written == "told 1\r\ntold 2\r\ntold 3\r\n"
    done = subprocess.run(ARGV, input="\n\n\n", capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("told 1\ntold 2\ntold 3\n", "")


def test_a_stdout_that_is_a_file_stays_one():
    """What is told goes where stdout goes, also while the bar is on the terminal."""
    with terminal(ARGV, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as on:
        on.read("25 %")
        assert on.process.communicate(b"\n\n\n", timeout=60)[0] == b"told 1\ntold 2\ntold 3\n"
        assert on.end() == 0
        assert "told" not in on.written


def test_what_is_quick_shows_nothing(monkeypatch):
    """Nothing is drawn, and rich is not even imported, for what is done within a second."""
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with waiting("this") as wait:
        wait(1, 2)
    assert wait._shown is None
    assert wait._over
