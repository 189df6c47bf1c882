#!/usr/bin/env python3
"""A stateful stand-in for Slurm, to be put first on PATH: sbatch, sinfo, squeue, sacct, scontrol, scancel, srun.

The links beside this file are its commands; the name it is called by says which one. All state is one JSON file named
by FAKE_SLURM_STATE (see tests/slurm/fake.py for its owner); every call is appended to `<state>.calls`. Words of errors
are those of Slurm 22.05.8. Faults are scripted in the state, by the beginning of a command line:
{"faults": {"scontrol show": {"kind": "hang", "times": 1}}}. Kinds: hang, hang-with-child, down, refuse, db-index,
garbage; and with the write done: lost-answer (an error comes instead), late-answer (nothing comes for minutes).

Only what the client and its callers rely on is here, and the rules of Slurm that they must respect: ExcNodeList changes
only while a job is pending, one unknown node refuses a whole list, a requeue keeps the id, an ended job is forgotten by
the controller but not by accounting, NumNodes before NumTasks leaves a job that never starts.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

DOWN = "Unable to contact slurm controller (connect failure)"
INVALID_JOB = "Invalid job id specified"


class Slurm:
    """One call of one command, on the loaded state."""

    def __init__(self, name: str, argv: list[str], state: dict) -> None:
        self.name, self.argv, self.state = name, argv, state
        self.jobs = state["jobs"]
        self.tasks: list[tuple[list[str], dict[str, str]]] = []

    def run(self) -> int:
        commands = (self.sbatch, self.sinfo, self.squeue, self.sacct, self.scontrol, self.scancel, self.srun)
        return {command.__name__: command for command in commands}[self.name]()

    def option(self, *names: str, default: str = "") -> str:
        """The value of an option in any of getopt's forms: `-j 5`, `-j5`, `--jobs=5`, `--jobs 5`."""
        for place, word in enumerate(self.argv):
            for name in names:
                if word == name:
                    return self.argv[place + 1]
                if name.startswith("--") and word.startswith(name + "="):
                    return word.partition("=")[2]
                if not name.startswith("--") and word.startswith(name) and not word.startswith("--"):
                    return word[len(name) :]
        return default

    # --- sbatch -------------------------------------------------------------------------------------------------------

    def sbatch(self) -> int:
        options, words = {}, list(self.argv)
        while words and words[0].startswith("-"):
            word = words.pop(0)
            name, equals, value = word.partition("=")
            if not equals and name in {"-p", "-N", "-n", "-J", "-x", "-o", "-t", "--wrap", "--comment"}:
                value = words.pop(0)
            options[name] = value
        script = Path(words[0]).read_text() if words else sys.stdin.read()
        for line in script.splitlines():
            if line.startswith("#SBATCH "):
                name, _, value = line.removeprefix("#SBATCH ").strip().partition("=")
                options.setdefault(name, value)
        if "--wrap" not in options and not script.startswith("#!"):
            return refuse("sbatch: error: This does not look like a batch script.  The first\n"
                          "sbatch: error: line must start with #! followed by the path to an interpreter.")  # fmt: skip
        partition = options.get("--partition") or options.get("-p") or "main"
        if partition not in self.state["partitions"]:
            return refuse(
                f"sbatch: error: invalid partition specified: {partition}\n"
                "sbatch: error: Batch job submission failed: Invalid partition name specified"
            )
        exclude = expand(options.get("--exclude", options.get("-x", "")))
        if not set(exclude) <= set(self.state["nodes"]):
            return refuse("sbatch: error: Batch job submission failed: Invalid node name specified")
        nodes = int((options.get("--nodes") or options.get("-N") or "1").split("-")[0])
        if nodes > len(self.state["nodes"]) - len(exclude):
            return refuse("sbatch: error: Batch job submission failed: Requested node configuration is not available")
        if "--test-only" in options:
            print("sbatch: Job 1 to start at 2030-01-02T03:04:05 using 1 processors on nodes n1", file=sys.stderr)
            return 0
        job_id = str(self.state["next_id"])
        self.state["next_id"] += 1
        self.jobs[job_id] = {
            "name": options.get("--job-name", options.get("-J", "sbatch")), "comment": options.get("--comment", ""),
            "num_nodes": nodes, "num_tasks": int(options.get("--ntasks", options.get("-n", nodes))),
            "exclude": exclude, "state": "PENDING", "reason": "None", "nodes": [], "restarts": 0, "steps": {},
            "requeue": 0 if "--no-requeue" in options else 1, "partition": partition, "script": script,
            "user": "alice", "submit": now(), "start": 0, "end": 0, "broken": False, "words": words,
            "environ": {key: value for key, value in os.environ.items() if key != "FAKE_SLURM_STATE"},
            "work_dir": str(Path.cwd()),
        }  # fmt: skip
        self.schedule()
        print(job_id if "--parsable" in options else f"Submitted batch job {job_id}")
        return 0

    def schedule(self) -> None:
        """Start pending jobs on idle nodes, oldest first."""
        busy = {node for job in self.jobs.values() if job["state"] == "RUNNING" for node in job["nodes"]}
        for job in self.jobs.values():
            if job["state"] != "PENDING" or job["reason"] in {"BeginTime", "BadConstraints", "JobHeldUser"}:
                continue
            free = [
                name
                for name, node in self.state["nodes"].items()
                if node["state"] == "IDLE" and name not in busy and name not in job["exclude"]
            ]
            if len(free) < job["num_nodes"]:
                job["reason"] = "Resources"
                continue
            job.update(state="RUNNING", reason="None", nodes=free[: job["num_nodes"]], start=now())
            job["steps"] = {"batch": {"name": "batch", "nodes": job["nodes"][:1]}}
            busy |= set(job["nodes"])

    def sinfo(self) -> int:
        known = self.state["nodes"] if self.option("-p") in self.state["partitions"] else ()
        print(self.state.get("inventory", "") if "--exact" in self.argv else "\n".join(known))
        return 0

    # --- squeue and sacct ---------------------------------------------------------------------------------------------

    def squeue(self) -> int:
        steps = bool({"-s", "--steps"} & set(self.argv))
        wanted = [word for word in self.option("-j", "--jobs").split(",") if word]
        if len(wanted) == 1 and wanted[0] not in self.jobs and not steps:  # of several, unknown ones are left out
            return refuse(f"slurm_load_jobs error: {INVALID_JOB}")
        form = self.option("-o", "--format", default="%i %T")
        for job_id, job in self.jobs.items():
            if wanted and job_id not in wanted:
                continue
            if not wanted and job["end"] and "--states=all" not in self.argv:
                continue
            rows = [{"i": job_id, "A": job_id, "j": job["name"], "T": job["state"], "k": job["comment"] or "(null)",
                     "N": fold(job["nodes"]), "u": job["user"], "r": job["reason"], "D": str(job["num_nodes"]),
                     "V": str(job["submit"]), "S": str(job["start"] or "N/A"), "e": str(job["end"] or "N/A"),
                     "P": job["partition"], "F": job_id, "E": job.get("dependency") or "(null)"}]  # fmt: skip
            if steps:
                rows = [
                    {"i": f"{job_id}.{number}", "N": fold(step["nodes"]), "j": step["name"]}
                    for number, step in job["steps"].items()
                ]
            for row in rows:
                print(re.sub(r"%\.?[0-9]*([A-Za-z])", lambda match, row=row: row.get(match[1], ""), form))
        return 0

    def sacct(self) -> int:
        if not self.state["accounting"]:
            return refuse("Slurm accounting storage is disabled")
        separator = self.option("--delimiter", default="|")
        wanted = self.option("-j", "--jobs")
        for job_id, job in (self.state["history"] | self.jobs).items():
            if wanted != job_id:
                continue
            row = {
                "JobID": job_id, "JobIDRaw": job_id, "State": job.get("past_state", job["state"]), "ExitCode": "0:0",
                "NodeList": fold(job["nodes"]) or "None assigned", "NNodes": str(job["num_nodes"]),
                "Submit": str(job["submit"]), "Start": str(job["start"] or "Unknown"), "Reason": "None",
                "End": str(job["end"] or "Unknown"), "User": job["user"], "Partition": job["partition"],
                "JobName": job["name"], "WorkDir": job["work_dir"], "Comment": job["comment"],
            }  # fmt: skip
            print(separator.join(row[column] for column in self.option("-o", "--format").split(",")))
        return 0

    # --- scontrol -----------------------------------------------------------------------------------------------------

    def scontrol(self) -> int:
        words = [word for word in self.argv if not word.startswith("-")]
        if "--version" in self.argv:
            print("slurm 22.05.8")
            return 0
        if words[:2] == ["show", "job"]:
            return self.show_job(words[2])
        if words[:2] == ["show", "node"]:
            return self.show_nodes(expand(words[2]) if len(words) > 2 else list(self.state["nodes"]))
        if words[0] == "show" and words[1] in {"topology", "partition"}:
            print(self.state.get(words[1], ""))
            return 0
        if words[:2] == ["show", "config"]:
            print("Configuration data as of 1795224304")
            for name, value in self.state["config"].items():
                print(f"{name:<23} = {value}")
            return 0
        if words[0] == "requeue":
            return self.requeue(words[1])
        if words[0] == "update":
            return self.update(dict(word.split("=", 1) for word in words[1:]))
        return refuse(f"invalid keyword: {words[0]}")

    def show_job(self, job_id: str) -> int:
        job = self.jobs.get(job_id)
        if job is None:
            return refuse(f"slurm_load_jobs error: {INVALID_JOB}")
        print(f"JobId={job_id} JobName={job['name']}")
        lines = [
            f"UserId={job['user']}(1001) GroupId=users(100) MCS_label=N/A",
            f"JobState={job['state']} Reason={job['reason']} Dependency=(null)",
            f"Requeue={job['requeue']} Restarts={job['restarts']} BatchFlag=1 Reboot=0 ExitCode=0:0",
            f"SubmitTime={job['submit']} EligibleTime={job['submit']}",
            f"StartTime={job['start'] or 'Unknown'} EndTime={job['end'] or 'Unknown'} Deadline=N/A",
            f"Partition={job['partition']} AllocNode:Sid=login:1",
            f"ReqNodeList=(null) ExcNodeList={fold(job['exclude']) or '(null)'}",
            f"NodeList={fold(job['nodes'])}",
            *([f"BatchHost={job['nodes'][0]}"] if job["nodes"] else []),
            f"NumNodes={job['num_nodes']} NumCPUs=1 NumTasks={job['num_tasks']} CPUs/Task=1 ReqB:S:C:T=0:0:*:*",
            f"WorkDir={job['work_dir']}",
            *([f"Comment={job['comment']} "] if job["comment"] else []),
        ]
        print("".join(f"   {line}\n" for line in lines))
        return 0

    def show_nodes(self, names: list[str]) -> int:
        code = 0
        for name in names:
            node = self.state["nodes"].get(name)
            if node is None:
                print(f"Node {name} not found")
                code = 1
                continue
            reason = f" Reason={node['reason']} [root@1795224304]" if node["reason"] else ""
            words = f"CPUTot=4 CPULoad={node.get('load', 'N/A')} Gres=(null) State={node['state']}{reason}"
            print(f"NodeName={name} Arch=x86_64 {words}")
        return code

    def requeue(self, job_id: str) -> int:
        job = self.jobs.get(job_id)
        if job is None:
            return refuse(f"{INVALID_JOB} for job {job_id}")
        if job["state"] == "PENDING":
            return refuse(f"Job is pending execution for job {job_id}")
        if not job["requeue"]:
            return refuse(f"Requested operation is presently disabled for job {job_id}")
        job.update(state="PENDING", reason="BeginTime", nodes=[], steps={}, start=0, restarts=job["restarts"] + 1)
        return 0

    def update(self, changes: dict[str, str]) -> int:
        job_id = changes.pop("JobId")
        job = self.jobs.get(job_id)
        if job is None:
            return refuse(f"{INVALID_JOB} for job {job_id}")
        for name, value in changes.items():
            if name == "ExcNodeList" and job["state"] != "PENDING":
                return refuse(f"Job is no longer pending execution for job {job_id}")
            if name == "ExcNodeList" and not set(expand(value)) <= set(self.state["nodes"]):
                return refuse(f"Invalid node name specified for job {job_id}")
            if name == "ExcNodeList":
                job["exclude"] = expand(value)
            elif name == "NumTasks":
                job["num_tasks"] = int(value)
            elif name == "NumNodes":
                job["num_nodes"] = int(value)
                job["reason"] = "BadConstraints" if job["num_tasks"] > 2 * int(value) else job["reason"]
            elif name == "StartTime":
                job["reason"] = "None" if job["reason"] == "BeginTime" else job["reason"]
        self.schedule()
        return 0

    # --- scancel and srun ---------------------------------------------------------------------------------------------

    def scancel(self) -> int:
        target = self.argv[-1]
        job_id, _, step = target.partition(".")
        job = self.jobs.get(job_id)
        if step and (job is None or step not in job["steps"]):
            return refuse(f"scancel: error: Kill job error on job step id {target}: {INVALID_JOB}")
        if job is None:
            return 0
        if job["user"] != "alice":
            print(f"scancel: error: Kill job error on job id {job_id}: Access/permission denied", file=sys.stderr)
            return 210
        if step:
            del job["steps"][step]
        elif not self.option("-s", "--signal"):
            job.update(state="CANCELLED", past_state="CANCELLED by 1001", end=now(), steps={})
            self.schedule()
        return 0

    def srun(self) -> int:
        if "--mpi=list" in self.argv:
            print(self.state["mpi_list"])
            return 0
        words, flags = list(self.argv), {}
        while words and words[0].startswith("-"):
            word = words.pop(0)
            name, equals, value = word.partition("=")
            if not equals and re.fullmatch(r"-[Nnwo]", name):
                value = words.pop(0)
            flags[name] = value
        job = self.jobs.get(os.environ.get("SLURM_JOB_ID", ""))
        if job is None or job["state"] != "RUNNING":
            return refuse("srun: error: Unable to confirm allocation for job: Invalid job id specified")
        nodes = expand(flags.get("-w", flags.get("--nodelist", ""))) or job["nodes"]
        if not set(nodes) <= set(job["nodes"]):
            return refuse("srun: error: Unable to create step for job: Requested nodes are not in the allocation")
        number = str(sum(name.isdigit() for name in job["steps"]))
        job["steps"][number] = {"name": Path(words[0]).name, "nodes": nodes}
        tasks = int(flags.get("-n") or flags.get("--ntasks") or len(nodes))
        shared = {"SLURM_STEP_ID": number, "SLURM_STEP_NUM_TASKS": str(tasks), "SLURM_NTASKS": str(tasks)}
        for rank in range(tasks):
            own = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": "0", "SLURMD_NODENAME": nodes[rank % len(nodes)]}
            self.tasks.append((words, os.environ | shared | own))
        return 0


def refuse(text: str) -> int:
    """An error as Slurm's commands give it."""
    print(text, file=sys.stderr, flush=True)
    return 1


def now() -> int:
    """Epoch seconds."""
    return int(time.time())


def expand(text: str) -> list[str]:
    """Names of a node list; written anew here, so that the fake does not share a mistake with the client."""
    names = []
    for prefix, bracket, plain in re.findall(r"([^,\[]+)\[([^\]]*)\]|([^,\[]+)", text):
        for part in bracket.split(",") if bracket else [""]:
            low, _, high = part.partition("-")
            numbers = [str(n).zfill(len(low)) for n in range(int(low), int(high or low) + 1)] if part else [""]
            names += [(prefix or plain) + number for number in numbers]
    return names


def fold(names: list[str]) -> str:
    """A node list that Slurm would also understand."""
    return ",".join(names)


def fault(state: dict, call: str) -> str:
    """The kind of the first scripted fault for this call, counted down; nothing if there is none left."""
    for prefix, plan in state["faults"].items():
        if call.startswith(prefix) and plan["times"] > 0:
            plan["times"] -= 1
            return plan["kind"]
    return ""


def forget_old(state: dict) -> None:
    """What MinJobAge does: an ended job leaves the controller and stays in accounting."""
    for job_id in [job_id for job_id, job in state["jobs"].items() if job.get("forgotten")]:
        state["history"][job_id] = state["jobs"].pop(job_id)


def fail(kind: str, name: str) -> int:
    """Act out a scripted fault."""
    if kind == "hang-with-child":
        subprocess.Popen(["sleep", "300"])
    if kind.startswith("hang"):
        time.sleep(300)
    if kind == "down":
        return refuse(f"{name}: error: {DOWN}")
    if kind == "db-index":
        time.sleep(0.01)
        return refuse("Job update not available right now, the DB index is being set, try again in a bit for job 1")
    if kind == "refuse":
        return refuse(f"{name}: error: Access/permission denied")
    print("\x00\x1b[31mnothing that Slurm would say")
    return 0


def run_tasks(tasks: list[tuple[list[str], dict[str, str]]]) -> int:
    """All ranks of a job step at once; the highest exit code."""
    ranks = [subprocess.Popen(words, env=environ) for words, environ in tasks]
    return max((rank.wait(timeout=60) for rank in ranks), default=0)


def main() -> int:
    """Run the command under the state's lock; hang, and run ranks, outside it."""
    name, argv = Path(sys.argv[0]).name, sys.argv[1:]
    path = Path(os.environ["FAKE_SLURM_STATE"])
    with path.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        state = json.load(file)
        forget_old(state)
        kind = fault(state, " ".join([name, *argv]))
        call = Slurm(name, argv, state)
        code = call.run() if kind in {"", "lost-answer", "late-answer"} else 0
        file.seek(0)
        file.truncate()
        json.dump(state, file)
    with Path(f"{path}.calls").open("a") as file:
        file.write(json.dumps([name, *argv]) + "\n")
    if kind == "lost-answer":
        # Leave without flushing: the job id that was printed does not arrive.
        os._exit(refuse(f"{name}: error: Socket timed out on send/recv operation"))
    if kind == "late-answer":
        return fail("hang", name)
    sys.stdout.flush()
    return fail(kind, name) if kind else code or run_tasks(call.tasks)


if __name__ == "__main__":
    sys.exit(main())
