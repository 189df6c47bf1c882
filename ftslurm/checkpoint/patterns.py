"""From a file's name to its step and rank: the patterns of `checkpoint: files:`.

A pattern is relative to the program's checkpoint folder. `*` stands for anything but `/`, `?` for one character,
`{step}` for the step and `{rank}` for the rank, both in digits. Without `{step}` the step is the first number in what
the wildcards matched. A name that says *on its way* (`.tmp`, `.part`, `~`, …, or a leading dot) never matches.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ftslurm.core.manifest import TEMP_SUFFIXES
from ftslurm.core.strictjson import safe_name
from ftslurm.errors import ConfigError, DataDamaged

_TOKEN = re.compile(r"\{step\}|\{rank\}|[*?{}\[\]]")
_MEANING = {"{step}": "(?P<step{}>[0-9]{1,15})", "{rank}": "(?P<rank{}>[0-9]{1,9})", "*": "([^/]*)", "?": "([^/])"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """What a name says. `alone` is true where no other file of this pattern can have the same step."""

    step: int
    rank: int | None
    alone: bool


@dataclass(frozen=True, slots=True)
class Pattern:
    """One pattern, ready to match."""

    text: str
    _whole: re.Pattern[str]
    _folders: tuple[re.Pattern[str], ...]

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Raises ConfigError for a pattern that can match nothing, leaves the folder, or tells no step."""
        try:
            safe_name(text)
        except DataDamaged as error:
            raise ConfigError(f"checkpoint files {text!r}: {error}", hint=_HINT) from error
        if "**" in text or text.endswith(TEMP_SUFFIXES):
            raise ConfigError(f"checkpoint files {text!r}: `**` and temporary names match nothing", hint=_HINT)
        if "*" not in text and "{step}" not in text:
            raise ConfigError(
                f"checkpoint files {text!r} tells no step: each save would replace the one before", hint=_HINT
            )
        parts = text.split("/")
        folders = tuple(re.compile(_regex("/".join(parts[:depth]))) for depth in range(1, len(parts)))
        return cls(text, re.compile(_regex(text)), folders)

    @property
    def depth(self) -> int:
        """How many folders deep its files lie."""
        return len(self._folders)

    @property
    def has_rank(self) -> bool:
        """Whether each rank writes its own file."""
        return "{rank}" in self.text

    def match(self, name: str) -> Match | None:
        """The step and rank of `name`, or None."""
        if name.endswith(TEMP_SUFFIXES) or self._hides(name):
            return None
        found = self._whole.fullmatch(name)
        if found is None:
            return None
        named = found.groupdict()
        steps = {int(value) for key, value in named.items() if key.startswith("step")}
        ranks = {int(value) for key, value in named.items() if key.startswith("rank")}
        if len(steps) > 1 or len(ranks) > 1:
            return None
        if not steps:
            named_groups = set(self._whole.groupindex.values())
            wild = [value for index, value in enumerate(found.groups(), start=1) if index not in named_groups]
            numbers = re.findall(r"[0-9]{1,15}", " ".join(wild))
            steps = {int(number) for number in numbers[:1]}
        if not steps:
            return None
        alone = not ranks and len(found.groups()) == 1 and re.fullmatch("[0-9]+", found[1]) is not None
        return Match(step=steps.pop(), rank=ranks.pop() if ranks else None, alone=alone)

    def _hides(self, name: str) -> bool:
        """As in a shell, a wildcard does not stand for a leading dot: such files are on their way, too."""
        return name.rpartition("/")[2].startswith(".") and not self.text.rpartition("/")[2].startswith(".")

    def may_hold(self, folder: str) -> bool:
        """Whether `folder` (relative) can hold files of this pattern, at any depth."""
        depth = folder.count("/")
        return depth < len(self._folders) and self._folders[depth].fullmatch(folder) is not None


_HINT = 'for example "step_*.pt", "step_{step}/rank_{rank}.pt", "checkpoint-{step}/*"'


@dataclass(frozen=True, slots=True)
class Patterns:
    """All patterns of a run."""

    each: tuple[Pattern, ...]

    @classmethod
    def parse(cls, texts: str | tuple[str, ...] | list[str]) -> Patterns:
        """Raises ConfigError as `Pattern.parse`, also for none at all."""
        listed = (texts,) if isinstance(texts, str) else tuple(texts)
        if not listed:
            raise ConfigError("checkpoint files: no pattern", hint=_HINT)
        return cls(tuple(Pattern.parse(text) for text in listed))

    @property
    def has_rank(self) -> bool:
        """Whether each rank writes a file of its own."""
        return any(pattern.has_rank for pattern in self.each)

    def match(self, name: str) -> Match | None:
        """What the first pattern that matches says about `name`."""
        for pattern in self.each:
            found = pattern.match(name)
            if found is not None:
                return found if len(self.each) == 1 else Match(step=found.step, rank=found.rank, alone=False)
        return None

    def may_hold(self, folder: str) -> bool:
        """Whether a folder is worth looking into."""
        return any(pattern.may_hold(folder) for pattern in self.each)


@dataclass(frozen=True, slots=True)
class Marker:
    """The name of the file that says *done* about another: text with {file}, {folder} or {step} in it."""

    text: str

    def __post_init__(self) -> None:
        """Raises ConfigError where one marker would speak for all checkpoints."""
        if not any(word in self.text for word in ("{file}", "{folder}", "{step}")):
            raise ConfigError(
                f"checkpoint done marker {self.text!r} is the same for every checkpoint",
                hint='for example "{file}.done", "{folder}/DONE", "step_{step}.done"',
            )

    def of(self, name: str, step: int) -> str:
        """The marker of the file `name`."""
        folder = name.rpartition("/")[0] or "."
        marker = self.text.replace("{folder}", folder).replace("{step}", str(step)).replace("{file}", name)
        return marker.removeprefix("./")

    def is_one(self, name: str, step: int) -> bool:
        """Whether `name` is itself a marker, and so no part of a checkpoint."""
        before, found, after = self.text.partition("{file}")
        if found:
            return len(name) > len(before + after) and name.startswith(before) and name.endswith(after)
        return self.of(name, step) == name


def _regex(text: str) -> str:
    """The pattern as a regular expression; each group that repeats gets a number."""
    out: list[str] = []
    last = 0
    for count, token in enumerate(_TOKEN.finditer(text)):
        out.append(re.escape(text[last : token.start()]))
        meaning = _MEANING.get(token[0])
        out.append(meaning.replace("{}", str(count)) if meaning else re.escape(token[0]))
        last = token.end()
    return "".join(out) + re.escape(text[last:])
