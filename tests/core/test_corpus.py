from __future__ import annotations

import pytest

from ftslurm.core.diagnosis import FailureClass, Scope
from tests.conftest import ROOT
from tests.corpus import incidents

CORPUS = list(incidents())
PRIVATE = (f"{ROOT}/", "/root/", "/home/runner", "ftslurm-lab")
"""Where these incidents were recorded is nobody's business."""


def test_the_corpus_is_large_and_mostly_real():
    """At least 60 incidents, each with a name of its own; every class occurs, and most incidents really happened."""
    assert len({each.name for each in CORPUS}) == len(CORPUS) >= 60
    assert sum(each.recorded for each in CORPUS) >= 35
    assert {each.label["class"] for each in CORPUS} == {each.value for each in FailureClass}


def test_nine_of_ten_incidents_are_diagnosed_rightly():
    """The bar, for all of them, and for those alone that were recorded."""
    for some in (CORPUS, [each for each in CORPUS if each.recorded]):
        wrong = [each.name for each in some if each.diagnosed().failure_class != each.label["class"]]
        assert len(wrong) <= len(some) / 10, wrong


@pytest.mark.parametrize("incident", CORPUS, ids=lambda incident: incident.name)
def test_a_program_never_costs_a_node(incident):
    """Where the program is to blame no node is, and a verdict that is right names the right place."""
    found, label = incident.diagnosed(), incident.label
    if label["class"] in ("application", "program_hang", "oom_host", "oom_gpu"):
        assert not found.blames_node
    if found.failure_class == label["class"] and "where" in label:
        assert incident.is_right_place(found), (found.where, label["where"])
    if "scope" in label and found.failure_class == label["class"]:
        assert found.scope is Scope(label["scope"])


def test_the_corpus_names_nobody():
    """No folder of the machine that it was recorded on is in it."""
    for incident in CORPUS:
        assert not [word for word in PRIVATE if word in repr(incident.evidence)], incident.name
