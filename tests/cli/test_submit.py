from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ftslurm import cli
from ftslurm.config import load
from ftslurm.paths import RunPaths
from tests.insight.journals import Tale, config_policy
from tests.slurm.fake import FakeSlurm
from tests.slurm.hostile import CANARY, TEXTS

REFUSED = re.compile("[\udc80-\udcff]")
"""What no file can hold as text: bytes that are not UTF-8."""

PLAIN = {"name": "demo", "command": ["python", "train.py"], "resources": {"nodes": 4, "ranks_per_node": 2}}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Give a Slurm of four nodes first on PATH, and a home for ftslurm."""
    (tmp_path / "slurm").mkdir()
    slurm = FakeSlurm(tmp_path / "slurm")
    for name in ("PATH", "FAKE_SLURM_STATE"):
        monkeypatch.setenv(name, slurm.environ[name])
    monkeypatch.setenv("FTSLURM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("FTSLURM_RUN_ROOT", raising=False)
    return slurm


def written(folder: Path, **changes: object) -> Path:
    """Write a configuration with some values changed; returns its path."""
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({**PLAIN, **changes}))
    return path


def runs_of(home: Path) -> list[Path]:
    """The folders of all runs below an ftslurm home."""
    return [path for path in (home / "runs").glob("demo-*") if path.is_dir()]


def test_submit_makes_the_folder_and_prints_what_scripts_grep(fake, tmp_path, capfd):
    """A submission leaves a private folder with configuration, script and key, linked to its job."""
    assert cli.exit_code(["submit", str(written(tmp_path))]) == 0
    out = capfd.readouterr().out
    job_id = out.removeprefix("Submitted batch job ").strip()
    run = RunPaths((tmp_path / "home" / "runs" / "by-job" / job_id).resolve())
    assert stat.S_IMODE(run.root.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (run.key, run.config, run.resolved, run.script)} == {0o600}
    assert load(run.config).command == ("python", "train.py")
    assert json.loads(fake.state["jobs"][job_id]["comment"])["ftslurm"] == run.run_id


def test_parsable_and_json(fake, tmp_path, capfd):
    """`--parsable` prints the id alone, `--json` one object."""
    assert cli.exit_code(["submit", str(written(tmp_path)), "--parsable"]) == 0
    assert capfd.readouterr().out.strip().isdigit()
    assert cli.exit_code(["submit", str(written(tmp_path)), "--json"]) == 0
    assert {"job_id", "run_id", "run_dir"} <= set(json.loads(capfd.readouterr().out))


def test_what_a_lost_node_means_is_said(fake, tmp_path, capfd):
    """Before the job runs its user reads what a smaller world means for the global batch, and what forbids one."""
    assert cli.exit_code(["submit", str(written(tmp_path, recovery={"min_nodes": 3}))]) == 0
    said = capfd.readouterr().err
    assert "goes on with 3 of 4 nodes, that is 6 ranks instead of 8" in said
    assert "the global batch is then 3/4 (0.75)" in said
    assert cli.exit_code(["submit", str(written(tmp_path, recovery={"min_nodes": 4}))]) == 0
    assert "recovery.min_nodes: 4 forbids a smaller world" in capfd.readouterr().err
    assert cli.exit_code(["submit", str(written(tmp_path, recovery={"min_nodes": 3})), "--json"]) == 0
    captured = capfd.readouterr()
    assert (captured.err, json.loads(captured.out)["notes"]) == ("", [])
    assert all(sentence in said for sentence in json.loads(captured.out)["smaller_worlds"])


def test_a_chain_is_submitted_at_once(fake, tmp_path, capfd):
    """Each job waits for the one before it and leads to the run; one that Slurm does not take is said, and is no error."""
    file = written(tmp_path, recovery={"continue": "chain:3"})
    assert cli.exit_code(["submit", str(file), "--no-ledger", "--json"]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert answer["job_ids"] == ["101", "102", "103"]
    assert "the next of 3 jobs" in answer["time_limit"]
    links = [tmp_path / "home" / "runs" / "by-job" / job for job in answer["job_ids"]]
    assert {str(link.resolve()) for link in links} == {answer["run_dir"]}
    marks = [
        f"export FTSLURM_CHAIN={answer['run_id']}\n" in fake.state["jobs"][job]["script"] for job in ("101", "103")
    ]
    assert marks == [True, True]


def test_dry_run_prints_the_script_and_does_nothing(fake, tmp_path, capfd):
    """`--dry-run` prints a script that bash accepts, asks Slurm nothing and creates nothing."""
    assert cli.exit_code(["submit", str(written(tmp_path)), "--dry-run"]) == 0
    script = capfd.readouterr().out
    assert "#SBATCH --no-kill" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, timeout=20, check=False).returncode == 0
    assert fake.calls == []
    assert not (tmp_path / "home").exists()


def test_test_only_asks_slurm_and_submits_nothing(fake, tmp_path, capfd):
    """`--test-only` prints Slurm's forecast; no job and no folder is made."""
    assert cli.exit_code(["submit", str(written(tmp_path)), "--test-only"]) == 0
    assert capfd.readouterr().out.strip()
    assert fake.state["jobs"] == {}
    assert not runs_of(tmp_path / "home")


@pytest.mark.parametrize(("well", "code"), [(True, 0), (False, 1)])
def test_waiting_ends_with_the_code_of_the_run(fake, tmp_path, capfd, monkeypatch, well, code):
    """`--wait` returns when the journal says that the run has ended, with its exit code, whatever Slurm says by then."""
    tale = Tale(config_policy(), job_id="101").start()
    tale = tale.finish() if well else tale.crash(0).launched().crash(0)
    journal = tmp_path / "journal"
    journal.write_text("".join(entry.line() + "\n" for entry in tale.entries))
    real, folder = shutil.which("scontrol"), tmp_path / "bin"
    folder.mkdir()
    # The run ends when Slurm is asked about its job for the first time.
    arrives = f"mv {journal} $(echo {tmp_path}/home/runs/demo-*)/journal.1.jsonl 2>/dev/null"
    (folder / "scontrol").write_text(f'#!/bin/sh\n{arrives}\nexec {real} "$@"\n')
    (folder / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    assert cli.exit_code(["submit", str(written(tmp_path)), "--wait", "--no-ledger"]) == code
    assert not journal.exists()


def test_options_after_the_dashes_reach_sbatch_and_beat_the_file(fake, tmp_path, capfd):
    """An option of the command line replaces the file's of the same name."""
    file = written(tmp_path, resources={"nodes": 2, "sbatch": {"qos": "low", "exclusive": True}})
    assert cli.exit_code(["submit", str(file), "--dry-run", "--", "--qos=high"]) == 0
    script = capfd.readouterr().out
    assert "--qos=high" in script
    assert "--qos=low" not in script
    assert "--exclusive" in script


def test_values_of_secrets_are_in_no_derived_file(fake, tmp_path, capfd):
    """The resolved configuration and the script hold a secret's name, never its value."""
    canary = "s3cr3t-c4n4ry"
    file = written(tmp_path, launch={"env": {"HF_TOKEN": canary, "OMP_NUM_THREADS": "2"}})
    assert cli.exit_code(["submit", str(file)]) == 0
    (root,) = runs_of(tmp_path / "home")
    run = RunPaths(root)
    assert "HF_TOKEN" in run.resolved.read_text()
    assert [path for path in (run.resolved, run.script) if canary in path.read_text()] == []
    assert canary not in Path(f"{fake.path}.calls").read_text()


@pytest.mark.parametrize(
    ("arrange", "code", "words"),
    [
        (lambda fake, folder: folder / "absent.yaml", 2, "absent.yaml"),
        (lambda fake, folder: written(folder, resources={"nodes": "many"}), 2, "resources.nodes"),
        (lambda fake, folder: written(folder, colour="red"), 2, "colour"),
        (lambda fake, folder: (fake.fail("sbatch", "down"), written(folder))[1], 69, "sbatch"),
        (lambda fake, folder: (fake.fail("sbatch", "refuse"), written(folder))[1], 77, "sbatch"),
        (lambda fake, folder: written(folder, run_root="/proc/nowhere"), 73, "/proc/nowhere"),
    ],
    ids=["missing file", "wrong type", "unknown key", "slurmctld away", "refused", "unwritable root"],
)
def test_each_mistake_is_one_clear_line_with_its_code(fake, tmp_path, capfd, arrange, code, words):
    """Bad input and a sick cluster end in one line that names the culprit, with the documented code and no traceback."""
    assert cli.exit_code(["submit", str(arrange(fake, tmp_path))]) == code
    captured = capfd.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small or read-only file system needs root")
@pytest.mark.parametrize("options", ["size=4k,nr_inodes=6", "ro"], ids=["full", "read-only"])
def test_shared_storage_that_takes_nothing_is_said_in_one_line(fake, tmp_path, capfd, options):
    """A full or read-only run root ends a submission with code 73 or 74, and no job is submitted."""
    root = tmp_path / "mounted"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(root)], timeout=20, check=True)
    try:
        code = cli.exit_code(["submit", str(written(tmp_path)), "--run-root", str(root)])
    finally:
        subprocess.run(["umount", str(root)], timeout=20, check=True)
    captured = capfd.readouterr()
    assert code in (73, 74)
    assert str(root) in captured.err
    assert "Traceback" not in captured.err
    assert fake.state["jobs"] == {}


def test_a_refused_job_leaves_no_folder(fake, tmp_path):
    """A run that Slurm does not take leaves nothing in the run root."""
    fake.fail("sbatch", "refuse")
    assert cli.exit_code(["submit", str(written(tmp_path))]) == 77
    assert not runs_of(tmp_path / "home")


def test_without_sbatch_no_folder_is_left(fake, tmp_path, monkeypatch, capfd):
    """Nothing was asked of Slurm: the run does not exist, and `status` must not list it as lost."""
    monkeypatch.setenv("PATH", "/nowhere")
    file = written(tmp_path)
    assert cli.exit_code(["submit", str(file)]) == 69
    assert "sbatch cannot be run" in capfd.readouterr().err
    assert not runs_of(tmp_path / "home")


def test_after_a_lost_answer_the_folder_is_kept(fake, tmp_path, capfd):
    """The job may exist nevertheless: its folder has to."""
    fake.fail("sbatch", "down")
    assert cli.exit_code(["submit", str(written(tmp_path))]) == 69
    assert "is kept; see `squeue --me`" in capfd.readouterr().err
    assert runs_of(tmp_path / "home")


def test_there_are_enough_hostile_values():
    """At least 200 different hostile values go the whole way in the test below."""
    assert len([text for text in TEXTS if text and not REFUSED.search(text)]) >= 200


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text)[:30])
def test_hostile_values_go_through_file_script_and_bash_unharmed(fake, tmp_path, capfd, monkeypatch, text):
    """A hostile argument and a hostile folder name pass from YAML to the run as they are, and nothing is executed."""
    monkeypatch.chdir(tmp_path)
    # A folder whose name holds a backslash is refused, since sbatch would take it for a pattern.
    root = tmp_path / ("r" + text.replace("/", "_").replace("\\", "_"))
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps({**PLAIN, "command": ["python", text or "x"]}))
    code = cli.exit_code(["submit", str(file), "--run-root", str(root), "--dry-run"])
    script = capfd.readouterr().out
    assert code == (2 if REFUSED.search(text) else 0)
    if code != 0:
        assert script == ""
        return
    dumped = tmp_path / "argv.json"
    recorder = tmp_path / "record.py"
    recorder.write_text(f"import json, sys\njson.dump(sys.argv, open({str(dumped)!r}, 'w'))\n")
    script = script.replace(f"{shlex.quote(sys.executable)} -I -m ftslurm", f"{shlex.quote(sys.executable)} {recorder}")
    subprocess.run(["bash", "-p"], input=script.encode(), timeout=30, check=True, cwd=tmp_path)
    argv = json.loads(dumped.read_text())
    assert argv[1:3] == ["run", "--run-dir"]
    assert argv[3].startswith(f"{root}/demo-")
    assert load(file).command[1] == (text or "x")
    assert not (tmp_path / CANARY).exists()
