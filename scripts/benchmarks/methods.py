"""The ways to keep the neutral loop alive that are compared, each as a job of an ordinary user on the lab's nodes.

No peer is handicapped. For all of them a collective operation fails after 30 s instead of torch's 30 minutes: nothing
else tells torchrun and Slurm of a node that is silent. Torchrun's step and job get --no-kill, so that Slurm does not
end the survivors when it marks the lost node DOWN, and as many restarts as it wants; the requeued job accepts three
nodes, so that it need not wait for the lost one. Torchrun is measured twice: as it comes, and tuned. As it comes, all
rounds of its rendezvous share one store, in which gloo finds the addresses of processes that are dead (torch 2.13).
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from laboratory import NODES

from ftslurm.lab.cluster import Cluster

PROGRAM = Path(__file__).resolve().parents[2] / "tests" / "programs" / "ddp_counter.py"
SURVIVORS = 3
COLLECTIVE_S = 30


class CannotStart(RuntimeError):
    """A job of the benchmark was refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one job of the benchmark keeps its things: a folder of the lab's shared storage."""

    folder: Path
    every: int
    pace_s: float

    @property
    def progress(self) -> Path:
        """The STEP files."""
        return self.folder / "progress"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of the methods that know none but shared ones."""
        return self.folder / "checkpoints"

    @property
    def runs(self) -> Path:
        """Where ftslurm keeps its runs."""
        return self.folder / "runs"

    def command(self) -> list[str]:
        """The neutral loop with its options, without a launcher."""
        options = {"progress": self.progress, "every": self.every, "pace": self.pace_s, "timeout": COLLECTIVE_S}
        return [str(PROGRAM), *(word for name, value in options.items() for word in (f"--{name}", str(value)))]

    def on_shared(self) -> list[str]:
        """The same, with checkpoints on shared storage: for methods that do not care about checkpoints."""
        return [*self.command(), "--checkpoints", str(self.checkpoints)]


def make_place(lab: Cluster, name: str, every: int, pace_s: float) -> Place:
    """A fresh folder that belongs to the lab's ordinary user."""
    folder = lab.shared / "bench" / name
    for path in (folder.parent, folder):
        path.mkdir(parents=True, exist_ok=True)
        os.chown(path, lab.uid, lab.uid)
    return Place(folder=folder, every=every, pace_s=pace_s)


HEAD = """#!/bin/bash
#SBATCH --job-name=bench --output={folder}/job.out --open-mode=append --time=30 {options}
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1) MASTER_PORT=29500
"""
FLOOR = """date +%s.%N > {folder}/launched
srun --nodes={nodes} --ntasks={nodes} {python} {command}
"""
TORCHRUN = """srun --no-kill --kill-on-bad-exit=0 --nodes={nodes} --ntasks={nodes} \\
  torchrun --nnodes={survivors}:{nodes} --nproc-per-node=1 --max-restarts=100 \\
  --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$MASTER_ADDR:29400" {tuned} {command}
"""
TUNED = "--rdzv-conf=last_call_timeout=3,keep_alive_interval=1"
REQUEUE = """n=$SLURM_JOB_NUM_NODES
srun --kill-on-bad-exit=1 --nodes="$n" --ntasks="$n" {python} {command} || scontrol requeue "$SLURM_JOB_ID"
sleep 60  # the requeue ends this script
"""


def _submit(lab: Cluster, place: Place, options: str, body: str) -> str:
    """Submit a script made of HEAD and `body`; return the job id."""
    values = {
        "folder": shlex.quote(str(place.folder)),
        "options": options,
        "nodes": NODES,
        "survivors": SURVIVORS,
        "python": shlex.quote(sys.executable),
        "command": shlex.join(place.on_shared()),
    }
    script = place.folder / "job.sbatch"
    script.write_text((HEAD + body).format(**values), encoding="utf-8")
    script.chmod(0o755)
    return _job_id(lab, ["sbatch", "--parsable", str(script)])


def _job_id(lab: Cluster, argv: list[str]) -> str:
    done = lab.login(argv, user=lab.user, timeout=60)
    if done.returncode != 0 or not done.stdout.strip():
        raise CannotStart(f"{shlex.join(argv)}: exit code {done.returncode}: {done.stderr.strip()}")
    return done.stdout.split()[-1].split(";")[0]


def floor(lab: Cluster, place: Place) -> str:
    """Only srun: what no relaunch of processes can be faster than."""
    return _submit(lab, place, f"--nodes={NODES} --no-requeue", FLOOR)


def torchrun_tuned(lab: Cluster, place: Place) -> str:
    """The same with a store of its own for every round, a short last call, and a node given up after 3 s of silence."""
    body = "export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1\n" + TORCHRUN.replace("{tuned}", TUNED)
    return _submit(lab, place, f"--nodes={NODES} --no-kill --no-requeue", body)


def torchrun(lab: Cluster, place: Place) -> str:
    """PyTorch's elastic agent on every node, minimum 3 and maximum 4 nodes, c10d rendezvous on the first."""
    return _submit(lab, place, f"--nodes={NODES} --no-kill --no-requeue", TORCHRUN.replace("{tuned}", ""))


def requeue(lab: Cluster, place: Place) -> str:
    """Slurm alone: a failed srun requeues the job, a lost node lets Slurm do it; three nodes suffice to start again."""
    return _submit(lab, place, f"--nodes={SURVIVORS}-{NODES} --requeue", REQUEUE)


CONFIG = """name: bench
command: {command}
run_root: {runs}
resources: {{nodes: {nodes}, ranks_per_node: 1, time: "30:00"}}
launch: {{mpi: none}}
recovery: {{min_nodes: 2}}
checkpoint:
  files: "step_*.pt"
  resume_args: ["--resume", "{{checkpoint}}"]
"""


def ftslurm(lab: Cluster, place: Place) -> str:
    """`ftslurm submit`, every setting that concerns detection and recovery left at its default."""
    command = json.dumps([sys.executable, *place.command()])  # a JSON list is a YAML list
    return submit_ftslurm(lab, place, CONFIG.format(command=command, runs=json.dumps(str(place.runs)), nodes=NODES))


def submit_ftslurm(lab: Cluster, place: Place, text: str) -> str:
    """`ftslurm submit` of this configuration; return the job id."""
    config = place.folder / "bench.yaml"
    config.write_text(text, encoding="utf-8")
    return _job_id(lab, ["ftslurm", "submit", "--parsable", str(config)])


METHODS: dict[str, Callable[[Cluster, Place], str]] = {
    "ftslurm": ftslurm,
    "torchrun": torchrun,
    "torchrun-tuned": torchrun_tuned,
    "requeue": requeue,
}
