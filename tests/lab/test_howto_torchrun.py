"""docs/how-to/torchrun.md on a real Slurm: the page's script and its configurations train to the end."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from ftslurm.lab.cluster import Cluster
from tests.lab.longer import long_test
from tests.lab.training import LabRun, Script, workplace
from tests.local_ranks import PROGRAMS
from tests.pages import blocks, commands, files

pytestmark = pytest.mark.lab

PAGE = "how-to/torchrun.md"


def place(lab: Cluster) -> Path:
    """A user's folder with the training program in it."""
    work = workplace(lab, "howto", lab.user)
    shutil.copy(PROGRAMS / "ddp_counter.py", work / "train.py")
    (work / "train.py").chmod(0o644)
    return work


@long_test("the page's commands run against a fake Slurm in tests/cli/test_howto_torchrun.py")
def test_the_pages_script(lab: Cluster) -> None:
    """As it stands there, submitted as it stands there: four ranks save and finish."""
    work = place(lab)
    (work / "train.sbatch").write_text(blocks(PAGE, "bash")[0])
    (command,) = (line for line in commands(PAGE) if line.startswith("sbatch"))
    typed = ["bash", "-c", f"cd {work} && {command} && echo", "submit"]
    done = lab.login(typed, user=lab.user, timeout=60, env={"FTSLURM_RUN_ROOT": str(work / "runs")})
    assert done.returncode == 0, done.stderr
    job = Script(lab, work, done.stdout.split()[-1])
    job.wait("a run", job.runs)
    (run,) = job.runs()
    assert run.wait_end() == ("finished", 0)
    assert (work / "checkpoints/step_00000200.pt").exists()
    assert {event["rank"] for event in run.events("RankExited")} == {0, 1, 2, 3}


@long_test("the page's configurations are checked in tests/cli/test_howto_torchrun.py")
@pytest.mark.parametrize("name", sorted(files(PAGE)))
def test_a_configuration_of_the_page(lab: Cluster, name: str) -> None:
    """Four ranks on two nodes, started by torchrun, by accelerate, or by a shell that starts torchrun."""
    if name.startswith("accelerate") and importlib.util.find_spec("accelerate") is None:
        pytest.skip("accelerate is not installed")
    work = place(lab)
    (work / name).write_text(files(PAGE)[name])
    typed = f"cd {work} && ftslurm submit {name} --json --run-root {work}/runs"
    done = lab.login(["bash", "-c", typed], user=lab.user, timeout=60)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    run = LabRun(lab, Path(answer["run_dir"]), work, answer["job_id"])
    assert run.wait_end() == ("finished", 0)
    assert run.durable()
    assert {event["rank"] for event in run.events("RankExited")} == {0, 1, 2, 3}
