from __future__ import annotations

import json
import time
from pathlib import Path
from random import Random

import pytest

from ftslurm import cli
from ftslurm.cli.analysis import past_of_trace
from ftslurm.core.lemons import DAY_S, Mark
from ftslurm.ledger import Writer
from ftslurm.plan.patterns import analyse
from ftslurm.report.draw_faults import picture
from tests.lab.longer import long_test
from tests.plan.pasts import TRACE, poisson, with_trace


def write_trace(path: Path, lemon: str = "bad") -> Path:
    """A trace of 120 days: 59 nodes of one rate, and one that fails often from day 60 on."""
    dice = Random(3)
    faults = [(f"n{index}", day) for index in range(59) for day in poisson(0.004, 120.0, dice)]
    faults += [(lemon, 60.0 + 4.7 * count) for count in range(12)]
    lines = ["node,start,end,kind"]
    lines += [
        f"{node},{day * DAY_S:.0f},{day * DAY_S + 3600:.0f},gpu"
        for node, day in sorted(faults, key=lambda each: each[1])
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def analyzed(capfd: pytest.CaptureFixture[str], *options: object) -> str:
    """What is printed."""
    assert cli.exit_code(["nodes", "--analyze", *map(str, options)]) == 0
    return capfd.readouterr().out


def test_a_trace_is_analyzed(slurm, tmp_path, capfd):
    """The lemon is on top, with its change; text and JSON agree."""
    file = write_trace(tmp_path / "trace.csv")
    text = analyzed(capfd, "--trace", file, "--fleet", 60)
    found = json.loads(analyzed(capfd, "--trace", file, "--fleet", 60, "--json"))
    assert found["meta"]["schema"] == 1
    assert found["nodes"][0]["node"] == "bad"
    assert found["nodes"][0]["p"] < 0.001
    (change,) = [each for each in found["node_changes"] if each["node"] == "bad"]
    assert abs(change["at"] / DAY_S - 60) < 8
    assert change["before"] < change["after"]
    assert {each["rule"] for each in found["rules"]} >= {"the rule of `submit`"}
    table = text[text.index("Most unreliable nodes") :].splitlines()
    assert table[1].split()[:3] == ["NODE", "FAULTS", "DAYS"]
    assert table[2].split()[0] == "bad"


def test_an_empty_ledger_is_no_error(slurm, root, capfd):
    """The sources are named, and that there is nothing."""
    assert cli.exit_code(["nodes", "--analyze"]) == 0
    done = capfd.readouterr()
    assert "journals of your runs" in done.out
    assert "no node has had a fault" in done.err


def test_one_mark_is_told_and_nothing_is_guessed(slurm, root, capfd):
    """One fault, no rate, no change."""
    Writer(root / "ledger", "t").mark(Mark(node="n3", at=time.time() - DAY_S, cause="gpu"))
    found = json.loads(analyzed(capfd, "--json"))
    assert (found["faults"], found["fleet"], found["rate"], found["exposure"]) == (1, 4, None, None)


def test_a_picture_is_drawn_where_one_is_asked_for(slurm, tmp_path, capfd):
    """The same data make the same bytes; names are no markup."""
    pytest.importorskip("matplotlib")
    file = write_trace(tmp_path / "trace.csv", lemon="<script>x</script>")
    one, two, other = tmp_path / "one.svg", tmp_path / "two.svg", tmp_path / "three.png"
    analyzed(capfd, "--trace", file, "--fleet", 60, "--picture", one)
    found = analyse(past_of_trace(file, 60))
    two.write_bytes(picture(found, "svg"))
    assert one.read_bytes() == two.read_bytes()
    assert "<script" not in one.read_text()
    assert "&lt;script&gt;" in one.read_text()
    other.write_bytes(picture(found, "png"))
    assert other.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--trace", "{}/none.csv", "--analyze"), 74, "none.csv"),
        (("--trace", "{}/bad.csv", "--analyze"), 2, "bad.csv:2"),
        (("--trace", "{}/good.csv", "--analyze", "--fleet", "2"), 2, "good.csv"),
        (("--trace", "{}/good.csv", "--analyze", "--picture", "{}/x.pdf"), 2, "x.pdf"),
        (("--trace", "{}/good.csv", "--analyze", "--picture", "{}/no/x.svg"), 73, "x.svg"),
        (("--picture", "{}/x.svg"), 2, "--analyze"),
        (("--fleet", "0", "--analyze"), 2, "--fleet"),
    ],
)
def test_mistakes_are_named(slurm, tmp_path, capfd, options, code, said):
    """What, where, and the exit code of its kind."""
    write_trace(tmp_path / "good.csv")
    (tmp_path / "bad.csv").write_text("node,start,end,kind\nn1,-5,3,gpu\n")
    assert cli.exit_code(["nodes", *(each.format(tmp_path) for each in options)]) == code
    assert said in capfd.readouterr().err


@long_test("the public trace, as a user would")
@with_trace
def test_the_public_trace_is_analyzed(slurm, capfd):
    """The numbers of the documentation."""
    text = analyzed(capfd, "--trace", TRACE, "--fleet", 400)
    assert "312 faults on 159 nodes of 400 in 173.6 days: 4.49 in 1000 node-days" in text
    assert "dispersion 2.41" in text
    assert text == analyzed(capfd, "--trace", TRACE, "--fleet", 400)
    assert "day 39.8: the fleet, 0.8 -> 2.8 in 1000 node-days" in text
