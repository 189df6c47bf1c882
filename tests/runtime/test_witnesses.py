from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest

from ftslurm.core.events import Event, Finding, NodeProbed, Outcome, Witness
from ftslurm.runtime import probes
from ftslurm.runtime.probes import ProbeTarget
from ftslurm.runtime.witnesses import Witnesses
from ftslurm.slurm.client import SlurmClient

OK, UNKNOWN, UNREACHABLE = Outcome.OK, Outcome.UNKNOWN, Outcome.UNREACHABLE
OTHERS = {"n2": ("10.0.0.2", 1), "n4": ("10.0.0.4", 1), "n5": ("10.0.0.5", 1)}
SAID = (Finding(witness=Witness.PING, outcome=UNREACHABLE), Finding(witness=Witness.SLURM, outcome=OK))


@pytest.fixture
def targets(monkeypatch: pytest.MonkeyPatch) -> list[ProbeTarget]:
    """Who was asked about; ping and Slurm answer."""
    asked: list[ProbeTarget] = []

    def confirm(target: ProbeTarget, deadline_s: float, report: Callable[[Finding], None]) -> tuple[Finding, ...]:
        assert deadline_s == 2.0
        asked.append(target)
        for finding in SAID:
            report(finding)
        return SAID

    monkeypatch.setattr(probes, "confirm", confirm)
    return asked


def ask(others: Mapping[str, tuple[str, int]], ring: Callable[[str], Finding] | None = None) -> list[NodeProbed]:
    """A round of questions about n3."""
    told: list[Event] = []
    witnesses = Witnesses("7", cast("SlurmClient", None), ring=ring, deadline_s=2.0)
    witnesses.ask("n3", ("10.0.0.3", 1), {"n3": ("10.0.0.3", 1), **others}, told.append)
    return cast("list[NodeProbed]", told)


def ring_of(**words: Outcome) -> Callable[[str], Finding]:
    """A ring that says this of the nodes."""
    return lambda node: Finding(witness=Witness.RING, outcome=words.get(node, UNKNOWN), detail="by its neighbour")


def outcomes(event: NodeProbed) -> dict[Any, Outcome]:
    """What was found, by witness."""
    return {finding.witness: finding.outcome for finding in event.findings}


def test_answers_are_passed_on_as_they_come(targets: list[ProbeTarget]) -> None:
    """The peer is another node than the one that is asked about; the last report is final."""
    told = ask(OTHERS)
    assert [(len(event.findings), event.final) for event in told] == [(1, False), (2, False), (2, True)]
    assert (targets[0].peer, targets[0].peer_node, targets[0].address) == ("10.0.0.2", "n2", "10.0.0.3")


def test_slurmctld_stands_in_where_there_is_no_third_node(targets: list[ProbeTarget]) -> None:
    """Its answer shows that the observer is not the one that is cut off."""
    told = ask({})
    assert targets[0].peer == ""
    assert [outcomes(event).get(Witness.PEER) for event in told] == [UNKNOWN, OK, OK]


@pytest.mark.parametrize("outcome", [OK, UNREACHABLE, UNKNOWN])
def test_the_ring_has_its_word_in_every_report(targets: list[ProbeTarget], outcome: Outcome) -> None:
    """It is asked about the node itself, each time anew; without a ring nothing is said in its name."""
    for event in ask(OTHERS, ring_of(n3=outcome)):
        assert outcomes(event)[Witness.RING] is outcome
    assert all(Witness.RING not in outcomes(event) for event in ask(OTHERS))
    assert len(targets) == 2
