"""The probe's part on the batch host: job steps as a run starts them, questions to Slurm from a node, the requeue.

Writes `batch.json`, and last `requeue.json`: a requeue ends this job's processes at once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ftslurm.doctor.node import wait_for, write
from ftslurm.doctor.slurm_rules import PMI_KINDS
from ftslurm.errors import FtslurmError
from ftslurm.runtime.launcher import PYTHON, StepCommand
from ftslurm.slurm import env, nodeset
from ftslurm.slurm.client import SlurmClient

STEP_S = 25.0
NODES_S = 75.0
SWEEP_S = 10.0
SIGNAL_S = 8.0


def main() -> int:
    """Do the batch host's part; the argument is the probe's folder."""
    folder = Path(sys.argv[1])
    job = env.job_from_env(os.environ)
    batch = Batch(folder, job)
    write(folder / "batch.json", batch.examined())
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the requeue sends one, and its answer is still to be written
    client = SlurmClient()
    answer = {"allowed": True, "words": ""}
    try:
        client.requeue(job.requeue_id)
    except FtslurmError as error:
        answer = {"allowed": False, "words": str(error)}
    write(folder / "requeue.json", answer)
    return 0


class Batch:
    """The steps of the probe."""

    def __init__(self, folder: Path, job: env.JobEnv) -> None:
        self._folder, self._job = folder, job
        self._request = json.loads((folder / "request.json").read_text(encoding="utf-8"))

    def examined(self) -> dict[str, Any]:
        """Everything that only the batch host can find out."""
        nodes = self._job.nodelist
        record: dict[str, Any] = {"nodes": list(nodes), "batch_host": self._job.batch_host}
        command = (*PYTHON, "-m", "ftslurm.doctor.node", str(self._folder), ",".join(nodes))
        # A step for each node: one that cannot be reached fails a whole step.
        tasks = {node: self._start(f"node-{node}", "none", command, nodes=(node,)) for node in nodes}
        wait_for(lambda: len(list(self._folder.glob("here.*.json"))) == len(nodes), STEP_S)
        record["overlap"] = self._step("beside", "none", ("true",))
        if self._job.gpus_on_node:
            record["without_gpu"] = self._step("without-gpu", "none", ("true",), "--gpus-per-node=0")
            gpus = f"--gpus-per-node={self._job.gpus_on_node}"
            record["all_gpus"] = self._step("all-gpus", "none", ("true",), gpus)
        write(self._folder / "beside.json", {})
        record |= self._slurm()
        record["signal"] = self._signal()
        # What follows may take long where nodes or libraries hang; the time limit must not lose what is known.
        write(self._folder / "batch.json", record)
        until = time.monotonic() + NODES_S
        failed = [node for node, task in tasks.items() if _end_of(task, max(0.1, until - time.monotonic())) != 0]
        record["nodes_words"] = "; ".join(f"{node}: {self._words(f'node-{node}')}" for node in failed)
        record["mpi"] = {kind: self._mpi(kind) for kind in self._kinds()}
        if failed or any(said["code"] != 0 for said in record["mpi"].values()):
            self._sweep()
        return record

    def _sweep(self) -> None:
        """Let each node remove what killed tasks have left there; one by one, since a lost node fails a whole step."""
        command = (*PYTHON, "-m", "ftslurm.doctor.node", str(self._folder))
        steps = [self._start("sweep", "none", command, nodes=(node,)) for node in self._job.nodelist]
        for step in steps:
            _end_of(step, SWEEP_S)

    def _kinds(self) -> list[str]:
        """Which kinds of MPI are tried: what the configuration asks for, and the usual ones that srun offers."""
        offered = self._request["mpi_types"]
        wanted = [self._request["mpi"], *PMI_KINDS]
        return [kind for kind in dict.fromkeys(wanted) if kind in offered and kind != "none"]

    def _mpi(self, kind: str) -> dict[str, Any]:
        wanted = len(self._job.nodelist)
        said = self._step(
            f"mpi-{kind}", kind, (*PYTHON, "-m", "ftslurm.doctor.mpi", str(self._folder), kind, str(wanted))
        )
        ranks = []
        for path in sorted(self._folder.glob(f"mpi.{kind}.*.json")):
            with suppress(ValueError):
                ranks.append(json.loads(path.read_text(encoding="utf-8")))
        return {**said, "wanted": wanted, "ranks": ranks}

    def _slurm(self) -> dict[str, Any]:
        """Whether a process on a node may ask Slurm, and submit."""
        client = SlurmClient()
        record: dict[str, Any] = {}
        began = time.monotonic()
        try:
            info = client.job(self._job.job_id)
            record["scontrol"] = {"ok": True, "took_s": time.monotonic() - began, "requeue": info.requeue}
        except FtslurmError as error:
            record["scontrol"] = {"ok": False, "words": str(error)}
        try:
            client.test_only("#!/bin/sh\ntrue\n", self._request["test_options"])
            record["sbatch"] = {"ok": True}
        except FtslurmError as error:
            record["sbatch"] = {"ok": False, "words": str(error)}
        return record

    def _signal(self) -> dict[str, Any]:
        """Whether a signal for the batch shell runs its trap: the way that --signal=B: takes at the time limit."""
        try:
            argv = ["scancel", "--batch", "--signal=USR2", self._job.job_id]
            SlurmClient().run(argv).check()
        except FtslurmError as error:
            return {"sent": False, "words": str(error)}
        return {"sent": True, "arrived": wait_for((self._folder / "signal").exists, SIGNAL_S)}

    def _step(self, name: str, mpi: str, command: tuple[str, ...], *options: str) -> dict[str, Any]:
        began = time.monotonic()
        code = _end_of(self._start(name, mpi, command, *options), STEP_S)
        words = self._words(name) if code != 0 else ""
        return {"code": code, "took_s": time.monotonic() - began, "words": words}

    def _start(
        self, name: str, mpi: str, command: tuple[str, ...], *options: str, nodes: tuple[str, ...] = ()
    ) -> subprocess.Popen[bytes]:
        """One task a node, beside whatever runs there, as the agents' step is started."""
        nodes = nodes or self._job.nodelist
        argv = (
            "srun", "--overlap", "--no-kill", "--input=none", "--kill-on-bad-exit=0", "--wait=0",
            f"--nodes={len(nodes)}", f"--ntasks={len(nodes)}", "--ntasks-per-node=1", "--cpus-per-task=1",
            f"--nodelist={nodeset.fold(nodes)}", f"--mpi={mpi}", "--cpu-bind=none", "--export=ALL",
            f"--job-name=doctor-{name}", f"--output={self._folder}/step-{name}-%t.out", *options, *command,
        )  # fmt: skip
        return StepCommand(argv=argv, environ=env.step_env(os.environ)).start(self._folder / f"srun-{name}.out")

    def _words(self, name: str) -> str:
        """What srun and its tasks said, in short."""
        said = []
        for path in (self._folder / f"srun-{name}.out", *sorted(self._folder.glob(f"step-{name}-*.out"))):
            with suppress(OSError):
                said += path.read_text(encoding="utf-8", errors="replace").splitlines()[-3:]
        return " / ".join(line.strip() for line in said if line.strip())[:400]


def _end_of(process: subprocess.Popen[bytes], timeout_s: float) -> int | None:
    """The exit code of a step; None: it was ended at its deadline."""
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(5)
        return None


if __name__ == "__main__":
    sys.exit(main())
