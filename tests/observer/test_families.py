from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ftslurm.core.conditions import NodeHealth
from ftslurm.core.health import Level
from ftslurm.insight.walltime import Category
from ftslurm.observer.families import families, steadied
from ftslurm.observer.tally import Tally
from tests.insight.journals import NODES, START, Tale, policy_for
from tests.insight.test_against_core import deeds
from tests.observer.worlds import counted, eventful, live

HOSTILE = 'n"3\n# HELP forged x\\\x1b[2J\u202e<script>' + "x" * 500


class Fixed:
    """A collector of what is there already."""

    def __init__(self, found: list) -> None:
        self._found = found

    def collect(self) -> list:
        return self._found


def exposed(found: list) -> str:
    """The text that Prometheus reads."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Fixed(found))
    return generate_latest(registry).decode()


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Samples by name and labels, without the run's; each is there once."""
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    keyed = {
        (each.name, tuple(sorted(item for item in each.labels.items() if item[0] != "run"))): each.value
        for each in found
    }
    assert len(keyed) == len(found)
    return keyed


def of(tale: Tale) -> dict:
    """The samples of a tale, now."""
    return samples(exposed(list(families(counted(tale), live(tale), tale.now))))


def test_the_names_are_those_that_were_agreed():
    """What dashboards, alerts and other people's queries rely on: these names, and none with _created."""
    tale = eventful()
    names = {name for name, _ in of(tale)}
    agreed = {
        "run_phase", "ranks", "failures_total", "recoveries_total", "detection_seconds_bucket", "recovery_seconds_bucket",
        "suspicion_phi_max", "false_suspicions_total", "training_step", "step_seconds_bucket", "checkpoint_age_seconds",
        "checkpoint_seconds_bucket", "lost_steps_total", "wall_seconds_total", "heartbeat_unixtime", "build_info", "run_info",
        "node_health", "checkpoint_success_ratio", "recovery_success_ratio",
    }  # fmt: skip
    assert {f"ftslurm_{name}" for name in agreed} <= names
    assert not [name for name in names if name.endswith("_created") or not name.startswith("ftslurm_")]


def test_an_eventful_run():
    """Counts, shares and times of a run with one of everything."""
    tale = eventful()
    found = of(tale)
    assert found["ftslurm_false_suspicions_total", ()] == 1
    assert found["ftslurm_failures_total", (("class", "application"), ("scope", "job"))] == 1
    assert found["ftslurm_failures_total", (("class", "node_unreachable"), ("scope", "node"))] == 1
    assert found["ftslurm_recoveries_total", (("outcome", "recovered"), ("plan", "relaunch"))] == 1
    assert found["ftslurm_recoveries_total", (("outcome", "recovered"), ("plan", "shrink"))] == 1
    assert found["ftslurm_recovery_success_ratio", ()] == 1.0
    assert found["ftslurm_checkpoint_success_ratio", ()] == 1.0
    assert found["ftslurm_checkpoints_total", (("outcome", "saved"),)] == 5
    assert found["ftslurm_lost_steps_total", ()] == 40 + 50
    assert found["ftslurm_detection_seconds_count", ()] == 2
    assert found["ftslurm_detection_seconds_sum", ()] == pytest.approx(4.1)
    assert found["ftslurm_attempts_total", ()] == 3
    assert found["ftslurm_training_step", ()] == 500
    assert found["ftslurm_step_seconds_count", ()] == 20
    assert found["ftslurm_run_phase", (("phase", "training"),)] == 1
    assert sum(value for (name, _), value in found.items() if name == "ftslurm_run_phase") == 1
    assert found["ftslurm_node_health", (("level", "failed"), ("node", "n3"))] == 1
    assert found["ftslurm_node_health", (("level", "healthy"), ("node", "n1"))] == 1
    assert found["ftslurm_node_incidents_total", (("node", "n3"),)] == 1
    assert found["ftslurm_checkpoint_interval_seconds", ()] > 20
    wall = {name: found["ftslurm_wall_seconds_total", (("category", name),)] for name in Category}
    assert sum(wall.values()) == pytest.approx(tale.now - (START - 10), rel=1e-3)
    assert wall["queued"] == 10.0
    assert found["ftslurm_ettr_ratio", (("window", "run"),)] == pytest.approx(wall["productive"] / sum(wall.values()))


SECONDS = st.dictionaries(st.sampled_from(Category), st.floats(0, 1e5), min_size=1)


@given(before=SECONDS, moved=SECONDS, fresh=st.floats(0, 1e4))
def test_no_counter_falls_and_all_sum_to_the_wall_time(before, moved, fresh):
    """However time is told to belong elsewhere than was thought: none is less than before, and nothing counts twice."""
    whole = sum(before.values()) + fresh
    told = sum(moved.values())
    spent = {name: whole * (moved.get(name, 0.0) / told if told else 1 / len(Category)) for name in Category}
    found = steadied(before, spent)
    assert all(found[name] >= before.get(name, 0.0) for name in Category)
    assert sum(found.values()) == pytest.approx(whole, rel=1e-9, abs=1e-6)
    assert steadied(found, spent) == pytest.approx(found)


def test_an_unwell_node_has_its_worst_level():
    """Of all that is wrong with a node the worst counts, and one level is 1."""
    tale = Tale().start()
    for level, metric in ((Level.WARNING, "scratch_free"), (Level.CRITICAL, "memory_free")):
        tale.happen(NodeHealth(node="n2", level=level, metric=metric, reason="it is"))
    found = of(tale)
    levels = {level: found["ftslurm_node_health", (("level", level), ("node", "n2"))] for level in Level}
    assert levels == {Level.HEALTHY: 0, Level.WARNING: 0, Level.CRITICAL: 1, Level.FAILED: 0}


def test_a_recovery_that_fails_counts_against_the_share():
    """A relaunch that breaks down before its ranks train has failed; the next one has not."""
    tale = Tale().start().save(100, after=5).crash(0, signal=9)
    tale.exit(0, signal=9, after=1.0)
    tale.stopped()
    if "relaunch" in tale.run.timers:
        tale.timer("relaunch")
    tale.launched()
    found = of(tale)
    assert found["ftslurm_recoveries_total", (("outcome", "failed"), ("plan", "relaunch"))] == 1
    assert found["ftslurm_recoveries_failed_in_a_row", ()] == 0
    assert found["ftslurm_recovery_success_ratio", ()] == 0.5


def test_hostile_names_stay_inside_their_label():
    """Quotes, newlines, escapes and names without end: one series, one line, nothing forged."""
    tale = Tale(nodes=(HOSTILE, "n2", "n3", "n4")).start()
    hostile = live(tale, name=HOSTILE, user=HOSTILE, job_id=HOSTILE)
    text = exposed(list(families(counted(tale), hostile, tale.now)))
    assert not [line for line in text.splitlines() if "forged" in line and not line.startswith("ftslurm_")]
    assert all(each.isprintable() for each in text.split("\n"))
    values = {value for _, labels in samples(text) for _, value in labels}
    assert max(map(len, values)) <= 200


@settings(max_examples=40)
@given(st.lists(deeds, min_size=5, max_size=20))
def test_counters_never_fall(script):
    """Of every journal, entry by entry: what ends in _total, _count, _sum or _bucket only grows, whatever is learnt late."""
    tale = Tale(policy_for(min_nodes=1)).start()
    for deed in script:
        tale.wait(1.0)
        deed(tale)
    tally, told = Tally(START), live(tale)
    before: dict = {}
    for index, entry in enumerate(tale.entries):
        tally.see(entry)
        if index % 5 and entry is not tale.entries[-1]:
            continue
        found = [each for family in families(tally, told, entry.t) for each in family.samples]
        grows = {
            (each.name, tuple(each.labels.items())): each.value
            for each in found
            if each.name.endswith(("_total", "_count", "_sum", "_bucket"))
        }
        assert all(grows[key] >= value - 1e-9 for key, value in before.items())
        before = grows
    assert set(tally.excluded) == set(tale.run.condemned)
    assert set(NODES) >= set(tally.guilty)
