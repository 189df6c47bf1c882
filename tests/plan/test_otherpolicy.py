from __future__ import annotations

import pytest

from ftslurm.config import Config
from ftslurm.errors import ConfigError, DataDamaged, StorageError
from ftslurm.plan.otherpolicy import Other, compared, config_of, read_other, rules_of
from tests.insight.journals import CONFIG, make_run

OWN = Config.model_validate({**CONFIG, "recovery": {"min_nodes": 2, "max_attempts": 7}})
WHOLE = """
name: another
command: [python, other.py]
resources: {nodes: 8, ranks_per_node: 2, time: "1:00:00"}
checkpoint: {files: "step_*.pt"}
recovery: {spares: 1}
"""


def other(tmp_path, text: str, own: Config = OWN) -> Other:
    """The policy of a file with this text."""
    file = tmp_path / "other.yaml"
    file.write_text(text)
    return read_other(file, own)


def test_sections_change_what_they_name(tmp_path):
    """Everything else stays as it was in the run, also within a section."""
    found = other(tmp_path, "recovery: {min_nodes: 4}\n")
    assert [(each.key, each.own, each.other) for each in found.changes] == [("recovery.min_nodes", "2", "4")]
    assert (found.rules.policy.min_nodes, found.rules.policy.max_attempts) == (4, 7)
    assert found.differs


def test_a_whole_configuration_has_defaults(tmp_path):
    """What it leaves out has its default, and is listed where that is another value."""
    found = other(tmp_path, WHOLE)
    assert found.rules.policy.max_attempts == 20
    changes = {each.key: each for each in found.changes}
    assert {key for key, each in changes.items() if each.counts} == {
        "recovery.spares",
        "recovery.min_nodes",
        "recovery.max_attempts",
    }
    assert "a fact of the recorded program" in changes["resources.nodes"].why
    assert changes["name"].why == "nothing in a journal depends on it"
    assert "the recorded jobs had the nodes that they had" in changes["recovery.spares"].remark


def test_the_same_policy_differs_in_nothing(tmp_path):
    """A section that says what the run says."""
    found = other(tmp_path, "recovery: {min_nodes: 2}\n")
    assert (found.changes, found.differs) == ((), False)
    assert found.rules == rules_of(OWN)


def test_facts_of_the_program_stay(tmp_path):
    """Ranks of a node and the layout of checkpoints: events of the record would mean something else."""
    given = Config.model_validate(
        {
            **CONFIG,
            "resources": {"nodes": 4, "ranks_per_node": 8, "time": "1:00:00"},
            "checkpoint": {"layout": "library", "every": {"time": "5m"}},
        }
    )
    found = compared(OWN, given)
    assert (found.rules.policy.ranks_per_node, found.rules.policy.library) == (2, False)
    assert found.rules.saving == rules_of(OWN).saving
    assert all(
        not each.counts for each in found.changes if each.key in ("checkpoint.layout", "resources.ranks_per_node")
    )


def test_a_way_to_go_on_counts_where_it_is_another(tmp_path):
    """Else it is the one that each job has found out."""
    assert other(tmp_path, "recovery: {continue: none}\n").rules.continue_by == "none"
    assert other(tmp_path, "recovery: {min_nodes: 4}\n").rules.continue_by == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("recovery: {min_node: 4}\n", "other.yaml:1:12: recovery.min_node: unknown key; did you mean min_nodes?"),
        ("recovery:\n  min_nodes: five\n", "other.yaml:2:3: recovery.min_nodes: expected an integer, got 'five'"),
        ("recovery:\n  min_nodes: 9\n", "recovery.min_nodes: 9 is more than resources.nodes (4)"),
        ("recovery: [1]\n", "other.yaml:1:1: recovery: expected a section"),
        ("recovery: {\n", "not valid YAML"),
        ("polisy: {min_nodes: 4}\n", "polisy: unknown key"),
        ("", "other.yaml is empty"),
        ("{}\n", "holds no section"),
        ("5\n", "other.yaml"),
        ("- recovery\n", "other.yaml"),
        ("checkpoint: {every: {steps: 10}}\n", "only with checkpoint.layout: library"),
    ],
)
def test_mistakes_are_told_with_their_place(tmp_path, text, words):
    """File, line and column, as for every configuration."""
    with pytest.raises(ConfigError) as raised:
        other(tmp_path, text)
    assert words in str(raised.value)


def test_the_run_that_has_no_readable_configuration(tmp_path, monkeypatch):
    """It cannot be said by which policy it was recorded."""
    monkeypatch.setenv("FTSLURM_HOME", str(tmp_path / "home"))
    paths = make_run(tmp_path / "runs")
    assert config_of(paths).name == "gpt-small"
    for damaged in (b"{", b'{"name": 5}', b"[]", b"\xff"):
        paths.resolved.write_bytes(damaged)
        with pytest.raises(DataDamaged, match="cannot be read"):
            config_of(paths)
    paths.resolved.unlink()
    with pytest.raises(StorageError, match="No such file"):
        config_of(paths)
