from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftslurm import cli
from ftslurm.config import load, parse
from ftslurm.errors import ConfigError
from ftslurm.migration.newfile import FILL_IN, checked, warnings, written
from ftslurm.migration.oldfile import read
from ftslurm.migration.rules import INTERVALS, RULES, migrated
from ftslurm.yamldoc import read as read_yaml

GOLDEN = Path(__file__).parent.parent / "data" / "migrate"
ANSWERS = {"name": '"x"', "command": "[x]", "nodes": "64"}


def filled_in(text: str) -> str:
    """The file as its user completes it."""
    return re.sub(
        rf"^( *)(\w+):  # {re.escape(FILL_IN)}$",
        lambda found: f"{found[1]}{found[2]}: {ANSWERS[found[2]]}",
        text,
        flags=re.MULTILINE,
    )


def new(old: dict[str, Any]) -> tuple[str, list[str]]:
    """The new file's text, and the warnings."""
    found = checked(migrated(old))
    return written(found, "old.json"), warnings(found)


@pytest.mark.parametrize("name", ["whole", "sections", "strange"])
def test_golden_files(tmp_path, monkeypatch, capfd, name):
    """The files that were reviewed once are what the command writes, with the warnings that it says, and they pass the check."""
    monkeypatch.chdir(GOLDEN)
    out = tmp_path / "config.yaml"
    assert cli.exit_code(["config", "migrate", f"{name}.json", "-o", str(out)]) == 0
    said = capfd.readouterr()
    assert said.out == ""
    assert out.read_text() == (GOLDEN / f"{name}.yaml").read_text()
    assert (
        "".join(line for line in said.err.splitlines(keepends=True) if "warning" in line)
        == (GOLDEN / f"{name}.err").read_text()
    )
    out.write_text(filled_in(out.read_text()))
    assert cli.exit_code(["config", "check", str(out)]) == 0
    assert cli.exit_code(["config", "migrate", f"{name}.json", "-o", str(out)]) == 73


def test_the_values_arrive():
    """Every key of the issue has its effect, in today's units."""
    config = load(GOLDEN / "whole.yaml")
    assert (config.heartbeat.interval, config.heartbeat.suspect_after) == (0.5, 30.0)
    assert (config.recovery.max_attempts, config.recovery.placement) == (4, "load_balanced")
    saved = config.checkpoint
    assert (saved.keep_last, saved.compression, saved.shared) == (5, "zstd", "/project/checkpoints/{run_id}")
    assert saved.every is not None
    assert (saved.every.epoch, saved.every.time) == (True, 1800.0)
    assert config.state.sync is not None
    assert (config.state.sync.every, config.state.sync.to) == (60.0, "/backup/state")
    assert config.command == ("python", "train.py", "--data", "/data/my corpus")


def test_what_is_missing_is_marked_and_refused():
    """Without name, command and nodes the check says exactly these three."""
    text, _ = new({"fault_tolerance": {"heartbeat_interval": 1}})
    assert text.count(FILL_IN) == 4  # and once in the head
    with pytest.raises(ConfigError) as refused:
        parse(text, "x")
    assert [line.split(" ")[1] for line in str(refused.value).splitlines()[1:]] == [
        "name:",
        "command:",
        "resources.nodes:",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is it JSON"),
        ("{", "old.json:1:2"),
        ("[]", "expected an object"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": 1, "a": 2}', "'a' stands twice"),
        ('{"checkpoint": {"\x7f\\u001b": 1, "\x7f\\u001b": 2}}', r"'\x7f\x1b' stands twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 30 + "1" + "}" * 30, "nested more than 20 levels"),
        ('{"a": ' + "9" * 5000 + "}", "old.json"),
        ('{"a": "' + "x" * 1_100_000 + '"}', "too large"),
        (b"\xff\xfe", "not UTF-8"),
    ],
    ids=["empty", "cut", "list", "nan", "twice", "twice escaped", "deep list", "deep", "long number", "large", "bytes"],
)  # fmt: skip
def test_files_that_are_refused(tmp_path, capfd, text, words):
    """What is not one well-formed object ends with one clear message, code 2, and no output."""
    old = tmp_path / "old.json"
    old.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert cli.exit_code(["config", "migrate", str(old)]) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert words in said.err
    assert "Traceback" not in said.err
    assert all(line.isprintable() for line in said.err.splitlines())


NAMES = st.sampled_from(sorted({name.rpartition(".")[2] for name in RULES} | set(INTERVALS) | {"strategy", "notes"}))
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-10, 10**6), st.integers(), st.floats(allow_nan=False), st.text(max_size=12),
    st.sampled_from(["hybrid", "epoch", "time", "steps", "round_robin", "redis", "filesystem", "/a/b", "1:00:00"]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
SECTIONS = st.dictionaries(NAMES | st.text(max_size=6), VALUES, max_size=8)
OLD = st.dictionaries(
    st.sampled_from(["fault_tolerance", "checkpoint", "state_persistence", "slurm", "name", "nodes", "x"]) | st.text(max_size=6),
    SECTIONS | VALUES, max_size=6,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(OLD)
def test_whatever_the_older_file_holds(old):
    """The new file is one line of printable ASCII a line, passes the check once it is filled in, and names every key."""
    text, said = new(json.loads(json.dumps(old)))
    assert all(line.isascii() and line.isprintable() for line in [*text.splitlines(), *said])
    parse(filled_in(text), "new.yaml")
    document = read_yaml(text)
    assert not document.problems
    for name, value in old.items():
        for inner in value if isinstance(value, dict) else ():
            assert json.dumps(inner).strip('"') in text
        assert json.dumps(name).strip('"') in text
    # Nothing is dropped: a value is in a setting's comment, in a remark, or in the list at the end.
    for value in (
        each for section in old.values() for each in (section.values() if isinstance(section, dict) else [section])
    ):
        assert json.dumps(value) in text


def test_reading_gives_what_is_in_the_file():
    """The reader changes nothing."""
    assert read(GOLDEN / "whole.json") == json.loads((GOLDEN / "whole.json").read_text())
