from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftslurm import siteprofile, submission
from ftslurm.adoption import adopt
from ftslurm.config import Config
from ftslurm.doctor import probe_facts
from ftslurm.paths import RUNS, is_hosts_own, ledger_of
from ftslurm.siteprofile import Proven, SiteProfile
from ftslurm.slurm.env import job_from_env

SMALL = {"name": "x", "command": ["x"], "resources": {"nodes": 1}}


@pytest.fixture
def shared() -> Iterator[Path]:
    """Give a folder that is not one of those that every host has for itself."""
    folder = Path(tempfile.mkdtemp(dir="/var/lib" if os.access("/var/lib", os.W_OK) else Path.home()))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the user a home of its own, and no run root in the environment."""
    monkeypatch.setenv("FTSLURM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("FTSLURM_RUN_ROOT", raising=False)
    return tmp_path / "home"


WAYS = ("option", "file", "environment", "profile", "script", "home")


@pytest.mark.parametrize("first", range(len(WAYS)), ids=WAYS)
def test_who_says_it_first(tmp_path, home, shared, monkeypatch, first):
    """Option, file, environment, site profile, folder of the script, home: the first that says anything wins."""
    said = {name: f"/{name}" for name in WAYS[first:]}
    if "environment" in said:
        monkeypatch.setenv("FTSLURM_RUN_ROOT", "/environment")
    config = Config.model_validate({**SMALL, **({"run_root": "/file"} if "file" in said else {})})
    script = shared / "train.yaml" if "script" in said else tmp_path / "train.yaml"
    found = submission.run_root_of(
        config, Path("/option") if "option" in said else None, profile=said.get("profile", ""), script=script
    )
    places = {"script": shared / RUNS, "home": home / "runs"}
    assert found == places.get(WAYS[first], Path(f"/{WAYS[first]}"))


@pytest.mark.parametrize("folder", ["/tmp", "/tmp/a/b", "/dev/shm/x", "/var/tmp", "/run/user/0"])
def test_folders_that_no_other_host_sees(folder):
    """What every host has for itself is never taken for the script's sake."""
    assert is_hosts_own(Path(folder))
    assert not is_hosts_own(Path("/home/me/tmp"))


def test_a_script_in_a_folder_that_cannot_be_written(home, shared, monkeypatch):
    """The runs of a colleague's script lie in the user's own home."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert submission.run_root_of(None, None, script=shared / "x.yaml") == home / "runs"


def test_runs_beside_their_scripts_share_one_ledger(home, tmp_path):
    """A node that is bad for one script is bad for all; a run root that was named has a ledger of its own."""
    assert ledger_of(tmp_path / RUNS) == home / "runs" / "ledger"
    assert ledger_of(tmp_path / "group") == tmp_path / "group" / "ledger"


def adopted_root(submit_dir: Path, **more: str) -> Path:
    """Where a call of `ftslurm run` in a script puts its run."""
    allocation = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "n1",
        "SLURM_NTASKS": "1",
        "SLURM_SUBMIT_DIR": str(submit_dir),
    }
    return adopt(["x"], job_from_env({**allocation, **more})).root.parent


def test_a_script_with_ftslurm_run(home, shared, tmp_path):
    """`ftslurm run` without YAML: the folder from which the script was submitted, or what a probe has proven."""
    assert adopted_root(shared) == shared / RUNS
    assert adopted_root(tmp_path) == home / "runs"
    proven = Proven(made="2026", slurm="22.05.8", run_root=str(shared / "proven"))
    siteprofile.save(SiteProfile(cluster="c", default_partition="p", partitions={"p": proven}))
    assert adopted_root(shared, SLURM_CLUSTER_NAME="c", SLURM_JOB_PARTITION="p", SLURM_JOB_ID="8") == shared / "proven"
    assert adopted_root(shared, SLURM_CLUSTER_NAME="c", SLURM_JOB_PARTITION="q", SLURM_JOB_ID="9") == shared / RUNS
    siteprofile.path_of("c").write_text("{")
    assert adopted_root(shared, SLURM_CLUSTER_NAME="c", SLURM_JOB_PARTITION="p", SLURM_JOB_ID="10") == shared / RUNS


@pytest.mark.parametrize(
    ("writable", "sound", "root", "kept"),
    [
        (True, True, Path("/r"), "/r"),
        (True, True, None, ""),
        (False, True, Path("/r"), ""),
        (None, None, Path("/r"), ""),
    ],
)
def test_what_a_probe_proves(writable, sound, root, kept):
    """A run root is kept where the user had named it, and every node could use it."""
    known = {"probe.root_writable": writable, "probe.root_sound": sound}
    assert probe_facts.proven(known, "2026", root).run_root == kept
