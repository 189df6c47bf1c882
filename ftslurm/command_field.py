"""The value of `command`: words, of which the first is a program; no shell of ours ever reads them."""

from __future__ import annotations

import shlex
from functools import partial
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BeforeValidator

from ftslurm.fields import as_written, list_to_tuple, without_control_characters


def _command(value: object) -> object:
    if not isinstance(value, str):
        return list_to_tuple(value)
    try:
        words = shlex.split(value)
    except ValueError:
        words = value.split()
    raise ValueError(f"expected a list of words, not one string; write {_flow_list(words)}")


def _flow_list(words: list[str]) -> str:
    """The words as YAML would hold them on one line."""
    import yaml

    return yaml.safe_dump(words, default_flow_style=True, width=10_000).strip()


def _not_empty(words: tuple[str, ...]) -> tuple[str, ...]:
    if not words or not words[0].strip():
        raise ValueError("must name at least the program, as in [python, train.py]")
    return words


_ARGUMENT = AfterValidator(partial(without_control_characters, legal="\t\n"))  # a program for `bash -c` has lines
Argument: TypeAlias = Annotated[str, BeforeValidator(as_written), _ARGUMENT]
Command: TypeAlias = Annotated[tuple[Argument, ...], BeforeValidator(_command), AfterValidator(_not_empty)]
