"""`ftslurm submit --from`: what a user's own batch script asks for, what survival adds, and what contradicts it.

Rules: the file goes to sbatch untouched, and everything that is added stands on sbatch's command line or in its
environment. Bash is not parsed: beyond the `#SBATCH` lines only single lines of text are looked at, for words that are
known to contradict. What cannot work is refused with its line; what may be meant is only said.

No `--signal=B:` is added: it goes to the batch shell alone, which dies of it where the script has no trap for it, and
the job with it. The supervisor watches the clock instead (`runtime.limit`).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ftslurm import config, srunline, yamldoc
from ftslurm.errors import FtslurmError, UsageError
from ftslurm.slurm import directives, nodeset
from ftslurm.slurm.directives import Directives, Option, asked

_RUN = re.compile(r"(?<![\w.-])ftslurm\s+run(?=\s|$)")
_SRUN = re.compile(r"(?<![\w.-])srun(?=\s)")
_ENDS_CALL = re.compile(r"&&|\|\|?|;")
_BACKGROUND = re.compile(r"(?<![&>|<])&\s*(?:#.*)?$")
_WAITS = re.compile(r"^\s*wait\b|[;&|]\s*wait\b", re.MULTILINE)
_REQUEUES = re.compile(r"\bscontrol\s+requeue(?:hold)?\b")
_SBATCH = "SBATCH_"
_ENVIRONMENT = {
    "EXPORT": "export", "NO_KILL": "no-kill", "NO_REQUEUE": "no-requeue", "OPEN_MODE": "open-mode",
    "PARTITION": "partition", "REQUEUE": "requeue",
}  # fmt: skip
"""Of the variables that sbatch reads as options those that matter here; their values go on to sbatch as they are."""

_NOT_HERE = {
    "help": "", "parsable": "--parsable", "test-only": "--test-only", "usage": "", "version": "", "wait": "--wait",
    "wrap": "",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Addition:
    """An option on sbatch's command line that the user has not written, and why."""

    option: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What there is to say about a script, and what is added to it."""

    additions: tuple[Addition, ...]
    notes: tuple[str, ...]
    options: tuple[Option, ...]

    def value(self, name: str) -> str | None:
        """Return what the user asks for by an option; None without it."""
        found = asked(name, self.options)
        return found.value if found else None

    @property
    def most_nodes(self) -> int:
        """How many nodes the job wants at most; one where it does not say so in numbers."""
        text = (self.value("nodes") or "1").rpartition("-")[2]
        return int(text) if text.isascii() and text.isdigit() and 0 < len(text) < 7 else 1

    @property
    def excluded(self) -> tuple[str, ...]:
        """The nodes that the user leaves out."""
        text = self.value("exclude")
        return nodeset.expand(text) if text else ()


def examine(
    text: str, given: Sequence[str], environ: Mapping[str, str], exported: Sequence[str], folder: Path
) -> Examined:
    """Look at a script and at the options beside it.

    Args:
        text: the script.
        given: the user's own words for sbatch's command line, which beat the file's directives.
        environ: where sbatch would find options, too.
        exported: names of the variables that have to reach the job.
        folder: where the script runs, so that the files it names are found.

    Raises:
        UsageError: something contradicts survival; all of it in one message.
    """
    there = directives.read(text)
    line, outside = directives.options_of(given), _of_environment(environ)
    sources = (tuple(line), outside, there.options)
    requeues = _may_ask_for_requeues(text, folder)
    problems = [*_contradictions(there, given, sources), *_contradictions_in_text(text)]
    problems += _without_requeue(sources) if requeues else []
    if problems:
        raise UsageError("the script cannot be made survivable as it is: " + "; ".join(problems))
    everything = (*there.options, *outside, *line)
    notes = (*_notes_on_options(sources, text), *_notes_on_text(text))
    additions = tuple(_additions(sources, exported, requeues=requeues))
    return Examined(additions=additions, notes=notes, options=everything)


def _of_environment(environ: Mapping[str, str]) -> tuple[Option, ...]:
    found = ((name, environ.get(_SBATCH + variable)) for variable, name in _ENVIRONMENT.items())
    return tuple(Option(name, value or None) for name, value in found if value is not None)


def _at(option: Option) -> str:
    return f"line {option.line}" if option.line else "an option beside the script"


# ------------------------------------------------------------------------------------------------------- what is added


def _additions(sources: Sequence[Sequence[Option]], exported: Sequence[str], *, requeues: bool) -> Iterator[Addition]:
    if asked("no-kill", *sources) is None:
        yield Addition("--no-kill", "the job outlives a lost node")
    if requeues and asked("requeue", *sources) is None:
        yield Addition("--requeue", "a job that has too few nodes left may go back to the queue")
    if asked("open-mode", *sources) is None:
        yield Addition("--open-mode=append", "a requeue does not empty the output file")
    export = asked("export", *sources)
    names = [] if export is None else (export.value or "").split(",")
    if export is not None and "ALL" not in names:
        kept = [name for name in names if name and name != "NONE"]
        missing = [name for name in exported if name not in {each.partition("=")[0] for each in kept}]
        yield Addition(f"--export={','.join([*kept, *missing])}", "as you wrote it, and what `ftslurm run` has to know")


def _notes_on_options(sources: Sequence[Sequence[Option]], text: str) -> Iterator[str]:
    mode = asked("open-mode", *sources)
    if mode is not None and (mode.value or "").startswith("t"):
        yield f"{_at(mode)}: --open-mode={mode.value}: a requeue empties the job's output file"
    array = asked("array", *sources)
    if array is not None and not any("--chain" in call for _, line in _lines_of(text) for call in _calls(_RUN, line)):
        yield f"{_at(array)}: --array: every task is a run of its own"


# ------------------------------------------------------------------------------------------------ what is contradictory


def _contradictions(there: Directives, given: Sequence[str], sources: Sequence[Sequence[Option]]) -> Iterator[str]:
    if there.hetjob_line:
        yield f"line {there.hetjob_line}: a heterogeneous job has several allocations, and a run has one"
    if ":" in given:
        yield "`:` asks for a heterogeneous job, which has several allocations, and a run has one"
    kill = asked("no-kill", *sources)
    if kill is not None and (kill.value or "").lower() in ("off", "no"):
        yield f"{_at(kill)}: --no-kill={kill.value}: Slurm would end the job with its first lost node; take it out"
    export, file = asked("export", *sources), asked("export-file", *sources)
    if export is not None and (export.value or "").upper() == "NIL":
        yield f"{_at(export)}: --export=NIL lets nothing through that `ftslurm run` has to know; --export=NONE does"
    if file is not None:
        yield f"{_at(file)}: --export-file lets nothing else through that `ftslurm run` has to know; use --export"
    yield from _not_here(sources)


def _without_requeue(sources: Sequence[Sequence[Option]]) -> Iterator[str]:
    for source in sources:
        last = next((each for each in reversed(source) if each.name in ("requeue", "no-requeue")), None)
        if last is not None:
            if last.name == "no-requeue":
                yield (
                    f"{_at(last)}: --no-requeue: a run that has too few nodes left could never go on; take it out, or "
                    "name a file by `ftslurm run --config` that says recovery: {continue: resubmit}"
                )
            return


def _may_ask_for_requeues(text: str, folder: Path) -> bool:
    """Whether a run of the script may ask Slurm for a requeue: unless each of them says that it goes on otherwise."""
    calls = [call for _, line in _lines_of(text) for call in _calls(_RUN, line)]
    return not calls or any(_way_on(call, folder) not in ("resubmit", "none", "chain") for call in calls)


def _way_on(call: str, folder: Path) -> str:
    """How the run of a call goes on, as far as its own options and a file that they name say so; empty: unknown."""
    try:
        own, _ = srunline.split_own(shlex.split(call, comments=True))
    except ValueError:  # a quote that ends in another line
        return ""
    if "--chain" in own:
        return "chain"
    pairs = zip(own, [*own[1:], ""], strict=False)
    files = [word.partition("=")[2] or after for word, after in pairs if word.partition("=")[0] == "--config"]
    try:
        told = yamldoc.read(config.text_of(folder / files[-1])).value if files else None
    except FtslurmError:  # a name that the shell makes, or a file that comes to be in the job
        return ""
    recovery = told.get("recovery") if isinstance(told, dict) else None
    return str(recovery.get("continue", "")) if isinstance(recovery, dict) else ""


def _not_here(sources: Sequence[Sequence[Option]]) -> Iterator[str]:
    for option in (each for source in sources for each in source):
        if option.name in _NOT_HERE and not (option.line and option.name == "parsable"):
            better = _NOT_HERE[option.name]
            instead = f"; use `ftslurm submit {better}`" if better else ""
            yield f"{_at(option)}: --{option.name} changes what sbatch does, not the job{instead}"


def _contradictions_in_text(text: str) -> Iterator[str]:
    for number, line in _lines_of(text):
        for call in _calls(_SRUN, line):
            if srunline.kills_on_failure(_options_of_call(call)):
                yield (
                    f"line {number}: srun --kill-on-bad-exit: Slurm would end the whole step with its first failed "
                    "rank; write `ftslurm run` for srun, or take the option out"
                )
        for call in _calls(_RUN, line):
            yield from (f"line {number}: {reason}" for reason in srunline.refusals(_options_of_call(call)))


def _options_of_call(call: str) -> list[str]:
    """The words of srun's options in a call, as far as a single line shows them."""
    try:
        words = shlex.split(call, comments=True)
    except ValueError:  # a quote that ends in another line
        words = call.split()
    _, rest = srunline.split_own(words)
    return srunline.options_only(rest)


def _notes_on_text(text: str) -> Iterator[str]:
    found = list(_lines_of(text))
    runs = [(number, call) for number, line in found for call in _calls(_RUN, line)]
    if not runs:
        yield _never_called(found)
    for number, call in runs:
        if srunline.kills_on_failure(_options_of_call(call)):
            yield f"line {number}: --kill-on-bad-exit is ignored: `ftslurm run` decides what follows a failed rank"
    for number, line in found:
        if _RUN.search(line) and _BACKGROUND.search(line) and not _WAITS.search(text):
            yield f"line {number}: `ftslurm run` is in the background and nothing waits for it: its job ends at once"
        if _REQUEUES.search(line):
            yield f"line {number}: the run asks for its requeues itself; a second one begins again what has just ended"


def _never_called(found: Sequence[tuple[int, str]]) -> str:
    calls = [number for number, line in found if _SRUN.search(line)]
    where = f" (line {', '.join(map(str, calls))})" if calls else ""
    return (
        "WARNING: the script does not call `ftslurm run`, so nothing in it survives a failure: "
        f"write `ftslurm run` for the word srun{where}"
    )


def _calls(command: re.Pattern[str], line: str) -> list[str]:
    """What follows each call of a command in a line, up to where the shell's next command may begin."""
    ends = [match.end() for match in command.finditer(line)]
    return [_ENDS_CALL.split(line[end:], maxsplit=1)[0] for end in ends]


def _lines_of(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are no comments, with their numbers; lines that a backslash joins are one."""
    begun, whole = 0, ""
    for number, line in enumerate(text.split("\n"), start=1):
        if not whole and line.lstrip().startswith("#"):
            continue
        begun = begun or number
        if line.endswith("\\"):
            whole += line[:-1] + " "
            continue
        yield begun, whole + line
        begun, whole = 0, ""
    if whole:
        yield begun, whole
