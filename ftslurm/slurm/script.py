"""From a request to the batch script and to sbatch's command line.

A value that a user wrote must arrive byte for byte or be refused, and never be executed. Three readers could spoil it:

- *bash*: everything in the body goes through `shlex.quote`. Modules, set-up lines and the command itself are not here
  at all: they belong to the ranks and travel in the run's folder; this shell only starts ftslurm.
- *sbatch's reader of directives*: it has rules of its own (quotes group, a backslash escapes, an unescaped `#` ends
  the line) that are not bash's and have changed between releases. So nothing is quoted there: an option becomes a
  directive only if it consists of characters that no release treats specially, and is one word then by any rule. Every
  other option goes to sbatch's command line as one element of argv, where nobody parses it.
- *Slurm itself*: `%` in the output's path is a pattern (written `%%` for itself), a backslash there is dropped.

Control characters are refused everywhere: a newline could begin another directive, a carriage return makes sbatch
refuse the script, an escape sequence would act on the terminal of whoever reads it.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ftslurm import paths
from ftslurm.errors import UsageError
from ftslurm.quantities import format_slurm_time
from ftslurm.slurm import nodeset

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

TEMPLATE = "job.sbatch.j2"
MAX_VALUE_BYTES = 65_536
"""Half of what Linux takes as one argument (MAX_ARG_STRLEN): beyond it bash could not start the run."""

MAX_ALL_BYTES = 524_288
MAX_SLURM_TEXT_BYTES = 1024
"""slurmctld refuses longer names and comments."""

_DIRECTIVE = re.compile(r"--[a-z][a-z0-9-]*(=[A-Za-z0-9_.,:/@%+=\[\]-]*)?", re.ASCII)
_OPTION = re.compile(r"[a-z][a-z0-9-]{1,60}", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_PATTERN = re.compile(r"%(?:%|[0-9]{0,2}[AaJjNnstuxb])", re.ASCII)
_MODELLED = frozenset(
    {
        "comment", "cpus-per-task", "error", "exclude", "gpus-per-node", "input", "job-name", "no-kill", "no-requeue",
        "nodes", "ntasks", "ntasks-per-node", "open-mode", "output", "partition", "requeue", "signal",
        "tasks-per-node", "time",
    }
)  # fmt: skip
"""Options that the run's own settings stand for; a second opinion in the pass-through would break its plans."""

_CHANGES_SBATCH = frozenset({"help", "parsable", "quiet", "test-only", "usage", "verbose", "version", "wait", "wrap"})
"""Options that change what sbatch does or prints, not the job."""

OptionValue = str | Literal[True]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """One job to submit.

    `min_nodes` to `max_nodes` is what may be allocated. `time_s` is rounded up to a second; None is the partition's
    default. `requeue` None leaves that to the site. `signal_lead_s` is how long before the limit Slurm warns (it may be
    60 s earlier). `output` is a pattern of sbatch's, inside `run_dir`; None is `slurm-%j.out` there. `options` passes
    anything else to sbatch: (long name, value), True for a bare flag, a name may repeat. `exports` are variables for
    ftslurm's own processes. `argv` is the interpreter by absolute path and its arguments.
    """

    name: str
    run_dir: str
    argv: tuple[str, ...]
    min_nodes: int
    max_nodes: int
    ntasks: int | None = None
    ranks_per_node: int | None = None
    cpus_per_rank: int | None = None
    gpus_per_node: int | None = None
    time_s: float | None = None
    partition: str | None = None
    output: str | None = None
    signal_lead_s: int = 120
    requeue: bool | None = True
    exclude: tuple[str, ...] = ()
    comment: str = ""
    options: tuple[tuple[str, OptionValue], ...] = ()
    exports: Mapping[str, str] = field(default_factory=dict)


def render(request: JobRequest) -> str:
    """The batch script.

    Raises:
        UsageError: a value cannot be passed on safely; all such values are in the message.
    """
    import jinja2

    _check(request)
    options = _options(request)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(paths.templates()),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 - not HTML; every value goes through `quote` or the allow-list of directives
    )
    environment.filters["quote"] = shlex.quote
    return environment.get_template(TEMPLATE).render(
        directives=[option for option in options if _DIRECTIVE.fullmatch(option)],
        elsewhere=[option.partition("=")[0] for option in sbatch_argv(request)],
        exports=sorted(request.exports.items()),
        argv=request.argv,
    )


def sbatch_argv(request: JobRequest) -> list[str]:
    """The options that must stand on sbatch's command line, before the script's name.

    Raises:
        UsageError: as for `render`.
    """
    _check(request)
    return [option for option in _options(request) if not _DIRECTIVE.fullmatch(option)]


def literal_pattern(path: str) -> str:
    """`path` as a pattern of sbatch's that means just this path.

    Raises:
        UsageError: it holds a backslash, which Slurm drops.
    """
    if "\\" in path:
        raise UsageError(f"Slurm cannot write to a path with a backslash: {path[:200]!r}")
    return path.replace("%", "%%")


def options_from_argv(argv: Sequence[str]) -> tuple[tuple[str, OptionValue], ...]:
    """Options from a command line (`--qos=high --exclusive`) for the pass-through.

    Raises:
        UsageError: a word is not of the form --name or --name=value.
    """
    pairs: list[tuple[str, OptionValue]] = []
    for word in argv:
        name, separator, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not _OPTION.fullmatch(name):
            raise UsageError(f"{word[:80]!r} is not an option for sbatch", hint="write --name=value or --name")
        pairs.append((name, value if separator else True))
    return tuple(pairs)


def _options(request: JobRequest) -> list[str]:
    """Every option, as one word each."""
    nodes = str(request.min_nodes)
    if request.max_nodes != request.min_nodes:
        nodes = f"{nodes}-{request.max_nodes}"
    output = literal_pattern(request.run_dir) + "/slurm-%j.out" if request.output is None else request.output
    wanted: tuple[tuple[str, object], ...] = (
        ("job-name", request.name),
        ("nodes", nodes),
        ("ntasks", request.ntasks),
        ("ntasks-per-node", request.ranks_per_node),
        ("cpus-per-task", request.cpus_per_rank),
        ("gpus-per-node", request.gpus_per_node),
        ("time", None if request.time_s is None else format_slurm_time(request.time_s)),
        ("partition", request.partition),
        ("exclude", nodeset.fold(request.exclude) or None),
        ("comment", request.comment or None),
        ("output", output),
        ("open-mode", "append"),
        ("signal", f"B:USR2@{request.signal_lead_s}"),
        ("no-kill", True),
        *((("requeue" if request.requeue else "no-requeue", True),) if request.requeue is not None else ()),
        *request.options,
    )
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in wanted if value is not None]


def _check(request: JobRequest) -> None:
    """Refuse what cannot be passed on, everything in one message."""
    problems = [*_bad_numbers(request), *_bad_texts(request), *_bad_options(request)]
    if not problems:
        problems = list(_bad_output(request))
    if problems:
        raise UsageError("the job cannot be submitted as asked: " + "; ".join(problems))


def _bad_numbers(request: JobRequest) -> Iterator[str]:
    if not 1 <= request.min_nodes <= request.max_nodes <= nodeset.MAX_NODES:
        yield f"nodes from {request.min_nodes} to {request.max_nodes} is not a range"
    counts = {
        "ntasks": request.ntasks,
        "ranks_per_node": request.ranks_per_node,
        "cpus_per_rank": request.cpus_per_rank,
    }
    for name, count in counts.items():
        if count is not None and not 1 <= count < 2**31:
            yield f"{name} {count} is out of range"
    if request.gpus_per_node is not None and not 0 <= request.gpus_per_node < 2**31:
        yield f"gpus_per_node {request.gpus_per_node} is out of range"
    if request.time_s is not None and not 0 < request.time_s < 2**31 * 60:
        yield f"a time limit of {request.time_s} s is out of range"
    if not 1 <= request.signal_lead_s <= 65_535:
        yield f"a signal {request.signal_lead_s} s before the limit is out of range"


def _bad_texts(request: JobRequest) -> Iterator[str]:
    """Everything that a user or a site may have put in, by the name under which to find it again."""
    texts: list[tuple[str, str]] = [("name", request.name), ("run_dir", request.run_dir), ("comment", request.comment)]
    texts += [("partition", request.partition or ""), ("output", request.output or "")]
    texts += [(f"option --{name}", value) for name, value in request.options if isinstance(value, str)]
    texts += [(f"variable {name}", value) for name, value in request.exports.items()]
    texts += [(f"argument {number} of the run", value) for number, value in enumerate(request.argv)]
    for where, text in texts:
        yield from (f"{where} {problem}" for problem in _bad_text(text))
    for where, text in (("name", request.name), ("comment", request.comment), ("partition", request.partition or "")):
        if len(text.encode("utf-8", "replace")) > MAX_SLURM_TEXT_BYTES:
            yield f"{where} has more than {MAX_SLURM_TEXT_BYTES} bytes"
    if sum(len(text) for _, text in texts) > MAX_ALL_BYTES:
        yield f"all values together have more than {MAX_ALL_BYTES} characters"
    if not request.name:
        yield "name is empty"
    if not request.argv or not request.argv[0].startswith("/"):
        yield "the run's interpreter must be given by absolute path"
    yield from (f"{name!r} is not a variable's name" for name in request.exports if not _VARIABLE.fullmatch(name))


def _bad_text(text: str) -> Iterator[str]:
    for character in text:
        if unicodedata.category(character) == "Cc":
            yield f"has the control character {character!r}"
            return
    try:
        size = len(text.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError as error:
        yield f"cannot be encoded: {error.reason}"
        return
    if size > MAX_VALUE_BYTES:
        yield f"has {size} bytes, more than {MAX_VALUE_BYTES}"


def _bad_options(request: JobRequest) -> Iterator[str]:
    """Pass-through options that collide; sbatch takes unambiguous beginnings of a name for the name."""
    for name, value in request.options:
        modelled = sorted(known for known in _MODELLED if known.startswith(name))
        if not _OPTION.fullmatch(name):
            yield f"{name[:60]!r} is not the long name of an option for sbatch"
        elif modelled:
            yield f"option --{name} is set by the run itself (--{modelled[0]}): use the setting for it"
        elif any(known.startswith(name) for known in _CHANGES_SBATCH):
            yield f"option --{name} changes what sbatch does and cannot be passed through"
        elif value is not True and not isinstance(value, str):
            yield f"option --{name} must be a text or true"
    for node in request.exclude:
        try:
            nodeset.check_name(node)
        except UsageError as error:
            yield f"exclude: {error}"


def _bad_output(request: JobRequest) -> Iterator[str]:
    """The output's path is opened by Slurm, outside any wrapper's control: it stays inside the run's folder."""
    if not request.run_dir.startswith("/") or ".." in request.run_dir.split("/"):
        yield f"run_dir {request.run_dir[:200]!r} is not an absolute path"
    elif "\\" in request.run_dir or "\\" in (request.output or ""):
        yield "the path of the run's folder or of the output has a backslash, which Slurm drops"
    elif request.output is not None:
        if not request.output.startswith(literal_pattern(request.run_dir) + "/") or ".." in request.output.split("/"):
            yield f"output {request.output[:200]!r} is not inside the run's folder"
        if "%" in _PATTERN.sub("", request.output):
            yield f"output {request.output[:200]!r} has a `%` that is no pattern of sbatch's (write %% for itself)"
