"""The real frameworks save on two ranks, and are killed in the middle of it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ftslurm.checkpoint.frameworks.table import FRAMEWORKS
from tests.lab.longer import PATIENT, long_test

PROGRAM = Path(__file__).parent.parent / "programs" / "framework_saves.py"
PACKAGES = {"dcp": "torch", "hf": "transformers", "lightning": "lightning", "deepspeed": "deepspeed"}
CUTS = 20
MOST_ROUNDS = 80


class Program:
    """The program that forks, kills and loads. Temporary files lie on another file system than the checkpoints."""

    def __init__(self, framework: str, log: Path) -> None:
        self._log = log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore", str(PROGRAM), framework],
                env={**os.environ, "TMPDIR": "/dev/shm", "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def ask(self, line: str) -> dict:
        """The answer to a line."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, self._log.read_text()[-3000:]
        return json.loads(answer)


@pytest.fixture
def program(request: pytest.FixtureRequest, tmp_path: Path):
    """Starts the program, and ends it."""
    started: list[Program] = []

    def start(framework: str) -> Program:
        package = PACKAGES[framework]
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: scripts/setup --frameworks")
        started.append(Program(framework, tmp_path / "log"))
        return started[0]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()


def injected(program: Program, framework: str, folder: Path, cuts: int) -> None:
    """So many saves are cut; each checkpoint that had been saved counts, and each that counts loads."""
    row = FRAMEWORKS[framework]
    done = refused = 0
    for number in range(MOST_ROUNDS):
        place = folder / str(number)
        told = program.ask(f"cut {place} {number}")
        verdicts = {found.step: (found.name, row.check(place, found)) for found in row.find(place)}
        assert told["saved"], told
        for step in told["saved"]:
            assert verdicts[step][1] == "", f"{verdicts[step]} of {told}"
        for step in set(told["begun"]) - set(told["saved"]):
            done += 1
            name, said = verdicts.get(step, ("", "not there yet"))
            refused += bool(said)
            assert said or program.ask(f"load {place / name}")["loads"], f"{name}, seed {number}: half a checkpoint"
        if done >= cuts:
            break
    print(f"{framework}: {done} saves cut, {refused} of them refused, the others were whole")
    assert refused > 0 or cuts < CUTS
    assert done >= cuts


@pytest.mark.timeout(1500)
def test_a_cut_save_of_torch_distributed_is_no_checkpoint(program, tmp_path: Path) -> None:
    """Killed at any time during a save, FSDP2 with torch.distributed.checkpoint leaves nothing that counts by mistake."""
    injected(program("dcp"), "dcp", tmp_path / "c", CUTS if PATIENT else 1)


@long_test("the real frameworks are killed during 20 saves each")
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("framework", ["hf", "lightning", "deepspeed"])
def test_a_cut_save_is_no_checkpoint(program, tmp_path: Path, framework: str) -> None:
    """Killed at any time during a save, a framework leaves nothing that counts by mistake."""
    injected(program(framework), framework, tmp_path / "c", CUTS)


@long_test("megatron-core starts three processes for each save")
@pytest.mark.timeout(900)
def test_what_megatron_core_writes_is_recognised(tmp_path: Path) -> None:
    """Its own writer's checkpoints are complete; without one of their files they are not."""
    if importlib.util.find_spec("megatron") is None:
        pytest.skip("megatron-core is not installed: pip install megatron-core")
    program = PROGRAM.parent / "megatron_saves.py"
    subprocess.run([sys.executable, "-W", "ignore", program, tmp_path], check=True, timeout=800, capture_output=True)
    row = FRAMEWORKS["megatron"]
    older, newer = row.find(tmp_path)
    assert (row.check(tmp_path, older), row.check(tmp_path, newer)) == ("", "")
    for name in newer.files:
        (tmp_path / name).rename(tmp_path / "moved")
        assert row.check(tmp_path, newer)
        (tmp_path / "moved").rename(tmp_path / name)
