"""Which run a call of `ftslurm run` belongs to, and what it takes from the allocation."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import get_args

import pytest

from ftslurm import cli
from ftslurm.adoption import Told, adopt, checkpoint_keys
from ftslurm.checkpoint_section import Layout
from ftslurm.cli.run import LAYOUTS
from ftslurm.config import load
from ftslurm.errors import ConfigError, UsageError
from ftslurm.paths import RunPaths
from ftslurm.slurm.env import job_from_env

ALLOCATION = {
    "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-4]", "SLURM_JOB_NUM_NODES": "4", "SLURM_NTASKS": "8",
    "SLURM_TASKS_PER_NODE": "2(x4)", "SLURM_JOB_NAME": "my job",
}  # fmt: skip
Call = Callable[..., RunPaths]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Make one `ftslurm run` call; `job` changes what Slurm says of the allocation."""
    monkeypatch.setenv("FTSLURM_HOME", str(tmp_path / "home"))

    def adopted(
        *words: str,
        run_name: str | None = None,
        file: Path | None = None,
        checkpoint: Mapping[str, object] | None = None,
        **job: str,
    ) -> RunPaths:
        told = Told(file=file, run_name=run_name, checkpoint=checkpoint or {})
        return adopt(words, job_from_env({**ALLOCATION, **job}), told, run_root=tmp_path / "runs")

    return adopted


def test_calls_of_a_script_are_runs_that_a_requeued_job_finds_again(call):
    """Two calls are two runs, also of one command; after a requeue each finds its own; another job finds none."""
    runs = [call("a").root, call("a").root, call("b").root]
    assert len(set(runs)) == 3
    assert [call(name, SLURM_RESTART_COUNT="1").root for name in ("a", "a", "b")] == runs
    assert call("a", SLURM_JOB_ID="8").root not in runs


def test_tasks_of_an_array_are_runs_of_their_own(call):
    """Each task of an array has its own run, although the command is the same."""
    tasks = [call("a", SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID=task).root for task in "12"]
    assert tasks[0] != tasks[1]


def test_a_named_run_is_found_by_its_name(call):
    """A command that is never twice the same (a date in it, say) finds its run again by --run-name."""
    first = call("train", "--at", "10:00", run_name="gpt")
    assert call("train", "--at", "11:00", run_name="gpt", SLURM_RESTART_COUNT="1").root == first.root
    assert call("train", "--at", "11:00", SLURM_RESTART_COUNT="1").root != first.root
    assert load(first.config).name == "gpt"


@pytest.mark.parametrize(
    ("line", "nodes", "ranks"),
    [
        ((), 4, 2),
        (("-N2", "-n2"), 2, 1),
        (("--ntasks-per-node=3",), 4, 3),
        (("-N", "2"), 2, 1),
        (("-N", "9", "-n", "8"), 4, 2),
    ],
)
def test_the_world_is_that_of_srun(call, line, nodes, ranks):
    """Nodes and ranks come from the options, then from the allocation; never more nodes than there are."""
    config = load(call(*line, "--cpu-bind=none", "a b").config)
    assert (config.resources.nodes, config.resources.ranks_per_node) == ((nodes, nodes), ranks)
    assert config.command == ("a b",)
    assert config.launch.srun == ("--cpu-bind=none",)
    assert config.name == "my-job"


def test_what_cannot_be_a_run_is_refused(call):
    """No command, and ranks that cannot be spread evenly."""
    with pytest.raises(UsageError, match="no command"):
        call("-N2")
    with pytest.raises(UsageError, match="spread evenly"):
        call("-n7", "a")


@pytest.mark.parametrize(("words", "gpus"), [(("-G", "8"), 2), (("--gpus-per-node", "3", "-G8"), 3), ((), 0)])
def test_gpus_in_all_are_so_many_on_every_node(call, words, gpus):
    """Srun's total would be wrong for a smaller world."""
    assert load(call(*words, "train").config).resources.gpus_per_node == gpus


def test_gpus_that_do_not_divide_are_refused(call):
    """Rounding would leave a GPU without a rank, or a rank without a GPU."""
    with pytest.raises(UsageError, match="6 GPUs cannot be spread evenly over 4 nodes"):
        call("-G6", "train")


def test_tasks_of_an_array_are_one_run_in_a_chain(call):
    """With --chain the tasks join one run; two commands are two runs all the same; another array finds none."""
    array = {"SLURM_ARRAY_JOB_ID": "7", "FTSLURM_CHAIN": "1"}
    tasks = [call("a", SLURM_ARRAY_TASK_ID=task, SLURM_JOB_ID=f"1{task}", **array).root for task in "12"]
    assert tasks[0] == tasks[1]
    assert call("b", SLURM_ARRAY_TASK_ID="1", SLURM_JOB_ID="11", **array).root != tasks[0]
    assert (
        call("a", SLURM_ARRAY_TASK_ID="1", SLURM_JOB_ID="21", SLURM_ARRAY_JOB_ID="20", FTSLURM_CHAIN="1").root
        not in tasks
    )


def test_jobs_with_the_same_mark_are_one_run(call):
    """Jobs that were submitted as a chain from a script share its mark; it stands in no path as it is."""
    jobs = [call("a", SLURM_JOB_ID=job, FTSLURM_CHAIN="gpt.1").root for job in ("8", "9")]
    assert jobs[0] == jobs[1]
    with pytest.raises(UsageError, match="cannot be the name of a chain"):
        call("a", FTSLURM_CHAIN="../x")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("train", "--init", "tcp://n1:29500"), ("train", "--init", "tcp://n4:31000")),
        (("train", "--ip=10.0.0.1"), ("train", "--ip=10.0.0.12")),
        (("train", "--out", "runs/7/log"), ("train", "--out", "runs/8/log")),
    ],
)
def test_words_that_bash_computes_do_not_make_another_call(call, before, after):
    """After a requeue other nodes are allocated; a run that was resumed has another job."""
    first = call(*before)
    assert call(*after, SLURM_JOB_ID="8", FTSLURM_CONTINUES="7 x").root == first.root


@pytest.mark.parametrize(
    ("before", "after"), [(("train", "--fold", "1"), ("train", "--fold", "2")), (("train-n1x",), ("train-n2x",))]
)
def test_numbers_and_parts_of_words_make_another_call(call, before, after):
    """Two trainings that differ in a number are two, whichever the script leaves out the next time."""
    first = call(*before)
    assert call(*after, SLURM_RESTART_COUNT="1").root != first.root


def test_a_program_of_several_lines_is_one_word(call):
    """`bash -c` with a whole script in quotes arrives as it was written."""
    text = "export RANK=$SLURM_PROCID\n\tpython train.py"
    assert load(call("bash", "-c", text).config).command == ("bash", "-c", text)


def test_what_cannot_be_a_word_is_the_users_mistake(call):
    """An escape sequence in a command is refused with its place, and not called our bug."""
    with pytest.raises(UsageError, match=r"command\.1: .*control character"):
        call("train", "\x1b[2J")


def test_three_failures_of_a_program_that_saves_itself_are_no_loop(call):
    """Nothing that we see tells whether it has got further."""
    recovery = load(call("train").config).recovery
    assert recovery.no_progress_limit == recovery.max_attempts


@pytest.mark.parametrize(
    ("line", "ranks"),
    [
        (("--ntasks-per-node=1", "-c", "10", "torchrun", "--nproc-per-node=4", "t.py"), 4),
        (("-N2", "--gpus-per-node=8", "-c10", "--", "python", "-m", "torch.distributed.run", "--nproc_per_node=gpu", "t"), 8),
        (("-c10", "accelerate", "launch", "--num_processes", "12", "--num_machines", "4", "t.py"), 3),
    ],
)  # fmt: skip
def test_torchrun_says_how_many_ranks_a_node_has(call, line, ranks):
    """What `srun torchrun` gave a task stays the task's: the ranks are torchrun's, and the cores are given as they were."""
    config = load(call(*line).config)
    assert config.launch.launcher == "torchrun"
    assert config.resources.ranks_per_node == ranks
    assert config.tasks_per_node == 1
    assert config.resources.cpus_per_rank is None
    assert config.launch.srun[-1] == "--cpus-per-task=10"


def test_what_torchrun_is_told_anew_does_not_make_another_call(call):
    """A random rendezvous id is another word in every incarnation of the script, and the run is the same."""
    words = ("torchrun", "--tee", "3", "--log-dir=x", "--rdzv_id", "3", "--rdzv_endpoint=n1:29500", "train.py", "17")
    again = ("torchrun", "--tee", "3", "--log-dir=x", "--rdzv_id", "9", "--rdzv_endpoint=n2:29500", "train.py", "17")
    other = (*again[:-1], "18")
    first = call(*words)
    assert call(*again, SLURM_RESTART_COUNT="1").root == first.root
    assert call(*other, SLURM_RESTART_COUNT="1").root != first.root


# ---------------------------------------------------------------------------------------- what is said beside the line

BESIDE = """\
recovery: {continue: none}
heartbeat: {profile: fast}
launch: {mpi: pmix, setup: [ulimit -c 0]}
checkpoint: {layout: hf, mode: in-place, folder: out}
"""


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a file with settings alone, in the folder where the script is."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "ft.yaml"
    path.write_text(BESIDE)
    return path


def test_a_file_without_a_command_gives_the_settings_of_a_line(call, beside, tmp_path):
    """The line and the allocation say what runs and where; all else is the file's, its folder as seen from the script."""
    config = load(call("-N2", "--ntasks-per-node=1", "--", "train", "x", file=beside).config)
    assert (config.command, config.resources.nodes, config.world_size) == (("train", "x"), (2, 2), 2)
    assert (config.launch.mpi, config.launch.setup) == ("pmix", ("ulimit -c 0",))
    assert (config.recovery.continue_, config.heartbeat.profile) == ("none", "fast")
    assert config.checkpoint.is_watched
    assert config.checkpoint.folder == str(tmp_path / "out")
    assert config.recovery.no_progress_limit == 3


def test_the_line_beats_the_file(call, beside):
    """What stands in the call is nearer than what stands in a file."""
    saved = checkpoint_keys("/lustre/b", "dcp", (), "--from '{checkpoint}'")
    config = load(call("--mpi=pmi2", "train", file=beside, checkpoint=saved).config)
    assert (config.launch.mpi, config.launch.setup) == ("pmi2", ("ulimit -c 0",))
    assert (config.checkpoint.layout, config.checkpoint.folder) == ("dcp", "/lustre/b")
    assert config.checkpoint.resume_args == ("--from", "{checkpoint}")


@pytest.mark.parametrize(
    ("folder", "layout", "files", "save_on"), [("out", "hf", (), None), ("out", None, ("step_*.pt",), "none")]
)
def test_checkpoints_are_named_by_options(call, beside, folder, layout, files, save_on):
    """They stay in place; a program of which only the names are known is sent no signal that it may not expect."""
    saved = load(call("train", checkpoint=checkpoint_keys(folder, layout, files, None)).config).checkpoint
    assert (saved.mode, saved.layout, saved.files) == ("in-place", layout or "files", files)
    assert saved.save_on == save_on
    assert saved.is_watched


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("name: x\n", UsageError, "name: the command line and this job say that here"),
        ("name: x\ncommand: [train]\nresources: {nodes: 1}\n", UsageError, "come from the file"),
        ("\ncheckpoint: {layout: hff}\n", ConfigError, ":2:"),
        ("launch: [1]\n", ConfigError, ":1:"),
        ("- 1\n", ConfigError, ":1:"),
        ("recovery: {min_nodes: 9}\n", ConfigError, "is more than resources.nodes"),
    ],
)
def test_mistakes_in_the_file_are_told_with_their_place(call, beside, text, error, words):
    """As in a whole configuration; and what the line says already is refused."""
    beside.write_text(text)
    with pytest.raises(error, match=re.escape(words)):
        call("train", file=beside)


def test_checkpoints_that_nobody_could_recognise_are_refused(call):
    """A folder alone does not tell which files in it are checkpoints."""
    with pytest.raises(UsageError, match="nobody knows which files"):
        call("train", checkpoint=checkpoint_keys("out", None, (), None))
    with pytest.raises(UsageError, match="--resume-args"):
        checkpoint_keys("out", "hf", (), "'")


def test_options_of_the_call(call, tmp_path, monkeypatch, capfd):
    """They are ftslurm's wherever they stand before the command; half of what is needed is refused; a dry run tells."""
    monkeypatch.chdir(tmp_path)
    for name, value in ALLOCATION.items():
        monkeypatch.setenv(name, value)
    assert cli.exit_code(["run", "--checkpoint-layout", "hf", "train"]) == 2
    assert "--checkpoints is missing" in capfd.readouterr().err
    line = ["-N2", "--checkpoints=out", "--ntasks-per-node=1", "--checkpoint-layout", "hf", "--resume-args"]
    assert cli.exit_code(["run", "--dry-run", *line, "--resume {checkpoint}", "train"]) == 0
    captured = capfd.readouterr()
    assert "the run goes on with 1 of 2 nodes" in captured.err
    assert "--checkpoint" not in captured.out
    assert not (tmp_path / "runs").exists()


def test_layouts_of_frameworks_are_known_to_the_call():
    """All that a configuration knows, but those that no framework writes."""
    assert {*LAYOUTS, "files", "library"} == set(get_args(Layout))
