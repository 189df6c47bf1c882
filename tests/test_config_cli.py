"""`ftslurm config`: what goes to stdout, what to stderr, and the exit codes."""

from __future__ import annotations

import json

import pytest
import yaml

from ftslurm import cli

SMALL = "name: small\ncommand: [python, train.py, 'a b']\nresources: {nodes: 2-4, sbatch: {export: 'A_TOKEN=hush'}}\n"


@pytest.fixture
def call(tmp_path, capsys):
    """Write a file, call `ftslurm config VERB FILE`, return code, stdout and stderr."""

    def run(text, verb, *options):
        path = tmp_path / "run.yaml"
        path.write_text(text)
        code = cli.exit_code(["config", verb, str(path), *options])
        return code, *capsys.readouterr()

    return run


def test_check_says_what_would_run(call):
    """A good file gives a few lines with the command quoted, nothing on stderr, and no secret."""
    code, out, err = call(SMALL, "check")
    assert (code, err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines() if not line.startswith("time"))
    assert lines["command"] == "python train.py 'a b'"
    assert lines["ranks"] == "2 to 4 nodes x 1, started by srun"
    assert "hush" not in out


def test_check_reports_every_mistake_and_exits_2(call, tmp_path):
    """A bad file gives all problems on stderr, nothing on stdout, exit code 2 and no traceback."""
    code, out, err = call("name: x\nnodes: 3\n", "check")
    assert (code, out) == (2, "")
    assert err.startswith(f"ftslurm: error: 3 problems in {tmp_path}/run.yaml\n")
    assert f"{tmp_path}/run.yaml:2:1: nodes: unknown key; did you mean resources.nodes?" in err.splitlines()
    assert "Traceback" not in err


@pytest.mark.parametrize(("text", "ok", "code"), [(SMALL, True, 0), ("name: x\n", False, 2)])
def test_check_json_is_one_object_either_way(call, text, ok, code):
    """--json is one object on stdout with a schema number, for a good and for a bad file."""
    got, out, _ = call(text, "check", "--json")
    content = json.loads(out)
    assert (got, content["ok"], content["meta"]) == (code, ok, {"schema": 1})
    assert ok or len(content["problems"]) == 2


def test_show_is_a_configuration_again(call):
    """What `show` prints can be checked again and means the same, secrets hidden."""
    _, out, _ = call(SMALL, "show")
    assert "hush" not in out
    assert yaml.safe_load(out)["resources"]["nodes"] == "2-4"
    code, again, _ = call(out, "show")
    assert (code, again) == (0, out)


def test_show_json(call):
    """--json of `show` holds the same values."""
    _, out, _ = call(SMALL, "show", "--json")
    assert json.loads(out)["config"]["checkpoint"]["settle"] == "2s"


def test_schema_is_json(capsys):
    """`config schema` prints one JSON object that requires the three necessary keys."""
    assert cli.exit_code(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["required"] == ["name", "command", "resources"]
