"""The kinds of values that a configuration may hold, each with its check and its way back to text.

Rules: whatever reaches a shell script or Slurm may hold no control character (a newline would start a new line of the
script); every other character is legal here and is quoted where the script is written. Where text is expected, a number
is taken exactly as it was written (`lr: 1e-3` stays `1e-3`). Errors are sentences for the user, raised as ValueError.
"""

from __future__ import annotations

import re
import unicodedata
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema

from ftslurm.core.health import METRICS
from ftslurm.quantities import (
    DURATION_PATTERN,
    RATE_PATTERN,
    SLURM_TIME_PATTERN,
    format_duration,
    format_rate,
    format_slurm_time,
    parse_duration,
    parse_rate,
    parse_slurm_time,
)
from ftslurm.yamldoc import WrittenFloat, WrittenInt

MAX_NODES = 100_000
MAX_TIME_S = 3650 * 86400.0

# --- text -------------------------------------------------------------------------------------------------------------


def as_written(value: object) -> object:
    """A number where text is expected is the text that was written."""
    if isinstance(value, WrittenInt | WrittenFloat):
        return value.text
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, bool):
        raise ValueError(f"expected text; if you mean the word, put it in quotes: '{str(value).lower()}'")  # noqa: TRY004 - pydantic collects ValueErrors only
    return value


def without_control_characters(text: str, legal: str = "\t") -> str:
    """The text itself; refused when it holds a control character that is not legal, or half of a surrogate pair."""
    for character in text:
        if character not in legal and unicodedata.category(character) in ("Cc", "Cs"):
            name = {"\n": "a newline", "\r": "a carriage return", "\0": "a NUL character"}.get(character)
            what = name or f"the control character U+{ord(character):04X}"
            hint = "; write one list item per line" if character == "\n" else ""
            raise ValueError(f"must not hold {what}{hint}")
    return text


def _one_word_or_more(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    if "\t" in text:
        raise ValueError("must not hold a tab")
    return text


def list_to_tuple(value: object) -> object:
    """A list as the tuple that a frozen model holds; anything else as it is."""
    return tuple(value) if isinstance(value, list) else value


Text: TypeAlias = Annotated[str, BeforeValidator(as_written), AfterValidator(without_control_characters)]
Line: TypeAlias = Annotated[Text, AfterValidator(_one_word_or_more)]
Texts: TypeAlias = Annotated[tuple[Text, ...], BeforeValidator(list_to_tuple)]
Lines: TypeAlias = Annotated[tuple[Line, ...], BeforeValidator(list_to_tuple)]


def matching(pattern: str, meaning: str) -> AfterValidator:
    """A check that the whole text matches `pattern`; `meaning` completes *must be ...*."""
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(f"must be {meaning}")
        return text

    return AfterValidator(check)


Name: TypeAlias = Annotated[
    Line,
    matching(
        r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", "1 to 63 letters, digits, '.', '_' or '-', not starting with '.' or '-'"
    ),
]
_INTERFACE = r"[A-Za-z0-9_.:@-]{1,15}|[A-Za-z0-9.-]{0,100}\{host\}[A-Za-z0-9.-]{0,100}"
Interface: TypeAlias = Annotated[
    Line, matching(_INTERFACE, "auto, the name of a network interface, or a rule for names such as '{host}i'")
]
Word: TypeAlias = Annotated[Line, matching(r"[A-Za-z0-9_.-]+", "letters, digits, '_', '.' or '-'")]


def _absolute(text: str) -> str:
    if not text.startswith(("/", "~/")):
        raise ValueError("must be an absolute path (it starts with /, or with ~/ for your home folder)")
    return str(Path(text).expanduser())


AbsolutePath: TypeAlias = Annotated[Line, AfterValidator(_absolute)]

# --- numbers with units -----------------------------------------------------------------------------------------------


def _bounded(least_s: float, most_s: float) -> AfterValidator:
    def check(seconds: float) -> float:
        if not least_s <= seconds <= most_s:
            raise ValueError(f"must be between {format_duration(least_s)} and {format_duration(most_s)}")
        return seconds

    return AfterValidator(check)


def _text_of_duration(value: object) -> float:
    if isinstance(value, int | float):
        number = getattr(value, "text", value)
        raise ValueError(f"a duration needs a unit; write {number}s or {number}ms")  # noqa: TRY004 - as above
    return parse_duration(_string(value))


def _text_of_time(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, int | float):
        number = getattr(value, "text", value)
        raise ValueError(f"{number} has no unit; write 90m or 1:30:00")  # noqa: TRY004 - as above
    seconds = parse_slurm_time(_string(value))
    if not 60 <= seconds <= MAX_TIME_S:
        raise ValueError("must be between 1 minute and 3650 days (leave it out for the partition's own limit)")
    return seconds


def _text_of_rate(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, int | float):
        number = getattr(value, "text", value)
        raise ValueError(f"a rate needs a unit; write {number}M/s")  # noqa: TRY004 - as above
    rate = parse_rate(_string(value))
    if rate < 1024:
        raise ValueError("must be at least 1K/s")
    return rate


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected text, got {kind_of(value)}")  # noqa: TRY004 - as above
    return value


def kind_of(value: object) -> str:
    """What a value of a YAML document is called in a message."""
    names = {
        bool: "true or false",
        str: "text",
        list: "a list",
        tuple: "a list",
        dict: "a section",
        type(None): "nothing",
    }
    for kind, name in names.items():
        if isinstance(value, kind):
            return name
    return "a number"


def duration(least_s: float, most_s: float) -> Any:  # noqa: ANN401 - the metadata of an Annotated float
    """The metadata of a field that holds seconds and is written as `500ms`, `30s`, `2h`."""
    return (
        BeforeValidator(_text_of_duration),
        _bounded(least_s, most_s),
        PlainSerializer(format_duration, return_type=str),
        WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN}),
    )


TimeLimit: TypeAlias = Annotated[
    float | None,
    BeforeValidator(_text_of_time),
    PlainSerializer(lambda s: None if s is None else format_slurm_time(s), return_type=str | None),
    WithJsonSchema({"type": ["string", "null"], "pattern": SLURM_TIME_PATTERN}),
]
Rate: TypeAlias = Annotated[
    int | None,
    BeforeValidator(_text_of_rate),
    PlainSerializer(lambda rate: None if rate is None else format_rate(rate), return_type=str | None),
    WithJsonSchema({"type": ["string", "null"], "pattern": RATE_PATTERN}),
]

# --- ranges -----------------------------------------------------------------------------------------------------------


def _node_range(value: object) -> tuple[int, int]:
    if isinstance(value, list | tuple) and len(value) == 2:
        return _node_range(f"{value[0]}-{value[1]}")
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    match = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"expected a number of nodes or a range such as 2-4, got {shown(value)}")
    least, most = int(match[1]), int(match[2] or match[1])
    if not 1 <= least <= most <= MAX_NODES:
        raise ValueError(f"expected 1 to {MAX_NODES} nodes, the smaller number first, got {shown(value)}")
    return least, most


def _ports(value: object) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,5})-([0-9]{1,5})", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"expected a range of ports such as 20000-29999, got {shown(value)}")
    first, last = int(match[1]), int(match[2])
    if not 1024 <= first <= last <= 65535:
        raise ValueError("ports must be between 1024 and 65535, the smaller number first")
    if last - first < 9:
        raise ValueError("at least 10 ports are needed: every attempt takes new ones")
    return first, last


def shown(value: object) -> str:
    """A value in a message, never longer than a line."""
    if isinstance(value, dict | list | tuple | bool) or value is None:
        return kind_of(value)
    text = getattr(value, "text", None) or repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


NodeRange: TypeAlias = Annotated[
    tuple[int, int],
    BeforeValidator(_node_range),
    PlainSerializer(lambda pair: pair[0] if pair[0] == pair[1] else f"{pair[0]}-{pair[1]}", return_type=int | str),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": "^[0-9]+(-[0-9]+)?$"}]}),
]
PortRange: TypeAlias = Annotated[
    tuple[int, int],
    BeforeValidator(_ports),
    PlainSerializer(lambda pair: f"{pair[0]}-{pair[1]}", return_type=str),
    WithJsonSchema({"type": "string", "pattern": "^[0-9]+-[0-9]+$"}),
]
Count: TypeAlias = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
CountOrNone: TypeAlias = Annotated[int, Field(strict=True, ge=0, le=1_000_000)]

# --- choices ----------------------------------------------------------------------------------------------------------

PLAN_KINDS = ("spare", "shrink", "requeue")
PlanKind: TypeAlias = Literal["spare", "shrink", "requeue"]


def _order_of_plans(value: object) -> object:
    if value == "auto":
        return ()
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("expected auto or a list of spare, shrink and requeue")
    unknown = [item for item in value if item not in PLAN_KINDS]
    if unknown:
        raise ValueError(f"expected spare, shrink or requeue, got {shown(unknown[0])}")
    if len(set(value)) != len(value):
        raise ValueError("each plan at most once")
    return tuple(value)


PlanOrder: TypeAlias = Annotated[
    tuple[PlanKind, ...],
    BeforeValidator(_order_of_plans),
    PlainSerializer(lambda order: list(order) or "auto", return_type=list[str] | str),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": "auto"},
                {"type": "array", "items": {"enum": list(PLAN_KINDS)}, "minItems": 1, "uniqueItems": True},
            ]
        }
    ),
]


def _world_sizes(value: object) -> object:
    if not isinstance(value, list | tuple):
        raise ValueError("expected a list of numbers of ranks, as in [8, 16, 32]")  # noqa: TRY004 - as above
    if any(not isinstance(item, int) or isinstance(item, bool) or item < 1 for item in value):
        raise ValueError("expected numbers of ranks, each at least 1")
    return tuple(sorted(set(value)))


WorldSizes: TypeAlias = Annotated[tuple[int, ...], BeforeValidator(_world_sizes)]

SIGNALS = ("TERM", "USR1", "USR2", "INT", "HUP")


def _save_on(text: str) -> str:
    kind, _, rest = text.partition(":")
    if text == "none" or (kind == "signal" and rest in SIGNALS) or (kind == "file" and rest.strip()):
        return text
    if kind == "signal":
        raise ValueError(f"expected signal:NAME with one of {', '.join(SIGNALS)}, got {shown(text)}")
    raise ValueError(f"expected signal:TERM, file:PATH or none, got {shown(text)}")


SaveOn: TypeAlias = Annotated[Line, AfterValidator(_save_on)]


def _words_or_duration(*words: str) -> Any:  # noqa: ANN401 - as above
    """The metadata of a field that is one of some words, or a duration of 1 s to 7 days."""

    def read(value: object) -> float | str:
        if value in words:
            return str(value)
        seconds = _text_of_duration(value)
        if not 1.0 <= seconds <= 7 * 86400:
            raise ValueError(f"must be {', '.join(words)}, or between 1s and 7d")
        return seconds

    return (
        BeforeValidator(read),
        PlainSerializer(lambda value: value if isinstance(value, str) else format_duration(value), return_type=str),
        WithJsonSchema({"type": "string", "pattern": f"^({'|'.join(words)})$|{DURATION_PATTERN}"}),
    )


HangAfter: TypeAlias = Annotated[float | Literal["auto", "none"], *_words_or_duration("auto", "none")]
CollectiveTimeout: TypeAlias = Annotated[float | Literal["none"], *_words_or_duration("none")]
SampleEvery: TypeAlias = Annotated[float | Literal["none"], *_words_or_duration("none")]


def _save_every(value: object) -> float | str | None:
    if value is None or value == "auto":
        return None if value is None else "auto"
    seconds = _text_of_duration(value)
    if not 0.1 <= seconds <= 30 * 86400:
        raise ValueError("must be auto, or between 100ms and 30d")
    return seconds


SaveEvery: TypeAlias = Annotated[
    float | Literal["auto"] | None,
    BeforeValidator(_save_every),
    PlainSerializer(
        lambda value: format_duration(value) if isinstance(value, float) else value, return_type=str | None
    ),
    WithJsonSchema({"type": ["string", "null"], "pattern": f"^auto$|{DURATION_PATTERN}"}),
]


def _log_pattern(text: str) -> str:
    try:
        groups = re.compile(text).groupindex
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    if "step" not in groups:
        raise ValueError(r"must have a group named step, as in step (?P<step>\d+)")
    return text


LogPattern: TypeAlias = Annotated[Line, AfterValidator(_log_pattern)]


def _metric(name: str) -> str:
    names = METRICS.keys() - {"gpu_xid"}  # XIDs have rules of their own: core.xids
    if name not in names:
        near = get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]}?" if near else "docs/health.md lists all"
        raise ValueError(f"no such metric; {hint}")
    return name


Metric: TypeAlias = Annotated[Word, AfterValidator(_metric)]
