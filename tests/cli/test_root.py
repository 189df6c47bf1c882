"""The root of the command line: the list of commands, and what becomes of errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from ftslurm import __version__, cli
from ftslurm.errors import FtslurmError, InternalError, TryAgain

HEAVY = ("torch", "pydantic", "yaml", "jinja2", "rich", "ClusterShell", "mpi4py", "paramiko", "xxhash")


def ftslurm(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Call the command line as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "ftslurm", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **(env or {})},
    )


@pytest.fixture
def command(monkeypatch):
    """Put a function into the table of commands, under the name `probe`."""

    def put(body):
        probe = click.command("probe")(body)
        monkeypatch.setattr(sys.modules[__name__], "probe", probe, raising=False)
        monkeypatch.setitem(cli.COMMANDS, "probe", cli.Place(__name__, "probe", "For this test."))
        return ["probe"]

    return put


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_with_examples(name):
    """Each command of the table exists, answers --help, and shows examples."""
    result = CliRunner().invoke(cli.cli, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert "Examples:" in result.output


def test_help_lists_every_command_and_imports_none():
    """The list of commands costs the import of click and of nothing heavier, not even of a command."""
    code = (
        "import sys, json; from ftslurm.cli import exit_code; exit_code(['--help']);"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    modules = set(json.loads(done.stderr))
    assert not modules & set(HEAVY)
    assert {m for m in modules if m.startswith("ftslurm")} == {"ftslurm", "ftslurm.cli", "ftslurm.errors"}
    for name, place in cli.COMMANDS.items():
        assert f"  {name} " in done.stdout
        assert place.summary in done.stdout


def test_short_h_is_not_help():
    """`-h` means *no header* in Slurm, so it must not print help."""
    assert ftslurm("-h").returncode == 2


def test_version():
    """--version prints name and version, and nothing else."""
    assert ftslurm("--version").stdout == f"ftslurm {__version__}\n"


def test_unknown_command_suggests_the_near_one():
    """A mistyped command names the one that was meant and exits 2."""
    done = ftslurm("chekpoint")
    assert done.returncode == 2
    assert "no such command 'chekpoint'; did you mean 'checkpoint'?" in done.stderr


@pytest.mark.parametrize("error", [TryAgain("held by job 7", hint="wait"), InternalError("no such state")])
def test_our_errors_become_one_line_and_their_code(command, capsys, error):
    """An FtslurmError ends a command with its message, its hint and its exit code; stdout stays clean."""

    def body() -> None:
        raise error

    assert cli.exit_code(command(body)) == error.exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"ftslurm: error: {error}\n" + (f"hint: {error.hint}\n" if error.hint else "")


def test_a_bug_is_one_line_and_code_70(command, capsys, monkeypatch):
    """An unexpected exception shows its last line and how to see more, never a traceback."""
    monkeypatch.delenv("FTSLURM_DEBUG", raising=False)

    def body() -> None:
        raise ZeroDivisionError("by nothing")

    assert cli.exit_code(command(body)) == 70
    err = capsys.readouterr().err
    assert "unexpected ZeroDivisionError: by nothing" in err
    assert "FTSLURM_DEBUG=1" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("error", [ZeroDivisionError("by nothing"), FtslurmError("known")])
def test_debug_shows_the_traceback(command, capsys, monkeypatch, error):
    """FTSLURM_DEBUG=1 adds the traceback that leads to the place."""
    monkeypatch.setenv("FTSLURM_DEBUG", "1")

    def body() -> None:
        raise error

    cli.exit_code(command(body))
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "test_root.py" in err


def test_interrupt_is_130(command):
    """Ctrl-C ends with 128 + SIGINT."""

    def body() -> None:
        raise KeyboardInterrupt

    assert cli.exit_code(command(body)) == 128 + signal.SIGINT


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (5, 5)])
def test_an_integer_that_a_command_returns_is_its_exit_code(command, returned, code):
    """A command chooses its exit code by returning it; None is success."""
    assert cli.exit_code(command(lambda: returned)) == code


def test_a_reader_that_goes_away_is_no_error():
    """`ftslurm ... | head -1` prints one line and no traceback."""
    script = (
        "import click, sys; from ftslurm import cli\n"
        "probe = click.command('probe')(lambda: [click.echo('line ' * 10) for _ in range(100000)] and None)\n"
        "sys.modules['probe_module'] = sys.modules['__main__']\n"
        "cli.COMMANDS['probe'] = cli.Place('probe_module', 'probe', '')\n"
        "cli.main(['probe'])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("line")
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait(timeout=60) == 128 + signal.SIGPIPE
    assert err == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_that_asks_ftslurm(shell):
    """The completion script of each shell calls ftslurm with click's variable."""
    done = ftslurm("completion", shell)
    assert done.returncode == 0
    assert f"_FTSLURM_COMPLETE={shell}_complete" in done.stdout


def test_completion_completes_commands():
    """The Tab key after `ftslurm res` offers `resume`."""
    done = ftslurm(env={"_FTSLURM_COMPLETE": "bash_complete", "COMP_WORDS": "ftslurm res", "COMP_CWORD": "1"})
    assert done.stdout.strip() == "plain,resume"
