from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.core.diagnosis import NODE_CAUSES, Cause, Diagnosis, FailureClass, Scope, class_of
from ftslurm.core.events import RankExited, StorageStalled
from ftslurm.core.evidence import MOST_EXITS, Judged
from ftslurm.core.facts import facts_of
from ftslurm.core.fusion import BOUND, Standing, diagnose, weigh
from ftslurm.core.patterns import Role


def exit_of(rank, code=1, **fields):
    """The report of a rank that ended."""
    return RankExited(attempt=0, rank=rank, node=f"n{rank}", code=code, **fields)


def lost(node, cause=Cause.NODE_UNREACHABLE, confidence=0.95):
    """A verdict on a node."""
    return Judged(
        diagnosis=Diagnosis(cause=cause, scope=Scope.NODE, where=node, confidence=confidence, reason=f"{node} is gone")
    )


NAN = 'Traceback (most recent call last):\n  File "/a/train.py", line 42, in step\n    x\nValueError: bad batch 7.2\n'
FULL = "OSError: [Errno 28] No space left on device"
RESET = "RuntimeError: Connection reset by peer"


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_has_a_class(cause):
    """No failure falls between the classes, and node causes are never the program's."""
    assert class_of(cause) in FailureClass
    assert cause not in NODE_CAUSES or class_of(cause) is not FailureClass.APPLICATION


@pytest.mark.parametrize(
    ("event", "cause", "reason", "signature"),
    [
        (exit_of(1, 137, signal=9, oom=True), Cause.OOM_HOST, "the kernel killed rank 1 on n1 for memory", "oom"),
        (exit_of(1, 137, signal=9), Cause.RANK_KILLED, "rank 1 on n1 was ended by signal 9", "signal 9"),
        (exit_of(1, 143, signal=15), Cause.RANK_KILLED, "rank 1 on n1 was ended by signal 15", "signal 15"),
        (exit_of(1, 139, signal=11), Cause.RANK_CRASHED, "rank 1 on n1 was ended by signal 11", "signal 11"),
        (exit_of(1, 3), Cause.APPLICATION_ERROR, "rank 1 on n1 exited with code 3", "exit 3"),
        (exit_of(1, 137), Cause.RANK_KILLED, "rank 1 on n1 exited with code 137", "exit 137"),
        (
            exit_of(1, 1, tail=NAN),
            Cause.APPLICATION_ERROR,
            "rank 1 on n1 exited with code 1 (ValueError: bad batch 7.2)",
            "exit 1 ValueError /a/train.py:42",
        ),
        (exit_of(1, tail=FULL), Cause.STORAGE, f"rank 1 on n1 exited with code 1 ({FULL})", "exit 1 OSError"),
        (
            exit_of(1, 134, signal=6, tail="what():  std::bad_alloc"),
            Cause.OOM_HOST,
            "rank 1 on n1 was ended by signal 6 (what(): std::bad_alloc)",
            "signal 6",
        ),
    ],
)
def test_end_of_a_rank_has_a_cause(event, cause, reason, signature):
    """Signal, memory killer, exit code and traceback lead to a class, a sentence and a signature."""
    found = diagnose([event])
    assert (found.cause, found.reason, found.signature) == (cause, reason, signature)
    assert (found.scope, found.where) == (Scope.RANK, "1@n1")
    assert found.failure_class is class_of(cause)
    assert not found.blames_node


def test_same_error_has_the_same_signature_whatever_its_numbers_say():
    """Ranks, nodes and values differ between two attempts; type and line of the error do not."""
    first = diagnose([exit_of(1, tail=NAN)])
    again = diagnose([exit_of(5, tail=NAN.replace("7.2", "9.9"))])
    other = diagnose([exit_of(1, tail=NAN.replace("42", "43"))])
    assert first.signature == again.signature != other.signature


@pytest.mark.parametrize(
    "tail",
    [
        RESET,
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
    assert [fact.role for fact in facts_of([followed, began])] == [Role.CASCADE, Role.INITIATING]
    assert diagnose([followed, began]).reason.endswith("(ValueError: bad batch 7.2); 1 other rank ended after it")
    alone = diagnose([followed, followed])
    assert (alone.cause, alone.where, alone.confidence) == (Cause.UNKNOWN, "0@n0", 0.0)
    assert alone.reason.startswith("every end looks like the consequence of another's")


def test_killed_rank_and_orphan_are_told_apart():
    """A SIGKILL is never a consequence; a wrapper whose agent was gone (code 75) always is one."""
    killed = exit_of(0, 137, signal=9, tail="Connection reset by peer")
    assert diagnose([exit_of(1, 75), killed]).where == "0@n0"
    assert diagnose([exit_of(1, 75)]).cause is Cause.UNKNOWN


def test_a_watchdog_that_aborts_its_process_is_a_symptom():
    """An NCCL time-out speaks for a hang only where nobody says what came before it."""
    tail = "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1, OpType=ALLREDUCE)"
    timed_out = [exit_of(rank, 134, signal=6, tail=tail) for rank in (0, 1)]
    hang = diagnose(timed_out)
    assert (hang.cause, hang.scope, hang.where) == (Cause.PROGRAM_HANG, Scope.JOB, "")
    assert diagnose([*timed_out, exit_of(3, tail=NAN)]).cause is Cause.APPLICATION_ERROR
    assert diagnose([*timed_out, lost("n3")]).cause is Cause.NODE_UNREACHABLE


def test_a_rank_that_left_early_explains_the_others():
    """Success is no failure, but where the others only lost a connection it was to the one that had gone."""
    found = diagnose([exit_of(1, 0), exit_of(0, tail=RESET)])
    assert (found.cause, found.reason) == (
        Cause.APPLICATION_ERROR,
        "rank 1 on n1 had ended with success before",
    )
    assert diagnose([exit_of(1, 0), exit_of(0, 139, signal=11)]).where == "0@n0"


def test_a_lost_node_explains_what_its_ranks_and_peers_report():
    """Neither a signal on the node nor an NCCL error elsewhere takes anything from the verdict on it."""
    whole = diagnose([exit_of(3, 137, signal=9), exit_of(1, tail="ncclRemoteError"), lost("n3")])
    assert (whole.cause, whole.where, whole.confidence) == (Cause.NODE_UNREACHABLE, "n3", 0.95)
    assert whole.blames_node
    elsewhere = diagnose([exit_of(1, 137, signal=9), lost("n3")])
    assert elsewhere.confidence < whole.confidence


def test_two_equal_explanations_leave_the_cause_unknown():
    """Blame needs more than one half; the sentence says what the guesses were."""
    found = diagnose([exit_of(0, tail=FULL), lost("n3", Cause.NODE_DOWN, 0.92)])
    assert found.cause is Cause.UNKNOWN
    assert found.reason.startswith("not enough to blame anything; guesses are storage (0.50), node_down (0.50)")


def test_hint_alone_blames_nobody():
    """What weighs less than the bound is no diagnosis, and every fact is told to be outweighed."""
    ruling = weigh([lost("n3", Cause.GPU, BOUND - 0.01)])
    assert ruling.diagnosis.cause is Cause.UNKNOWN
    assert [each.standing for each in ruling.weighed] == [Standing.OUTWEIGHED]


def test_facts_of_one_class_do_not_contend():
    """Another cause of the same class is no rival; it counts."""
    ruling = weigh([exit_of(0, 139, signal=11), exit_of(1, tail=NAN)])
    assert ruling.diagnosis.cause is Cause.RANK_CRASHED
    assert ruling.diagnosis.confidence == 0.85
    assert [each.why for each in ruling.weighed] == [
        "speaks for rank_crashed with 0.85",
        "says the same: application_error",
    ]


def test_the_same_error_on_more_ranks_is_surer():
    """Independent witnesses of one cause add up, later ones for less."""
    one, two = diagnose([exit_of(0, tail=NAN)]), diagnose([exit_of(0, tail=NAN), exit_of(1, tail=NAN)])
    assert one.confidence < two.confidence < 1.0
    assert two.where == "0@n0"


def test_more_ranks_than_are_kept_are_said_to_be_at_least_so_many():
    """Of thousands of reports the first are kept; the sentence claims no more."""
    found = diagnose([exit_of(rank, tail=NAN) for rank in range(MOST_EXITS)])
    assert found.reason.endswith("; at least 63 other ranks ended after it")


def test_nobody_told_anything():
    """Without any report the cause is unknown, and said to be."""
    found = diagnose([])
    assert (found.cause, found.scope, found.reason) == (Cause.UNKNOWN, Scope.JOB, "no rank reported why it ended")


EVENTS = st.one_of(
    st.builds(
        exit_of,
        st.integers(0, 3),
        st.sampled_from([0, 1, 75, 137]),
        signal=st.sampled_from([0, 6, 9, 11]),
        tail=st.sampled_from(["", NAN, FULL, RESET, "CUDA out of memory", "Xid (PCI:0000:3b:00): 79"]) | st.text(),
    ),
    st.builds(lost, st.sampled_from(["n1", "n2"]), st.sampled_from([*sorted(NODE_CAUSES), Cause.GPU])),
    st.builds(StorageStalled, for_s=st.floats(0, 300)),
)


@given(st.lists(EVENTS, max_size=6))
def test_any_evidence_has_a_diagnosis(events):
    """Whatever is heard, there is a cause with a confidence, and a sentence of one line; what is not sure blames nobody."""
    ruling = weigh(events)
    found = ruling.diagnosis
    assert len(found.reason.splitlines()) == 1
    assert found.cause is Cause.UNKNOWN or BOUND <= found.confidence <= 1.0
    assert len(ruling.weighed) == len(facts_of(events))
    assert diagnose(events) == found


@given(st.lists(EVENTS, max_size=5))
def test_no_failure_of_a_program_blames_a_node(events):
    """A node is blamed only where something else than the ranks' own reports has named it."""
    found = diagnose(events)
    named = {each.diagnosis.where for each in events if isinstance(each, Judged)}
    assert not found.blames_node or found.where in named
