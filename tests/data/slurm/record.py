"""Records what Slurm's commands really say, on a lab of four nodes, into a folder named by the release.

    ftslurm lab up -n 4 --name record && python tests/data/slurm/record.py record

Everything runs as the lab's ordinary user except draining a node. Changed afterwards: paths, the user's name and the
kernel's (see `tidy`); nothing else. Run it again on another release to add its folder.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

from ftslurm.lab.cluster import Cluster

SEPARATOR = "\x1f"
SACCT = "JobID,JobIDRaw,State,ExitCode,NodeList,NNodes,Submit,Start,End,Reason,User,Partition,JobName,WorkDir,Comment"
ENVIRON = {"SLURM_TIME_FORMAT": "%s", "LC_ALL": "C"}
STEPS = (
    "#!/bin/bash\nsrun --overlap -N2 -n2 -w n2,n3 sleep 600 &\nsrun --overlap -N1 -n1 -J 'a step|x' sleep 600 &\nwait\n"
)


class Recorder:
    """The folder to write to, and the lab to ask."""

    def __init__(self, lab: Cluster) -> None:
        self.lab = lab
        release = lab.login(["scontrol", "--version"]).stdout.split()[-1]
        self.folder = Path(__file__).parent / release
        self.folder.mkdir(exist_ok=True)
        self.errors: list[dict[str, object]] = []

    def ask(self, argv: list[str], *, timeout: float = 60.0) -> tuple[int, str, str]:
        done = self.lab.login(argv, user=self.lab.user, timeout=timeout, env=ENVIRON)
        return done.returncode, self.tidy(done.stdout), self.tidy(done.stderr)

    def tidy(self, text: str) -> str:
        r"""Take out what is of the recording machine alone; JSON writes a slash as `\/`."""
        for path, name in ((self.lab.shared, "/shared"), (self.lab.layout.root / self.lab.name, "/lab")):
            text = text.replace(str(path), name).replace(str(path).replace("/", "\\/"), name.replace("/", "\\/"))
        text = text.replace(self.lab.user, "alice")
        return re.sub(r"OS=Linux \S+", "OS=Linux 6.1.0-13-amd64", text)

    def keep(self, name: str, argv: list[str]) -> None:
        """Keep what the command prints; nothing if this release or this site has no such command."""
        text = self.ask(argv)[1]
        if text:
            (self.folder / name).write_text(text)

    def keep_error(self, label: str, argv: list[str]) -> None:
        code, stdout, stderr = self.ask(argv, timeout=90)
        self.errors.append({"label": label, "argv": argv, "returncode": code, "stdout": stdout, "stderr": stderr})

    def submit(self, *options: str, script: str = STEPS) -> str:
        path = self.lab.shared / "job.sh"
        path.write_text(script)
        path.chmod(0o755)
        done = self.lab.login(
            ["sbatch", "--parsable", f"--chdir={self.lab.shared}", *options, str(path)], user=self.lab.user, timeout=60
        )
        done.check_returncode()
        return done.stdout.strip()

    def wait(self, job_id: str, pattern: str, timeout: float = 120.0) -> None:
        self.wait_for(["scontrol", "show", "job", job_id], pattern, timeout)

    def wait_steps(self, job_id: str) -> None:
        self.wait_for(["squeue", "-s", "-h", "-j", job_id], r"\.0 (.|\n)*\.1 ", 60.0)

    def wait_for(self, argv: list[str], pattern: str, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not re.search(pattern, self.ask(argv)[1]):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{argv} never showed {pattern}")
            time.sleep(0.5)


def living(recorder: Recorder) -> None:
    """A running job with odd texts, its steps and nodes; the errors of a living controller."""
    odd = ["-J", "a b NodeList=evil", "--comment", "hi | there\n   NodeList=evil", "-o", "/shared-is-not/o ut-%j.txt"]
    odd[-1] = f"{recorder.lab.shared}/o ut-%j.txt"
    job = recorder.submit("-N3", "-n3", "--requeue", "--no-kill", "-x", "n4", "-t", "10", *odd)
    recorder.wait(job, "JobState=RUNNING")
    recorder.wait_steps(job)
    recorder.lab.login(["scontrol", "update", "NodeName=n4", "State=DRAIN", "Reason=bad disk"])
    recorder.keep("job_running.txt", ["scontrol", "show", "job", job])
    recorder.keep("squeue_running.json", ["squeue", "--json"])
    recorder.keep("job_running.json", ["scontrol", "show", "job", job, "--json"])
    recorder.keep("steps.txt", ["squeue", "-s", "-h", "-j", job, "-o", f"%i{SEPARATOR}%N{SEPARATOR}%j"])
    recorder.keep("nodes.txt", ["scontrol", "show", "node", "-o", "n1,n4,nowhere"])
    recorder.keep("config.txt", ["scontrol", "show", "config"])
    recorder.keep("version.txt", ["scontrol", "--version"])
    recorder.keep_error("passing-over-scancel", ["scancel", "999999"])
    recorder.keep_error("unknown-job", ["scontrol", "show", "job", "999999"])
    recorder.keep_error("unknown-job", ["scontrol", "requeue", "999999"])
    recorder.keep_error("unknown-step", ["scancel", "999999.0"])
    recorder.keep_error("refused", ["scontrol", "update", f"JobId={job}", "ExcNodeList=n1"])
    recorder.keep_error("refused", ["scontrol", "update", f"JobId={job}", "NumNodes=7"])
    recorder.keep_error("refused", ["sbatch", "-p", "nowhere", "--wrap", "true"])
    recorder.keep_error("refused", ["sbatch", "-x", "nowhere", "--wrap", "true"])
    recorder.keep_error("refused", ["sbatch", "--test-only", "-N", "99", "--wrap", "true"])
    recorder.keep_error("refused", ["sbatch", "--comment", "x" * 1100, "--wrap", "true"])
    recorder.keep_error("forecast", ["sbatch", "--test-only", "--wrap", "true"])
    recorder.ask(["scontrol", "requeue", job])
    recorder.wait(job, "Reason=BeginTime", 30)
    recorder.keep("job_requeued.txt", ["scontrol", "show", "job", job])
    recorder.keep_error("refused", ["scontrol", "requeue", job])
    recorder.ask(["scancel", job])
    recorder.wait(job, "JobState=CANCELLED", 30)
    recorder.keep("job_cancelled.txt", ["scontrol", "show", "job", job])
    recorder.lab.login(["scontrol", "update", "NodeName=n4", "State=RESUME"])
    array = recorder.submit("--array=1-9%2", "-N1")
    recorder.wait(array, "JobState=RUNNING")
    recorder.keep("job_array.txt", ["scontrol", "show", "job", array])
    recorder.ask(["scancel", array])
    time.sleep(8)  # slurmdbd gets the end of a job with a delay
    recorder.keep(
        "sacct.txt", ["sacct", "-X", "-n", "-P", f"--delimiter={SEPARATOR}", "-j", f"{job},{array}", "-o", SACCT]
    )


def losing_a_node(recorder: Recorder) -> None:
    """A job with --no-kill that goes on without one of its nodes."""
    job = recorder.submit("-N3", "-n3", "--no-kill")
    recorder.wait(job, "JobState=RUNNING")
    recorder.wait_steps(job)
    recorder.lab.cut("n2")
    recorder.wait(job, r"\bNumNodes=2", 120)
    recorder.keep("job_lost_node.txt", ["scontrol", "show", "job", job])
    recorder.keep("nodes_lost.txt", ["scontrol", "show", "node", "-o", "n1,n2"])
    recorder.lab.restore()


def without_controller(recorder: Recorder) -> None:
    """What every command says while slurmctld is stopped."""
    pid = (Path("/proc") / recorder.lab.login(["pidof", "slurmctld"]).stdout.strip()).name
    recorder.lab.login(["kill", pid])
    time.sleep(2)
    for argv in (["scontrol", "show", "job", "1"], ["scontrol", "show", "node", "n1"], ["squeue", "-s", "-h", "-j", "1"],
                 ["sbatch", "--wrap", "true"], ["scancel", "1"], ["scontrol", "requeue", "1"],
                 ["scontrol", "update", "JobId=1", "NumNodes=1"], ["scontrol", "show", "config"]):  # fmt: skip
        recorder.keep_error("away", argv)


def main() -> None:
    recorder = Recorder(Cluster(sys.argv[1]))
    living(recorder)
    losing_a_node(recorder)
    without_controller(recorder)
    (recorder.folder / "errors.json").write_text(json.dumps(recorder.errors, indent=1) + "\n")


if __name__ == "__main__":
    main()
