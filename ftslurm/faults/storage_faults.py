"""Rows 8, 9, 11 and 20 of the fault matrix: shared storage, checkpoints, and files that nobody asked for."""

from __future__ import annotations

from ftslurm.core.diagnosis import Cause
from ftslurm.faults.deeds import Damage, Limit, Litter, Prey, Store, Way
from ftslurm.faults.fault import Expected, Fault, Need, Where

LAB = frozenset({Need.LAB})
TROUBLE = frozenset({Cause.STORAGE, "drain_failed", "commit_failed", "storage_stalled", "restore_failed"})
"""What ftslurm's own writes may say; a program that writes there itself may end of it."""

NOT_OURS = "a user cannot make a file system that others have mounted slow, or make it fail"
REFUSED = frozenset({Cause.CHECKPOINT_DAMAGED, "checkpoint_refused", "store_differs", "part_gone", "checkpoint_gone"})


def _store(name: str, row: int, word: str, what: str, *, stand_in: str = "") -> Fault:
    return Fault(
        name=name,
        row=row,
        what=what,
        where=Where.STORAGE,
        deed=Store(word=word),
        needs=LAB,
        causes=TROUBLE,
        stops_training=False,
        expected_action=Expected.WAIT,
        undo="the storage is well again",
        lasts_s=20.0,
        stand_in=stand_in,
        no_stand_in="" if stand_in else NOT_OURS,
        may_pass=word == "SLOW",  # as long as a write is taken within seconds
    )


def _damage(way: Way, what: str) -> Fault:
    return Fault(
        name=f"checkpoint-{way}",
        row=11,
        what=f"{what} of the newest committed checkpoint, in every copy; it is seen when somebody reads it",
        where=Where.CHECKPOINT,
        deed=Damage(way=way),
        needs=frozenset({Need.YES}),
        causes=REFUSED,
        stops_training=False,
        expected_action=Expected.REFUSE,
    )


FAULTS = (
    _store("disk-full", 8, "ENOSPC", "shared storage has no room (ENOSPC)", stand_in="agent-file-limit"),
    _store("over-quota", 8, "EDQUOT", "the user is over his quota on shared storage (EDQUOT)", stand_in="no-room"),
    Fault(
        name="file-limit",
        row=8,
        what="a rank can write to no file (RLIMIT_FSIZE): its next save fails; name one that saves (--rank 0)",
        where=Where.RANK,
        deed=Limit(resource="FSIZE", value=0),
        causes=frozenset({Cause.STORAGE, Cause.APPLICATION_ERROR}),
        undo="the limit is what it was",
        lasts_s=60.0,
    ),
    Fault(
        name="agent-file-limit",
        row=8,
        what="a node's agent can write to no file (RLIMIT_FSIZE): checkpoints stay on scratch, and it tries again",
        where=Where.NODE,
        deed=Limit(resource="FSIZE", value=0, to=Prey.AGENT),
        causes=TROUBLE | {"copy_failed", "not_durable"},
        stops_training=False,
        expected_action=Expected.WAIT,
        undo="the limit is what it was",
        lasts_s=15.0,
    ),
    _store("io-error", 9, "EIO", "everything on shared storage ends with EIO", stand_in="read-error"),
    _store("storage-stale", 9, "ESTALE", "file handles on shared storage are stale (ESTALE)", stand_in="read-error"),
    _store("storage-read-only", 9, "EROFS", "shared storage has become read-only (EROFS)", stand_in="no-room"),
    _store("storage-slow", 9, "SLOW", "shared storage answers nobody for 0.8 s of every second"),
    _store("storage-freeze", 9, "FREEZE", "shared storage answers nobody; who waits can be killed"),
    _store("storage-hang", 9, "HANG", "shared storage answers nobody; who waits cannot even be killed"),
    _damage(Way.FLIP, "one bit"),
    _damage(Way.TRUNCATE, "the second half"),
    _damage(Way.ZERO, "a page that is all zeros now"),
    _damage(Way.SWAP, "two files that have changed places"),
    _damage(Way.DROP, "one file that is gone"),
    _damage(Way.MANIFEST, "an edited manifest"),
    Fault(
        name="litter",
        row=20,
        what="files with hostile names and contents lie in the run's folders: requests, checkpoints, journal copies",
        where=Where.STORAGE,
        deed=Litter(),
        stops_training=False,
        expected_action=Expected.NOTHING,
        undo="they are removed",
        lasts_s=10.0,
    ),
)
