"""The `#SBATCH` lines of a user's batch script, read as sbatch reads them; and what a list of its options asks for.

Theory (sbatch of 22.05.8, tried): a directive is a line that begins with `#SBATCH`, in the first column; the first
line that is neither empty nor a comment ends them all. In a directive blanks separate words, either quote groups, a
backslash takes the next character as it is unless that is a blank, and `#` begins a comment where no quote is open. A
long option may be cut to any beginning that no other option has, which sbatch itself judges. Bash is never read here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ftslurm.passthrough import SHORT_OPTIONS

MAGIC = "#SBATCH"
HETEROGENEOUS = ("hetjob", "packjob")

_FLAGS = {
    "h": "help", "H": "hold", "k": "no-kill", "O": "overcommit", "Q": "quiet", "s": "oversubscribe", "u": "usage",
    "v": "verbose", "V": "version", "W": "wait",
}  # fmt: skip
_WITH_VALUE = {
    "array", "chdir", "comment", "error", "exclude", "export", "export-file", "job-name", "nodes", "ntasks",
    "open-mode", "output", "partition", "signal", "time", "wrap",
}  # fmt: skip
_KNOWN = (*_WITH_VALUE, *_FLAGS.values(), "no-requeue", "parsable", "requeue", "test-only", *SHORT_OPTIONS.values())


@dataclass(frozen=True, slots=True)
class Option:
    """An option by its long name; `value` is None for a bare flag; `line` counts from 1, 0 is no line of a file."""

    name: str
    value: str | None = None
    line: int = 0


@dataclass(frozen=True, slots=True)
class Directives:
    """What the directives of one script ask for; `hetjob_line` is 0 in an ordinary job."""

    options: tuple[Option, ...] = ()
    hetjob_line: int = 0


def read(text: str) -> Directives:
    """Read the directives of a script."""
    found: list[Option] = []
    hetjob = 0
    for number, line in enumerate(text.split("\n"), start=1):
        if line.startswith(MAGIC):
            words = _words(line.removeprefix(MAGIC))
            if words[:1] and words[0].lower() in HETEROGENEOUS:
                hetjob = hetjob or number
            found += options_of(words, number)
        elif line.strip() and not line.lstrip().startswith("#"):
            break
    return Directives(tuple(found), hetjob)


def options_of(words: Sequence[str], line: int = 0) -> list[Option]:
    """Return the options among the words of a directive or of a command line of sbatch's."""
    found: list[Option] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if word.startswith("--") and len(word) > 2:
            name, separator, value = word[2:].partition("=")
            name = _whole(name)
            if not separator and name in _WITH_VALUE and left:
                separator, value = "=", left.pop(0)
            found.append(Option(name, value if separator else None, line))
        elif word.startswith("-") and len(word) > 1:
            found += _short(word[1:], left, line)
    return found


def asked(name: str, *sources: Iterable[Option]) -> Option | None:
    """Return the option that counts: sbatch takes the last one of the first source that has any."""
    for source in sources:
        for option in reversed(tuple(source)):
            if option.name == name:
                return option
    return None


def _short(letters: str, left: list[str], line: int) -> list[Option]:
    """Options of one letter: flags may stand together, a value ends the word."""
    found: list[Option] = []
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter == "k" or letter not in _FLAGS:
            value = letters or (left.pop(0) if letter != "k" and left else None)
            return [*found, Option(_FLAGS.get(letter) or SHORT_OPTIONS.get(letter, letter), value or None, line)]
        found.append(Option(_FLAGS[letter], None, line))
    return found


def _whole(name: str) -> str:
    """The option that a beginning stands for; the beginning itself where that is not one of those that matter here."""
    longer = {known for known in _KNOWN if known.startswith(name)}
    return longer.pop() if len(longer) == 1 and name not in _KNOWN else name


def _words(text: str) -> list[str]:
    words: list[str] = []
    word, begun, quote = "", False, ""
    escaped = False
    for character in text:
        if escaped and not character.isspace():
            word, begun, escaped = word + character, True, False
        elif character == "\\":
            escaped = True
        elif quote:
            word, quote = (word, "") if character == quote else (word + character, quote)
        elif character in "'\"":
            quote, begun = character, True
        elif character == "#":
            break
        elif character.isspace():
            words, word, begun, escaped = [*words, word] if begun else words, "", False, False
        else:
            word, begun = word + character, True
    return [*words, word] if begun else words
