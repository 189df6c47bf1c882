"""`ftslurm plan` as it is typed."""

from __future__ import annotations

import json

import pytest

from ftslurm import cli
from ftslurm.plan.rates import Learnt, Rate
from tests.insight.journals import make_run
from tests.plan.test_measured import eventful

YAML = """name: gpt
command: [python, train.py]
resources: {nodes: 256, ranks_per_node: 8, time: 1-00:00:00}
checkpoint: {layout: library, every: {time: 30m}}
plan: {rate: bad, work: 20d, state: 2T, shared_bandwidth: 20G/s}
"""


@pytest.fixture
def train(tmp_path, monkeypatch):
    """The file, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ftslurm.plan.models.FAILURES", 5)
    path = tmp_path / "train.yaml"
    path.write_text(YAML)
    return path


def plan(capfd, *words):
    """Exit code, stdout and stderr."""
    code = cli.exit_code(["plan", *map(str, words)])
    return (code, *capfd.readouterr())


def test_the_table(train, capfd):
    """A headline, then parts with numbers and reasons; what is assumed is a note on stderr."""
    code, out, err = plan(capfd, "train.yaml")
    assert code == 0
    assert out.startswith("gpt on 256 nodes: a failure every 14 h 25 min; ")
    for title in ("FAILURES", "HOW OFTEN TO SAVE", "WHERE THE TIME GOES", "SPARE NODES", "ROOM FOR CHECKPOINTS"):
        assert f"\n{title}\n" in out
    assert err == "note: assumed, and not known: save, restart, repair\n"
    assert plan(capfd, "train.yaml") == (code, out, err)


def test_json(train, capfd):
    """One object; every value with what it rests on."""
    code, out, _ = plan(capfd, "train.yaml", "--json", "--rate", "3.79", "--nodes", "2048")
    told = json.loads(out)
    assert code == 0
    assert told["meta"] == {"schema": 1}
    assert told["failures"]["failures_per_1000_node_days"] == {"value": 3.79, "because": "given: --rate"}
    assert told["failures"]["nodes"]["value"] == 2048
    assert told["remarks"] == ["assumed, and not known: save, restart, repair"]


def test_costs_of_an_earlier_run(train, root, capfd):
    """--from takes what that run has shown, and says so."""
    paths = make_run(root, eventful())
    code, out, err = plan(capfd, "train.yaml", "--from", "101", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["costs"]["save_s"]["because"] == f"measured: mean of 4 saves of {paths.run_id}"
    assert told["costs"]["restart_s"]["because"].startswith("measured")
    assert told["remarks"] == ["assumed, and not known: repair"]
    assert not err


def test_a_learnt_rate_has_bounds(train, root, capfd, monkeypatch):
    """What accounting and the ledger say, with its interval and the ETTR at both ends; the ledger is the configured one."""
    asked = []

    def learnt(client, folder):
        asked.append(folder)
        rate = Rate(per_1000_node_days=4.0, low=3.0, high=6.0, source="learnt: 12 failures")
        return Learnt(rate=rate, faults=12, node_days=3000.0, reason=rate.source)

    monkeypatch.setattr("ftslurm.plan.rates.learnt", learnt)
    train.write_text(YAML.replace("rate: bad", "rate: learnt") + f"recovery: {{ledger: {root / 'ours'}}}\n")
    code, out, _ = plan(capfd, "train.yaml")
    assert (code, asked) == (0, [root / "ours"])
    assert "learnt: 12 failures" in out
    assert "ETTR at the upper end" in out


@pytest.mark.parametrize(("name", "magic"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml")])
def test_the_picture(train, tmp_path, capfd, name, magic):
    """A file of the kind that its name says; twice the same."""
    assert plan(capfd, "train.yaml", "--picture", name)[0] == 0
    first = (tmp_path / name).read_bytes()
    assert first.startswith(magic)
    assert plan(capfd, "train.yaml", "--picture", name)[0] == 0
    assert (tmp_path / name).read_bytes() == first


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["none.yaml"], 2, "none.yaml"),
        (["train.yaml", "--rate", "awful"], 2, "good, typical, bad, learnt"),
        (["train.yaml", "--rate", "-1"], 2, "more than 0"),
        (["train.yaml", "--rate", "nan"], 2, "1,000 node-days"),
        (["train.yaml", "--rate", "\x1b[31mx"], 2, "--rate: "),
        (["train.yaml", "--rate", "learnt"], 69, "no job of yours"),
        (["train.yaml", "--nodes", "0"], 2, "nodes"),
        (["train.yaml", "--from", "999"], 2, "no run is known as '999'"),
        (["train.yaml", "--picture", "a.pdf"], 2, ".png or .svg"),
        (["train.yaml", "--picture", "no/such/folder/a.png"], 73, "cannot write"),
        ([], 2, "Missing argument 'CONFIG'"),
    ],
)
def test_mistakes(train, root, capfd, words, code, said):
    """Each has its code and a sentence, and nothing is printed on stdout or done to the terminal."""
    found = plan(capfd, *words)
    assert found[0] == code
    assert said in found[2]
    assert found[1] == ""
    assert "\x1b" not in found[2]


def test_names_do_nothing(train, root, capfd):
    """A mistake in a file with a hostile name, and a hostile key, is told in visible characters."""
    evil = train.with_name("a\x1b[31m\nb.yaml")
    evil.write_text(YAML + 'plan2: {"<script>\\x1b[0m": 1}\n')
    code, out, err = plan(capfd, evil.name)
    assert (code, out) == (2, "")
    assert "\x1b" not in err


def test_nothing_to_draw_with(train, capfd, monkeypatch):
    """Without matplotlib the picture is refused, before anything is printed."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, out, err = plan(capfd, "train.yaml", "--picture", "a.png")
    assert (code, out) == (69, "")
    assert "matplotlib is not installed" in err
