"""The new file: settings in the order of the configuration, each below a comment that says where it comes from.

What the configuration refuses is taken out and becomes a warning with its words; so the file passes `config check` once
what nobody but the user knows is filled in. Whatever comes from the older file stands in comments as ASCII on one line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from ftslurm.complaints import explain
from ftslurm.config import Config
from ftslurm.migration.oldfile import name_of, shown
from ftslurm.migration.rules import Lost, Path, Result, Setting
from ftslurm.quantities import format_duration, parse_duration
from ftslurm.yamldoc import Document

FILL_IN = "<-- FILL IN"
NEEDED: tuple[tuple[Path, str, Any], ...] = (
    (("name",), "name of the run and of its job", "x"),
    (("command",), "the training program and its arguments, as in [python, train.py]", ["x"]),
    (("resources", "nodes"), "nodes: a number, or a range such as 2-4", 64),
)
"""What every configuration has to say, and what stands for it while the rest is checked."""


LAYOUT = Setting(
    path=("checkpoint", "layout"),
    value="library",
    origin="the program saves through ftslurm.training (docs/library.md); one that saves by itself: layout: files, with"
    " checkpoint.files, and without the keys every and compression",
)


def checked(found: Result) -> Result:
    """The same with what the configuration refuses moved to what is lost."""
    settings, lost = list(found.settings), list(found.lost)
    while True:
        whole = _with_what_follows(settings)
        problems = _problems(whole)
        if not problems or not settings:
            return Result(settings=whole, remarks=found.remarks, lost=lost)
        path, message = problems[0]
        wrong = _culprits(settings, whole, path)
        why = f"{name_of(path)}: {message}"
        lost += [Lost(name=each.key.name, value=each.key.value, why=why) for each in wrong if each.key]
        settings = [each for each in settings if each not in wrong]


def _with_what_follows(settings: Sequence[Setting]) -> list[Setting]:
    """The settings, with the layout that they need, and with what must be larger than they are."""
    library = any(each.path[1:2] == ("every",) or each.value == "zstd" for each in settings)
    return [*_raised(settings), *([LAYOUT] if library else [])]


def _raised(settings: Sequence[Setting]) -> list[Setting]:
    """Settings that must be larger than what was migrated, where their defaults are not."""
    known = {each.path: each.value for each in settings}
    interval = parse_duration(known.get(("heartbeat", "interval"), "500ms"))
    suspect = parse_duration(known.get(("heartbeat", "suspect_after"), "3s"))
    raised = list(settings)
    if suspect < 2 * interval:
        suspect = 2 * interval
        raised = _with(raised, "suspect_after", suspect, "at least twice heartbeat.interval")
    if suspect >= 10:
        raised = _with(raised, "deadman_after", 2 * suspect, "must be more than heartbeat.suspect_after")
    if interval > 1.5:
        raised = _with(raised, "takeover_after", 4 * interval, "at least four times heartbeat.interval")
    return raised


def _with(settings: Sequence[Setting], name: str, seconds: float, why: str) -> list[Setting]:
    """The settings with one more of `heartbeat`, or that one changed."""
    path = ("heartbeat", name)
    before = next((each for each in settings if each.path == path), None)
    origin = f"{before.origin}; raised: {why}" if before else f"follows: {why}"
    new = Setting(path=path, value=format_duration(seconds), origin=origin, key=before.key if before else None)
    return [*(each for each in settings if each.path != path), new]


def _problems(settings: Sequence[Setting]) -> list[tuple[Path, str]]:
    """What the configuration says against these settings: key and sentence."""
    plain = _nested([*settings, *_stubs(settings)])
    try:
        Config.model_validate(plain)
    except ValidationError as error:
        problems = explain(error, Document.of(plain), Config)
        return [(tuple(map(str, each.path)), each.message) for each in problems]
    return []


def _stubs(settings: Iterable[Setting]) -> list[Setting]:
    known = {each.path for each in settings}
    return [Setting(path=path, value=value, origin="") for path, _, value in NEEDED if path not in known]


def _culprits(settings: Sequence[Setting], whole: Sequence[Setting], path: Path) -> list[Setting]:
    """The settings that a problem is about: those at, above or below its key; else those of its section, or all.

    `whole` are the same with what follows from them; where such a one is wrong, its section is.
    """
    near = {each.path for each in whole if each.path[: len(path)] == path or path[: len(each.path)] == each.path}
    section = [each for each in settings if each.path[0] == path[0]] if path else []
    return [each for each in settings if each.path in near] or section or list(settings)


def _nested(settings: Iterable[Setting]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for each in settings:
        place = whole
        for name in each.path[:-1]:
            place = place.setdefault(name, {})
        place[each.path[-1]] = each.value
    return whole


# ------------------------------------------------------------------------------------------------------------- writing


def written(found: Result, source: str) -> str:
    """The text of the new file; `source` is the older file's name."""
    lines = [
        f"# Written by `ftslurm config migrate` from {shown(source)}.",
        f"# Lines with {FILL_IN!r} are for you; then: ftslurm config check FILE",
        *(f"# {each}" for each in found.remarks),
        "",
        *_body(_in_order([*found.settings, *_blanks(found.settings)])),
    ]
    if found.lost:
        lines += ["", "# WARNING: what follows has no effect any more:"]
        lines += [f"#   {each.name}: {shown(each.value)}  -- {each.why}" for each in found.lost]
    return "".join(f"{line}\n" for line in lines)


def _blanks(settings: Iterable[Setting]) -> list[Setting]:
    """Keys that nobody but the user knows, without a value: the check refuses them until they have one."""
    known = {each.path for each in settings}
    return [Setting(path=path, value=None, origin=what) for path, what, _ in NEEDED if path not in known]


def _in_order(settings: Sequence[Setting]) -> list[Setting]:
    """In the order of the configuration's keys, so that every section stands in one piece."""
    order = list(Config.model_fields)
    return sorted(settings, key=lambda each: (order.index(each.path[0]), each.path[:-1], _rank(settings, each)))


def _rank(settings: Sequence[Setting], setting: Setting) -> int:
    return next(index for index, each in enumerate(settings) if each is setting)


def _body(settings: Sequence[Setting]) -> Iterator[str]:
    open_sections: Path = ()
    for each in settings:
        section = each.path[:-1]
        shared = next((depth for depth in range(len(section), 0, -1) if section[:depth] == open_sections[:depth]), 0)
        for depth in range(shared, len(section)):
            yield f"{'  ' * depth}{section[depth]}:"
        open_sections = section
        indent = "  " * len(section)
        yield f"{indent}# {each.origin}"
        yield f"{indent}{each.path[-1]}:{f' {_scalar(each.value)}' if each.value is not None else f'  # {FILL_IN}'}"


def _scalar(value: Any) -> str:  # noqa: ANN401 - what YAML can hold
    """A value as YAML; text always in double quotes, in ASCII."""
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    if isinstance(value, str):
        return f'"{"".join(map(_character, value))}"'
    return "true" if value is True else "false" if value is False else str(value)


def _character(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    code = ord(character)
    if 0x20 <= code < 0x7F:
        return character
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def warnings(found: Result) -> list[str]:
    """One line for each key that has no effect any more."""
    return [f"{each.name}: {each.why}" for each in found.lost]
