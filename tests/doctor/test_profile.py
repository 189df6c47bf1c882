from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ftslurm import siteprofile
from ftslurm.config import parse
from ftslurm.errors import StorageError
from ftslurm.paths import RunPaths
from ftslurm.siteprofile import Proven, SiteProfile, Taken

PROVEN = Proven(made="2026-01-02T03:04:05+00:00", slurm="22.05.8", scratch="/scratch", mpi="pmi2", requeue=False,
                mpi_offered=("none", "pmi2"))  # fmt: skip
PLAIN = "name: demo\ncommand: [x]\nresources: {nodes: 2}\n"


@pytest.fixture(autouse=True)
def sites(tmp_path, monkeypatch):
    """Keep profiles in a folder of the test's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def profile(**partitions: Proven) -> SiteProfile:
    """A profile of the cluster `lab`."""
    return SiteProfile(cluster="lab", default_partition="main", slurmd_timeout_s=300.0, partitions=partitions)


def test_a_profile_is_read_as_it_was_written():
    """Nothing is lost on the way, and another partition's proof stays."""
    siteprofile.save(profile(main=PROVEN))
    other = replace(PROVEN, scratch="none", interface="ib0")
    siteprofile.save(profile(gpu=other))
    assert siteprofile.load("lab") == profile(main=PROVEN, gpu=other)
    assert siteprofile.load("elsewhere") is None


def test_only_the_partition_that_was_probed_is_known():
    """A job without a partition gets what was proven in the default one; others get nothing."""
    known = profile(main=PROVEN)
    assert known.proven(None) is known.proven("main") is PROVEN
    assert known.proven("gpu") is None


@pytest.mark.parametrize("text", ["", "[]", '{"meta": {"schema": 1}}', '{"meta": {"schema": 99}}', "{", '{"meta": 1}'])
def test_a_damaged_profile_is_said_and_replaced(text):
    """It is never half believed; the next probe writes a new one."""
    path = siteprofile.save(profile(main=PROVEN))
    path.write_text(text)
    with pytest.raises(StorageError, match=r"lab\.json"):
        siteprofile.load("lab")
    siteprofile.save(profile(main=PROVEN))
    assert siteprofile.load("lab") == profile(main=PROVEN)


def test_fields_of_a_later_release_are_left_out():
    """A profile that knows more is read for what is understood."""
    path = siteprofile.save(profile(main=PROVEN))
    record = json.loads(path.read_text())
    record["more"] = record["partitions"]["main"]["more"] = 1
    path.write_text(json.dumps(record))
    assert siteprofile.load("lab") == profile(main=PROVEN)


@pytest.mark.parametrize("name", ["../x", ".hidden", "", "a/b"])
def test_a_cluster_name_is_never_a_path(name):
    """What Slurm calls itself does not choose where a file goes."""
    with pytest.raises(StorageError):
        siteprofile.path_of(name)


def test_it_stands_in_for_auto_only():
    """What the user has written wins over what was proven."""
    config = parse(PLAIN, "x")
    assert siteprofile.wanted(config, PROVEN) == {
        "checkpoint.scratch": "/scratch",
        "launch.mpi": "pmi2",
        "recovery.continue_": "none",
    }
    assert siteprofile.wanted(config, replace(PROVEN, sbatch=True))["recovery.continue_"] == "resubmit"
    own = "checkpoint: {scratch: /mine}\nlaunch: {mpi: pmix}\nrecovery: {continue: requeue}\n"
    assert siteprofile.wanted(parse(PLAIN + own, "x"), PROVEN) == {}
    assert siteprofile.wanted(config, Proven(made="", slurm="")) == {}


def test_the_programs_mpi_is_not_guessed_from_ours():
    """Where srun offers the default kind it stays, whatever ftslurm's own mpi4py needs; without any it is none."""
    config = parse(PLAIN, "x")
    assert "launch.mpi" not in siteprofile.wanted(config, replace(PROVEN, mpi_offered=("none", "pmi2", "pmix")))
    assert siteprofile.wanted(config, replace(PROVEN, mpi="", mpi_offered=("none",)))["launch.mpi"] == "none"


def test_a_run_keeps_what_it_was_submitted_with(tmp_path):
    """The supervisor reads the values from the run's folder; a run without such a file is as its own file says."""
    config = parse(PLAIN, "x")
    paths = RunPaths(tmp_path)
    assert siteprofile.of_run(config, paths) == config
    siteprofile.keep(paths, Taken(values={"checkpoint.scratch": "/scratch", "network.interface": "ib0"}))
    run = siteprofile.of_run(config, paths)
    assert (run.checkpoint.scratch, run.network.interface) == ("/scratch", "ib0")
    paths.site.write_text("{")
    with pytest.raises(StorageError, match=r"site\.json"):
        siteprofile.of_run(config, paths)
