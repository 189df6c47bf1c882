from __future__ import annotations

import itertools

import pytest

from ftslurm.core.diagnosis import Cause, Scope
from ftslurm.core.events import Finding, Outcome, Witness
from ftslurm.core.verdict import Verdict, judge_node

OUTCOMES = (None, Outcome.OK, Outcome.FAILED, Outcome.UNREACHABLE, Outcome.UNKNOWN)
ASKED = (Witness.PEER, Witness.PING, Witness.TCP, Witness.SSH, Witness.SRUN, Witness.SLURM, Witness.RING)
RING = (None, Outcome.OK, Outcome.UNREACHABLE)
ALL_WORDS = tuple(itertools.product(*[OUTCOMES] * 6, RING))
AGAINST = {Outcome.FAILED, Outcome.UNREACHABLE}
ALIKE = (Witness.PING, Witness.TCP, Witness.SSH, Witness.SRUN, Witness.RING)


def findings_of(words):
    """Return the findings for one outcome per witness; None has not answered."""
    return tuple(
        Finding(witness=witness, outcome=word) for witness, word in zip(ASKED, words, strict=True) if word is not None
    )


def judge(final=True, wants_hard=False, **words):
    """Return the verdict on n3 by the words of the witnesses."""
    found = tuple(
        Finding(witness=Witness(name), outcome=Outcome(word.partition(":")[0]), detail=word.partition(":")[2])
        for name, word in words.items()
    )
    return judge_node("n3", found, 3.1, final=final, wants_hard=wants_hard)


@pytest.mark.parametrize(("final", "wants_hard"), [(True, False), (True, True), (False, False), (False, True)])
def test_verdict_for_every_combination_of_words(final, wants_hard):
    """All 5^6 x 3 combinations have a verdict with a reason, and none condemns a node that may live."""
    lost = 0
    for words in ALL_WORDS:
        said = dict(zip(ASKED, words, strict=True))
        verdict = judge_node("n3", findings_of(words), 3.1, final=final, wants_hard=wants_hard)
        found = verdict.diagnosis
        assert (found.where, found.scope) == ("n3", Scope.NODE)
        assert found.reason
        if said[Witness.SLURM] is Outcome.FAILED:
            assert (verdict.verdict, found.cause, verdict.hard) == (Verdict.LOST, Cause.NODE_DOWN, True)
            continue
        lives = Outcome.OK in (said[Witness.SSH], said[Witness.SRUN])
        assert (verdict.verdict is Verdict.WELL) == lives, words
        if verdict.verdict is Verdict.LOST:
            lost += 1
            must_be_lost(said, found.cause, final=final, wants_hard=wants_hard)
    assert bool(lost) == (final or not wants_hard)


def must_be_lost(said, cause, *, final, wants_hard):
    """What must be true of the words by which a node was condemned without Slurm's."""
    against = {witness for witness in ALIKE if said[witness] in AGAINST}
    if said[Witness.SLURM] is not Outcome.OK:
        against.discard(Witness.SRUN)  # its silence counts only when slurmctld answers
    kernel = Outcome.OK in (said[Witness.PING], said[Witness.TCP])
    assert said[Witness.PEER] is Outcome.OK, "nobody is condemned while no other node answers"
    assert said[Witness.RING] is not Outcome.OK, "nobody is condemned whom another node still hears"
    assert len(against) >= 2, "one witness condemns nobody"
    assert cause is (Cause.NODE_FROZEN if kernel else Cause.NODE_UNREACHABLE)
    assert final or not kernel, "a frozen node is told from a slow one at the deadline only"
    assert not wants_hard or (final and len(against) >= 3 and not kernel), "every witness finds it unreachable"


def test_more_words_against_a_node_never_save_it():
    """A verdict of LOST stands when a further witness finds the node dead too."""
    for words in ALL_WORDS:
        for index in range(1, 5):
            if words[index] is not None:
                continue
            worse = (*words[:index], Outcome.UNREACHABLE, *words[index + 1 :])
            before = judge_node("n3", findings_of(words), 3.1, final=True, wants_hard=False).verdict
            after = judge_node("n3", findings_of(worse), 3.1, final=True, wants_hard=False).verdict
            assert not (before is Verdict.LOST and after is not Verdict.LOST), (words, worse)


def test_nobody_is_condemned_when_nothing_is_known():
    """UNKNOWN is no sign of death, from any number of witnesses."""
    for words in itertools.product((None, Outcome.UNKNOWN), repeat=len(ASKED)):
        assert judge_node("n3", findings_of(words), 99.0, final=True, wants_hard=False).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("words", "verdict", "cause", "reason"),
    [
        (
            {"peer": "ok", "ping": "unreachable", "tcp": "unreachable"},
            Verdict.LOST,
            Cause.NODE_UNREACHABLE,
            "n3 is silent for 3.1 s; peer ok, ping unreachable, tcp unreachable",
        ),
        (
            {"peer": "ok", "ping": "ok", "tcp": "ok", "srun": "unreachable", "ssh": "failed", "slurm": "ok:IDLE"},
            Verdict.LOST,
            Cause.NODE_FROZEN,
            "n3 is silent for 3.1 s; peer ok, ping ok, slurm ok (IDLE), srun unreachable, ssh failed, tcp ok",
        ),
        (
            {"peer": "ok", "ping": "ok", "tcp": "ok", "srun": "unreachable", "slurm": "ok"},
            Verdict.UNKNOWN,
            Cause.UNKNOWN,
            "n3 is silent for 3.1 s; peer ok, ping ok, slurm ok, srun unreachable, tcp ok; two witnesses are needed",
        ),
        (
            {"peer": "ok", "ping": "unknown", "tcp": "unreachable", "ssh": "unreachable"},
            Verdict.LOST,
            Cause.NODE_UNREACHABLE,
            "n3 is silent for 3.1 s; peer ok, ping unknown, ssh unreachable, tcp unreachable",
        ),
        (
            {"peer": "ok", "ping": "unknown", "tcp": "unreachable", "ring": "unreachable"},
            Verdict.LOST,
            Cause.NODE_UNREACHABLE,
            "n3 is silent for 3.1 s; peer ok, ping unknown, ring unreachable, tcp unreachable",
        ),
        (
            {"peer": "ok", "ping": "unreachable", "tcp": "unreachable", "ring": "ok"},
            Verdict.UNKNOWN,
            Cause.UNKNOWN,
            "n3 is silent for 3.1 s; peer ok, ping unreachable, ring ok, tcp unreachable; the ring still hears it",
        ),
        (
            {"peer": "ok", "ping": "ok", "ssh": "ok", "tcp": "failed"},
            Verdict.WELL,
            Cause.AGENT_LOST,
            "n3 is silent for 3.1 s; peer ok, ping ok, ssh ok, tcp failed",
        ),
        (
            {"slurm": "failed:DOWN, Not responding", "ssh": "ok"},
            Verdict.LOST,
            Cause.NODE_DOWN,
            "Slurm says DOWN, Not responding; n3 is silent for 3.1 s",
        ),
        (
            {"control": "ok", "ping": "unreachable", "tcp": "unreachable", "peer": "ok"},
            Verdict.WELL,
            Cause.AGENT_LOST,
            "n3 is silent for 3.1 s; control ok, peer ok, ping unreachable, tcp unreachable",
        ),
        (
            {"peer": "unknown", "ping": "unreachable", "tcp": "unreachable"},
            Verdict.UNKNOWN,
            Cause.UNKNOWN,
            "n3 is silent for 3.1 s; peer unknown, ping unreachable, tcp unreachable; no other node answers either: the observer may be the one that is cut off",
        ),
        ({}, Verdict.UNKNOWN, Cause.UNKNOWN, "n3 is silent for 3.1 s; no other node answers either: "),
    ],
)
def test_reason_tells_what_each_witness_said(words, verdict, cause, reason):
    """The sentence has the numbers and the words that led to the verdict."""
    found = judge(**words)
    assert (found.verdict, found.diagnosis.cause) == (verdict, cause)
    assert found.diagnosis.reason.startswith(reason)


def test_closed_connection_is_told_apart_from_silence():
    """An agent that hung up was not silent; the sentence does not say that it was for 0.0 s."""
    found = judge_node("n3", (), 0.0, final=False, wants_hard=False).diagnosis
    assert found.reason == "the agent on n3 has hung up; still asking"


def test_round_that_is_not_over_is_still_asking():
    """Before the deadline an undecided round says so, and blames nobody for answers that have not come."""
    assert judge(final=False).diagnosis.reason.endswith("still asking")
    assert judge(final=False, peer="ok", ping="unreachable").diagnosis.reason.endswith("still asking")
    assert judge(final=True, peer="ok", ping="unreachable").diagnosis.reason.endswith("two witnesses are needed")
