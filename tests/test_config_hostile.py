"""Hostile text: it arrives as it is, or it is refused in one line; nothing in between."""

from __future__ import annotations

import itertools
import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.config import Config, from_resolved, parse
from ftslurm.errors import ConfigError

PIECES = [
    "$(id)", "`id`", "${HOME}", "$HOME", "; id", "&& id", "|| id", "| id", "> x", "< /etc/passwd", "& ", "#x", "!x", "!!", "~",
    "*", "?", "[a-z]", "{a,b}", "\\", "\\\\", "'", '"', "''", '""', "'\"'", "$'\\n'", "\\n", "%j", "%s", "-n", "--", "=", ":",
    " ", "a b", "\u00e9", "\u4e2d\u6587", "\U0001f600", "\u202e", "\u2028", "\u00a0", "{{ x }}", "{% x %}", "{checkpoint}",
    "EOF", "#SBATCH --uid=0", "true", "null", "0x10", "1e3", "on", "x" * 5000,
]  # fmt: skip
HOSTILE = PIECES + [a + b for a, b in itertools.product(PIECES[:14], PIECES[:14])]
CONTROL = [chr(code) for code in [*range(9), *range(10, 32), *range(127, 160)]] + ["\ud800"]


def document(text: str) -> str:
    """A configuration that holds `text` wherever free text is allowed."""
    content = {
        "name": "x",
        "command": ["prog", text],
        "resources": {"nodes": 1, "sbatch": {"comment": text}},
        "launch": {"env": {"A": text}, "srun": [text]},
        "checkpoint": {"files": "*.pt", "resume_args": [text]},
    }
    return json.dumps(content)  # JSON is YAML, and escapes whatever YAML would not print


def texts(config: Config) -> list[object]:
    """All the places where `document` has put its text."""
    return [
        config.command[1],
        config.resources.sbatch["comment"],
        config.launch.env["A"],
        config.launch.srun[0],
        config.checkpoint.resume_args[0],
    ]


def test_there_are_enough_of_them():
    """At least 200 different hostile values go through."""
    assert len(set(HOSTILE)) >= 200


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text)[:30])
def test_hostile_text_arrives_unharmed(text):
    """Whatever a shell would act on is plain text here, on the way in and through JSON."""
    config = parse(document(text), "x")
    assert texts(config) == [text] * 5
    assert texts(from_resolved(json.loads(json.dumps(config.resolved())))) == [text] * 5


@pytest.mark.parametrize("character", CONTROL, ids=ascii)
def test_control_characters_are_refused_everywhere(character):
    """A character that could start a new line of a script, or that bash drops, is refused in each place by name."""
    with pytest.raises(ConfigError) as caught:
        parse(document(f"a{character}b"), "x")
    places = 4 if character == "\n" else 5  # a word of the command may have several lines: no shell of ours reads it
    assert str(caught.value).count("must not hold") == places


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=40).filter(str.strip))
def test_any_printable_text_arrives(text):
    """The same for any text that YAML can hold, written by another YAML program."""
    content = yaml.safe_load(document(text))
    assert texts(parse(yaml.safe_dump(content, allow_unicode=True, width=1000), "x")) == [text] * 5


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(
        ["name", "command", "run_root", "resources", "launch", "network", "heartbeat", "recovery", "checkpoint", "x"]
    ),
)
def test_any_value_is_accepted_or_explained(value, key):
    """No value under any key ends in anything but a configuration or a ConfigError with a line for each problem."""
    content = {"name": "x", "command": ["x"], "resources": {"nodes": 1}, key: value}
    try:
        parse(json.dumps(content), "x")
    except ConfigError as error:
        headline, *problems = str(error).splitlines()
        assert headline.split()[0] == str(len(problems))
        assert all(line.startswith("x:1:") for line in problems)
