"""Campaigns by the ordinary user of a real Slurm: by hand, and from a real cron daemon on the login host."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ftslurm.lab.cluster import Cluster
from ftslurm.lab.crond import crond
from ftslurm.lab.machine import Who
from tests.lab.longer import long_test
from tests.lab.training import LabRun, await_that, patient
from tests.local_ranks import PROGRAMS, ROOT

pytestmark = pytest.mark.lab

PLAN = """name: {name}
seed: 3
mtbf: 1s
duration: 1h
faults: {{kill: 1}}
budget: {{injections: 1}}
targets: {{runs: [{run}]}}
"""


CONFIG = """name: whole
command: [{python}, {program}, --steps, "{steps}"]
resources: {{nodes: 4, ranks_per_node: 1, time: "60:00"}}
launch: {{mpi: none, env: {{OBEY_FAULTS: "1"}}}}
progress: {{hang_after: 3s}}
recovery: {{min_nodes: 2, max_attempts: 1000, no_progress_limit: 1000}}
checkpoint: {{files: "step_*.json"}}
"""
WHOLE_PLAN = """name: {name}
config: train.yaml
mtbf: 1s
duration: 1h
faults: {{{first}: 1}}
arrivals: {{kind: trace, trace: faults.txt}}
double_at: load
targets: {{lab: {{name: {lab}, nodes: 4}}}}
"""
MIXES = {
    "storage": ("disk-full", "storage-slow", "storage-freeze", "io-error", "storage-hang"),
    "slow": ("slow", "kill-kill", "kill-supervisor", "slow-quota"),
}


def planned(run: LabRun) -> Path:
    """A plan of one killed rank of this run, in a file of the user's."""
    file = run.work / "plan.yaml"
    file.write_text(PLAN.format(name=run.work.name, run=json.dumps(str(run.root))))
    os.chown(file, run.lab.uid, run.lab.uid)
    return file


def test_a_run_of_ones_own(lab: Cluster) -> None:
    """A plan that names a run kills one of its ranks; it is noticed, rightly, and nothing else is done to the run."""
    run = patient(lab, name="own-campaign", nodes=2, user=lab.user)
    plan = planned(run)
    done = lab.login(["ftslurm", "campaign", "run", str(plan), "--json"], user=lab.user, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr + run.story()
    (row,) = json.loads(done.stdout)["campaign"]["score"]["rows"]
    assert (row["fault"], row["injected"], row["right"], row["precision"]) == ("kill", 1, 1, 1.0)
    assert len(run.launches()) == 2
    run.enough()
    assert run.wait_end() == ("finished", 0)


def test_somebody_elses_run_is_left_alone(lab: Cluster) -> None:
    """The ordinary user cannot break a run of root's, not even where its folder is open to him."""
    run = patient(lab, name="roots-campaign", nodes=1)
    run.root.chmod(0o755)
    run.work.chmod(0o755)
    plan = planned(run)
    done = lab.login(["ftslurm", "campaign", "run", str(plan)], user=lab.user, timeout=120)
    assert done.returncode != 0, done.stdout
    assert not (run.root / "faults.jsonl").exists()
    assert len(run.launches()) == 1
    run.enough()


@long_test("cron looks at its lines once a minute")
@pytest.mark.timeout(400)
def test_cron_on_the_login_host(lab: Cluster) -> None:
    """Cron calls the script every minute: the first call breaks the run and says how it ended, later ones are silent."""
    run = patient(lab, name="cron-campaign", nodes=2, user=lab.user)
    plan, mail = planned(run), run.work / "mail"
    script, program = ROOT / "scripts" / "cron-campaign", Path(sys.prefix, "bin", "ftslurm")
    values = {
        "SLURM_CONF": lab.slurm_conf,
        "FTSLURM": program,
        "CAMPAIGN_ID": "today",
        "HOME": lab.layout.home(lab.user),
        "PATH": "/usr/bin:/bin",
    }
    lines = [f"{name}={value}" for name, value in values.items()]
    line = f"* * * * * {shlex.join([str(script), str(plan)])} >> {shlex.quote(str(mail))} 2>&1; echo called >> {mail}\n"
    crontab = "\n".join([*lines, line])

    def told() -> list[str]:
        return mail.read_text().splitlines() if mail.exists() else []

    def on_login(argv: list[str]) -> list[str]:
        return lab.command("login", argv, Who())

    with crond(run.work / "cron", crontab, user=lab.user, uid=lab.uid, into=on_login):
        await_that("a campaign", lambda: any(" over" in word for word in told()), 180, lambda: f"{told()}{run.story()}")
        await_that("another call", lambda: told().count("called") >= 2, 120, lambda: str(told()))
    (said,) = [word for word in told() if word != "called"]
    assert f"campaign {run.work.name} today over" in said
    assert "recall 100%, right 100%, 0 wrong exclusions" in said
    assert len(run.launches()) == 2
    run.enough()


@long_test("faults that are over after minutes")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mix", MIXES)
def test_a_campaign_on_the_lab(lab: Cluster, tmp_path: Path, mix: str) -> None:
    """Ill storage, slow ranks, second faults while ranks load: each hits a run, and is noticed; the weights are right."""
    work, faults = tmp_path / mix, MIXES[mix]
    work.mkdir()
    program_file = json.dumps(str(PROGRAMS / "whole_numbers.py"))
    config = CONFIG.format(python=json.dumps(sys.executable), program=program_file, steps=1500)
    (work / "train.yaml").write_text(config)
    (work / "faults.txt").write_text("".join(f"{5 * number} {fault}\n" for number, fault in enumerate(faults, 1)))
    (work / "plan.yaml").write_text(WHOLE_PLAN.format(name=mix, first=faults[0], lab=lab.name))
    argv = [sys.executable, "-m", "ftslurm", "campaign", "run", str(work / "plan.yaml"), "--json"]
    environ = {**os.environ, "FTSLURM_HOME": str(tmp_path / "home")}
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)["campaign"]
    score = told["score"]
    rows = {row["fault"]: (row["injected"], row["right"], row["recall"]) for row in score["rows"]}
    assert rows.keys() == set(faults)
    assert all(row in ((1, 1, 1.0), (1, 1, None)) for row in rows.values()), f"{rows} {done.stderr}"
    assert score["wrong_exclusions"] == []
    assert score["weights"]["equal"] == score["runs"] == score["finished"]
    assert '"void"' not in Path(told["folder"], "log.jsonl").read_text()
