"""What a user may hand on unchanged: options of sbatch, and environment variables of the ranks.

Rules: any option of sbatch passes, also one that a later release of Slurm invents; refused are those that ftslurm sets
itself, because two places for one thing would contradict each other sooner or later. sbatch accepts any unambiguous
beginning of a long option (getopt_long(3)), so a beginning of such an option is refused too.
"""

from __future__ import annotations

import re
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from ftslurm.fields import Text, kind_of, without_control_characters
from ftslurm.yamldoc import WrittenFloat, WrittenInt

_OURS = "ftslurm sets it itself"
# Long option of sbatch(1) -> the key that holds it here, or why it has no place in a file.
MODELLED: dict[str, str] = {
    "nodes": "set resources.nodes instead",
    "ntasks": "it follows from resources.nodes and resources.ranks_per_node",
    "ntasks-per-node": "set resources.ranks_per_node instead",
    "gpus-per-node": "set resources.gpus_per_node instead",
    "gpus": "set resources.gpus_per_node instead",
    "cpus-per-task": "set resources.cpus_per_rank instead",
    "time": "set resources.time instead",
    "partition": "set resources.partition instead",
    "job-name": "set name instead",
    "kill-on-bad-exit": _OURS,
    "no-kill": _OURS,
    "no-requeue": _OURS,
    "requeue": _OURS,
    "open-mode": _OURS,
    "signal": _OURS,
    "parsable": "give it to the command: ftslurm submit --parsable",
    "test-only": "give it to the command: ftslurm submit --test-only",
    "wait": "give it to the command: ftslurm submit --wait",
    "wrap": "set command instead",
    "help": "it is no option of a job",
    "usage": "it is no option of a job",
    "version": "it is no option of a job",
}
# The one-letter forms, for the message only: a file says the long name.
SHORT_OPTIONS = {
    "A": "account", "a": "array", "b": "begin", "C": "constraint", "c": "cpus-per-task", "D": "chdir",
    "d": "dependency", "e": "error", "G": "gpus", "H": "hold", "J": "job-name", "L": "licenses", "M": "clusters",
    "m": "distribution", "N": "nodes", "n": "ntasks", "o": "output", "p": "partition", "q": "qos", "t": "time",
    "w": "nodelist", "x": "exclude",
}  # fmt: skip

OptionScalar: TypeAlias = str | bool
OptionSetting: TypeAlias = OptionScalar | tuple[str, ...]

# Set for every attempt from the plan (or by Slurm): a fixed value would be wrong after the first relaunch.
_ATTEMPT_VARIABLES = frozenset({
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT",
    "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT",
})  # fmt: skip
SECRET_NAME = re.compile(r"TOKEN|KEY|SECRET|PASS|CREDENTIAL", re.IGNORECASE)
_ASSIGNMENT = re.compile(r"""([A-Za-z_][A-Za-z0-9_]*)=("[^"]*"|'[^']*'|[^\s,;]+)""")
HIDDEN = "***"


def _option_name(name: str) -> str:
    plain = name.lstrip("-")
    if name != plain and plain:
        raise ValueError(f"write the option without dashes: {SHORT_OPTIONS.get(plain, plain)}")
    if name in SHORT_OPTIONS:
        raise ValueError(f"write the long name: {SHORT_OPTIONS[name]}")
    if "_" in name:
        raise ValueError(f"sbatch has no such option; did you mean {name.replace('_', '-')}?")
    if not re.fullmatch(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*", name):
        raise ValueError("not the name of an sbatch option (lower-case letters, digits and '-')")
    owner = MODELLED.get(name)
    if owner is not None:
        raise ValueError(f"sbatch's --{name} does not belong here: {owner}")
    longer = next((known for known in MODELLED if known.startswith(name)), None)
    if longer is not None:
        raise ValueError(f"sbatch could read it as --{longer}, which does not belong here: {MODELLED[longer]}")
    return name


def _option_setting(value: object) -> OptionSetting:
    if isinstance(value, bool):
        return value
    if isinstance(value, list | tuple):
        if not value:
            raise ValueError("expected at least one value")
        return tuple(_option_text(item) for item in value)
    return _option_text(value)


def _option_text(value: object) -> str:
    if isinstance(value, WrittenInt | WrittenFloat):
        value = value.text
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError(f"expected text, a number, true or a list of these, got {kind_of(value)}")  # noqa: TRY004 - pydantic collects ValueErrors only
    if not value or "\t" in value:
        raise ValueError("must not be empty or hold a tab")
    return without_control_characters(value)


def _variable_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError("not the name of an environment variable (letters, digits and '_')")
    if name in _ATTEMPT_VARIABLES or name.startswith("FTSLURM_"):
        raise ValueError("ftslurm sets this variable itself, for every attempt anew")
    return name


def is_secret(name: str) -> bool:
    """Whether the value of a variable of this name must not be shown."""
    return SECRET_NAME.search(name) is not None


def hide_assignments(text: str) -> str:
    """The text with the value of every `NAME=value` hidden whose name says that it is a secret."""
    return _ASSIGNMENT.sub(lambda match: f"{match[1]}={HIDDEN}" if is_secret(match[1]) else match[0], text)


OptionName: TypeAlias = Annotated[str, AfterValidator(_option_name)]
OptionValue: TypeAlias = Annotated[
    OptionSetting,
    BeforeValidator(_option_setting),
    WithJsonSchema({"type": ["string", "number", "boolean", "array"], "items": {"type": ["string", "number"]}}),
]
SbatchOptions: TypeAlias = Annotated[dict[OptionName, OptionValue], Field(max_length=200)]
VariableName: TypeAlias = Annotated[str, AfterValidator(_variable_name)]
Variables: TypeAlias = Annotated[dict[VariableName, Text], Field(max_length=1000)]
