"""Pydantic's errors as sentences for the user, each with its place in the file.

Pydantic's `loc` names more than the keys of the document (the tags of unions, `[key]`): what is not in the document is
skipped. A value is never repeated where it may be a secret.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

from ftslurm.fields import kind_of, shown
from ftslurm.yamldoc import NOWHERE, Document, Path, Place, Problem

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

CROSS = "cross_field"

# Sections whose values are never echoed.
_PRIVATE = {("launch", "env")}


def explain(error: ValidationError, document: Document, model: type[BaseModel]) -> list[Problem]:
    """Every error as a problem with its place; several errors of one union become one."""
    found: dict[Path, Problem] = {}
    for detail in error.errors(include_url=False):
        if detail["type"] == CROSS:
            for path, message in detail["ctx"]["findings"]:
                found[(*path, message)] = Problem(place=document.place(path), path=path, message=message)
            continue
        path = _in_document(detail, document)
        problem = Problem(place=document.place(path), path=path, message=_sentence(detail, path, model))
        found.setdefault(path, problem)
    return list(found.values())


def _in_document(detail: ErrorDetails, document: Document) -> Path:
    """The part of `loc` that the document knows; a missing key is named although it is not there."""
    path: Path = ()
    for segment in detail["loc"]:
        if (*path, segment) in document.places:
            path = (*path, segment)
    return (*path, detail["loc"][-1]) if detail["type"] == "missing" else path


def _sentence(detail: ErrorDetails, path: Path, model: type[BaseModel]) -> str:
    value = detail["input"]
    private = any(path[: len(section)] == section for section in _PRIVATE)
    got = f"got {kind_of(value) if private else shown(value)}"
    context = detail.get("ctx", {})
    match detail["type"]:
        case "extra_forbidden":
            return f"unknown key{_did_you_mean(path, model)}"
        case "missing":
            return "required, but missing"
        case "value_error":
            return str(context["error"])
        case "int_type" | "int_from_float" | "int_parsing":
            return f"expected an integer, {got}"
        case "string_type":
            return f"expected text, {got}"
        case "tuple_type" | "list_type":
            return f"expected a list, {got}"
        case "model_type" | "dict_type" | "model_attributes_type":
            return f"expected a section (lines of `key: value`), {got}"
        case "literal_error":
            return f"expected {context['expected'].replace(chr(39), '')}, {got}{_nearest(value, context['expected'])}"
        case "greater_than_equal":
            return f"must be at least {context['ge']}, {got}"
        case "less_than_equal":
            return f"must be at most {context['le']}, {got}"
        case _:
            return detail["msg"][:1].lower() + detail["msg"][1:]


def _nearest(value: object, expected: str) -> str:
    near = difflib.get_close_matches(str(value), expected.replace("'", "").replace(" or ", ", ").split(", "), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _did_you_mean(path: Path, model: type[BaseModel]) -> str:
    """`; did you mean X?`: first a sibling, then the same key in another section, then anything like it."""
    key, section = str(path[-1]), path[:-1]
    known = list(known_keys(model))
    siblings = [p[-1] for p in known if p[:-1] == section]
    near = difflib.get_close_matches(key, siblings, n=1) or [
        s for s in siblings if s.startswith(key) or key.startswith(s)
    ]
    if near:
        return f"; did you mean {near[0]}?"
    elsewhere = [".".join(p) for p in known if p[-1] == key]
    if not elsewhere:
        similar = difflib.get_close_matches(key, [p[-1] for p in known], n=1, cutoff=0.75)
        elsewhere = [".".join(p) for p in known if p[-1] in similar]
    return f"; did you mean {elsewhere[0]}?" if elsewhere else ""


def known_keys(model: type[BaseModel], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every key that the model knows."""
    for name, info in model.model_fields.items():
        path = (*prefix, info.alias or name)
        yield path
        for part in (info.annotation, *get_args(info.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from known_keys(part, path)


def report(problems: Iterable[Problem], file: str) -> str:
    """All problems, in the order of the file: a headline, then `file:line:col: path: message` for each."""
    lines = [
        f"{_located(file, p.place)}: {f'{_dotted(p.path)}: ' if p.path else ''}{p.message}"
        for p in sorted(problems, key=lambda p: p.place)
    ]
    return "\n".join([f"{len(lines)} problem{'s' if len(lines) != 1 else ''} in {file}", *lines])


def _located(file: str, place: Place) -> str:
    return file if place == NOWHERE else f"{file}:{place.line}:{place.column}"


def _dotted(path: Path) -> str:
    """`launch.setup[2]`."""
    text = ""
    for segment in path:
        text += f"[{segment}]" if isinstance(segment, int) else f".{_printable(segment)}"
    return text.removeprefix(".")


def _printable(key: str) -> str:
    short = key if len(key) <= 60 else f"{key[:57]}..."
    return short if short.isprintable() else ascii(short)


def without(value: Mapping[str, Any], paths: Iterable[Path]) -> dict[str, Any]:
    """A copy without the keys that were wrong (a wrong list item takes its whole list away)."""
    wrong = {_up_to_index(path) for path in paths}

    def copy(section: Mapping[str, Any], prefix: Path) -> dict[str, Any]:
        return {
            key: copy(item, (*prefix, key)) if isinstance(item, dict) else item
            for key, item in section.items()
            if (*prefix, key) not in wrong
        }

    return copy(value, ())


def _up_to_index(path: Path) -> Path:
    for index, segment in enumerate(path):
        if isinstance(segment, int):
            return path[:index]
    return path
