"""YAML text into plain values, each with the line and column where it stands.

PyYAML reads, but the meaning of scalars is that of the YAML 1.2 core schema, because 1.1 has traps that cost people
real jobs: `12:30:00` is no number, `on` and `no` are words, `010` is ten. Refused: duplicate keys, merge keys, keys
that are no text, tags, several documents, and files large or nested enough to be an attack (an alias counts every time
it is used, so a "billion laughs" stops at the limit).

Numbers keep the characters that were written (`WrittenInt`, `WrittenFloat`), so that a command's `1e-3` reaches the
command as `1e-3`. Reference: https://yaml.org/spec/1.2.2/#103-core-schema
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import yaml

MAX_CHARACTERS = 256 * 1024
MAX_DEPTH = 20
MAX_NODES = 10_000

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where something stands; both count from 1."""

    line: int
    column: int


NOWHERE = Place(0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One mistake: where, in which key, and what is wrong."""

    place: Place
    path: Path
    message: str


@dataclass(slots=True)
class Document:
    """The values, the place of every key and list item, and what was wrong with the text.

    `lost` are the paths whose value could not be read at all: None stands in its place.
    """

    value: Any = None
    places: dict[Path, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    lost: set[Path] = field(default_factory=set)

    @classmethod
    def of(cls, value: object) -> Document:
        """A document of values that never were text: every path is known, and has no place."""
        document = cls(value=value)
        rest: list[tuple[Path, object]] = [((), value)]
        while rest:
            path, item = rest.pop()
            document.places[path] = NOWHERE
            if isinstance(item, dict):
                rest += [((*path, key), child) for key, child in item.items()]
            elif isinstance(item, list | tuple):
                rest += [((*path, index), child) for index, child in enumerate(item)]
        return document

    def place(self, path: Path) -> Place:
        """The place of `path`, or of the nearest thing around it that is in the text."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, Place(1, 1))


class WrittenInt(int):
    """An integer that remembers how it was written."""

    text: str


class WrittenFloat(float):
    """A float that remembers how it was written."""

    text: str


class _CoreLoader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of the YAML 1.2 core schema instead of those of 1.1."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own protocol


_NULL, _BOOL, _INT, _FLOAT, _STR, _SEQ, _MAP = (
    f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map")
)
_INT_TEXT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT_TEXT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
for _tag, _pattern, _first in (
    (_NULL, re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""]),
    (_BOOL, re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")),
    (_INT, re.compile(rf"(?:{_INT_TEXT.pattern})\Z"), list("-+0123456789")),
    (_FLOAT, re.compile(rf"(?:{_FLOAT_TEXT.pattern})\Z"), list("-+.0123456789")),
):
    _CoreLoader.add_implicit_resolver(_tag, _pattern, _first)


def read(text: str) -> Document:
    """Read one YAML document. Never raises for bad text: look at `problems`; `value` is what could be read."""
    document = Document()
    try:
        root = _compose(text)
    except _Refused as refused:
        document.problems.append(Problem(place=refused.place, path=(), message=str(refused)))
        return document
    except yaml.reader.ReaderError as error:
        place = _place_at(text, error.position)
        message = f"character U+{int(error.character):04X} is not allowed in YAML"
        document.problems.append(Problem(place=place, path=(), message=message))
        return document
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = ", ".join(part for part in (error.context, error.problem) if part)
        document.problems.append(Problem(place=_place(mark), path=(), message=f"not valid YAML: {message}"))
        return document
    if root is not None:
        _Reader(document).start(root)
    return document


class _Mark(Protocol):
    """PyYAML's mark of a position; both count from 0."""

    line: int
    column: int


class _Refused(Exception):
    """The text is beyond a limit; reading stops here."""

    def __init__(self, message: str, place: Place) -> None:
        super().__init__(message)
        self.place = place


def _compose(text: str) -> yaml.Node | None:
    """The tree of nodes, once the stream of events has shown that it is small, flat and a single document."""
    if len(text) > MAX_CHARACTERS:
        raise _Refused(f"the file is too large ({len(text)} characters; at most {MAX_CHARACTERS})", Place(1, 1))
    depth = documents = nodes = 0
    # Events come from a loop; composing recurses, so the depth must be known before.
    for event in yaml.parse(text, Loader=_CoreLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.DocumentStartEvent):
            documents += 1
        nodes += isinstance(event, yaml.NodeEvent)
        if nodes > MAX_NODES:
            raise _Refused(f"too many values (at most {MAX_NODES})", _place(event.start_mark))
        if depth > MAX_DEPTH:
            raise _Refused(f"nested too deeply (at most {MAX_DEPTH} levels)", _place(event.start_mark))
        if documents > 1:
            raise _Refused("a second document starts here; one file holds one", _place(event.start_mark))
    node: yaml.Node | None = yaml.compose(text, Loader=_CoreLoader)
    return node


class _Reader:
    """Walks the nodes and fills the document in."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.nodes_left = MAX_NODES

    def start(self, root: yaml.Node) -> None:
        try:
            self.document.places[()] = _place(root.start_mark)
            self.document.value = self.value(root, ())
        except _Refused as refused:
            self.document.problems.append(Problem(place=refused.place, path=(), message=str(refused)))
            self.document.value = None

    def value(self, node: yaml.Node, path: Path) -> Any:  # noqa: ANN401 - YAML holds anything
        self.nodes_left -= 1
        if self.nodes_left < 0:
            raise _Refused(
                f"too many values (at most {MAX_NODES}, aliases counted where used)", _place(node.start_mark)
            )
        if len(path) > MAX_DEPTH:
            raise _Refused("an alias that contains itself", _place(node.start_mark))
        if isinstance(node, yaml.MappingNode) and node.tag == _MAP:
            return dict(self.items(node, path))
        if isinstance(node, yaml.SequenceNode) and node.tag == _SEQ:
            return [self.item(child, (*path, index)) for index, child in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, path)
        return self.lose(node, path, f"tag {_short(node.tag)} is not allowed here")

    def item(self, node: yaml.Node, path: Path) -> Any:  # noqa: ANN401 - YAML holds anything
        self.document.places[path] = _place(node.start_mark)
        return self.value(node, path)

    def items(self, node: yaml.MappingNode, path: Path) -> Iterator[tuple[str, Any]]:
        seen: dict[str, Place] = {}
        for key_node, value_node in node.value:
            key = self.key(key_node, path)
            if key is None:
                continue
            place = _place(key_node.start_mark)
            if key in seen:
                self.complain(key_node, (*path, key), f"given twice; the first is on line {seen[key].line}")
                continue
            seen[key] = place
            self.document.places[(*path, key)] = place
            yield key, self.value(value_node, (*path, key))

    def key(self, node: yaml.Node, path: Path) -> str | None:
        if not isinstance(node, yaml.ScalarNode) or node.tag != _STR:
            shown = repr(node.value) if isinstance(node, yaml.ScalarNode) else "a list or a mapping"
            self.complain(node, path, f"a key must be text, got {shown}; put it in quotes")
            return None
        if node.value == "<<" and node.style is None:
            self.complain(node, path, "merge keys (<<) are not part of YAML 1.2; write the keys out")
            return None
        return _join_surrogates(node.value)

    def scalar(self, node: yaml.ScalarNode, path: Path) -> Any:  # noqa: ANN401 - a scalar of any type
        text = node.value
        match node.tag:
            case "tag:yaml.org,2002:str":
                return _join_surrogates(text)
            case "tag:yaml.org,2002:null":
                return None
            case "tag:yaml.org,2002:bool" if text.lower() in ("true", "false"):
                return text.lower() == "true"
            case "tag:yaml.org,2002:int" if _INT_TEXT.fullmatch(text):
                return self.integer(node, path)
            case "tag:yaml.org,2002:float" if _FLOAT_TEXT.fullmatch(text):
                number = WrittenFloat(re.sub(r"\.(?=inf|nan)", "", text.lower()))
                number.text = text
                return number
            case tag:
                return self.lose(node, path, f"tag {_short(tag)} is not allowed here")

    def integer(self, node: yaml.ScalarNode, path: Path) -> WrittenInt | None:
        text = node.value
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        if len(text) > 40:
            self.lose(node, path, f"a number of {len(text)} digits; put it in quotes if it is text")
            return None
        number = WrittenInt(text, base)
        number.text = text
        return number

    def lose(self, node: yaml.Node, path: Path, message: str) -> None:
        self.complain(node, path, message)
        self.document.lost.add(path)

    def complain(self, node: yaml.Node, path: Path, message: str) -> None:
        self.document.problems.append(Problem(place=_place(node.start_mark), path=path, message=message))


def _place(mark: _Mark | None) -> Place:
    return Place(mark.line + 1, mark.column + 1) if mark is not None else Place(1, 1)


def _place_at(text: str, position: int) -> Place:
    before = text[:position]
    return Place(before.count("\n") + 1, len(before) - before.rfind("\n"))


def _join_surrogates(text: str) -> str:
    """JSON writes a character above U+FFFF as two escapes, and JSON is YAML; half a pair stays what it is."""
    if text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _short(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")[:60]
