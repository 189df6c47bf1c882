"""The root of the command line: which commands there are, and what becomes of an error.

Rules: nothing heavy is imported here. The table below holds each command's place and its one-line help, so that
`ftslurm --help` imports no command at all. Help is `--help` only, because short options mean what they mean in Slurm
(`-h` is squeue's *no header*). Data goes to stdout, everything else to stderr.

A command ends in one of these ways, all turned into an exit code here and nowhere else: it returns (0) or returns an
integer (that code); it raises an `FtslurmError` (its `exit_code`); click refuses the call (2); Ctrl-C (130); the reader
of stdout went away (141, as the shell counts SIGPIPE); anything else is our bug (70).
"""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import click

from ftslurm import __version__
from ftslurm.errors import FtslurmError, InternalError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

DEBUG_VARIABLE = "FTSLURM_DEBUG"


class Place(NamedTuple):
    """Where a command is defined, and what the list of commands says about it."""

    module: str
    attribute: str
    summary: str


COMMANDS: dict[str, Place] = {
    "plan": Place("ftslurm.cli.plan", "plan", "Say what to expect of a run, before it is submitted."),
    "simulate": Place("ftslurm.cli.simulate", "simulate", "Simulate runs on a cluster of any size that fails."),
    "run": Place("ftslurm.cli.run", "run", "Supervise a command in this allocation; replaces the word srun."),
    "submit": Place("ftslurm.cli.submit", "submit", "Submit a run to Slurm from a YAML file."),
    "resume": Place("ftslurm.cli.resume", "resume", "Continue a run that ended, from its newest verified checkpoint."),
    "status": Place("ftslurm.cli.status", "status", "Show runs: phase, attempt, nodes, checkpoints."),
    "logs": Place("ftslurm.cli.logs", "logs", "Print what the ranks wrote."),
    "explain": Place("ftslurm.cli.explain", "explain", "Tell the story of a run: what happened, and why."),
    "report": Place("ftslurm.cli.report", "report", "Draw what happened to a run: a page, pictures, data."),
    "nodes": Place("ftslurm.cli.nodes", "nodes", "Show and forgive the nodes that runs have given up."),
    "stop": Place("ftslurm.cli.stop", "stop", "End a run, after a save if wanted, so that it can be resumed."),
    "cancel": Place("ftslurm.cli.cancel", "cancel", "End a run and its job."),
    "checkpoint": Place("ftslurm.cli.checkpoint", "checkpoint", "List, verify, tag, prune the checkpoints of a run."),
    "config": Place("ftslurm.cli.config", "config", "Check, show and describe configuration files."),
    "demo": Place("ftslurm.cli.demo", "demo", "Kill a rank of a small run on this cluster, and see it go on."),
    "inject": Place("ftslurm.cli.inject", "inject", "Break a run of your own on purpose, and undo it."),
    "doctor": Place("ftslurm.cli.doctor", "doctor", "Find what at this site would stop or weaken a run."),
    "lab": Place("ftslurm.cli.lab", "lab", "A real Slurm cluster on this machine, whose nodes can fail."),
    "campaign": Place("ftslurm.cli.campaign", "campaign", "Make many faults by a plan, and keep score."),
    "completion": Place("ftslurm.cli.completion", "completion", "Print the completion script for your shell."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, not when they are listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the table (the order of a run's life)."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command itself; this imports its module."""
        del ctx
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        command: click.Command = getattr(importlib.import_module(place.module), place.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table alone."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.summary) for name, place in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete names from the table alone: the Tab key must not wait for imports."""
        from click.shell_completion import CompletionItem

        names = [name for name in COMMANDS if name.startswith(incomplete)]
        items = [CompletionItem(name, help=COMMANDS[name].summary) for name in names]
        return [*items, *click.Command.shell_complete(self, ctx, incomplete)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's own, with a suggestion for a name that is nearly right."""
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in COMMANDS:
            ctx.fail(f"no such command '{name}'{_suggestion(name)}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; a reader of stdout that went away (`| head`) ends it quietly."""
        try:
            result: object = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            _discard_stdout()
            ctx.exit(128 + signal.SIGPIPE)
        return result


@click.group(
    cls=LazyGroup,
    invoke_without_command=False,
    context_settings={"help_option_names": ["--help"], "auto_envvar_prefix": "FTSLURM", "max_content_width": 120},
    epilog="Every command has examples: ftslurm COMMAND --help. Set FTSLURM_DEBUG=1 to see tracebacks.",
)
@click.version_option(__version__, prog_name="ftslurm", message="%(prog)s %(version)s")
def cli() -> None:
    """Keep a distributed training run alive on a Slurm cluster.

    Nodes die, hang or drop off the network: ftslurm notices within seconds, says why, leaves the bad node out and
    starts the training again from the newest checkpoint whose every byte it has verified.
    """


def main(argv: list[str] | None = None) -> NoReturn:
    """The console script: run the command line and leave with its exit code."""
    sys.exit(exit_code(argv))


def exit_code(argv: list[str] | None = None) -> int:
    """Run the command line; every way to end becomes a short text on stderr and a number."""
    try:
        result: Any = cli.main(args=argv, prog_name="ftslurm", standalone_mode=False)
    except FtslurmError as error:
        return _report(error)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        _print(shown.getvalue())
        return error.exit_code
    except click.Abort as error:
        # click turns both Ctrl-C and the end of input at a prompt into Abort.
        return 1 if isinstance(error.__cause__, EOFError) else 128 + signal.SIGINT
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:  # noqa: BLE001 - the one boundary where an unknown error becomes words and a code
        return _report(_as_bug(error))
    return result if isinstance(result, int) else 0


def _report(error: FtslurmError) -> int:
    """Print the message and the hint; the traceback only when asked for."""
    if os.environ.get(DEBUG_VARIABLE) == "1":
        import traceback

        traceback.print_exception(error)
    _print(f"ftslurm: error: {error}")
    if error.hint:
        _print(f"hint: {error.hint}")
    return error.exit_code


def _print(text: str) -> None:
    """Print lines on stderr; names in them do nothing to the terminal."""
    from ftslurm.insight.text import visible_lines

    click.echo("\n".join(visible_lines(text)), err=True)


def _as_bug(error: Exception) -> InternalError:
    """Our bug in one line, with the way to see more."""
    bug = InternalError(
        f"unexpected {type(error).__name__}: {error}",
        hint=f"this is a bug in ftslurm; the same command with {DEBUG_VARIABLE}=1 shows where it happened",
    )
    bug.__cause__ = error
    return bug


def _suggestion(name: str) -> str:
    """`; did you mean X?`, or nothing."""
    import difflib

    near = difflib.get_close_matches(name, COMMANDS, n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def _discard_stdout() -> None:
    """Send what is still buffered nowhere: the interpreter flushes once more on its way out."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, sys.stdout.fileno())
    finally:
        os.close(null)
