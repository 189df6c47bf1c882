from __future__ import annotations

import json

import pytest
import yaml

from ftslurm import cli, siteprofile
from ftslurm.siteprofile import Proven, SiteProfile

PLAIN = {"name": "demo", "command": ["x"], "resources": {"nodes": 2, "time": "1:00:00"}}


@pytest.fixture
def site(slurm):
    """The fake Slurm, calling itself `fake`."""
    slurm.change("config", "ClusterName", value="fake")
    slurm.change("config", "SLURM_VERSION", value="22.05.8")
    return slurm


def written(folder, **changes):
    """Write a configuration; returns its path."""
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({**PLAIN, **changes}))
    return str(path)


def saved(**changes):
    """Save a profile of the fake cluster."""
    proven = Proven(**{"made": "2026-01-02T00:00:00+00:00", "slurm": "22.05.8", "scratch": "/nvme", **changes})
    siteprofile.save(SiteProfile(cluster="fake", default_partition="main", partitions={"main": proven}))


def test_the_report_fits_80_columns_and_is_sound(site, root, capfd, monkeypatch):
    """Every finding has its number, its consequence and its setting; nothing is submitted; code 0."""
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.exit_code(["doctor"]) == 0
    out = capfd.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "M11,A4,A5" in out
    assert "setting" in out
    assert site.state["jobs"] == {}
    assert not root.exists()


def test_json_is_one_object_with_every_rule(site, capfd):
    """Each rule is there with its standing: what applies, what does not, what is unknown."""
    assert cli.exit_code(["doctor", "--json"]) == 0
    record = json.loads(capfd.readouterr().out, parse_constant=pytest.fail)
    assert record["meta"]["schema"] == 1
    assert record["ok"] is True
    assert {each["standing"] for each in record["findings"]} == {"applies", "absent", "unknown"}
    assert record["facts"]["slurm.cluster"] == "fake"


def test_all_lists_the_rest_too(site, capfd):
    """`--all` adds what ftslurm handles itself, and what was looked at and is fine."""
    assert cli.exit_code(["doctor", "--all"]) == 0
    out = capfd.readouterr().out
    assert "Handled by ftslurm itself\n  M2,C3" in out
    assert "Not the case here" in out


@pytest.mark.parametrize(
    ("changes", "trap"),
    [
        ({"resources": {"nodes": 5}}, "K3"),
        ({"resources": {"nodes": 2, "partition": "gpu"}}, "K1"),
        ({"resources": {"nodes": 2, "time": "2-00:00:00"}}, "K5"),
        ({"launch": {"mpi": "cray_shasta"}}, "E3,M13,K7"),
        ({"run_root": "/proc/self"}, "H2"),
        ({"resources": {"nodes": 2, "sbatch": {"exclude": "nowhere"}}}, "K11"),
    ],
)
def test_a_configuration_that_cannot_run_here_ends_with_78(site, tmp_path, capfd, changes, trap):
    """What would stop the run stands first, and the exit code says so."""
    assert cli.exit_code(["doctor", written(tmp_path, **changes)]) == 78
    assert capfd.readouterr().out.splitlines()[2].startswith(f"STOPS     {trap}")


def test_slurm_away_is_69_and_a_bad_call_is_2(site, tmp_path, capfd):
    """No answer is no guess."""
    site.fail("scontrol show config", "down")
    assert cli.exit_code(["doctor"]) == 69
    assert cli.exit_code(["doctor", "--probe", "--wait", "soon"]) == 2
    assert cli.exit_code(["doctor", str(tmp_path / "absent.yaml")]) == 2
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("call", ["scontrol show partition", "srun --mpi=list", "scontrol --version"])
def test_what_does_not_answer_is_listed_as_unknown(site, tmp_path, capfd, call):
    """One command that fails costs the facts it would have told, and nothing else."""
    site.fail(call, "refuse")
    assert cli.exit_code(["doctor", written(tmp_path)]) == 0
    assert "Unknown: nobody could tell" in capfd.readouterr().out


def test_a_probe_that_does_not_start_is_cancelled_and_leaves_nothing(site, root, capfd):
    """The deadline cancels the job, removes the folder and says what to do."""
    for name in ("n1", "n2", "n3", "n4"):
        site.change("nodes", name, "state", value="DOWN")
    assert cli.exit_code(["doctor", "--probe", "--wait", "1s"]) == 69
    err = capfd.readouterr().err
    assert "did not start in time" in err
    assert [job["state"] for job in site.state["jobs"].values()] == ["CANCELLED"]
    assert list(root.iterdir()) == []


def test_a_refused_probe_is_77_and_leaves_nothing(site, root):
    """Slurm's no is passed on."""
    site.fail("sbatch", "refuse")
    assert cli.exit_code(["doctor", "--probe"]) == 77
    assert list(root.iterdir()) == []


def test_submit_uses_the_profile_and_says_so(site, tmp_path, capfd):
    """What was proven stands in for auto; the run's folder keeps it for the supervisor."""
    saved(requeue=False)
    assert cli.exit_code(["submit", written(tmp_path), "--dry-run"]) == 0
    captured = capfd.readouterr()
    assert "checkpoint.scratch = /nvme" in captured.err
    assert "recovery.continue = none" in captured.err
    assert "--no-requeue" in captured.out
    assert cli.exit_code(["submit", written(tmp_path), "--parsable"]) == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    run = tmp_path / "home" / "runs" / "by-job" / captured.out.strip()
    assert json.loads((run / "site.json").read_text())["values"]["checkpoint.scratch"] == "/nvme"
    assert json.loads((run / "config.resolved.json").read_text())["checkpoint"]["scratch"] == "/nvme"


def test_a_stale_profile_is_said(site, tmp_path, capfd):
    """Made with another release of Slurm: both `submit` and `doctor` say it."""
    saved(slurm="21.08.5")
    assert cli.exit_code(["submit", written(tmp_path), "--dry-run"]) == 0
    assert "stale" in capfd.readouterr().err
    assert cli.exit_code(["doctor"]) == 0
    assert "stale" in capfd.readouterr().out


def test_a_profile_of_another_cluster_or_partition_is_not_used(site, tmp_path, capfd):
    """Nothing is taken from what was proven elsewhere; a profile that cannot be read is said and not used."""
    saved()
    site.change("partitions", value=["main", "gpu"])
    assert cli.exit_code(["submit", written(tmp_path, resources={"nodes": 1, "partition": "gpu"}), "--dry-run"]) == 0
    assert "site profile" not in capfd.readouterr().err
    siteprofile.path_of("fake").write_text("{")
    assert cli.exit_code(["submit", written(tmp_path), "--dry-run"]) == 0
    assert "the site profile is not used" in capfd.readouterr().err
    site.change("config", "ClusterName", value="other")
    assert cli.exit_code(["submit", written(tmp_path), "--dry-run"]) == 0
    assert "site profile" not in capfd.readouterr().err
