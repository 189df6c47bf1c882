from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftslurm import cli

SCENARIO = """
name: small
nodes: 16
span: 5d
replications: 3
faults: {rate: 100}
checkpoint: {stall: 10s}
recovery: {max_attempts: 1000}
"""
SWEEP = "sweep: {faults.rate: [50, 100], checkpoint.every: [daly, 1h, none]}\n"


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    """A scenario with a sweep."""
    path = tmp_path / "scenario.yaml"
    path.write_text(SCENARIO + SWEEP)
    return path


def test_tables(scenario: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each case in each of three tables, then what is assumed."""
    assert cli.exit_code(["simulate", str(scenario), "--workers", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("±" in line for line in lines) == 6 + 1
    assert lines[0].split() == [
        "FAULTS.RATE",
        "CHECKPOINT.EVERY",
        "MTTF",
        "SAVE",
        "EVERY",
        "ETTR",
        "GOODPUT",
        "FORMULA",
    ]
    assert "Assumed" in lines
    assert any(line.startswith("- faults are exponential, 50 in 1,000 node-days") for line in lines)


def test_the_same_seed_gives_the_same_bytes(scenario: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also as JSON; another seed gives other ones; what the command line says beats the file."""
    outputs = []
    for seed in ("7", "7", "8"):
        assert (
            cli.exit_code(
                ["simulate", str(scenario), "--seed", seed, "--replications", "2", "--workers", "1", "--json"]
            )
            == 0
        )
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]
    value = json.loads(outputs[0])
    assert value["meta"] == {"schema": 1}
    assert value["scenario"]["seed"] == 7
    assert [case["replications"] for case in value["cases"]] == [2] * 6


@pytest.mark.parametrize(
    ("sweep", "suffix"),
    [(SWEEP, "png"), (SWEEP, "svg"), ("", "svg"), ("sweep: {recovery.prefer: [auto, [shrink]]}\n", "svg")],
)
def test_pictures(tmp_path: Path, sweep: str, suffix: str) -> None:
    """With and without a sweep, of numbers and of words; the same study gives the same bytes."""
    names = ("a", "b") if sweep == SWEEP and suffix == "svg" else ("a",)
    (tmp_path / "s.yaml").write_text(SCENARIO + sweep)
    found = []
    for name in names:
        path = tmp_path / f"{name}.{suffix}"
        arguments = ["--replications", "2", "--workers", "1", "--picture", str(path)]
        assert cli.exit_code(["simulate", str(tmp_path / "s.yaml"), *arguments]) == 0
        found.append(path.read_bytes())
    assert len(set(found)) == 1
    assert found[0].startswith(b"\x89PNG" if suffix == "png" else b"<?xml")


def test_dry_run(scenario: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says what the formula expects and how much would be simulated, and simulates nothing."""
    assert cli.exit_code(["simulate", str(scenario), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "6 cases, 18 runs of 5 d 00 h would be simulated" in out
    assert cli.exit_code(["simulate", str(scenario), "--dry-run", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["cases"]) == 6


def test_example_is_a_scenario(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed can be simulated."""
    assert cli.exit_code(["simulate", "--example"]) == 0
    (tmp_path / "scenario.yaml").write_text(capsys.readouterr().out)
    assert cli.exit_code(["simulate", str(tmp_path / "scenario.yaml"), "--dry-run"]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ([], 2, "name a scenario, or say --example to get one"),
        (["nowhere.yaml"], 2, "cannot read nowhere.yaml"),
        (["{}", "--picture", "a.gif"], 2, "a picture is .svg or .png"),
        (["{}", "--picture", "/nowhere/a.svg"], 74, "cannot write /nowhere/a.svg"),
        (["{}", "--replications", "0"], 2, "0 is not in the range"),
    ],
)
def test_refusals(
    arguments: list[str], code: int, sentence: str, scenario: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one sentence, with an exit code."""
    words = [str(scenario) if word == "{}" else word for word in arguments]
    assert cli.exit_code(["simulate", *words]) == code
    assert sentence in capsys.readouterr().err


def test_hostile_names_do_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name with control characters, or with the words of a picture's file, is refused or shown as it is."""
    (tmp_path / "s.yaml").write_text('name: "\\e[31mred"\n' + SCENARIO.replace("name: small\n", ""))
    assert cli.exit_code(["simulate", str(tmp_path / "s.yaml")]) == 2
    assert "\x1b" not in capsys.readouterr().err
    (tmp_path / "s.yaml").write_text(SCENARIO + 'sweep: {"faults.trace": ["\\e[31m<script>"]}\n')
    assert cli.exit_code(["simulate", str(tmp_path / "s.yaml")]) == 2
    assert "\x1b" not in capsys.readouterr().err
