"""What an attempt's ranks find in their environment, and what ftslurm's own processes must not find in theirs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from ftslurm.lab.cluster import Cluster
from tests.lab.training import LabRun, program, submit, workplace

pytestmark = pytest.mark.lab

BROKEN = ("asyncio", "json", "logging", "click", "pydantic", "yaml", "ftslurm", "wire", "xxhash")
"""Modules that ftslurm needs, as a user's careless file names would hide them."""


def dumps(folder: Path, attempt: int) -> list[dict[str, Any]]:
    """What each rank of an attempt has written, in the order of ranks."""
    paths = sorted(folder.glob(f"attempt-{attempt}-rank-*.json"))
    return [json.loads(path.read_text()) for path in paths]


def environ_of(pid: int) -> dict[str, str]:
    """The environment that a process was started with."""
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    return dict(pair.partition("=")[::2] for pair in pairs if pair)


def check_attempt(lab: Cluster, run: LabRun, found: list[dict[str, Any]], attempt: int, nodes: list[str]) -> None:
    """One attempt's ranks, two a node: their place in the world, and the world that they see."""
    folded = lab.login(["scontrol", "show", "hostlist", ",".join(nodes)], timeout=30).stdout.strip()
    size = 2 * len(nodes)
    assert [dump["host"] for dump in found] == [node for node in nodes for _ in range(2)]
    for rank, dump in enumerate(found):
        environ = dump["environ"]
        place = {
            "RANK": rank,
            "LOCAL_RANK": rank % 2,
            "LOCAL_WORLD_SIZE": 2,
            "GROUP_RANK": rank // 2,
            "NODE_RANK": rank // 2,
            "WORLD_SIZE": size,
            "MASTER_ADDR": lab.spec.address(nodes[0]),
            "TORCHELASTIC_RESTART_COUNT": attempt,
            "TORCHELASTIC_RUN_ID": f"{run.run_id}-{attempt}",
            "FTSLURM_ATTEMPT": attempt,
            "FTSLURM_RUN_ID": run.run_id,
            "SLURM_JOB_ID": run.job,
            "SLURM_NODELIST": folded,
            "SLURM_JOB_NODELIST": folded,
            "SLURM_JOB_NUM_NODES": len(nodes),
            "SLURM_NNODES": len(nodes),
            "SLURM_NTASKS": size,
            "WANDB_RUN_ID": "the-users-own",
            "WANDB_RESUME": "allow",
            "FROM_LAUNCH_ENV": "a b$c",
            "FROM_SETUP": "set up",
        }
        assert {name: environ.get(name) for name in place} == {name: str(value) for name, value in place.items()}
        assert 25000 <= int(environ["MASTER_PORT"]) <= 25999
        assert not {"FTSLURM_ROLE", "FTSLURM_AGENT", "FTSLURM_KEY_FILE"} & set(environ)
        assert not [name for name in environ if name.startswith("FTSLURM") and "KEY" in name]
    assert len({dump["environ"]["MASTER_PORT"] for dump in found}) == 1


def test_environment_of_attempts(lab: Cluster) -> None:
    """Two ranks a node see the world of their attempt, also after a lost node; ftslurm's own Pythons see nothing of theirs."""
    work = workplace(lab, "environment", None)
    for name in BROKEN:
        (work / f"{name}.py").write_text(
            f"raise SystemExit('the user's own {name} was imported')\n".replace("user's", "users")
        )
    hidden = work / "hidden"
    hidden.mkdir()
    ranks_only = {"PYTHONHOME": sys.base_prefix, "PYTHONPATH": str(hidden), "LD_LIBRARY_PATH": str(hidden)}
    run = submit(
        lab,
        program("env_dump", work / "dumps", "--linger", 600, "a b", "$(id)"),
        name="environment",
        nodes=3,
        work=work,
        options=[f"--chdir={work}"],
        resources={"ranks_per_node": 2},
        launch={
            "env": {**ranks_only, "WANDB_RUN_ID": "the-users-own", "FROM_LAUNCH_ENV": "a b$c"},
            "setup": ["export FROM_SETUP='set up'"],
        },
        network={"ports": "25000-25999"},
        checkpoint={"files": []},
    )
    run.wait("six ranks", lambda: len(dumps(work / "dumps", 0)) == 6)
    first = dumps(work / "dumps", 0)
    check_attempt(lab, run, first, 0, ["n1", "n2", "n3"])
    assert {dump["cwd"] for dump in first} == {str(work)}
    assert all(dump["argv"] == ["a b", "$(id)"] for dump in first)
    assert all(dump["environ"][name] == value for dump in first for name, value in ranks_only.items())

    ours = [proc for proc in run.processes() if proc.kind in ("agent", "supervisor", "parent", "wrapper")]
    assert sorted(proc.kind for proc in ours) == ["agent"] * 3 + ["parent", "supervisor"] + ["wrapper"] * 6
    for proc in ours:
        assert proc.words[1] == "-I", proc
        assert not {*ranks_only, "WANDB_RUN_ID", "FROM_LAUNCH_ENV", "FROM_SETUP"} & set(environ_of(proc.pid)), proc

    lab.cut("n2")
    run.wait("four ranks", lambda: len(dumps(work / "dumps", 1)) == 4)
    second = dumps(work / "dumps", 1)
    check_attempt(lab, run, second, 1, ["n1", "n3"])
    run.wait("the link to the newest logs", lambda: os.readlink(run.root / "logs" / "current") == "1")
    assert second[0]["environ"]["MASTER_PORT"] != first[0]["environ"]["MASTER_PORT"]
