from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.core.diagnosis import (
    Cause,
    Scope,
    Verdict,
    diagnose_exits,
    first_failure,
    is_cascade,
    judge_node,
    last_exception,
)
from ftslurm.core.events import Finding, Outcome, RankExited, Witness

OUTCOMES = (None, Outcome.OK, Outcome.FAILED, Outcome.UNREACHABLE, Outcome.UNKNOWN)
ASKED = (Witness.PEER, Witness.PING, Witness.TCP, Witness.SSH, Witness.SRUN, Witness.SLURM)
ALL_WORDS = tuple(itertools.product(OUTCOMES, repeat=len(ASKED)))
AGAINST = {Outcome.FAILED, Outcome.UNREACHABLE}


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
    """All 5^6 combinations have a verdict with a reason, and none condemns a node that may live."""
    lost = 0
    for words in ALL_WORDS:
        said = dict(zip(ASKED, words, strict=True))
        verdict = judge_node("n3", findings_of(words), 3.1, final=final, wants_hard=wants_hard)
        found = verdict.diagnosis
        assert found.where == "n3"
        assert found.scope is Scope.NODE
        assert found.reason
        by_slurm = said[Witness.SLURM] is Outcome.FAILED
        lives = Outcome.OK in (said[Witness.SSH], said[Witness.SRUN])
        if by_slurm:
            assert (verdict.verdict, found.cause) == (Verdict.LOST, Cause.NODE_DOWN)
            continue
        assert (verdict.verdict is Verdict.WELL) == lives, words
        if verdict.verdict is Verdict.LOST:
            lost += 1
            against = {witness for witness in ASKED[1:5] if said[witness] in AGAINST}
            assert said[Witness.PEER] is Outcome.OK, "nobody is condemned while no other node answers"
            assert against, "nobody is condemned on silence alone"
            if Witness.PING in against:
                assert len(against) >= (3 if wants_hard else 2), "one witness condemns nobody"
            else:
                assert final, "a frozen node is told from a slow one at the deadline only"
                assert Witness.SRUN in against
                assert said[Witness.SLURM] is Outcome.OK, "srun's silence counts only when slurmctld answers"
                assert not wants_hard or Witness.SSH in against
    assert lost


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
            {"peer": "ok", "ping": "ok", "tcp": "ok", "srun": "unreachable", "slurm": "ok:IDLE"},
            Verdict.LOST,
            Cause.NODE_FROZEN,
            "n3 is silent for 3.1 s; peer ok, ping ok, slurm ok (IDLE), srun unreachable, tcp ok",
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


def exit_of(rank, code=1, **fields):
    """The report of a rank that ended."""
    return RankExited(attempt=0, rank=rank, node=f"n{rank}", code=code, **fields)


NAN = 'Traceback (most recent call last):\n  File "/a/train.py", line 42, in step\n    x\nValueError: loss 7.2 is nan\n'


@pytest.mark.parametrize(
    ("event", "cause", "reason", "signature"),
    [
        (
            exit_of(1, 137, signal=9, oom=True),
            Cause.OUT_OF_MEMORY,
            "the kernel killed rank 1 on n1 for memory",
            "oom",
        ),
        (exit_of(1, 137, signal=9), Cause.RANK_KILLED, "rank 1 on n1 was ended by signal 9", "signal 9"),
        (exit_of(1, 143, signal=15), Cause.RANK_KILLED, "rank 1 on n1 was ended by signal 15", "signal 15"),
        (exit_of(1, 139, signal=11), Cause.RANK_CRASHED, "rank 1 on n1 was ended by signal 11", "signal 11"),
        (exit_of(1, 3), Cause.APPLICATION_ERROR, "rank 1 on n1 exited with code 3", "exit 3"),
        (
            exit_of(1, 1, tail=NAN),
            Cause.APPLICATION_ERROR,
            "rank 1 on n1 exited with code 1 (ValueError: loss 7.2 is nan)",
            "exit 1 ValueError /a/train.py:42",
        ),
    ],
)
def test_end_of_a_rank_has_a_cause(event, cause, reason, signature):
    """Signal, memory killer, exit code and traceback lead to a class, a sentence and a signature."""
    found = diagnose_exits([event])
    assert (found.cause, found.reason, found.signature) == (cause, reason, signature)
    assert (found.scope, found.where) == (Scope.RANK, "1@n1")


def test_same_error_has_the_same_signature_whatever_its_numbers_say():
    """Ranks, nodes and values differ between two attempts; type and line of the error do not."""
    first = diagnose_exits([exit_of(1, tail=NAN)])
    again = diagnose_exits([exit_of(5, tail=NAN.replace("7.2", "9.9"))])
    other = diagnose_exits([exit_of(1, tail=NAN.replace("42", "43"))])
    assert first.signature == again.signature != other.signature


@pytest.mark.parametrize(
    "tail",
    [
        "RuntimeError: Connection reset by peer",
        "torch.distributed.DistBackendError: NCCL error ... ncclRemoteError",
        "RuntimeError: [enforce fail] recvBytes failed",
        "PMIX ERROR: UNREACHABLE",
        "Timed out waiting 30 s for clients at the store",
        "BrokenPipeError: [Errno 32] Broken pipe",
    ],
)
def test_lost_connection_is_a_consequence(tail):
    """The first failure that is not a consequence of another is the cause, whatever was heard first."""
    followed, began = exit_of(0, tail=tail), exit_of(3, tail=NAN)
    assert is_cascade(followed)
    assert not is_cascade(began)
    assert first_failure([followed, began]) is began
    assert diagnose_exits([followed, began]).reason.endswith(
        "(ValueError: loss 7.2 is nan); 1 other rank ended after it"
    )
    assert diagnose_exits([followed, followed]).where == "0@n0"


def test_killed_rank_and_orphan_are_told_apart():
    """A signal is never a consequence; a wrapper whose agent was gone (code 75) always is one."""
    assert not is_cascade(exit_of(0, 137, signal=9, tail="Connection reset by peer"))
    assert is_cascade(exit_of(0, 75))
    assert diagnose_exits([exit_of(0, 75), exit_of(1, 137, signal=9)]).cause is Cause.RANK_KILLED


def test_nobody_told_anything():
    """Without any report the cause is unknown, and said to be."""
    found = diagnose_exits([])
    assert (found.cause, found.scope, found.reason) == (Cause.UNKNOWN, Scope.JOB, "no rank reported why it ended")


@given(st.text(), st.integers(0, 255), st.sampled_from([0, 9, 11]))
def test_any_tail_has_a_diagnosis(tail, code, signal):
    """Whatever a program prints last, there is a cause and a sentence of one line."""
    found = diagnose_exits([exit_of(0, code, signal=signal, tail=tail), exit_of(1, 1, tail=tail)])
    assert found.reason
    assert found.cause is not Cause.UNKNOWN
    assert len(found.reason.split("\n")) == 1


def test_last_exception_of_a_chain():
    """Of chained exceptions the last one is named, with its text."""
    second = NAN.replace("ValueError: loss 7.2 is nan", "pkg.mod.OwnTrouble")
    tail = f"{NAN}\nDuring handling of the above exception, another exception occurred:\n\n{second}end"
    assert last_exception(tail) == "pkg.mod.OwnTrouble"
    assert last_exception(second.replace("pkg.mod.OwnTrouble", "AssertionError")) == "AssertionError"
    assert last_exception("no traceback at all") == ""
