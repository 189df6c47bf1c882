from __future__ import annotations

import re
from pathlib import Path

import pytest

from ftslurm.config import json_schema
from ftslurm.doctor import config_rules, slurm_facts
from ftslurm.doctor.facts import Facts
from ftslurm.doctor.handled_rules import HANDLED_RULES, NOT_OF_A_SITE
from ftslurm.doctor.rules import Severity, Standing, judge
from ftslurm.doctor.slurm_rules import SLURM_RULES
from ftslurm.doctor.visit import ALL_RULES
from ftslurm.slurm import parse, site
from ftslurm.slurm.records import SiteConfig

RECORDED = Path(__file__).parent.parent / "data" / "slurm"
TRAPS = [f"M{number}" for number in range(1, 35)] + [
    f"{letter}{number}"
    for letter, last in zip("ABCDEF", (11, 8, 6, 5, 7, 7), strict=True)
    for number in range(1, last + 1)
]
ALWAYS = {"A6,A11,M10", "M8,B3,M29", "B1,M28", "A10", "B5", "E3,M13", "S8"}
"""Every recorded cluster has these: a finite SlurmdTimeout, the default life of credentials, KillWait=5, ..."""


def facts_of(release: str) -> Facts:
    """What a recorded cluster's configuration says."""
    return Facts(slurm_facts.of_config(parse.show_config((RECORDED / release / "config.txt").read_text())))


def applying(facts: Facts) -> set[str]:
    """The traps of the rules over Slurm's settings that apply."""
    return {",".join(each.rule.traps) for each in judge(SLURM_RULES, facts) if each.standing is Standing.APPLIES}


def test_every_trap_has_a_rule_or_a_reason():
    """No number of the list of traps is forgotten, and none is both."""
    ruled = {trap for rule in ALL_RULES for trap in rule.traps}
    assert [trap for trap in TRAPS if trap not in ruled and trap not in NOT_OF_A_SITE] == []
    assert ruled & set(NOT_OF_A_SITE) == set()
    assert {trap for trap in ruled if trap[0] in "MABCDEF"} <= set(TRAPS)


@pytest.mark.parametrize(
    ("release", "own"),
    [
        ("21.08.5", {"C1,M18", "A3", "M9", "M11,A4,A5", "B8"}),
        ("22.05.8", {"A3", "C1", "M11,A4,A5", "B8"}),
        ("23.11.4", {"M9", "C1", "B8"}),
        ("24.11.5", {"M9", "C1"}),
        ("25.11.2", {"M9", "C1", "B6"}),
        ("26.05.5", {"M9", "C1", "B6"}),
    ],
)
def test_recorded_clusters_have_the_traps_of_their_release(release, own):
    """What applies to a recorded configuration is what its release and its settings bring, and nothing else."""
    assert applying(facts_of(release)) == ALWAYS | own


@pytest.mark.parametrize(
    ("changes", "trap", "setting"),
    [
        ({"conf.SlurmdTimeout": "10 sec"}, "M19", "SlurmdTimeout"),
        ({"conf.SlurmdTimeout": "0 sec"}, "A6,A11,M10", "shrink"),
        ({"conf.ReturnToService": "0"}, "M19", "min_nodes"),
        ({"conf.JobRequeue": "0"}, "B4,M17", "--requeue"),
        ({"conf.RequeueExit": "100-200"}, "B4", "none"),
        ({"conf.PreemptType": "preempt/partition_prio", "conf.PreemptMode": "REQUEUE"}, "D3", "signal:TERM"),
        (
            {
                "conf.PreemptType": "preempt/qos",
                "conf.PreemptMode": "CANCEL",
                "conf.PreemptParameters": "send_user_signal",
            },
            "D3",
            "resume",
        ),
        ({"conf.PreemptType": "preempt/qos", "conf.PreemptMode": "GANG,SUSPEND"}, "F1,D3", "partition"),
        ({"conf.PrivateData": "jobs,nodes"}, "A8,F4", "PrivateData"),
        ({"conf.ProctrackType": "proctrack/pgid"}, "S2,M27", "cgroup"),
        ({"conf.PrologFlags": "Alloc,Contain", "slurm.release": "23.02.5"}, "M31,A3", "scratch"),
        ({"conf.PrologFlags": "Alloc,Contain"}, "A9", "none"),
        ({"conf.SchedulerParameters": "bf_interval=1,disable_job_shrink"}, "A7", "none"),
        ({"conf.SlurmctldParameters": "rl_enable,idle_on_node_suspend"}, "C6", "none"),
        ({"conf.SrunPortRange": "60001-63000"}, "S4", "network.ports"),
        ({"conf.ScronParameters": "enable,explicit_scancel"}, "S9", "scrontab -e"),
        ({"conf.JobSubmitPlugins": "lua"}, "S3,C1", "--probe"),
        ({"slurm.mpi_types": ("none", "pmi2")}, "M13,E3", "launch.mpi: pmi2"),
        ({"slurm.mpi_types": ("none",)}, "M13,E3", "launch.mpi: none"),
        ({"conf.JobContainerType": "job_container/tmpfs"}, "M31,S6", "scratch"),
        ({"conf.NamespaceType": "namespace/linux"}, "M31,S6", "scratch"),
        ({"conf.SuspendProgram": "/s", "conf.SuspendTime": "600 sec"}, "S7", "shrink"),
        ({"slurm.answer_s": 4.0}, "C6", "none"),
        ({"slurm.client_release": "23.11.1"}, "S1", "release"),
        ({"slurm.release": "20.02.7"}, "C1,M1", "20.11"),
    ],
    ids=lambda value: ",".join(map(str, value.values())) if isinstance(value, dict) else None,
)
def test_a_setting_brings_its_trap(changes, trap, setting):
    """One changed setting brings its rule, which says what to set; without the change that rule is silent."""
    calm = facts_of("24.11.5").also(
        {
            "conf.PreemptParameters": "",
            "slurm.partition_preempt": (),
            "slurm.mpi_types": ("none", "pmix"),
            "slurm.answer_s": 0.1,
            "slurm.client_release": "24.11.5",
        }
    )
    before = {each.rule: each.standing for each in judge(SLURM_RULES, calm)}
    new = [
        each
        for each in judge(SLURM_RULES, calm.also(changes))
        if each.standing is Standing.APPLIES and before[each.rule] is not Standing.APPLIES
    ]
    assert trap in {",".join(each.rule.traps) for each in new}
    assert any(setting in each.setting for each in new if ",".join(each.rule.traps) == trap)


def test_a_setting_that_a_release_does_not_have_is_not_set():
    """PreemptParameters is not shown by every release: then no signal of the user's own is sent."""
    facts = facts_of("24.11.5").also(
        {"conf.PreemptParameters": None, "conf.PreemptType": "preempt/qos", "conf.PreemptMode": "REQUEUE"}
    )
    assert "D3" in applying(facts)


@pytest.mark.parametrize(
    ("first", "offset"),
    [("1795225494", 4), ("nothing", None), ("", None)],
)
def test_the_clock_of_slurmctld(first, offset):
    """The first line of the configuration says what time it is there."""
    found = slurm_facts.clock_offset(f"Configuration data as of {first}\n", 1795225490)
    assert found == offset


def test_memory_is_constrained_by_task_and_cgroup_settings_together(tmp_path):
    """Either alone holds no job to its memory; cgroup.conf is read where the release does not show it."""
    facts = facts_of("24.11.5").also({"conf.TaskPlugin": "task/cgroup,task/affinity"})
    (tmp_path / "cgroup.conf").write_text("# x=y\nConstrainRAMSpace=YES # all\nnonsense\n")
    read = slurm_facts.cgroup_settings(SiteConfig(values={"SLURM_CONF": str(tmp_path / "slurm.conf")}))
    assert read == {"conf.ConstrainRAMSpace": "yes"}
    assert "S8" not in applying(facts.also(read))
    assert "S8" in applying(facts_of("24.11.5").also(read))
    assert "S8" in applying(facts.also({"conf.ConstrainRAMSpace": "no"}))
    assert slurm_facts.cgroup_settings(SiteConfig(values={"SLURM_CONF": str(tmp_path / "absent" / "x")})) == {}


def test_a_short_credential_makes_requeues_cheap():
    """AuthInfo=cred_expire shortens the wait of a requeued job."""
    facts = facts_of("24.11.5")
    assert "M8,B3,M29" in applying(facts)
    assert "M8,B3,M29" not in applying(facts.also({"conf.AuthInfo": "socket=/x,cred_expire=20"}))


def test_what_nobody_knows_accuses_nobody():
    """Without facts no rule applies but those that hold everywhere; each unknown one names the fact that is missing."""
    for finding in judge(ALL_RULES, Facts()):
        everywhere = finding.rule in HANDLED_RULES and finding.standing is Standing.APPLIES
        assert everywhere or finding.standing is Standing.UNKNOWN
        assert everywhere or finding.because.startswith("unknown: ")


def test_findings_come_with_the_gravest_first():
    """The order of a report is stops, warning, note, handled."""
    severities = [each.rule.severity for each in judge(ALL_RULES, facts_of("22.05.8"))]
    assert severities == sorted(severities, key=list(Severity).index)


def test_settings_that_are_named_exist():
    """Every key of the configuration that a rule tells the user to set is one."""
    schema = json_schema()
    sections = {name: prop.get("$ref", "").rpartition("/")[2] for name, prop in schema["properties"].items()}
    for rule in ALL_RULES:
        words = rule.setting if isinstance(rule.setting, str) else ""
        for section, key in re.findall(r"\b([a-z_]+)\.([a-z_]+)\b", f"{words} {rule.what}"):
            if section in sections:
                assert key in schema["$defs"][sections[section]]["properties"], (rule.traps, section, key)


@pytest.mark.parametrize(
    ("text", "types"),
    [
        ("srun: MPI types are...\nsrun: none\nsrun: pmi2\nsrun: openmpi\n", ("none", "pmi2", "openmpi")),
        (
            "MPI plugin types are...\n\tpmix\n\tnone\nspecific pmix plugin versions available: pmix_v3,pmix_v4\n",
            ("pmix", "none", "pmix_v3", "pmix_v4"),
        ),
        ("", ()),
    ],
)
def test_the_list_of_mpi_types_of_any_release(text, types):
    """Old releases print it on stderr with srun's name before each word, new ones as a list with versions."""
    assert site.mpi_types(text) == types


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1-00:00:00", 86400), ("12:30:00", 45000), ("30:00", 1800), ("UNLIMITED", None), ("NONE", None)],
)
def test_time_limits_of_partitions(text, seconds):
    """A limit in Slurm's form, or none."""
    assert site.seconds(text) == seconds


def test_partitions_are_read_by_name():
    """One line for each partition; anything else is left out."""
    found = site.partitions("PartitionName=a Default=YES State=UP\nnonsense\nPartitionName=b Default=NO\n")
    assert config_rules.default_partition(found) == "a"
    assert found["b"]["Default"] == "NO"
