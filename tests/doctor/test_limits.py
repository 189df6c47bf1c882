"""Limits of QOS and association, put to what a configuration wants of the queue."""

from __future__ import annotations

import json

import pytest

from ftslurm.config import parse
from ftslurm.doctor import config_rules, limits
from ftslurm.doctor.facts import Facts
from ftslurm.doctor.rules import Standing, judge
from ftslurm.slurm import site
from ftslurm.slurm.client import SlurmClient
from tests.slurm.fake import FakeSlurm

ENFORCED = {"conf.AccountingStorageEnforce": "associations,limits,qos"}
QOS = "normal|1|2|1-00:00:00|node=2|node=3||\nhigh||10|12:00:00||cpu=64,node=8||\nfree|||||||\n"
ASSOC = "lab||normal||7|||\nlab|gpu|high||||node=4|\nother||||||0:|\n"


def known(quality: str = "", account: str = "", partition: dict[str, str] | None = None, assoc: str = ASSOC) -> Facts:
    """The limits of a job, from recorded words of sacctmgr."""
    qualities = {row["Name"]: row for row in site.table(QOS, site.QUALITY)}
    row = limits.chosen(site.table(assoc, site.ASSOCIATION), account, partition or {})
    return Facts({**limits.of_rows(row, qualities, quality, partition or {}), **ENFORCED})


@pytest.mark.parametrize(
    ("facts", "submit", "wall_s", "nodes"),
    [
        (known(), 2, 86400, 2),
        (known(quality="high"), 10, 43200, 8),
        (known(quality="free"), 7, float("inf"), float("inf")),
        (known(partition={"PartitionName": "gpu", "QoS": "N/A"}), 10, 43200, 8),
        (known(quality="free", partition={"PartitionName": "gpu"}), float("inf"), float("inf"), 4),
        (known(quality="free", partition={"PartitionName": "big", "QoS": "high"}), 10, 43200, 8),
        (known(account="other", quality="free"), float("inf"), float("inf"), float("inf")),
        (known(account="unknown", assoc=""), 2, 86400, 2),
    ],
)
def test_the_first_that_sets_a_limit_counts(facts: Facts, submit: float, wall_s: float, nodes: float) -> None:
    """The partition's QOS, then the job's, then the association; the association of the partition beats the general one."""
    found = tuple(facts.number(f"limit.{name}") for name in ("submit", "wall_s", "nodes"))
    assert found == (submit, wall_s, nodes)


@pytest.mark.parametrize(
    ("wanted", "trap", "setting"),
    [
        ({"limit.chain": 3.0}, "K12", "chain:2 at most"),
        ({"limit.jobs": 0.0}, "K12", "qos: another one"),
        ({"limit.continue": "resubmit", "limit.submit": 1.0, "limit.chain": 0.0}, "K12", "requeue"),
        ({"limit.wanted_nodes": 3.0}, "K13", "recovery.spares"),
        ({"config.asks_time": True, "config.time_s": 90000.0}, "K14", "1-00:00:00 at most"),
    ],
)
def test_a_wish_beyond_a_limit_is_found(wanted: dict[str, float | str | bool], trap: str, setting: str) -> None:
    """Each wish alone brings its rule, with the number to stay below; where nothing is enforced, none applies."""
    calm = {"limit.chain": 2.0, "limit.continue": "requeue", "limit.wanted_nodes": 2.0, "limit.spares": 0.0}
    facts = known().also({**calm, "config.asks_time": False, **wanted})
    (found,) = [each for each in judge(limits.LIMIT_RULES, facts) if each.standing is Standing.APPLIES]
    assert found.rule.traps == (trap,)
    assert setting in found.setting
    lax = facts.also({"conf.AccountingStorageEnforce": "associations"})
    assert not [each for each in judge(limits.LIMIT_RULES, lax) if each.standing is Standing.APPLIES]


def test_limits_are_read_for_a_configuration(tmp_path) -> None:
    """Spares count as nodes; the words say who sets which limit; without accounting all of it stays unknown."""
    fake = FakeSlurm(tmp_path)
    fake.change("qos", value=list(site.table(QOS, site.QUALITY)))
    fake.change("assoc", value=list(site.table(ASSOC, site.ASSOCIATION)))
    told = {"name": "a", "command": ["x"], "resources": {"nodes": 2, "time": "60m"}, "recovery": {"spares": 1}}
    config = parse(json.dumps(told), "a")
    client = SlurmClient(environ=fake.environ)
    facts = Facts({**config_rules.facts(config, None), **limits.facts(client, config, None), **ENFORCED})
    assert facts.number("limit.wanted_nodes") == 3
    assert "submit 2 (QOS normal)" in facts.get("limit.words")
    assert [each.rule.traps for each in judge(limits.LIMIT_RULES, facts) if each.standing is Standing.APPLIES] == [
        ("K13",)
    ]
    fake.change("accounting", value=False)
    facts = Facts({**limits.facts(client, config, None), **ENFORCED})
    found = {each.rule.traps: each.standing for each in judge(limits.LIMIT_RULES, facts)}
    assert found[("K13",)] is Standing.UNKNOWN
    assert Standing.APPLIES not in found.values()
    assert {each[:2][1] for each in fake.calls if each[0] == "sacctmgr"} == {"--noheader"}


@pytest.mark.parametrize("text", ["", "sacctmgr: error: x\n", "a|b\n", "|||||||\n", "\x00|\x1b[31m|||||\n" * 3])
def test_words_that_nobody_expects_are_no_limit(text: str) -> None:
    """Lines of another form are left out; empty fields are no limits."""
    rows = site.table(text, site.ASSOCIATION)
    found = limits.of_rows(limits.chosen(rows, "", {}), {}, "", {})
    assert found["limit.submit"] == found["limit.nodes"] == float("inf")
