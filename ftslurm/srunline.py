"""Reads the part of a command line that would have been srun's: options, counts, and where the command begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ftslurm.errors import UsageError

OWN_WITH_VALUE = frozenset(
    {
        "--checkpoint-files",
        "--checkpoint-layout",
        "--checkpoints",
        "--config",
        "--resume-args",
        "--resumed",
        "--run-dir",
        "--run-name",
        "--run-root",
    }
)
OWN_FLAGS = frozenset({"--chain", "--help", "--dry-run"})

_SHORT_FLAGS = frozenset("EHhklOQsuvVXZ")
_LONG_FLAGS = frozenset(
    {
        "contiguous",
        "disable-status",
        "exact",
        "exclusive",
        "help",
        "hold",
        "kill-on-bad-exit",
        "label",
        "multi-prog",
        "no-allocate",
        "no-kill",
        "overcommit",
        "overlap",
        "oversubscribe",
        "preserve-env",
        "pty",
        "quiet",
        "quit-on-interrupt",
        "reboot",
        "spread-job",
        "test-only",
        "unbuffered",
        "usage",
        "use-min-nodes",
        "verbose",
        "version",
        "whole",
    }
)
_LONG_OF_SHORT = {
    "N": "nodes",
    "n": "ntasks",
    "c": "cpus-per-task",
    "G": "gpus",
    "J": "job-name",
    "K": "kill-on-bad-exit",
    "W": "wait",
    "k": "no-kill",
    "o": "output",
    "e": "error",
    "i": "input",
    "w": "nodelist",
    "x": "exclude",
    "r": "relative",
    "F": "nodefile",
}
_COUNTS = {"nodes", "ntasks", "ntasks-per-node", "cpus-per-task", "gpus-per-node", "gpus"}
_SET_BY_US = {
    "output": "ranks write to the run's folder: `ftslurm logs`",
    "error": "ranks write to the run's folder: `ftslurm logs`",
    "input": "ranks have no standard input",
    "pty": "ranks have no terminal",
    "multi-prog": "all ranks run one command",
    "nodelist": "the plan chooses the nodes",
    "exclude": "the plan chooses the nodes",
    "relative": "the plan chooses the nodes",
    "nodefile": "the plan chooses the nodes",
}
_IGNORED = frozenset({"kill-on-bad-exit", "wait", "no-kill", "overlap", "label", "unbuffered"})
"""srun's answers to a failing rank; here the supervisor answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SrunLine:
    """What a user would have given to srun. Counts that were not given are None."""

    command: tuple[str, ...]
    options: tuple[str, ...] = ()
    nodes: int | None = None
    ntasks: int | None = None
    ntasks_per_node: int | None = None
    cpus_per_task: int | None = None
    gpus_per_node: int | None = None
    gpus: int | None = None
    job_name: str = ""
    mpi: str = ""


def split_own(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split ftslurm's own options, wherever they stand before the command, from srun's line."""
    own: list[str] = []
    rest: list[str] = []
    words = list(args)
    while words:
        word = words.pop(0)
        name, separator, _ = word.partition("=")
        if word == "--" or not word.startswith("-"):
            return own, [*rest, word, *words]
        if name in OWN_WITH_VALUE:
            own += [word] if separator else [word, *words[:1]]
            words = words if separator else words[1:]
        elif word in OWN_FLAGS:
            own.append(word)
        else:
            rest.append(word)
            if _wants_value(word) and words:
                rest.append(words.pop(0))
    return own, rest


def _wants_value(word: str) -> bool:
    """Tell whether srun takes the next word for the value of this option."""
    if word.startswith("--"):
        return "=" not in word and word[2:] not in _LONG_FLAGS
    return len(word) == 2 and word[1] not in _SHORT_FLAGS and word[1] != "K"


def parse(words: Sequence[str]) -> SrunLine:
    """Read srun's line.

    Raises:
        UsageError: an option that contradicts supervision, a count that is none.
    """
    left = list(words)
    options: list[str] = []
    counts: dict[str, int] = {}
    named: dict[str, str] = {}
    while left and left[0].startswith("-") and left[0] != "--":
        word = left.pop(0)
        value = left.pop(0) if _wants_value(word) and left else None
        name, text = _name_and_value(word, value)
        if name in _SET_BY_US:
            raise UsageError(_refusal(name))
        if name in _COUNTS:
            counts[name] = _count(name, text)
        elif name in ("mpi", "job-name"):
            named[name] = text
        elif name not in _IGNORED:
            options += [word] if value is None else [word, value]
    command = tuple(left[1:] if left[:1] == ["--"] else left)
    return SrunLine(
        command=command,
        options=tuple(options),
        nodes=counts.get("nodes"),
        ntasks=counts.get("ntasks"),
        ntasks_per_node=counts.get("ntasks-per-node"),
        cpus_per_task=counts.get("cpus-per-task"),
        gpus_per_node=counts.get("gpus-per-node"),
        gpus=counts.get("gpus"),
        job_name=named.get("job-name", ""),
        mpi=named.get("mpi", ""),
    )


def options_only(words: Sequence[str]) -> list[str]:
    """Return the words of srun's line before the command."""
    left, found = list(words), []
    while left and left[0].startswith("-") and left[0] != "--":
        found.append(left.pop(0))
        if _wants_value(found[-1]) and left:
            found.append(left.pop(0))
    return found


def kills_on_failure(options: Sequence[str]) -> bool:
    """Tell whether srun is asked to end the step with its first failed rank."""
    named = (_name_and_value(word, None) for word in options if word.startswith("-"))
    return any(name == "kill-on-bad-exit" and value != "0" for name, value in named)


def refusals(words: Sequence[str]) -> list[str]:
    """Return why options of srun that a configuration asks for cannot be used, one sentence each."""
    left = list(words)
    found = []
    while left:
        word = left.pop(0)
        if not word.startswith("-") or word in ("-", "--"):
            continue
        value = left.pop(0) if _wants_value(word) and left else None
        name, _ = _name_and_value(word, value)
        found += [_refusal(name)] if name in _SET_BY_US else []
    return found


def _refusal(name: str) -> str:
    return f"srun's option --{name} cannot be used here: {_SET_BY_US[name]}"


def _name_and_value(word: str, value: str | None) -> tuple[str, str]:
    if word.startswith("--"):
        name, _, text = word[2:].partition("=")
        return name, value if value is not None else text
    return _LONG_OF_SHORT.get(word[1], word[1]), value if value is not None else word[2:]


def _count(name: str, text: str) -> int:
    # `-N 2-4` and `--gpus-per-node=a100:4` are legal for srun; the first number of a range, the last of a type.
    digits = text.rpartition(":")[2].partition("-")[0]
    if not digits.isascii() or not digits.isdigit() or not 0 < len(digits) < 7:
        raise UsageError(f"srun's option --{name} has the value {text!r}, which is not a number")
    return int(digits)
