from __future__ import annotations

import math
import time
from pathlib import Path

import pytest

from ftslurm.core.lemons import DAY_S, Mark
from ftslurm.ledger import Writer
from ftslurm.plan import findings, patterns
from ftslurm.plan.past import Fault, Past, Source
from ftslurm.plan.sources import _watched_by_runs, from_journals, of_the_user, of_trace, one_each
from ftslurm.plan.trace import Outage, Trace
from ftslurm.slurm.client import SlurmClient
from ftslurm.slurm.outages import read
from tests.insight.journals import DEAD, NODES, START, Tale, config_policy, make_run
from tests.slurm.fake import FakeSlurm

FLEET = ("n1", "n2", "n3", "n4")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Give a Slurm of four nodes without accounting, and a home without runs."""
    fake = FakeSlurm(tmp_path)
    fake.change("accounting", value=False)
    monkeypatch.setenv("FTSLURM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FTSLURM_RUN_ROOT", raising=False)
    return fake


def known(fake: FakeSlurm, folder: Path, fleet: tuple[str, ...] = FLEET) -> Past:
    """What is known of the last year."""
    return of_the_user(folder, SlurmClient(environ=fake.environ), fleet, 365.0)


def mark(folder: Path, node: str, *days_ago: float, cause: str = "node_down") -> None:
    """Leave marks in a ledger."""
    for days in days_ago:
        Writer(folder, "test").mark(Mark(node=node, at=time.time() - days * DAY_S, cause=cause))


def event(node: str, days_ago: float, hours: float, state: str = "DOWN*", reason: str = "Not responding") -> dict:
    """A row of `sacctmgr show event`."""
    begun = int(time.time() - days_ago * DAY_S)
    end = str(begun + int(hours * 3600)) if hours else "Unknown"
    return {"NodeName": node, "TimeStart": str(begun), "TimeEnd": end, "State": state, "Reason": reason}


def words(past: Past, name: str) -> str:
    """What was found in a source."""
    return next(each.words for each in past.sources if name in each.name.partition("(")[0].split("/")[0])


def test_nothing_is_known_of_an_empty_ledger(slurm, tmp_path):
    """Three sources, each with its word; no fault, no rate."""
    found = known(slurm, tmp_path / "none")
    assert (found.faults, found.rate, found.exposure) == ((), None, None)
    assert "0 marks" in words(found, "ledger")
    assert "0 runs" in words(found, "journals")
    assert "cannot be asked" in words(found, "accounting")
    assert not (tmp_path / "none").exists()


def test_a_ledger_alone_knows_no_exposure(slurm, tmp_path):
    """Marks are faults, omens are not; rates are not guessed."""
    mark(tmp_path / "ledger", "n3", 1.0, 3.0)
    mark(tmp_path / "ledger", "n1", 2.0, cause="xid_63")
    mark(tmp_path / "ledger", "n2", 900.0)
    found = known(slurm, tmp_path / "ledger")
    assert [each.node for each in found.faults] == ["n3", "n3"]
    assert (found.rate, found.exposure, found.fleet) == (None, None, 4)
    assert "2 marks; 1 omen of GPUs not counted" in words(found, "ledger")


def test_accounting_watches_the_whole_partition(slurm, tmp_path):
    """From its first event on, all nodes count all the time; what was wanted is no fault, drained and down is one."""
    slurm.change("accounting", value=True)
    rows = [
        event("n1", 100.0, 5.0),
        event("n1", 50.0, 2.0, reason="Kernel panic | oops [root@2026-01-01T00:00:00]"),
        event("n2", 40.0, 0.0),
        event("n3", 30.0, 1.0, state="DRAINED", reason="new DIMM"),
        event("n3", 25.0, 24.0, state="DRAINED", reason="NHC: check_hw_eth: no link"),
        event("n3", 24.0, 24.0, state="DOWN+DRAIN", reason="NHC: check_hw_eth: no link"),
        event("n4", 20.0, 1.0, state="DOWN", reason="Reboot ASAP"),
        event("n4", 10.0, 1.0, state="DOWN+POWERED_DOWN", reason=""),
        event("elsewhere", 60.0, 1.0),
    ]
    slurm.change("event", value=rows)
    found = known(slurm, tmp_path / "none")
    assert [(each.node, each.cause, each.rated) for each in found.faults] == [
        ("n1", "slurm: Not responding", False),
        ("n1", "slurm: Kernel panic | oops", True),
        ("n2", "slurm: Not responding", True),
        ("n3", "slurm: NHC: check_hw_eth: no link", True),
    ]
    assert found.faults[3].over - found.faults[3].at == pytest.approx(48 * 3600, abs=2)
    assert found.faults[0].over - found.faults[0].at == 5 * 3600
    assert found.faults[2].over == math.inf
    assert found.exposure.total == pytest.approx(400.0, rel=0.001)
    assert found.rate == pytest.approx(3 / 400.0, rel=0.001)


def test_of_less_than_a_day_no_rate_is_told(slurm, tmp_path):
    """Two events of this hour are counted; a rate of them would be in the millions."""
    slurm.change("accounting", value=True)
    slurm.change("event", value=[event("n1", 0.02, 0.0), event("n2", 0.01, 0.0)])
    found = known(slurm, tmp_path / "none")
    assert (len(found.faults), found.exposure, found.rate) == (2, None, None)


def test_events_as_slurm_22_05_writes_them():
    """Recorded on the lab: a node that was switched off and on, and one drained by a check."""
    found = read("n1|2026-11-28T03:07:16|Unknown|DRAIN|NHC: check | x\nn2|1795835236|1795835247|DOWN*|Not responding\n")
    assert {(each.node, each.reason) for each in found} == {("n1", "NHC: check | x"), ("n2", "Not responding")}
    (down,) = [each for each in found if each.node == "n2"]
    assert (down.begun, down.until) == (1795835236.0, 1795835247.0)


def test_accounting_without_events_knows_nothing(slurm, tmp_path):
    """It may keep none: that is no proof of a fleet without faults."""
    slurm.change("accounting", value=True)
    mark(tmp_path / "ledger", "n3", 1.0)
    found = known(slurm, tmp_path / "ledger")
    assert found.exposure is None
    assert "the exposure is unknown" in words(found, "accounting")


def test_one_outage_that_two_saw_is_one_fault(slurm, tmp_path):
    """The cause is ftslurm's and the repair Slurm's; what came before accounting began has no rate."""
    slurm.change("accounting", value=True)
    slurm.change("event", value=[event("n3", 10.0, 3.0), event("n1", 20.0, 1.0)])
    mark(tmp_path / "ledger", "n3", 9.99, 40.0, cause="gpu")
    found = known(slurm, tmp_path / "ledger")
    assert [(each.node, each.cause, each.rated) for each in found.faults] == [
        ("n3", "gpu", False),
        ("n1", "slurm: Not responding", False),
        ("n3", "gpu", True),
    ]
    assert found.faults[2].over == pytest.approx(found.faults[2].at + 3 * 3600, abs=1.0)


def test_an_outage_is_one_whoever_saw_it_first():
    """Within an hour, of one node; the first that is given names it."""
    faults = [
        Fault(node="a", at=4000.0, cause="gpu"),
        Fault(node="a", at=1000.0, cause="slurm: x", over=9000.0),
        Fault(node="a", at=9000.0, cause="gpu"),
        Fault(node="b", at=4000.0, cause="gpu"),
    ]
    assert one_each(faults) == (
        Fault(node="a", at=1000.0, cause="gpu", over=9000.0),
        Fault(node="b", at=4000.0, cause="gpu"),
        Fault(node="a", at=9000.0, cause="gpu"),
    )


def test_journals_know_how_long_runs_had_their_nodes(slurm):
    """A node counts until it is given up, the others until the run's last word; what came too early is left out."""
    root = Path(slurm.environ.get("FTSLURM_HOME", "")) / "runs"
    tale = Tale(config_policy()).start()
    tale.wait(3600.0)
    tale.lose("n3", DEAD)
    tale.wait(3600.0)
    make_run(root, tale)
    seen = from_journals(1e6, 0.0)
    (fault,) = seen.faults
    assert (fault.node, fault.cause) == ("n3", "node_unreachable")
    assert set(seen.stays) == set(NODES)
    ends = {node: spans[-1][1] for node, spans in seen.stays.items()}
    assert ends["n3"] == fault.at
    assert min(ends[node] for node in NODES if node != "n3") >= fault.at
    assert {spans[0][0] for spans in seen.stays.values()} == {START}
    assert from_journals(1e6, fault.at + 1).faults == ()


def test_rates_of_runs_count_what_happened_in_them():
    """A fault that came while no run of the user's had the node is counted, and is in no rate."""
    faults = (Fault(node="a", at=DAY_S, cause="gpu"), Fault(node="a", at=3 * DAY_S, cause="gpu"))
    told = _watched_by_runs(
        Past(faults=faults, begun=0.0, until=4 * DAY_S), {"a": ((0.0, DAY_S),), "b": ((0.0, DAY_S),)}
    )
    assert [each.rated for each in told.faults] == [True, False]
    assert told.rate == pytest.approx(0.5)


def test_a_trace_without_its_fleet_has_no_rates():
    """The nodes that never failed are not in it: how many there are has to be said."""
    outages = (Outage(0, 10.0, 5.0, "GPU"), Outage(1, 20.0, math.inf, ""))
    trace = Trace(outages=outages, nodes=2, span_s=10 * DAY_S, names=("a", "b"))
    unknown, told = of_trace(trace, "t", whole=False), of_trace(trace, "t", whole=True)
    assert (unknown.rate, unknown.fleet) == (None, None)
    assert "--fleet" in unknown.sources[0].words
    assert told.rate == pytest.approx(0.1)
    assert [(each.node, each.over, each.cause) for each in told.faults] == [
        ("a", 15.0, "GPU"),
        ("b", math.inf, "not said"),
    ]


@pytest.mark.parametrize("line", ["", "n1", "n1|then|now|DOWN|x", "n1|1|2|IDLE|x", "n1; rm|1|2|DOWN|x", "|1|2|DOWN|x"])
def test_events_of_another_form_are_left_out(line):
    """What cannot be an outage of a node is none."""
    assert read(f"{line}\nn1|1700000000|1700000600|DOWN*|gone\n") == read("n1|1700000000|1700000600|DOWN*|gone\n")


def test_a_past_without_faults_has_no_patterns():
    """Every value is there for programs: zero, empty, or unknown."""
    found = patterns.plain(patterns.analyse(Past(faults=(), begun=0.0, until=DAY_S, fleet=4)))
    assert (found["faults"], found["nodes"], found["changes"], found["again"]) == (0, [], [], [])
    assert found["spacing"] is found["spread"] is found["rate"] is None


def test_one_fault_is_enough_to_be_told():
    """Every part has its word where there is nothing to say."""
    fault = Fault(node="n1", at=5 * DAY_S, cause="gpu")
    found = patterns.analyse(
        Past(faults=(fault,), begun=5 * DAY_S, until=6 * DAY_S, sources=(Source(name="s", words="w", faults=1),))
    )
    text = "\n".join(findings.lines(found))
    assert "1 fault on 1 node in 1.0 days. For how long nodes were watched is unknown" in text
    assert "too few faults to say how they follow each other" in text
    assert "none that chance does not make as well" in text
    assert "nobody can say" in text
    assert patterns.plain(found)["rate"] is None
