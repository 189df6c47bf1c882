from __future__ import annotations

import ast
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from ftslurm.core.diagnosis import Cause
from ftslurm.errors import UsageError
from ftslurm.faults.catalogue import CATALOGUE, Need, by_name, double_at, possible
from ftslurm.faults.deeds import Ask, Deed, Moment, Pair, Send, from_record, to_record
from ftslurm.faults.weights import INTERRUPTIONS
from ftslurm.faults.willing import WORDS

ROOT = Path(__file__).parents[2]
FAULTS = list(CATALOGUE.values())


@cache
def slugs_of_the_core() -> set[str]:
    """Every slug that the core gives what it says: those that stand in the source, and the causes."""
    found = {str(cause) for cause in Cause} | {f"health_{level}" for level in ("warning", "critical", "failed")}
    for path in (ROOT / "ftslurm/core").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "slug" and isinstance(node.value, ast.Constant):
                found.add(node.value.value)
    return found


def test_every_row_of_the_fault_matrix_has_a_fault():
    """Rows 1 to 20."""
    assert {fault.row for fault in FAULTS} == set(range(1, 21))


def test_weights_sum_to_one_and_are_those_of_the_table():
    """All 419 interruptions are drawn, each as a fault that exists."""
    assert sum(fault.weight for fault in FAULTS) == pytest.approx(1.0)
    assert sum(count for count, _ in INTERRUPTIONS.values()) == 419
    assert {name for _, names in INTERRUPTIONS.values() for name in names} <= set(CATALOGUE)


def test_nothing_that_a_user_has_to_allow_is_drawn_by_default_but_damage_that_a_kill_shows():
    """A GPU reset, a cancelled job: never by themselves."""
    assert [fault.name for fault in FAULTS if fault.weight and Need.YES in fault.needs] == ["corrupt-kill"]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_whole(fault):
    """Its causes are slugs that the core says; what lasts is undone; what needs privileges has a stand-in, or says why."""
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", fault.name)
    assert fault.causes <= slugs_of_the_core()
    assert bool(fault.undo) == (fault.lasts_s is not None)
    if fault.privileged:
        assert bool(fault.stand_in) != bool(fault.no_stand_in)
        assert not fault.stand_in or not by_name(fault.stand_in).privileged
    else:
        assert fault.no_stand_in == ""
    if not fault.stops_training:
        assert not fault.costs_node
    if isinstance(fault.deed, Send) and fault.deed.back:
        assert fault.undo
    if isinstance(fault.deed, Ask):
        assert fault.deed.word in WORDS
        assert Need.PROGRAM in fault.needs
    if isinstance(fault.deed, Pair):
        parts = by_name(fault.deed.first), by_name(fault.deed.second)
        assert frozenset().union(*(part.needs for part in parts)) == fault.needs


@pytest.mark.parametrize("deed", [fault.deed for fault in FAULTS], ids=repr)
def test_a_deed_survives_a_command_line(deed):
    """What a hand is told is what was meant."""
    assert from_record(to_record(deed)) == deed


def test_what_there_is_not_is_refused():
    """With the way to see what there is."""
    with pytest.raises(UsageError, match="no fault 'krill'") as caught:
        by_name("krill")
    assert "--list" in caught.value.hint
    with pytest.raises(UsageError, match="no deed 'Pray'"):
        from_record({"deed": "Pray"})
    assert {kind.__name__ for kind in Deed.__subclasses__()} >= {type(fault.deed).__name__ for fault in FAULTS}


@pytest.mark.parametrize("moment", [None, *Moment])
def test_a_double_fault_takes_any_moment_that_there_is(moment):
    """The second part's alone; where the first lets the training go on there is no relaunch to wait for."""
    for fault in FAULTS:
        changed = double_at(fault, moment)
        if moment is None or fault.name not in ("kill-kill", "kill-supervisor", "kill-cut"):
            assert changed == fault
        else:
            assert changed == replace(fault, deed=replace(fault.deed, moment=moment))


def test_possible_faults_need_no_more_than_is_offered():
    """An ordinary user has some of every kind of thing that breaks."""
    names = {fault.name for fault in possible(())}
    assert {"kill", "stop", "node-stop", "slow", "file-limit", "supervisor-kill"} <= names
    assert all(not fault.needs for fault in possible(()))
    assert "node-cut" in {fault.name for fault in possible({Need.LAB})}
