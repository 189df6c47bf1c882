"""The doctor on a real cluster: what applies there, what the probe job proves, and what `submit` makes of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from ftslurm.lab.cluster import Cluster

pytestmark = pytest.mark.lab

FTSLURM = (sys.executable, "-m", "ftslurm")
EVERYWHERE = {"E3,M13", "A6,A11,M10", "M8,B3,M29", "B1,M28", "A10", "B5", "S8"}
OF_22_05 = {"A3", "C1", "M11,A4,A5", "B8"}
NOT_IN_THE_LAB = {
    "M19",
    "M9",
    "M31,A3",
    "A9",
    "D3",
    "F1,D3",
    "A7",
    "S2,M27",
    "B4,M17",
    "P3",
    "P10,E2",
    "M32,C2",
    "P9",
    "D1",
}


def place(lab: Cluster, name: str) -> Path:
    """A folder on the lab's shared storage that belongs to its ordinary user."""
    path = lab.shared / name
    lab.login(["mkdir", "-p", str(path)], user=lab.user, timeout=30).check_returncode()
    return path


def scratch_of(lab: Cluster) -> list[Path]:
    """What lies on the scratch of the nodes that are probed."""
    return sorted(entry for node in ("n1", "n2") for entry in lab.scratch(node).rglob("*"))


def test_the_doctor_finds_what_the_lab_has(lab: Cluster) -> None:
    """Two nodes are probed: the traps of this Slurm and no others, proven scratch, MPI and requeue; `submit` uses them."""
    work = place(lab, "doctor")
    file = work / "run.yaml"
    told = {
        "name": "demo",
        "command": ["true"],
        "resources": {"nodes": 2, "gpus_per_node": 2},
        "recovery": {"min_nodes": 1},
        "checkpoint": {"files": ["*.pt"]},
    }
    file.write_text(yaml.safe_dump(told))
    shared = yaml.safe_dump({**told, "checkpoint": {"files": ["*.pt"], "scratch": str(work)}})
    (work / "shared.yaml").write_text(shared)
    environ = {"XDG_CONFIG_HOME": str(work / "config"), "FTSLURM_HOME": str(work / "home")}
    before = scratch_of(lab)
    done = lab.login(
        [*FTSLURM, "doctor", str(work / "shared.yaml"), "--probe", "--json"], user=lab.user, timeout=150, env=environ
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    facts = record["facts"]
    applies = [each for each in record["findings"] if each["standing"] == "applies" and each["severity"] != "handled"]
    found = {",".join(each["traps"]) for each in applies}
    assert found >= EVERYWHERE | (OF_22_05 if facts["slurm.release"].startswith("22.05.") else set())
    assert found & NOT_IN_THE_LAB == set()
    assert facts["probe.answered"] == facts["probe.nodes"] == ["n1", "n2"]
    assert facts["probe.scratch_shared"] == [str(work)]
    assert facts["probe.scratch_local"] == ["/scratch", "/tmp"]
    assert facts["probe.mpi_works"] == ["pmix"]
    assert facts["probe.interface"] == ["eth0"]
    wanted = ("connected", "overlap", "without_gpu", "all_gpus", "requeue", "scontrol", "sbatch", "signal", "met")
    witnesses = ("ping_works", "ssh_works", "srun_works", "tcp_works")
    assert {name: facts[f"probe.{name}"] for name in (*wanted, *witnesses)} == dict.fromkeys(
        (*wanted, *witnesses), True
    )

    assert lab.login(["squeue", "-h"], timeout=30).stdout == ""
    assert list((work / "ftslurm-runs").iterdir()) == []
    assert scratch_of(lab) == before

    profile = json.loads(Path(record["profile"]).read_text())
    proven = profile["partitions"]["lab"]
    assert (proven["scratch"], proven["mpi"], proven["requeue"], proven["ssh"]) == ("/scratch", "pmix", True, True)
    dry = lab.login([*FTSLURM, "submit", str(file), "--dry-run"], user=lab.user, timeout=30, env=environ)
    assert dry.returncode == 0, dry.stderr
    assert "checkpoint.scratch = /scratch (site profile " in dry.stderr


TERM_WHEN_PENDING = """
"$@" 2>"$0" & probe=$!
for _ in $(seq 600); do grep -qF "PENDING (BeginTime)" "$0" && break; sleep 0.1; done
kill -TERM $probe; wait $probe
"""
"""Argument 0: where the command's messages go."""


def test_an_interrupted_probe_leaves_nothing(lab: Cluster) -> None:
    """A signal that ends the doctor cancels the job and removes its folder, as Ctrl-C does."""
    work = place(lab, "doctor-interrupted")
    runs, said = work / "runs", work / "said"
    probe = [*FTSLURM, "doctor", "--probe", "--sbatch", "--begin=now+1hour", "--run-root", str(runs)]
    done = lab.login(["bash", "-c", TERM_WHEN_PENDING, str(said), *probe], user=lab.user, timeout=100)
    assert "PENDING (BeginTime)" in said.read_text()
    assert done.returncode == 130, said.read_text()
    assert lab.login(["squeue", "-h"], timeout=30).stdout == ""
    assert list(runs.iterdir()) == []
