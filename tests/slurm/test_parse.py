from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.errors import FtslurmError, Refused, ServiceUnavailable, UsageError
from ftslurm.slurm import parse
from ftslurm.slurm.client import Answer
from ftslurm.slurm.records import JobState, Source

DATA = Path(__file__).parent.parent / "data" / "slurm"
RECORDED = sorted(folder for folder in DATA.glob("[0-9]*") if folder.is_dir())
RECONSTRUCTED = sorted((DATA / "reconstructed").iterdir())


def release_of(folder: Path) -> str:
    """The folder's name, for the names of tests."""
    return folder.name


recorded = pytest.mark.parametrize("folder", RECORDED, ids=release_of)
reconstructed = pytest.mark.parametrize("folder", RECONSTRUCTED, ids=release_of)


def job_id_of(text: str) -> str:
    """The id in the first line of a record."""
    return text.partition("JobId=")[2].split()[0]


def test_releases_from_2021_to_2026_are_recorded():
    """At least five releases of Slurm were really asked, the oldest and the newest in use among them."""
    names = [folder.name for folder in RECORDED]
    assert len(names) >= 5
    assert (names[0][:5], names[-1][:5]) == ("21.08", "26.05")


@recorded
def test_running_job(folder):
    """A job is read whole, although its name and its comment mimic fields."""
    text = (folder / "job_running.txt").read_text()
    job = parse.show_job(text, job_id_of(text))
    assert (job.state, job.nodes, job.num_nodes, job.num_tasks) == (JobState.RUNNING, ("n1", "n2", "n3"), 3, 3)
    assert (job.restart_count, job.batch_host, job.user, job.requeue) == (0, "n1", "alice", True)
    assert (job.exc_nodes, job.name, job.reason, job.source) == (("n4",), "a b NodeList=evil", "", Source.CONTROLLER)
    assert job.comment.startswith("hi | there")
    assert job.end_time is not None
    assert job.start_time is not None
    assert job.end_time - job.start_time == 600


@recorded
def test_requeued_job_is_pending_with_its_count(folder):
    """After a requeue: PENDING, BeginTime, one restart, no nodes, the exclusions kept."""
    text = (folder / "job_requeued.txt").read_text()
    job = parse.show_job(text, job_id_of(text))
    assert (job.state, job.reason, job.restart_count) == (JobState.PENDING, "BeginTime", 1)
    assert (job.nodes, job.exc_nodes, job.num_nodes) == ((), ("n4",), 3)


@recorded
def test_job_that_lost_a_node_names_the_survivors(folder):
    """With --no-kill the job goes on: RUNNING, without the lost node."""
    text = (folder / "job_lost_node.txt").read_text()
    job = parse.show_job(text, job_id_of(text))
    assert (job.state, job.nodes, job.num_nodes, job.batch_host) == (JobState.RUNNING, ("n1", "n3"), 2, "n1")


@recorded
def test_cancelled_job(folder):
    """A cancelled job is over, and holds no nodes."""
    text = (folder / "job_cancelled.txt").read_text()
    job = parse.show_job(text, job_id_of(text))
    assert (job.state, job.state.is_over, job.state.holds_nodes) == (JobState.CANCELLED, True, False)


@recorded
def test_array_is_read_by_task(folder):
    """Each task of an array is found by `<array>_<task>`, and the array's own id finds a record."""
    text = (folder / "job_array.txt").read_text()
    array = text.partition("ArrayJobId=")[2].split()[0]
    task = parse.show_job(text, f"{array}_1")
    assert (task.array_job_id, task.array_task_id, task.state) == (array, "1", JobState.RUNNING)
    assert parse.show_job(text, array).array_job_id == array
    with pytest.raises(ServiceUnavailable, match="shows no job"):
        parse.show_job(text, f"{array}_77")


@recorded
def test_nodes_and_the_unknown_one(folder):
    """A busy and a drained node with its reason; a name that Slurm does not know is simply not there."""
    nodes = parse.show_nodes((folder / "nodes.txt").read_text())
    assert list(nodes) == ["n1", "n4"]
    assert (nodes["n1"].draining, nodes["n1"].down, nodes["n1"].not_responding) == (False, False, False)
    assert (nodes["n4"].words, nodes["n4"].draining) == ({"IDLE", "DRAIN"}, True)
    assert nodes["n4"].reason.startswith("bad disk [")
    assert nodes["n1"].cpus in {4, 8}


@recorded
def test_lost_node_is_down_and_silent(folder):
    """A lost node is DOWN and NOT_RESPONDING; its neighbour is neither."""
    nodes = parse.show_nodes((folder / "nodes_lost.txt").read_text())
    assert [(node.down, node.not_responding) for node in nodes.values()] == [(False, False), (True, True)]


@recorded
def test_steps(folder):
    """Numbered steps and the batch step, also with a bar and a space in a name."""
    steps = {step.step_id.partition(".")[2]: step for step in parse.squeue_steps((folder / "steps.txt").read_text())}
    assert set(steps) >= {"0", "1", "batch"}
    assert {(step.name, step.nodes) for step in steps.values()} >= {
        ("a step|x", ("n1",)), ("sleep", ("n2", "n3")), ("batch", ("n1",)),
    }  # fmt: skip
    assert (steps["0"].number, steps["batch"].number) == (0, None)


@recorded
def test_site_configuration(folder):
    """The seconds that decisions rest on come out of every release's configuration."""
    config = parse.show_config((folder / "config.txt").read_text())
    assert (config.slurmd_timeout_s, config.min_job_age_s, config.kill_wait_s) == (30, 300, 5)
    assert (config.requeue_allowed, config.mpi_default, config.seconds("ClusterName")) == (True, "", None)


@recorded
def test_version_compares(folder):
    """The version is a tuple of numbers that orders as releases do."""
    version = parse.version((folder / "version.txt").read_text())
    assert version == tuple(int(part) for part in folder.name.split("."))
    assert (21, 8) <= version < (27,)


@pytest.mark.parametrize(
    "path", sorted(DATA.glob("[0-9]*/*_running.json")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_json_of_a_running_job(path):
    """From JSON of every shape the same job comes out as from text."""
    text = (path.parent / "job_running.txt").read_text()
    plain, job = parse.show_job(text, job_id_of(text)), parse.job_from_json(path.read_text(), job_id_of(text))
    for name in ("state", "nodes", "num_nodes", "num_tasks", "restart_count", "batch_host", "exc_nodes", "requeue"):
        assert getattr(job, name) == getattr(plain, name), name
    assert (job.start_time, job.end_time, job.name, job.reason) == (plain.start_time, plain.end_time, plain.name, "")
    assert job.comment == "hi | there\n   NodeList=evil"


@recorded
def test_errors_are_sorted_by_whose_fault_they_are(folder):
    """What each command said when refused is Refused; with slurmctld away, ServiceUnavailable; nothing else."""
    kinds = {"refused": Refused, "unknown-job": Refused, "unknown-step": Refused, "away": ServiceUnavailable}
    told = json.loads((folder / "errors.json").read_text())
    assert {entry["label"] for entry in told} >= set(kinds)
    for entry in told:
        label = entry.pop("label")
        answer = Answer(**{**entry, "argv": tuple(entry["argv"])})
        if label not in kinds:
            assert answer.check() is answer
            continue
        with pytest.raises(FtslurmError) as caught:
            answer.check()
        assert type(caught.value) is kinds[label], answer
        assert "\n" not in str(caught.value)


@reconstructed
def test_reconstructed_job(folder):
    """Releases in between: a job of the third attempt with exclusions and a comment."""
    job = parse.show_job((folder / "job_running.txt").read_text(), "4711")
    assert (job.state, job.nodes, job.num_nodes, job.num_tasks) == (
        JobState.RUNNING,
        ("node01", "node02", "node04"),
        3,
        6,
    )
    assert (job.restart_count, job.batch_host, job.exc_nodes) == (2, "node01", ("node07", "node09"))
    assert (job.name, job.work_dir, job.user) == ("gpt small", "/home/alice/run", "alice")
    assert json.loads(job.comment) == {"ftslurm": "gpt-small-20251009-ab12cd"}
    other = parse.job_from_json((folder / "jobs.json").read_text(), "4711")
    assert other == parse.JobInfo(**{**{name: getattr(job, name) for name in job.__slots__}, "exit_code": ""})


@reconstructed
def test_one_line_form_of_an_ordinary_job(folder):
    """`scontrol show job -o` of a job without odd names gives the same record."""
    text = (folder / "job_running.txt").read_text()
    line = " ".join(part.strip() for part in text.splitlines())
    one, long = parse.show_job(line, "4711"), parse.show_job(text, "4711")
    for name in ("state", "nodes", "num_nodes", "restart_count", "exc_nodes", "start_time", "batch_host", "name"):
        assert getattr(one, name) == getattr(long, name), name


@reconstructed
def test_reconstructed_pending_task(folder):
    """In JSON a pending array task is found by both of its ids; no nodes, no start."""
    text = (folder / "jobs.json").read_text()
    job = parse.job_from_json(text, "4713")
    assert job == parse.job_from_json(text, "4712_7")
    assert (job.state, job.nodes, job.start_time, job.batch_host) == (JobState.PENDING, (), None, None)
    with pytest.raises(ServiceUnavailable, match="no job"):
        parse.job_from_json(text, "1")


@reconstructed
def test_reconstructed_nodes(folder):
    """Whatever other flags there are: up, lost, drained."""
    nodes = parse.show_nodes((folder / "nodes.txt").read_text())
    assert [(node.down, node.not_responding) for node in nodes.values()] == [
        (False, False),
        (True, True),
        (False, False),
    ]
    assert nodes["node09"].draining


def test_accounting_of_jobs_arrays_and_nothing():
    """The newest record of accounting of a job and of an array task; a job that it does not list is None."""
    text = (DATA / "22.05.8" / "sacct.txt").read_text()
    rows = [line.split(parse.SEPARATOR) for line in text.splitlines()]
    job = parse.sacct_job(text, rows[0][0])
    assert job is not None
    assert (job.state, job.source, job.nodes, job.restart_count) == (JobState.CANCELLED, Source.ACCOUNTING, (), None)
    assert (job.name, job.user, job.partition, job.num_nodes) == ("a b NodeList=evil", "alice", "lab", 3)
    task = parse.sacct_job(text, rows[1][0])
    assert task is not None
    assert (task.job_id, task.nodes) == (rows[1][1], ("n1",))
    assert f"{task.array_job_id}_{task.array_task_id}" == rows[1][0]
    assert parse.sacct_job(text, "1") is None
    assert parse.sacct_job("", "1") is None


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("RUNNING", "RUNNING"), ("CANCELLED by 1001", "CANCELLED"), ("CANCELLED+", "CANCELLED"), ("R", "RUNNING"),
        ("PD", "PENDING"), ("CG", "COMPLETING"), ("running", "RUNNING"), ("PENDING,REQUEUED", "PENDING"), ("OOM", "OUT_OF_MEMORY"),
        ("OUT_OF_ME+", "UNKNOWN"), ("HIBERNATED", "UNKNOWN"), ("", "UNKNOWN"), ("UNKNOWN", "UNKNOWN"), ("NF", "NODE_FAIL"),
        ("EXPEDITING", "EXPEDITING"),
    ],
)  # fmt: skip
def test_states_by_their_first_word(text, state):
    """Long, short, decorated: the first word counts; what nobody knows is UNKNOWN and never COMPLETED."""
    assert parse.job_state(text) is JobState(state)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("IDLE", {"IDLE"}), ("DOWN*", {"DOWN", "NOT_RESPONDING"}), ("DOWN*+DRAIN", {"DOWN", "NOT_RESPONDING", "DRAIN"}),
        ("IDLE+CLOUD+POWERED_DOWN", {"IDLE", "CLOUD", "POWERED_DOWN"}), ("mixed#", {"MIXED", "POWERING_UP"}),
        ("IDLE~", {"IDLE", "POWERED_DOWN"}), ("drained*", {"DRAINED", "NOT_RESPONDING"}), ("", set()),
        ("IDLE+PLANNED+NEW_IN_30.05", {"IDLE", "PLANNED", "NEW_IN_30.05"}), ("allocated-", {"ALLOCATED", "PLANNED"}),
    ],
)  # fmt: skip
def test_node_states_as_words(text, words):
    """Flags with a plus and marks of sinfo become words; unknown ones are kept as they are."""
    assert parse.node_words(text) == words


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1795225797", 1795225797.0), (1795225797, 1795225797.0), (0, None), ("0", None), ("Unknown", None), ("", None),
        ("N/A", None), (None, None), ({"set": True, "infinite": False, "number": 5}, 5.0),
        ({"set": False, "infinite": False, "number": 0}, None), ({"set": True, "infinite": True, "number": 0}, None),
        ({}, None), (True, None), ("2026-13-01T00:00:00", None),
        ("2026-01-02T03:04:05", dt.datetime(2026, 1, 2, 3, 4, 5).timestamp()),  # noqa: DTZ001 - Slurm prints local time
    ],
)  # fmt: skip
def test_times_in_every_form(value, seconds):
    """Epoch text, local ISO text, JSON's wrapped numbers; no time is None."""
    assert parse.epoch(value) == seconds


@pytest.mark.parametrize("text", ["123", "123_4", "123_[5-9%2]", "123_[1,3-5]", "123+1", "9999999999"])
def test_job_ids_of_every_form(text):
    """Plain jobs, array tasks, pending ranges, components: all are job ids."""
    assert parse.check_job_id(text) == text
    assert parse.check_target(text + ".0") == text + ".0"
    assert parse.check_target(text + ".batch") == text + ".batch"


@pytest.mark.parametrize(
    "text", ["", "x", "123_", "123_[", "123_[$(id)]", "123.", "123.-1", "-9", "1 2", "1\n", "123.x", "123.0.0"]
)
def test_what_is_no_target_is_refused(text):
    """Nothing else becomes an argument of scancel."""
    with pytest.raises(UsageError):
        parse.check_target(text)


@pytest.mark.parametrize(("text", "job_id"), [("12\n", "12"), ("12;cluster\n", "12"), ("4294967294", "4294967294")])
def test_submitted_id(text, job_id):
    """`id` and `id;cluster` are what sbatch --parsable prints."""
    assert parse.submitted_id(text) == job_id


@pytest.mark.parametrize("text", ["slurm 24.11.0-0rc1", "slurm-wlm 24.11.0", "slurm 24.11.0\n"])
def test_versions_with_suffixes(text):
    """Release candidates and Debian's package name are the same release."""
    assert parse.version(text) == (24, 11, 0)


@pytest.mark.parametrize("call", [parse.version, lambda text: parse.job_from_json(text, "1"), parse.node_list])
@pytest.mark.parametrize("text", ["[", '{"jobs": 3}', "<html>", "n[1-"])
def test_what_is_no_answer_is_told(call, text):
    """A text of another kind is an error of Slurm's, not a traceback."""
    with pytest.raises(ServiceUnavailable):
        call(text)


@given(st.text(alphabet=st.sampled_from('JobIdNodeName=_ \n123[],-State=RUNNING()"\\{}|\x1f.+*')))
def test_no_text_breaks_a_parser(text):
    """Any text gives records, nothing, or one of our errors."""
    for call in (
        parse.show_nodes,
        parse.squeue_steps,
        parse.show_config,
        parse.node_words,
        parse.job_state,
        parse.epoch,
    ):
        call(text)
    for call in (parse.show_job, parse.job_from_json, parse.sacct_job):
        try:
            call(text, "1")
        except ServiceUnavailable:
            continue
