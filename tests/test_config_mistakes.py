"""A configuration with mistakes: all of them at once, each with its place and what to write instead."""

from __future__ import annotations

import pytest

from ftslurm.config import parse
from ftslurm.errors import ConfigError

SMALL = "name: small\ncommand: [python, train.py]\nresources: {nodes: 2}\n"


def mistakes(text: str) -> list[str]:
    """The lines of the error, headline first."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "run.yaml")
    return str(caught.value).splitlines()


def test_all_mistakes_at_once():
    """Mistakes of text, keys, values and between fields come in one report, in the order of the file."""
    text = """\
name: gpt small
command: python train.py
resources:
  nodes: four
  ranks_per_nodes: 8
  time: 90
heartbeat: {interval: 5s}
nodes: 3
recovery:
  min_nodes: 2
  min_nodes: 3
checkpoint:
  layout: on
  layout: hf
  drain: copy
  drain_to: host:/path
"""
    assert mistakes(text) == [
        "12 problems in run.yaml",
        "run.yaml:1:1: name: must be 1 to 63 letters, digits, '.', '_' or '-', not starting with '.' or '-'",
        "run.yaml:2:1: command: expected a list of words, not one string; write [python, train.py]",
        "run.yaml:4:3: resources.nodes: expected a number of nodes or a range such as 2-4, got 'four'",
        "run.yaml:5:3: resources.ranks_per_nodes: unknown key; did you mean ranks_per_node?",
        "run.yaml:6:3: resources.time: 90 has no unit; write 90m or 1:30:00",
        "run.yaml:7:1: heartbeat.suspect_after: must be at least twice heartbeat.interval (5s)",
        "run.yaml:7:1: heartbeat.takeover_after: must be at least four times heartbeat.interval (5s)",
        "run.yaml:8:1: nodes: unknown key; did you mean resources.nodes?",
        "run.yaml:11:3: recovery.min_nodes: given twice; the first is on line 10",
        "run.yaml:13:3: checkpoint.layout: expected files, library, hf, lightning, dcp, megatron or deepspeed, got 'on'",
        "run.yaml:14:3: checkpoint.layout: given twice; the first is on line 13",
        "run.yaml:16:3: checkpoint.drain_to: host:/path needs rsync, but checkpoint.drain is copy",
    ]


# Lines that are added to a good file -> path and message of the one problem.
ONE = [
    ("recovery: {min_node: 2}", "recovery.min_node: unknown key; did you mean min_nodes?"),
    ("nodes: 4", "nodes: unknown key; did you mean resources.nodes?"),
    ("resource: {}", "resource: unknown key; did you mean resources?"),
    ("partiton: gpu", "partiton: unknown key; did you mean resources.partition?"),
    ("zzz: 1", "zzz: unknown key"),
    ("progress: {stuck: 3m}", "progress.stuck: unknown key"),
    ("launch: 3", "launch: expected a section (lines of `key: value`), got 3"),
    ("launch:", "launch: expected a section (lines of `key: value`), got nothing"),
    ("launch: [srun]", "launch: expected a section (lines of `key: value`), got a list"),
    ("launch: {launcher: srum}", "launch.launcher: expected srun, mpirun or torchrun, got 'srum'; did you mean srun?"),
    (
        "launch: {srun: [--cpu-bind=none, -w, n1]}",
        "launch.srun: srun's option --nodelist cannot be used here: the plan chooses the nodes",
    ),
    ("launch: {modules: cuda}", "launch.modules: expected a list, got 'cuda'"),
    ("launch: {modules: [[a]]}", "launch.modules[0]: expected text, got a list"),
    ("launch: {setup: ['']}", "launch.setup[0]: must not be empty"),
    ('launch: {setup: [a, "b\\nc"]}', "launch.setup[1]: must not hold a newline; write one list item per line"),
    ('launch: {env: {A: "x\\0"}}', "launch.env.A: must not hold a NUL character"),
    ('launch: {env: {A: "x\\u0007"}}', "launch.env.A: must not hold the control character U+0007"),
    ('launch: {env: {A: "\\uD800"}}', "launch.env.A: must not hold the control character U+D800"),
    ("launch: {env: {A: true}}", "launch.env.A: expected text; if you mean the word, put it in quotes: 'true'"),
    ("launch: {env: {A: }}", "launch.env.A: expected text, got nothing"),
    ("launch: {env: {SECRET: [hush]}}", "launch.env.SECRET: expected text, got a list"),
    ("launch: {env: {A-B: 1}}", "launch.env.A-B: not the name of an environment variable (letters, digits and '_')"),
    ("launch: {env: {RANK: 1}}", "launch.env.RANK: ftslurm sets this variable itself, for every attempt anew"),
    ("launch: {env: {FTSLURM_X: 1}}", "launch.env.FTSLURM_X: ftslurm sets this variable itself, for every attempt anew"),
    ("network: {ports: 20000}", "network.ports: expected a range of ports such as 20000-29999, got 20000"),
    ("network: {ports: 80-90}", "network.ports: ports must be between 1024 and 65535, the smaller number first"),
    ("network: {ports: 30000-20000}", "network.ports: ports must be between 1024 and 65535, the smaller number first"),
    ("network: {ports: 20000-20003}", "network.ports: at least 10 ports are needed: every attempt takes new ones"),
    ("network: {interface: 'a b'}", "network.interface: must be auto, the name of a network interface, or a rule for names such as '{host}i'"),
    ("heartbeat: {interval: 0.5}", "heartbeat.interval: a duration needs a unit; write 0.5s or 0.5ms"),
    ("heartbeat: {interval: 1ms}", "heartbeat.interval: must be between 50ms and 1m"),
    ("heartbeat: {deadman_after: 2s}", "heartbeat.deadman_after: must be more than heartbeat.suspect_after (3s)"),
    ("recovery: {min_nodes: 3}", "recovery.min_nodes: 3 is more than resources.nodes (2): the run could never start"),
    ("recovery: {min_nodes: 0}", "recovery.min_nodes: must be at least 1, got 0"),
    ("recovery: {min_nodes: 1.5}", "recovery.min_nodes: expected an integer, got 1.5"),
    ("recovery: {min_nodes: '1'}", "recovery.min_nodes: expected an integer, got '1'"),
    ("recovery: {min_nodes: true}", "recovery.min_nodes: expected an integer, got true or false"),
    ("recovery: {max_attempts: 99999999999}", "recovery.max_attempts: must be at most 1000000, got 99999999999"),
    (
        "recovery: {world_multiple_of: 8}",
        "recovery.world_multiple_of: resources.nodes x resources.ranks_per_node is 2 ranks, no multiple of 8",
    ),
    ("recovery: {prefer: shrink}", "recovery.prefer: expected auto or a list of spare, shrink and requeue"),
    ("recovery: {prefer: [wait]}", "recovery.prefer: expected spare, shrink or requeue, got 'wait'"),
    ("recovery: {world_sizes: 8}", "recovery.world_sizes: expected a list of numbers of ranks, as in [8, 16, 32]"),
    ("recovery: {world_sizes: [8, many]}", "recovery.world_sizes: expected numbers of ranks, each at least 1"),
    ("recovery: {world_sizes: [64]}",
     "recovery.world_sizes: resources.nodes x resources.ranks_per_node is 2 ranks, which is not in the list"),
    ("recovery: {prefer: [shrink, shrink]}", "recovery.prefer: each plan at most once"),
    ("recovery: {continue: chain}", "recovery.continue: expected auto, requeue, chain:N with N from 2 to 999, resubmit or none, got 'chain'"),
    ("checkpoint: {scratch: scratch}", "checkpoint.scratch: expected auto, none or an absolute path"),
    ("checkpoint: {shared: here}", "checkpoint.shared: expected an absolute path or one that starts with {run_dir}"),
    (
        "checkpoint: {shared: '/a/{job}'}",
        "checkpoint.shared: unknown placeholder {job}; there are {run_dir}, {run_id} and {name}",
    ),
    ("checkpoint: {drain_to: 'host:rel'}", "checkpoint.drain_to: expected an absolute path or host:/path"),
    ("checkpoint: {drain_to: '-oProxyCommand=x:/a'}", "checkpoint.drain_to: expected an absolute path or host:/path"),
    ("checkpoint: {files: ../x}", "checkpoint.files: patterns are relative to the checkpoint folder and may not leave it"),
    ("checkpoint: {files: /x}", "checkpoint.files: patterns are relative to the checkpoint folder and may not leave it"),
    (
        "checkpoint: {done_marker: DONE}",
        "checkpoint.done_marker: must hold {name}, the name of the checkpoint file, as in {name}.done",
    ),
    ("checkpoint: {layout: fsdp}", "checkpoint.layout: expected files, library, hf, lightning, dcp, megatron or deepspeed, got 'fsdp'"),
    ("checkpoint: {keep_last: 0}", "checkpoint.keep_last: must be at least 1, got 0"),
    ("checkpoint: {rate_limit: 200M}", "checkpoint.rate_limit: expected a rate such as 200M/s, got '200M'"),
    ("checkpoint: {rate_limit: 200}", "checkpoint.rate_limit: a rate needs a unit; write 200M/s"),
    ("checkpoint: {rate_limit: 1B/s}", "checkpoint.rate_limit: must be at least 1K/s"),
    ("checkpoint: {save_on: signal:KILL}", "checkpoint.save_on: expected signal:NAME with one of TERM, USR1, USR2, INT, HUP, got 'signal:KILL'"),
    ("checkpoint: {save_on: later}", "checkpoint.save_on: expected signal:TERM, file:PATH or none, got 'later'"),
    (
        "checkpoint: {resume_args: [--resume]}",
        "checkpoint.resume_args: there is never a checkpoint to resume from without checkpoint.files",
    ),
    ("rules: [{metric: scratch_fre, below: 1}]", "rules[0].metric: no such metric; did you mean scratch_free?"),
    ("rules: [{metric: gpu_xid, above: 1}]", "rules[0].metric: no such metric; docs/health.md lists all"),
    ("rules: [{metric: load_per_core}]", "rules[0]: expected either above or below"),
    ("rules: [{metric: load_per_core, above: 1, below: 2}]", "rules[0]: expected either above or below"),
    ("hooks: {health: tell me}", "hooks.health: expected a list, got 'tell me'"),
    ("run_root: runs", "run_root: must be an absolute path (it starts with /, or with ~/ for your home folder)"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "expected"), ONE, ids=[line for line, _ in ONE])
def test_one_mistake(line, expected):
    """One mistake is one problem on its line, and the message says what to write."""
    headline, problem = mistakes(SMALL + line + "\n")
    assert headline == "1 problem in run.yaml"
    place, _, message = problem.partition(": ")
    assert message == expected
    assert place.startswith("run.yaml:4:")


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("time: 1:00:00", "time: sbatch's --time does not belong here: set resources.time instead"),
        ("nodes: 3", "nodes: sbatch's --nodes does not belong here: set resources.nodes instead"),
        ("job-name: x", "job-name: sbatch's --job-name does not belong here: set name instead"),
        ("no-kill: true", "no-kill: sbatch's --no-kill does not belong here: ftslurm sets it itself"),
        ("wrap: id", "wrap: sbatch's --wrap does not belong here: set command instead"),
        ("part: x", "part: sbatch could read it as --partition, which does not belong here: set resources.partition instead"),
        ("t: 3", "t: write the long name: time"),
        ("-A: x", "-A: write the option without dashes: account"),
        ("--qos: x", "--qos: write the option without dashes: qos"),
        ("cpus_per_gpu: 3", "cpus_per_gpu: sbatch has no such option; did you mean cpus-per-gpu?"),
        ("'x y': 3", "x y: not the name of an sbatch option (lower-case letters, digits and '-')"),
        ("'x=;id': 3", "x=;id: not the name of an sbatch option (lower-case letters, digits and '-')"),
        ("qos: ", "qos: expected text, a number, true or a list of these, got nothing"),
        ("qos: {a: b}", "qos: expected text, a number, true or a list of these, got a section"),
        ("qos: []", "qos: expected at least one value"),
        ("qos: ''", "qos: must not be empty or hold a tab"),
        ('qos: "a\\n#SBATCH --uid=0"', "qos: must not hold a newline; write one list item per line"),
    ],
)  # fmt: skip
def test_sbatch_options_that_collide_or_cannot_be(option, expected):
    """An option that ftslurm sets itself is refused by any of its names, and both places are named."""
    text = SMALL.replace("nodes: 2}", f"nodes: 2, sbatch: {{{option}}}}}")
    _, problem = mistakes(text)
    assert problem.partition(": ")[2] == f"resources.sbatch.{expected}"


def test_gpus_are_asked_for_once():
    """GPUs in sbatch's gres beside gpus_per_node contradict each other sooner or later."""
    text = SMALL.replace("nodes: 2}", "nodes: 2, gpus_per_node: 1, sbatch: {gres: 'gpu:1'}}")
    assert "asks for GPUs a second time" in mistakes(text)[1]


@pytest.mark.parametrize(
    ("time", "message"),
    [
        ("90", "90 has no unit; write 90m or 1:30:00"),
        ("1.5", "1.5 has no unit; write 90m or 1:30:00"),
        ("30s", "must be between 1 minute and 3650 days"),
        ("'0'", "must be between 1 minute and 3650 days"),
        ("9999999-0", "expected a time such as 1-00:00:00"),
        ("999999-0", "must be between 1 minute and 3650 days"),
        ("[1]", "expected text, got a list"),
    ],
)
def test_time_limits_that_are_refused(time, message):
    """A bare number is minutes to Slurm and seconds to others, so it is refused; so are 0 and what no job needs."""
    assert message in mistakes(SMALL.replace("nodes: 2", f"nodes: 2, time: {time}"))[1]


def test_a_mistake_between_fields_waits_for_the_fields_it_rests_on():
    """While resources.nodes is wrong, nothing is said about min_nodes, which may be right."""
    text = SMALL.replace("nodes: 2", "nodes: many") + "recovery: {min_nodes: 3}\n"
    assert mistakes(text)[0] == "1 problem in run.yaml"


def test_grace_must_fit_into_the_time():
    """A save that is given more time than the job has could never begin in time."""
    text = SMALL.replace("nodes: 2", "nodes: 2, time: 5m") + "checkpoint: {grace: 5m}\n"
    assert mistakes(text)[1] == "run.yaml:4:14: checkpoint.grace: must be less than resources.time (0-00:05:00)"


@pytest.mark.parametrize("nodes", ["0", "-1", "4-2", "2-", "1.5", "[1]", "true", "9999999", "'2 '"])
def test_node_counts_that_are_refused(nodes):
    """Nodes are a number from 1 or an ascending range."""
    assert "resources.nodes: expected" in mistakes(SMALL.replace("nodes: 2", f"nodes: {nodes}"))[1]


@pytest.mark.parametrize("name", ["a b", "-a", ".a", "a/b", "a\u0301", "a%j", "x" * 64, "''", "'a;id'", "$(id)"])
def test_names_that_are_refused(name):
    """A name becomes part of folder names and of the job's name: few characters are allowed."""
    assert "1:1: name: must" in mistakes(SMALL.replace("small", name))[1]


@pytest.mark.parametrize("command", ["[]", "['']", "{a: b}", "3", "[[a]]", "[python, true]", "'python \"x'"])
def test_commands_that_are_refused(command):
    """A command is a list of words that names a program."""
    assert "2:" in mistakes(SMALL.replace("[python, train.py]", command))[1]


def test_missing_keys_are_named():
    """A file without the three necessary things names all three."""
    assert mistakes("launch: {}\n") == [
        "3 problems in run.yaml",
        "run.yaml:1:1: name: required, but missing",
        "run.yaml:1:1: command: required, but missing",
        "run.yaml:1:1: resources: required, but missing",
    ]


@pytest.mark.parametrize("text", ["just text\n", "- a\n", "3\n"])
def test_a_file_that_is_no_mapping(text):
    """A document of another kind is one clear problem."""
    assert "expected a section" in mistakes(text)[1]


def test_a_secret_is_never_repeated():
    """A wrong value under launch.env is described, never shown."""
    assert "hush" not in "\n".join(mistakes(SMALL + "launch: {env: {A: {b: hush}, 'B C': hush, C: \"hush\\n\"}}\n"))


TORCH = "name: t\ncommand: [{command}]\nresources: {{nodes: 2, ranks_per_node: 4}}\nlaunch: {{{launch}}}\n"


@pytest.mark.parametrize(
    ("command", "launch", "said"),
    [
        ("torchrun, t.py", "mpi: none", "command calls torchrun: say torchrun"),
        ("accelerate, launch, t.py", "mpi: none", "command calls accelerate launch: say torchrun"),
        ("python, t.py", "launcher: torchrun", "command calls neither torchrun nor accelerate launch, and has none of"),
    ],
)
def test_a_command_that_starts_ranks_is_named_as_one(command: str, launch: str, said: str) -> None:
    """Neither are eight torchruns started where one is meant, nor is a program started once where eight are."""
    (line,) = mistakes(TORCH.format(command=command, launch=launch))[1:]
    assert f"launch.launcher: {said}" in line


@pytest.mark.parametrize(
    ("command", "launch", "tasks"),
    [
        ("torchrun, t.py", "launcher: torchrun", 1),
        ("torchrun, t.py", "launcher: srun", 4),
        ("numactl, torchrun, t.py", "launcher: torchrun", 1),
        ("bash, -c, 'x {node_rank}'", "launcher: torchrun", 1),
        ("bash, -c, 'x {node_rank}'", "mpi: none", 4),
    ],
)
def test_tasks_follow_from_the_launcher(command: str, launch: str, tasks: int) -> None:
    """One task a node where its command starts the ranks; the cores of a node stay the same."""
    config = parse(TORCH.format(command=command, launch=launch).replace("nodes: 2", "nodes: 2, cpus_per_rank: 3"), "t")
    assert config.tasks_per_node == tasks
    assert config.cpus_per_task == 12 // tasks
    assert config.world_size == 8
