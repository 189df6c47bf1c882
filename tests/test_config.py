"""A configuration that is right: what it means, its defaults, and its way through JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from ftslurm.config import Config, from_resolved, json_schema, load, parse
from ftslurm.errors import ConfigError

SMALL = "name: small\ncommand: [python, train.py]\nresources: {nodes: 2}\n"

DEFAULTS = {
    "name": "small",
    "command": ["python", "train.py"],
    "run_root": None,
    "resources": {
        "nodes": 2,
        "ranks_per_node": 1,
        "gpus_per_node": 0,
        "cpus_per_rank": None,
        "time": None,
        "partition": None,
        "sbatch": {},
    },
    "launch": {"launcher": "srun", "mpi": "pmix", "modules": [], "setup": [], "env": {}, "srun": [], "container": None},
    "network": {"interface": "auto", "ports": "20000-29999"},
    "heartbeat": {
        "profile": "default",
        "interval": "500ms",
        "suspect_after": "3s",
        "fabric": "auto",
        "false_suspicions": "30d",
        "deadman_after": "10s",
        "takeover_after": "6s",
        "no_quorum_after": "5m",
    },
    "progress": {
        "startup": "30m",
        "hang_after": "auto",
        "collective_timeout": "10m",
        "log_pattern": None,
        "files": [],
        "on_nan": "say",
    },
    "recovery": {
        "prefer": "auto",
        "min_nodes": 1,
        "world_multiple_of": 1,
        "spares": 0,
        "world_sizes": [],
        "efficiency": None,
        "placement": "round_robin",
        "ledger": None,
        "continue": "auto",
        "on_finish_after_takeover": "requeue",
        "max_attempts": 20,
        "no_progress_limit": 3,
    },
    "checkpoint": {
        "layout": "files",
        "mode": "drain",
        "folder": None,
        "also": [],
        "manage": False,
        "reshards": "auto",
        "scratch": "auto",
        "shared": "{run_dir}/checkpoints",
        "partner": "auto",
        "keep_last": 5,
        "keep_best": None,
        "keep_every": 0,
        "max_age": None,
        "drain": "auto",
        "drain_to": None,
        "drain_width": 16,
        "durable_every": None,
        "rate_limit": None,
        "delta": "none",
        "every": None,
        "min_interval": "0s",
        "min_steps": 0,
        "full_every": 8,
        "compression": "none",
        "files": [],
        "done_marker": None,
        "settle": "2s",
        "save_on": None,
        "resume_args": [],
        "grace": "1m",
    },
    "state": {"sync": None},
    "probes": {"interval": "30s", "gpus": "auto", "compute_test": "auto"},
    "rules": [],
    "hooks": {"health": []},
    "observe": {"metrics": "textfile", "metrics_dir": None, "sample_every": "5s", "notify": []},
    "plan": {
        "rate": "typical",
        "work": None,
        "save": None,
        "detect": None,
        "restart": None,
        "repair": None,
        "queue_wait": None,
        "availability": 0.99,
        "state": None,
        "scratch_bandwidth": None,
        "shared_bandwidth": None,
        "model": None,
    },
}

FULL = """\
name: gpt-small
command: [python, train.py, --data, /data/corpus, --lr, 1e-3, --seed, 007, "two words"]
run_root: /shared/runs
resources:
  nodes: 2-4
  ranks_per_node: 8
  gpus_per_node: 8
  cpus_per_rank: 12
  time: 1-00:00:00
  partition: gpu
  sbatch: {account: proj1, qos: high, exclusive: true, hold: false, nice: 100, mem: 1.50, licenses: [a, b]}
launch:
  launcher: srun
  mpi: none
  modules: [cuda/12.8]
  setup: ["source /opt/env/bin/activate", "ulimit -l unlimited"]
  env: {OMP_NUM_THREADS: 12, LR: 1e-3, GREETING: "it's $HOME"}
  srun: [--cpu-bind=cores]
network: {interface: ib0, ports: 30000-30099}
heartbeat: {interval: 250ms, suspect_after: 2s, deadman_after: 1m}
progress: {startup: 1h30m}
recovery: {prefer: [requeue, shrink], min_nodes: 2, world_multiple_of: 8, continue: none, max_attempts: 7,
           no_progress_limit: 2}
checkpoint:
  scratch: /scratch/me
  shared: /shared/keep/{name}/{run_id}
  keep_last: 3
  drain: rsync
  drain_to: backup:/pool/gpt
  rate_limit: 1.5G/s
  files: ["step_*.pt", "opt_*.pt"]
  done_marker: "{name}.done"
  settle: 500ms
  save_on: file:/scratch/me/save
  resume_args: [--resume, "{checkpoint}"]
  grace: 5m
"""


def test_defaults():
    """Three lines are a whole configuration; the rest has the documented defaults."""
    config = parse(SMALL, "small.yaml")
    assert config.resources.nodes == (2, 2)
    assert (config.resources.ranks_per_node, config.resources.gpus_per_node, config.world_size) == (1, 0, 2)
    assert config.resolved() == DEFAULTS


def test_every_value_arrives():
    """Each key of a full file arrives with its unit parsed, and numbers in text are as they were written."""
    config = parse(FULL, "full.yaml")
    assert config.command[4:8] == ("--lr", "1e-3", "--seed", "007")
    assert config.command[8] == "two words"
    assert config.resources.nodes == (2, 4)
    assert config.resources.time == 86400
    assert config.resources.sbatch == {
        "account": "proj1",
        "qos": "high",
        "exclusive": True,
        "hold": False,
        "nice": "100",
        "mem": "1.50",
        "licenses": ("a", "b"),
    }
    assert config.launch.env == {"OMP_NUM_THREADS": "12", "LR": "1e-3", "GREETING": "it's $HOME"}
    assert config.launch.setup == ("source /opt/env/bin/activate", "ulimit -l unlimited")
    assert config.network.ports == (30000, 30099)
    assert (config.heartbeat.interval, config.heartbeat.deadman_after, config.progress.startup) == (0.25, 60, 5400)
    assert (config.recovery.prefer, config.recovery.continue_) == (("requeue", "shrink"), "none")
    assert config.checkpoint.rate_limit == 3 * 2**29
    assert config.checkpoint.files == ("step_*.pt", "opt_*.pt")
    assert config.checkpoint.grace == 300


@pytest.mark.parametrize("text", [SMALL, FULL])
def test_resolved_survives_json(text):
    """What `resolved` returns goes through JSON and back to an equal configuration."""
    config = parse(text, "x.yaml")
    assert from_resolved(json.loads(json.dumps(config.resolved()))) == config


def test_secrets_are_never_in_the_resolved_form():
    """Names of secrets stay, their values do not, wherever in the file an assignment holds one."""
    text = SMALL.replace("nodes: 2", 'nodes: 2, sbatch: {export: "ALL,HF_TOKEN=hush1,A=1"}') + (
        "launch:\n"
        "  env: {WANDB_API_KEY: hush2, db_password: hush3, AWS_SECRET_X: hush4, PLAIN: seen}\n"
        "  setup: ['export MY_TOKEN=\"hush5 hush5\" B=2', 'module list']\n"
        "  srun: ['--export=ALL,GH_CREDENTIAL=hush6']\n"
    )
    config = parse(text, "x.yaml")
    resolved = config.resolved()
    assert "hush" not in json.dumps(resolved)
    assert "hush" not in str(sorted(resolved["launch"]["env"].items()))
    assert set(resolved["launch"]["env"]) == {"WANDB_API_KEY", "db_password", "AWS_SECRET_X", "PLAIN"}
    assert resolved["launch"]["setup"] == ["export MY_TOKEN=*** B=2", "module list"]
    assert resolved["resources"]["sbatch"] == {"export": "ALL,HF_TOKEN=***,A=1"}
    back = from_resolved(resolved)
    assert back.launch.env == {"PLAIN": "seen"}
    assert back.launch.setup == ("module list",)
    assert config.launch.env["WANDB_API_KEY"] == "hush2"


def test_a_configuration_is_frozen():
    """Nothing can be assigned after it was read."""
    config = parse(SMALL, "x.yaml")
    with pytest.raises(ValidationError):
        config.name = "other"
    with pytest.raises(ValidationError):
        config.recovery.min_nodes = 2


def test_from_resolved_refuses_another_form():
    """Data that is not of our form is a ConfigError that names the key."""
    resolved = parse(SMALL, "x.yaml").resolved()
    resolved["heartbeat"]["phi"] = 8
    with pytest.raises(ConfigError, match=r"unknown key"):
        from_resolved(resolved)


def test_home_is_expanded(monkeypatch, tmp_path):
    """`~/` in run_root is the user's home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse(SMALL + "run_root: ~/runs\n", "x").run_root == str(tmp_path / "runs")


def test_nothing_heavy_is_imported():
    """Reading a configuration needs neither torch nor Slurm's or MPI's packages."""
    code = "import sys, ftslurm.config; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert not {"torch", "mpi4py", "ClusterShell", "paramiko", "jinja2", "rich"} & set(done.stdout.split())


def test_schema_knows_every_key_with_its_meaning_and_default():
    """The JSON Schema closes every section, explains every key, and writes defaults as a user would."""
    schema = json_schema()
    resolved = parse(SMALL, "x.yaml").resolved()
    assert schema["additionalProperties"] is False
    for name, section in resolved.items():
        reference = schema["properties"][name].get("$ref")
        if reference is None:
            assert schema["properties"][name]["description"]
            continue
        described = schema["$defs"][reference.rsplit("/", 1)[1]]
        assert described["additionalProperties"] is False
        assert set(described["properties"]) == set(section)
        for key, value in section.items():
            assert described["properties"][key]["description"], key
            if name != "resources":
                assert described["properties"][key]["default"] == value, key
    assert json.loads(json.dumps(schema)) == schema


def test_a_file_with_a_byte_order_mark_and_windows_line_ends_is_read(tmp_path):
    """What a Windows editor saves means the same."""
    file = tmp_path / "a file.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode())
    assert load(file) == parse(SMALL, "x")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "cannot read {path}: No such file or directory"),
        (lambda path: path.mkdir(), "{path} is a folder"),
        (lambda path: path.write_bytes(b""), "{path} is empty"),
        (lambda path: path.write_bytes(b"# only a comment\n"), "{path} is empty"),
        (lambda path: path.write_bytes(b"name: x\nb: \xff\n"), "{path}:2:1: not UTF-8 text (byte 0xff)"),
        (lambda path: path.symlink_to("/dev/zero"), "{path} is too large for a configuration"),
        (lambda path: path.symlink_to(path), "cannot read {path}: Too many levels of symbolic links"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, make, message):
    """Whatever is wrong with the file itself, one line says it, and the exit code is 2."""
    path = Path(tmp_path / "run.yaml")
    make(path)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).startswith(message.format(path=path))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_the_world_size_is_of_the_full_allocation():
    """A range of nodes counts with its larger number."""
    config = Config.model_validate({"name": "x", "command": ["x"], "resources": {"nodes": "2-4", "ranks_per_node": 8}})
    assert config.world_size == 32


def test_the_fast_profile_fills_what_is_not_given():
    """`profile: fast` means beats of 200 ms and suspicion after 1 s; what the user gives stays."""
    fast = parse(SMALL + "heartbeat: {profile: fast}\n", "f").heartbeat
    assert (fast.interval, fast.suspect_after) == (0.2, 1.0)
    mixed = parse(SMALL + "heartbeat: {profile: fast, suspect_after: 2s}\n", "f").heartbeat
    assert (mixed.interval, mixed.suspect_after) == (0.2, 2.0)
