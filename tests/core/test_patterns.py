from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.core.diagnosis import Cause
from ftslurm.core.patterns import Role, last_exception, place_of_error, read, read_line

TRACE = 'Traceback (most recent call last):\n  File "/a/train.py", line 42, in step\n    x\nValueError: loss 7.2\n'
CHAIN = "\nThe above exception was the direct cause of the following exception:\n\n"


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("slurmstepd: error: *** STEP 1.0 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***", Cause.TIME_LIMIT),
        ("slurmstepd: error: *** JOB 1 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO PREEMPTION ***", Cause.PREEMPTION),
        ("slurmstepd: error: *** JOB 1 ON n1 CANCELLED AT 2026-01-01T00:00:00 ***", Cause.CANCEL),
        ("srun: error: Node failure on n4", Cause.NODE_DOWN),
        ("srun: error: n2: task 1: Out Of Memory", Cause.OOM_HOST),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB.", Cause.OOM_GPU),
        ("RuntimeError: CUDA error: device-side assert triggered", Cause.APPLICATION_ERROR),
        ("NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.", Cause.GPU),
        ("NVRM: Xid (PCI:0000:3b:00): 13, Graphics Exception", Cause.APPLICATION_ERROR),
        ("NCCL WARN NET/IB : Got completion from peer 10.0.0.1<5> with status=12", Cause.FABRIC),
        ("OSError: [Errno 122] Disk quota exceeded", Cause.STORAGE),
        ("OSError: [Errno 28] inotify watch limit reached", Cause.APPLICATION_ERROR),
        ("srun: error: Unable to contact slurm controller (connect failure)", Cause.SCHEDULER),
        ("srun: unrecognized option '--no-such-option'", Cause.APPLICATION_ERROR),
        ("ValueError: loss is nan", Cause.NAN),
    ],
)  # fmt: skip
def test_words_that_say_what_began_it(line, cause):
    """Each class has its words, and an exception to a rule comes before the rule."""
    found = read_line(line)
    assert (found.cause, found.role) == (cause, Role.INITIATING)
    assert found.weight > 0.5


@pytest.mark.parametrize(
    "line",
    [
        "CUDA kernel errors might be asynchronously reported at some other API call",
        "For debugging consider passing CUDA_LAUNCH_BLOCKING=1",
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError:",
        "srun: error: n1: task 3: Killed",
        "MPI_ABORT was invoked on rank 1 in communicator MPI_COMM_WORLD",
        "slurmstepd: error: *** STEP 7.2 ON n1 CANCELLED AT 2026-01-01T00:00:00 ***",
    ],
)
def test_advice_and_echoes_are_no_evidence(line):
    """What repeats another's end or tells how to debug is never a cause."""
    assert read_line(line).role is Role.ECHO
    assert read(line) is None


@pytest.mark.parametrize("tail", ["", "step 1\nstep 2\n", "a line without meaning"])
def test_words_that_say_nothing(tail):
    """Ordinary output is no evidence."""
    assert read(tail) is None


def test_what_was_got_over_is_not_the_cause():
    """A warning before the last traceback weighs less than the exception; in its chain it is the cause."""
    full = "OSError: [Errno 28] No space left on device\n"
    assert read(f"WARNING: cache: {full}step 9\n{TRACE}").cause is Cause.APPLICATION_ERROR
    first = TRACE.replace("ValueError: loss 7.2\n", full)
    assert read(f"{first}{CHAIN}{TRACE}").cause is Cause.STORAGE
    assert read(f"{first}step 9\n{TRACE}").cause is Cause.APPLICATION_ERROR


def test_what_came_before_a_consequence_may_have_led_to_it():
    """A completion error of the fabric is the cause of the NCCL error after it."""
    lost = TRACE.replace("ValueError: loss 7.2", "torch.distributed.DistBackendError: ncclRemoteError")
    assert read(lost).role is Role.CASCADE
    assert read(f"NCCL WARN NET/IB : Got completion with status=12\n{lost}").cause is Cause.FABRIC


def test_marks_of_launchers_are_no_part_of_a_line():
    """Both torchrun and `srun --label` put the rank before each line."""
    marked = "".join(f"[rank3]: {line}\n" for line in TRACE.splitlines())
    assert last_exception(marked) == last_exception("".join(f"3: {line}\n" for line in TRACE.splitlines()))
    assert place_of_error(marked) == "ValueError /a/train.py:42"


def test_last_exception_of_a_chain():
    """Of chained exceptions the last one is named, with its text; a launcher's summary is none."""
    second = TRACE.replace("ValueError: loss 7.2", "pkg.mod.OwnTrouble")
    tail = f"{TRACE}{CHAIN}{second}end"
    assert last_exception(tail) == "pkg.mod.OwnTrouble"
    assert last_exception(second.replace("pkg.mod.OwnTrouble", "__main__.f.<locals>.Bad: x")).endswith("Bad: x")
    assert last_exception(f"{TRACE}\nChildFailedError: \n") == "ValueError: loss 7.2"
    assert last_exception("no traceback at all") == ""
    assert place_of_error("no traceback at all") == ""


@given(st.text())
def test_any_text_can_be_read(text):
    """Whatever a program prints, reading it ends with a line of it, or with nothing."""
    found = read(text)
    assert found is None or (found.line and found.role is not Role.ECHO)
