from __future__ import annotations

from ftslurm.core.conditions import NodeHealth
from ftslurm.core.health import Level
from ftslurm.observer.notices import Noticing
from tests.insight.journals import Tale, policy_for


def told(tale: Tale) -> list[tuple[str, str]]:
    """(occasion, text) of a tale."""
    noticing = Noticing()
    return [(each.occasion, each.text) for entry in tale.entries for each in noticing.see(entry)]


def test_a_run_with_two_failures():
    """The start, each failure, each recovery and the end are told, each once."""
    tale = Tale().start().save(100, after=5).crash(0, signal=9)
    tale.launched().wait(5).lose("n3").launched().wait(5).finish()
    found = told(tale)
    assert [occasion for occasion, _ in found] == [
        "started",
        "failure",
        "recovered",
        "node_excluded",
        "recovered",
        "finished",
    ]
    assert found[0][1] == "the training begins: 8 ranks on 4 nodes, from the beginning"
    assert found[1][1].startswith("rank_killed: rank 0 on n1 was ended by signal 9")
    assert found[2][1] == "attempt 1 trains again: 8 ranks on 4 nodes, from step 100"
    assert found[3][1].startswith("n3 is given up: ")
    assert found[4][1] == "attempt 2 trains again: 6 ranks on 3 nodes, from step 100"
    assert found[5][1].startswith("finished, exit code 0: ")


def test_a_requeue_and_a_stop():
    """Going back to the queue is an occasion; a run that somebody ends is stopped, not failed."""
    tale = Tale(policy_for(min_nodes=4)).start().save(100, after=10)
    tale.lose("n3").requeued()
    tale.start(after=12, nodes=("n1", "n2", "n4", "n5"))
    tale.stop("cancel")
    assert [occasion for occasion, _ in told(tale)] == ["started", "node_excluded", "requeued", "recovered", "stopped"]


def test_hostile_reasons_are_one_visible_line():
    """What a program or a probe said reaches nobody's terminal, mail or chat as it was."""
    tale = Tale().start()
    reason = "\x1b[2Jbad\r\nBcc: everybody@example.org\u202e" + "x" * 5000
    tale.happen(NodeHealth(node="n2", level=Level.CRITICAL, metric="memory_free", reason=reason))
    ((_, text),) = [each for each in told(tale) if each[0] == "node_health"]
    assert text.isprintable()
    assert "\\r\\nBcc" in text
    assert len(text) == 2000
