from __future__ import annotations

from ftslurm.core.conditions import MemoryKilled
from ftslurm.core.events import RankExited, StopRequested
from ftslurm.core.fusion import Standing
from ftslurm.insight.reasoning import chain, would_change

RESET = "RuntimeError: Connection reset by peer"


def exit_of(rank, code=1, signal=0, tail="", at=10.0):
    """The report of a rank that ended."""
    return RankExited(attempt=0, rank=rank, node=f"n{rank}", code=code, signal=signal, tail=tail, at=at)


def test_the_chain_tells_who_said_what_and_what_became_of_it():
    """The cause counts, its consequences are told as such, and those that are alike once."""
    links = chain([exit_of(1, tail=RESET), exit_of(2, 139, 11, at=11.0), exit_of(3, tail=RESET)])
    assert [(each.standing, each.source, each.t) for each in links] == [
        (Standing.CONSEQUENCE, "agent of n1", 10.0),
        (Standing.COUNTED, "agent of n2", 11.0),
    ]
    assert links[0].text.endswith("(and 1 more like it)")
    assert links[0].why == "follows from rank_crashed"
    assert links[1].why == "speaks for rank_crashed with 0.85"


def test_a_rival_is_told_with_its_weight():
    """What spoke for another cause is not hidden."""
    links = chain([exit_of(1, tail="ValueError: x"), exit_of(2, tail="OSError: [Errno 28] No space left on device")])
    assert [each.standing for each in links] == [Standing.COUNTED, Standing.OUTWEIGHED]
    assert links[1].why == "speaks for storage with 0.74, which leaves doubt"


def test_what_would_have_changed_it_is_found_by_weighing_again():
    """One event less, or one more: what is said to change the verdict does."""
    told = would_change([exit_of(1, tail=RESET), exit_of(2, 139, 11)])
    assert told[0] == 'without "rank 2 on n2 was ended by signal 11" it would have been unknown'
    assert told[1] == (
        "one more fact would have changed it: the kernel's memory killer at work on n2 (oom_host), or "
        "XID 79 of a GPU on n2 (gpu), or n2 found dead by its witnesses (node_unreachable)"
    )


def test_a_fact_that_changes_nothing_is_not_named():
    """Of two that say the same neither is needed, and without the only one there is nothing to ask."""
    kills = [MemoryKilled(node="n1", kills=1), MemoryKilled(node="n1", kills=2)]
    assert not [sentence for sentence in would_change(kills) if sentence.startswith("without")]
    assert would_change([StopRequested(why="cancel", save=False)]) == ()


def test_without_any_evidence_one_more_fact_is_what_is_missing():
    """Nothing can be left out; what could have been heard is said."""
    assert chain([]) == ()
    assert would_change([]) == ("one more fact would have changed it: a cancellation of the job (cancel)",)
