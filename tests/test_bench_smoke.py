"""Each benchmark runs from end to end on a tiny size and writes what its page needs. Times are never asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftslurm.lab.cluster import Cluster
from tests.lab.longer import long_test
from tests.local_ranks import ROOT, clean_environment
from tests.plan.public_trace import needs_trace

BENCHMARKS = ROOT / "scripts" / "benchmarks"


@pytest.fixture(scope="module")
def lab_name() -> Iterator[str]:
    """A lab of four nodes of its own."""
    lab = Cluster("bench-smoke")
    lab.down(purge=True)
    lab.up(4)
    yield lab.name
    lab.down(purge=True)


def bench(name: str, *options: object) -> tuple[dict[str, Any], str]:
    """Run a benchmark; return its results and its page."""
    out = Path(str(options[options.index("--out") + 1]))
    argv = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--quick", *map(str, options)]
    environ = clean_environment()
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((out / f"{name}.json").read_text()), (out / f"{name}.md").read_text()


@pytest.mark.lab
@pytest.mark.timeout(600)
def test_recovery(lab_name: str, tmp_path: Path) -> None:
    """A killed rank comes back under ftslurm, and its time is split; the floor stands beside it; cells are merged."""
    bench("recovery", "--cells", "floor:none", "--lab", lab_name, "--out", tmp_path)
    value, page = bench("recovery", "--cells", "ftslurm:kill", "--lab", lab_name, "--out", tmp_path)
    found = {(one["method"], one["fault"]): one for one in value["samples"]}
    assert found.keys() == {("floor", "none"), ("ftslurm", "kill")}
    killed = found["ftslurm", "kill"]
    assert killed["back"]
    assert killed["world_size"] == 4
    assert killed["lost_steps"] >= 0
    assert 0 < killed["process_start_s"] < killed["first_step_s"] <= killed["new_step_s"]
    assert set(killed["phases"]) == {"detect", "decide", "stop", "launch", "first"}
    assert sum(killed["phases"].values()) == pytest.approx(killed["new_step_s"], abs=0.01)
    assert "**ftslurm** | 1 of 1" in page


@long_test("two launch scripts are broken, as the lab's tests do, too")
@pytest.mark.lab
@pytest.mark.timeout(600)
def test_adoption(lab_name: str, tmp_path: Path) -> None:
    """A killed rank and a cut node, each in a script of its own; both cells are on the page."""
    value, page = bench("adoption", "--lab", lab_name, "--out", tmp_path)
    assert [(one["shape"], one["fault"], one["back"]) for one in value["samples"]] == [
        ("plain", "kill", True),
        ("trap", "cut", True),
    ]
    assert page.count(" ranks after ") == 2


@pytest.mark.lab
@pytest.mark.timeout(600)
def test_overhead(lab_name: str, tmp_path: Path) -> None:
    """Agents are found on all nodes, parent and supervisor on the first, and the command line is timed."""
    value, page = bench("overhead", "--lab", lab_name, "--out", tmp_path)
    roles = {(one["node"], one["role"]) for one in value["at_rest"]}
    assert roles >= {(f"n{number}", "agent") for number in range(1, 5)} | {("n1", "parent"), ("n1", "supervisor")}
    assert all(one["share"] >= 0 for one in value["at_rest"])
    assert set(value["command_line"]) == {"ftslurm --help", "python -c pass"}
    assert "| n4 |" in page


@pytest.mark.timeout(600)
def test_checkpoint(tmp_path: Path) -> None:
    """Every way of saving, loading and draining a state is measured in every round, ours through its own interface."""
    value, page = bench("checkpoint", "--dir", tmp_path, "--out", tmp_path)
    took = value["seconds"]
    assert {"memcpy", "blocking", "raw", "total", "dcp", "torch", "safetensors", "cp", "drain", "rsync"} <= set(took)
    assert {"read:cold", "load:cold", "load:warm", "dcp_load:warm"} <= set(took)
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in took.values())
    assert "drain by verified copy" in page
    assert "total / raw | at most 1.1" in page


@pytest.mark.timeout(600)
def test_restore(tmp_path: Path) -> None:
    """Three survivors get all four parts: from scratch, partners and each other, or, apart from that, from shared storage."""
    value, page = bench("restore", "--dir", tmp_path, "--out", tmp_path)
    part = value["bytes"]["near"]["own"] // 3
    assert part >= value["mib"] << 18
    assert value["bytes"]["near"].keys() == {"own", "partner", "peer"}
    assert value["bytes"]["near"]["partner"] >= 3 * part
    assert value["bytes"]["near"]["peer"] >= value["bytes"]["floor"]["copied"] == 6 * (value["mib"] << 18)
    assert value["bytes"]["bare"].keys() == {"shared"}
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in value["seconds"].values())
    assert "shared storage in that case: 0." in page


def test_corruption(tmp_path: Path) -> None:
    """All damages are noticed by ftslurm, in every place; what the others do is written beside it."""
    value, page = bench("corruption", "--out", tmp_path)
    assert len(value["found"]) == 12
    for damage, by_format in value["found"].items():
        assert set(by_format) == {"torch.load", "safetensors", "DCP", "ftslurm"}
        assert set(by_format["ftslurm"]) == {"noticed"}, damage
    assert "| One bit flipped, in a file with numbers |" in page


def test_durability(tmp_path: Path) -> None:
    """With a common target most checkpoints become durable; without one almost none does."""
    value, page = bench("durability", "--out", tmp_path)
    common, alone = (each["durable"] for each in value["found"])
    assert common > 30
    assert alone < 5
    assert "one target for all" in page


@pytest.mark.lab
@pytest.mark.timeout(600)
def test_detection(lab_name: str, tmp_path: Path) -> None:
    """A killed rank and a cut node are found, named rightly, and no other node is excluded."""
    value, page = bench("detection", "--classes", "kill,cut", "--lab", lab_name, "--out", tmp_path)
    assert [each["class"] for each in value["samples"]] == ["kill", "cut"]
    assert all(each["detected"] and each["right_class"] for each in value["samples"])
    assert all(0 < each["verdict_s"] < each["new_step_s"] for each in value["samples"])
    assert value["wrongly_excluded"] == []
    assert "| node cut | default | 1 | 1 | 1 |" in page


@pytest.mark.lab
@pytest.mark.timeout(600)
def test_soak(lab_name: str, tmp_path: Path) -> None:
    """Each disturbance passes over a healthy run, which neither loses a rank or a node nor changes hands."""
    value, page = bench("soak", "--lab", lab_name, "--out", tmp_path)
    assert len(value["spells"]) == 5
    assert not any(each[key] for each in value["spells"] for key in ("excluded", "killed", "takeovers"))
    assert "| supervisor stopped for 20 s | 1 |" in page


@long_test("three jobs of three minutes, one after the other")
@pytest.mark.lab
@pytest.mark.timeout(600)
def test_chains(lab_name: str, tmp_path: Path) -> None:
    """Three jobs are one run; the fourth, which is not needed, holds nothing."""
    value, page = bench("chains", "--lab", lab_name, "--out", tmp_path)
    (chain,) = value["samples"]
    assert len(chain["jobs"]) == 3
    assert not chain["spare_ran"]
    assert "| 1.3 |" in page


def test_scale(tmp_path: Path) -> None:
    """All agents are connected, their beats are counted, and a node that falls silent is condemned."""
    value, page = bench("scale", "--out", tmp_path)
    (one,), (floor,) = value["supervisor"], value["floor"]
    assert one["nodes"] == floor["nodes"] == 16
    assert one["beats_s"] > 0
    assert floor["beats_s"] > 0
    (loss,) = one["silent"]
    assert 0 < loss["suspected"] <= loss["verdict"]
    assert value["codec"]["hmac_us"] > 0
    assert "floor: bare echo" in page


@needs_trace
def test_trace(tmp_path: Path) -> None:
    """Nodes and time are held back, every number that was asked about has its row, and large fleets are drawn."""
    value, page = bench("trace", "--out", tmp_path)
    names = {"rate", "dispersion", "within_day", "within_week", "top_5", "top_10", "top_20"}
    assert all({row["name"] for row in value[part]} == names for part in ("nodes", "time", "beyond"))
    assert {row["generator"] for row in value["speed"]} == {"clustered", "lemons", "weibull", "exponential"}
    assert "| of the worst 20 % |" in page


def test_fleet(tmp_path: Path) -> None:
    """A node is lost and left out; up to the share of all nodes many are, and beyond it the job goes back to the queue."""
    value, page = bench("fleet", "--out", tmp_path)
    assert {one["phase"] for one in value["core"]} == {"relaunching"}
    for each in value["mass_loss"]:
        assert each["given_up"] == min(each["lost"], each["allowed"])
        assert each["phase"] == ("draining" if each["lost"] > each["allowed"] else "relaunching")
    assert "| 100 |" in page


def test_observing(tmp_path: Path) -> None:
    """A line of a log has a price, and the commands that show runs are measured on a long journal and on many runs."""
    value, page = bench("observing", "--without-lab", "--out", tmp_path)
    assert 0 < value["line_s"] < 1
    assert {"explain", "report", "status", "status, the first time", "status --json"} <= set(value["commands"])
    assert "| `ftslurm status`, the first time | 20 runs, " in page


@long_test("two runs of which one is not observed are watched side by side")
@pytest.mark.lab
@pytest.mark.timeout(600)
def test_observing_on_nodes(lab_name: str, tmp_path: Path) -> None:
    """Both runs are measured on all nodes, in both orders, and stand beside each other on the page."""
    value, page = bench("observing", "--lab", lab_name, "--out", tmp_path)
    seen = {(row["turn"], row["observing"], row["node"]) for row in value["rest"] if row["role"] == "agent"}
    assert {each[:2] for each in seen} == {(turn, name) for turn in (0, 1) for name in ("on", "off")}
    assert {node for _, _, node in seen} == {"n1", "n2", "n3", "n4"}
    assert "| batch host | agent | " in page
    assert "| other node | " in page


@long_test("four jobs train one after the other")
@pytest.mark.lab
@pytest.mark.timeout(600)
def test_steps(lab_name: str, tmp_path: Path) -> None:
    """Every size is measured, predicted from its parts, and said by the law through the others."""
    value, page = bench("steps", "--lab", lab_name, "--out", tmp_path)
    assert [size["ranks"] for size in value["sizes"]] == [1, 2, 4, 8]
    assert all(size["step_s"] > 0 and size["trained_s"] > 0 for size in value["sizes"])
    assert page.count("| known |") == 2
    assert page.count("Gustafson") + page.count("Amdahl") == 4


@long_test("three jobs are killed again and again")
@pytest.mark.lab
@pytest.mark.timeout(600)
def test_forecast(lab_name: str, tmp_path: Path) -> None:
    """Costs are measured in one job, and what they predict stands beside what another one reached."""
    value, page = bench("forecast", "--lab", lab_name, "--out", tmp_path)
    (sample,) = value["samples"]
    assert value["costs"].keys() >= {"save_s", "detect_s", "restart_s", "interval_s", "step_s", "dead_s", "start_s"}
    assert sample["killed"] + sample["void"] == 3
    assert sum(sample["predicted"].values()) == pytest.approx(1, abs=0.001)
    assert sum(sample["by_journal"].values()) == pytest.approx(1, abs=0.01)
    assert "| 10 s | " in page


def test_diagnosis(tmp_path: Path) -> None:
    """Every incident of the corpus is in the matrix; worse evidence is scored beside the whole."""
    value, page = bench("diagnosis", "--out", tmp_path)
    assert sum(value["matrix"].values()) == value["incidents"] >= 60
    assert value["right"] / value["incidents"] >= 0.9
    assert len(value["worse"]) == 3
    assert "## Confusion matrix" in page


def test_results_name_no_machine() -> None:
    """Published results hold no host name and no path of the machine that they were measured on."""
    for path in sorted((ROOT / "docs" / "benchmarks").glob("*.*")):
        text = path.read_text(encoding="utf-8")
        for word in (str(ROOT), str(Path.home()), "/var/lib", "/tmp/"):
            assert word not in text, f"{path.name} holds {word}"


@long_test("cron looks at its lines once a minute")
@pytest.mark.lab
@pytest.mark.timeout(900)
def test_campaign(lab_name: str, tmp_path: Path) -> None:
    """Cron drives two injections, although the first call is killed; the page has their score."""
    value, page = bench("campaign", "--lab", lab_name, "--out", tmp_path)
    assert value["score"]["injected"] == 2
    assert value["score"]["weights"]["different"] == 0
    assert "| all | 2 |" in page


@long_test("two jobs of twenty seconds")
@pytest.mark.lab
@pytest.mark.timeout(600)
def test_mtbf(lab_name: str, tmp_path: Path) -> None:
    """Ranks are killed at the moments that were drawn, and the share of steps that stay is on the page."""
    value, page = bench("mtbf", "--lab", lab_name, "--out", tmp_path)
    undisturbed, disturbed = value["samples"]
    assert (undisturbed["mtbf_s"], disturbed["mtbf_s"]) == (None, 10.0)
    assert undisturbed["steps"] > 0
    assert disturbed["killed"] + disturbed["void"] > 0
    assert "| 10 s | **ftslurm** |" in page
