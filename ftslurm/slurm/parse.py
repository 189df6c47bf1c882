"""From Slurm's texts to records; pure, and tolerant about everything that differs between 21.08 and 25.11.

Rules: a field that is missing, renamed or says `(null)`, `N/A`, `Unknown` becomes None or empty and never an error;
only a text that is not of the expected kind at all raises `UnexpectedAnswer`. Job states are read as the first word
(`CANCELLED by 1001`, `CANCELLED+`), in long and in short form, as a string or (JSON, 23.11 and later) as a list.
Free text (name, comment, paths) may hold spaces and `Key=`: `scontrol show job` is therefore read line by line, and
inside a line only free-text fields may run to its end. The first occurrence of a field wins, so that a comment cannot
overwrite what stands above it.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import re
from typing import TYPE_CHECKING, Any

from ftslurm.errors import ServiceUnavailable, UsageError
from ftslurm.slurm import nodeset
from ftslurm.slurm.records import JobInfo, JobState, NodeInfo, SiteConfig, Source, StepInfo

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SEPARATOR = "\x1f"
"""Between columns: no name, path or comment holds it (and `|` they do)."""

SACCT_COLUMNS = (
    "JobID,JobIDRaw,State,ExitCode,NodeList,NNodes,Submit,Start,End,Reason,User,Partition,JobName,WorkDir,Comment"
)
STEP_COLUMNS = f"%i{SEPARATOR}%N{SEPARATOR}%j"
JOB_COLUMNS = SEPARATOR.join(("%i", "%A", "%T", "%r", "%D", "%N", "%V", "%S", "%e", "%u", "%P", "%j"))

_JOB = r"([0-9]{1,10})(?:_([0-9]{1,10}|\[[0-9,%:-]{1,4096}\])|\+[0-9]{1,5})?"
_JOB_ID = re.compile(_JOB)
_STEP_ID = re.compile(_JOB + r"\.(?:[0-9]{1,10}(?:\+[0-9]{1,5})?|batch|extern|interactive)")
_FIELD = re.compile(r"(?:^|(?<=\s))([A-Z][A-Za-z_:/]*)=")
_FREE_TEXT = frozenset(
    {
        "AdminComment", "BurstBuffer", "Command", "Comment", "Extra", "Gres", "JobName", "OS", "StdErr", "StdIn",
        "StdOut", "SubmitLine", "SystemComment", "WorkDir",
    }
)  # fmt: skip
"""Fields that stand last on their line."""

_NOTHING = frozenset({"", "(null)", "N/A", "None", "NONE", "none", "Unknown", "UNKNOWN", "None assigned", "Unassigned"})
_SHORT_STATES = {
    "BF": JobState.BOOT_FAIL, "CA": JobState.CANCELLED, "CD": JobState.COMPLETED, "CF": JobState.CONFIGURING,
    "CG": JobState.COMPLETING, "DL": JobState.DEADLINE, "EX": JobState.EXPEDITING, "F": JobState.FAILED,
    "LF": JobState.LAUNCH_FAILED, "NF": JobState.NODE_FAIL, "OOM": JobState.OUT_OF_MEMORY, "PD": JobState.PENDING,
    "PR": JobState.PREEMPTED, "R": JobState.RUNNING, "RD": JobState.RESV_DEL_HOLD, "RF": JobState.REQUEUE_FED,
    "RH": JobState.REQUEUE_HOLD, "RQ": JobState.REQUEUED, "RS": JobState.RESIZING, "RV": JobState.REVOKED,
    "S": JobState.SUSPENDED, "SE": JobState.SPECIAL_EXIT, "SI": JobState.SIGNALING, "SO": JobState.STAGE_OUT,
    "ST": JobState.STOPPED, "TO": JobState.TIMEOUT,
}  # fmt: skip
_NODE_MARKS = {
    "*": "NOT_RESPONDING", "~": "POWERED_DOWN", "#": "POWERING_UP", "!": "POWER_DOWN", "%": "POWERING_DOWN",
    "$": "MAINTENANCE", "@": "REBOOT_REQUESTED", "^": "REBOOT_ISSUED", "-": "PLANNED",
}  # fmt: skip


class UnexpectedAnswer(ServiceUnavailable):
    """Slurm answered something that is not of the kind that was asked for."""


def check_job_id(text: str) -> str:
    """`text` itself if it is a job id in any of Slurm's forms: 123, 123_4, 123_[5-9%2], 123+1.

    Raises:
        UsageError: it is not.
    """
    if not _JOB_ID.fullmatch(text):
        raise UsageError(f"{text[:80]!r} is not a job id", hint="Slurm writes 123, 123_4, 123_[5-9%2] or 123+1")
    return text


def check_target(text: str) -> str:
    """`text` itself if it is the id of a job or of a job step (123.0, 123_4.batch).

    Raises:
        UsageError: it is neither.
    """
    return text if _STEP_ID.fullmatch(text) else check_job_id(text)


def submitted_id(text: str) -> str:
    """The job id from `sbatch --parsable`: `id` or `id;cluster`.

    Raises:
        UnexpectedAnswer: anything else.
    """
    match = re.fullmatch(r"([0-9]{1,10})(;[^\s;]+)?\s*", text)
    if not match:
        raise UnexpectedAnswer(f"sbatch --parsable did not print a job id but {text[:200]!r}")
    return match[1]


def job_state(text: str) -> JobState:
    """The state from its first word, in long or short form; a word nobody knows is UNKNOWN."""
    word = (text.split() or [""])[0].rstrip("+").split("+")[0].split(",")[0].upper()
    return _SHORT_STATES.get(word) or (JobState(word) if word in JobState.__members__ else JobState.UNKNOWN)


def epoch(value: object) -> float | None:
    """A time of Slurm's in epoch seconds: `%s` form, ISO form (local time), or JSON's number; None for no time."""
    if isinstance(value, dict):
        value = value.get("number") if value.get("set") and not value.get("infinite") else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) or None
    text = str(value or "")
    if re.fullmatch(r"[0-9]{1,12}", text):
        return float(text) or None
    try:
        return dt.datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None


def show_job(text: str, job_id: str) -> JobInfo:
    """The record of `job_id` from `scontrol show job`.

    The one-line form (-o) is read too, but there a job's name can mimic fields: do not ask for it.

    Raises:
        UnexpectedAnswer: there is no such record in the text.
    """
    wanted = _JOB_ID.fullmatch(job_id)
    for fields in _records(text, "JobId"):
        own = {fields["JobId"], f"{fields.get('ArrayJobId', '')}_{fields.get('ArrayTaskId', '')}"}
        own.add(f"{fields.get('HetJobId', '')}+{fields.get('HetJobOffset', '')}")
        if job_id in own or (wanted and not wanted[2] and fields.get("ArrayJobId") == job_id):
            return _job(fields)
    raise UnexpectedAnswer(f"scontrol shows no job {job_id} in {text[:200]!r}")


def job_from_json(text: str, job_id: str) -> JobInfo:
    """As `show_job`, from `squeue --json` or (since 23.02) `scontrol show job --json`, in every shape since 21.08."""
    try:
        jobs = [dict(job) for job in json.loads(text)["jobs"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UnexpectedAnswer(f"there are no jobs in {text[:200]!r}: {error}") from error
    for job in jobs:
        task = f"{_plain(job.get('array_job_id'))}_{_plain(job.get('array_task_id'))}"
        if job_id in {str(_plain(job.get("job_id"))), task}:
            return _job_of_json(job)
    raise UnexpectedAnswer(f"there is no job {job_id} in {text[:200]!r}")


def show_nodes(text: str) -> dict[str, NodeInfo]:
    """All nodes from `scontrol show node` (with or without -o), in the order of the text."""
    nodes = {}
    for fields in _records(text, "NodeName"):
        name = fields["NodeName"].split()[0]
        nodes[name] = NodeInfo(
            name=name,
            words=node_words(fields.get("State", "")),
            reason=_text(fields, "Reason"),
            cpus=_int(fields.get("CPUTot", "")),
            gres=_text(fields, "Gres"),
        )
    return nodes


def node_words(text: str) -> frozenset[str]:
    """`IDLE+DRAIN`, `DOWN*+CLOUD`, `mixed#` as words; the marks of sinfo(1) become the flags they stand for."""
    words: set[str] = set()
    for part in (text.split() or [""])[0].upper().split("+"):
        word = part.rstrip("".join(_NODE_MARKS))
        words |= {word, *(_NODE_MARKS[mark] for mark in part[len(word) :])}
    return frozenset(words - {""})


def sacct_job(text: str, job_id: str) -> JobInfo | None:
    """The newest record of `job_id` from sacct -X -P with SACCT_COLUMNS and SEPARATOR; None if there is none."""
    columns = SACCT_COLUMNS.split(",")
    found: Mapping[str, str] | None = None
    for line in text.splitlines():
        row = dict(zip(columns, line.split(SEPARATOR), strict=False))
        if len(row) == len(columns) and job_id in {row["JobID"], row["JobIDRaw"]}:
            found = row
    if found is None:
        return None
    array = re.fullmatch(r"([0-9]+)_([0-9]+)", found["JobID"])
    return JobInfo(
        job_id=found["JobIDRaw"] or found["JobID"],
        state=job_state(found["State"]),
        state_words=tuple(found["State"].split()),
        source=Source.ACCOUNTING,
        reason=_text(found, "Reason"),
        nodes=node_list(found["NodeList"]),
        num_nodes=_int(found["NNodes"]),
        submit_time=epoch(found["Submit"]),
        start_time=epoch(found["Start"]),
        end_time=epoch(found["End"]),
        exit_code=found["ExitCode"],
        user=found["User"],
        name=found["JobName"],
        partition=found["Partition"],
        work_dir=found["WorkDir"],
        comment=found["Comment"],
        array_job_id=array[1] if array else None,
        array_task_id=array[2] if array else None,
    )


def squeue_steps(text: str) -> tuple[StepInfo, ...]:
    """The steps from `squeue -s -h -o STEP_COLUMNS`."""
    steps = []
    for line in text.splitlines():
        step_id, _, rest = line.partition(SEPARATOR)
        nodes, _, name = rest.partition(SEPARATOR)
        if _STEP_ID.fullmatch(step_id):
            steps.append(StepInfo(step_id=step_id, name=name, nodes=node_list(nodes)))
    return tuple(steps)


def squeue_jobs(text: str) -> dict[str, JobInfo]:
    """The jobs from `squeue -h -o JOB_COLUMNS`, by their id as squeue shows it and by the plain one."""
    jobs: dict[str, JobInfo] = {}
    for line in text.splitlines():
        cells = line.split(SEPARATOR)
        if len(cells) != JOB_COLUMNS.count(SEPARATOR) + 1 or not _JOB_ID.fullmatch(cells[0]):
            continue
        info = JobInfo(
            job_id=cells[0],
            state=job_state(cells[2]),
            source=Source.CONTROLLER,
            state_words=tuple(cells[2].split()),
            reason=_null(cells[3]),
            num_nodes=_int(cells[4].partition("-")[0]),
            nodes=node_list(cells[5]),
            submit_time=epoch(cells[6]),
            start_time=epoch(cells[7]),
            end_time=epoch(cells[8]),
            user=cells[9],
            partition=_null(cells[10]),
            name=cells[11],
        )
        jobs[info.job_id] = info
        jobs.setdefault(cells[1], info)
    return jobs


def short_state(state: JobState) -> str:
    """The state as squeue's ST column writes it: `R`, `PD`; `-` where it has no short form."""
    return next((short for short, known in _SHORT_STATES.items() if known is state), "-")


def show_config(text: str) -> SiteConfig:
    """`scontrol show config`: lines of `Name = value`."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return SiteConfig(values={name.strip(): _null(value.strip()) for name, value in pairs})


def version(text: str) -> tuple[int, ...]:
    """(22, 5, 8) from `slurm 22.05.8`, `slurm-wlm 22.05.8`, `slurm 24.11.0-0rc1`.

    Raises:
        UnexpectedAnswer: there is no version in it.
    """
    match = re.search(r"slurm\S*\s+([0-9]+)\.([0-9]+)(?:\.([0-9]+))?", text)
    if not match:
        raise UnexpectedAnswer(f"{text[:200]!r} names no version of Slurm")
    return tuple(int(part) for part in match.groups() if part is not None)


def node_list(text: str) -> tuple[str, ...]:
    """A node list as Slurm prints it, where `(null)` and `None assigned` mean none.

    Raises:
        UnexpectedAnswer: it is no node list.
    """
    if text.strip() in _NOTHING:
        return ()
    try:
        return nodeset.expand(text.strip())
    except UsageError as error:
        raise UnexpectedAnswer(f"Slurm printed a node list that cannot be read: {error}") from error


def _records(text: str, first: str) -> Iterator[dict[str, str]]:
    """Records that begin with `first=` at the start of a line, as fields by name."""
    for block in re.split(rf"^(?={first}=)", text, flags=re.MULTILINE)[1:]:
        first_line, *others = block.splitlines()
        lines = [first_line, *(line for line in others if line.startswith("   "))]
        free_text = _FREE_TEXT if len(lines) > 1 else frozenset[str]()
        fields: dict[str, str] = {}
        for line in lines:
            for name, value in _fields(line, free_text):
                fields.setdefault(name, value)
        yield fields


def _fields(line: str, free_text: frozenset[str]) -> Iterator[tuple[str, str]]:
    """(name, value) pairs of one line; a field named in `free_text` takes the rest of the line."""
    starts = list(_FIELD.finditer(line))
    for match, following in itertools.zip_longest(starts, starts[1:]):
        if following is None or match[1] in free_text:
            yield match[1], line[match.end() :].strip()
            return
        yield match[1], line[match.end() : following.start()].strip()


def _job(fields: Mapping[str, str]) -> JobInfo:
    """One record of scontrol as JobInfo."""
    return JobInfo(
        job_id=fields["JobId"],
        state=job_state(fields.get("JobState", "")),
        state_words=tuple(fields.get("JobState", "").split()),
        source=Source.CONTROLLER,
        reason=_text(fields, "Reason"),
        nodes=node_list(fields.get("NodeList", "")),
        num_nodes=_int(fields.get("NumNodes", "").partition("-")[0]),
        num_tasks=_int(fields.get("NumTasks", "")),
        restart_count=_int(fields.get("Restarts", "")),
        batch_host=_text(fields, "BatchHost") or None,
        submit_time=epoch(fields.get("SubmitTime")),
        start_time=epoch(fields.get("StartTime")),
        end_time=epoch(fields.get("EndTime")),
        exit_code=fields.get("ExitCode", ""),
        exc_nodes=node_list(fields.get("ExcNodeList", "")),
        requeue={"1": True, "0": False}.get(fields.get("Requeue", "")),
        user=fields.get("UserId", "").partition("(")[0],
        name=fields.get("JobName", ""),
        partition=_text(fields, "Partition"),
        work_dir=_text(fields, "WorkDir"),
        comment=_text(fields, "Comment"),
        array_job_id=fields.get("ArrayJobId"),
        array_task_id=fields.get("ArrayTaskId"),
    )


def _job_of_json(job: Mapping[str, Any]) -> JobInfo:
    """One element of `jobs`: state a string or a list, numbers plain or {set, infinite, number}, nodes moved about."""
    state = job.get("job_state", "")
    words = tuple(str(word) for word in state) if isinstance(state, list) else tuple(str(state).split())
    array_job, array_task = _plain(job.get("array_job_id")), _plain(job.get("array_task_id"))
    requeue = job.get("requeue")
    return JobInfo(
        job_id=str(_plain(job.get("job_id"))),
        state=job_state(words[0] if words else ""),
        state_words=words,
        source=Source.CONTROLLER,
        reason=_null(str(job.get("state_reason") or "")),
        nodes=node_list(str(job.get("nodes") or "")),
        num_nodes=_plain(job.get("node_count")),
        num_tasks=_plain(job.get("tasks")),
        restart_count=_plain(job.get("restart_cnt")),
        batch_host=job.get("batch_host") or None,
        submit_time=epoch(job.get("submit_time")),
        start_time=epoch(job.get("start_time")),
        end_time=epoch(job.get("end_time")),
        exc_nodes=node_list(_joined(job.get("excluded_nodes"))),
        requeue=None if requeue is None else bool(requeue),
        user=str(job.get("user_name") or ""),
        name=str(job.get("name") or ""),
        partition=str(job.get("partition") or ""),
        work_dir=str(job.get("current_working_directory") or ""),
        comment=_json_comment(job.get("comment")),
        array_job_id=str(array_job) if array_job else None,
        array_task_id=str(array_task) if array_job and array_task is not None else None,
    )


def _plain(value: object) -> int | None:
    """A number of Slurm's JSON, plain or wrapped; None where it is not set."""
    if isinstance(value, dict):
        value = value.get("number") if value.get("set") and not value.get("infinite") else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _joined(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _json_comment(value: object) -> str:
    """A string, or (sacct's shape) an object with the job's own comment inside."""
    return str(value.get("job") or "") if isinstance(value, dict) else str(value or "")


def _text(fields: Mapping[str, str], name: str) -> str:
    return _null(fields.get(name, ""))


def _null(text: str) -> str:
    return "" if text in _NOTHING else text


def _int(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None
