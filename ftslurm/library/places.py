"""Where generations of this program go to and come from: the node's agent under ftslurm, else a store of its own.

Under ftslurm a rank writes into the node's scratch, and the agent does the rest; what to restore is in the environment,
and a generation that cannot be loaded is told to the agent, who knows others. Without it each rank writes into the
store itself, with a manifest of its own two files, and rank 0 commits the generation once it has seen all manifests:
the formats, the commit and the retention are those of ftslurm's stores, so its commands work on this folder too.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from ftslurm.checkpoint import disk
from ftslurm.checkpoint.commit import commit_durable, prepare_store, quarantine
from ftslurm.checkpoint.digest import digest_bytes, digests_of
from ftslurm.checkpoint.handover import AgentClient, Handover, Op, local_record_path
from ftslurm.checkpoint.layout import GenerationPaths, StorePaths, manifest_name
from ftslurm.checkpoint.reader import Generation
from ftslurm.checkpoint.retention import apply
from ftslurm.checkpoint.rollback import read_rollbacks
from ftslurm.checkpoint.store import scan
from ftslurm.checkpoint.versions import refresh
from ftslurm.core.branches import is_live
from ftslurm.core.manifest import (
    MANIFEST_LIMIT_BYTES,
    Commit,
    FileEntry,
    NodeManifest,
    generation_name,
    is_generation,
    parse_generation,
)
from ftslurm.core.rankindex import RankIndex
from ftslurm.core.retention import Rules
from ftslurm.core.strictjson import decode, encode, plain_name
from ftslurm.errors import DataDamaged, FtslurmError, StorageError, UsageError
from ftslurm.library.ranks import Ranks

log = logging.getLogger(__name__)

T = TypeVar("T")
Load = Callable[[Generation], T]
MANIFEST_PATIENCE_S = 300.0
_POLL_S = 0.05


class CannotRestore(DataDamaged, SystemExit):
    """There are checkpoints, and none of them can be loaded. A program that does not catch it ends with code 65."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        DataDamaged.__init__(self, message, hint=hint)
        self.code = self.exit_code


class Place(Protocol):
    """Where this program's generations are."""

    run_id: str
    attempt: int

    def folder(self, generation: str) -> Path:
        """Where the ranks' files of a generation are written."""

    def written(self, index: RankIndex) -> None:
        """This rank's files are there. Takes its time; runs beside training. Raises FtslurmError."""

    def failed(self, generation: str, reason: str) -> None:
        """This rank's files will not be there."""

    def is_whole(self, generation: str) -> bool:
        """Whether a generation can serve as a base."""

    def restore(self, load: Callable[[Generation], T]) -> tuple[str, T] | None:
        """Load the newest generation that can be loaded; None where there is none at all.

        Raises:
            CannotRestore: there are some, and none can be loaded.
        """


class AgentPlace:
    """Under ftslurm."""

    def __init__(self, handover: Handover) -> None:
        self.run_id, self.attempt = handover.run_id, handover.attempt
        self._handover = handover
        self._client = AgentClient(Path(handover.socket)) if handover.socket else None

    def folder(self, generation: str) -> Path:
        """In the node's scratch."""
        return self._handover.write / generation

    def written(self, index: RankIndex) -> None:
        """The agent watches the folder."""

    def failed(self, generation: str, reason: str) -> None:
        """The agent makes an event of it; where it does not answer, the message on stderr has to do."""
        self._tell(Op.FAILED, generation, reason)

    def is_whole(self, generation: str) -> bool:
        """The agent leaves the LOCAL record."""
        return local_record_path(self._handover.write, generation).exists()

    def restore(self, load: Callable[[Generation], T]) -> tuple[str, T] | None:
        """What the supervisor has chosen, with the agent's help."""
        if not self._handover.restored:
            return None
        root = GenerationPaths(Path(self._handover.restored))
        if not root.commit.is_file():
            raise UsageError(
                f"{root.root} is no generation that this library has saved",
                hint="the configuration needs `checkpoint: {layout: library}`",
            )
        try:
            with Generation.open(root, fetch=self._fetch if self._client else None, on_damage=_note) as saved:
                return saved.commit.generation, load(saved)
        except (DataDamaged, StorageError) as error:
            self._tell(Op.REFUSED, root.root.name, str(error))
            raise CannotRestore(f"the checkpoint {root.root.name} cannot be loaded: {error}") from error

    def _fetch(self, generation: str, name: str) -> Path:
        assert self._client is not None  # noqa: S101 - for the type checker: `restore` has looked
        return self._client.fetch(generation, name).path

    def _tell(self, op: Op, generation: str, reason: str) -> None:
        if self._client is not None and is_generation(generation):
            with contextlib.suppress(StorageError):
                self._client.tell(op, generation, reason)


class StorePlace:
    """A store that the program keeps by itself."""

    def __init__(self, root: Path, ranks: Ranks, keep: int, best_by: tuple[str, Literal["min", "max"]]) -> None:
        """Prepare the store. Raises StorageError, on all ranks alike.

        `keep` generations stay, and the best by the metric `best_by`.

        The incarnation is one more than any that the store has seen: rank 0 looks once, and tells the others.
        """
        self._paths, self._ranks, self._keep = StorePaths(root), ranks, keep
        self._best_by = best_by
        self.run_id, attempt = self._of_rank_0("store", lambda: _prepare(root))
        self.attempt = int(attempt)

    def folder(self, generation: str) -> Path:
        """In the store itself."""
        return self._paths.generation(generation).data

    def written(self, index: RankIndex) -> None:
        """Write this rank's manifest; rank 0 then waits for all of them, commits and deletes what is old."""
        paths = self._paths.generation(index.generation)
        try:
            disk.make_folder(paths.manifests)
            disk.write_small(paths.root / manifest_name(_node(index.rank)), _manifest(index).to_bytes())
        except OSError as error:
            raise StorageError(f"cannot write to {paths.manifests}: {error.strerror}") from error
        if index.rank == 0:
            self._commit(paths, index)
            self._tidy(index.generation)

    def _tidy(self, newest: str) -> None:
        """Let `latest` and `best` follow, and delete what no rule keeps; the commit counts in any case."""
        try:
            refresh(self._paths.root, *self._best_by)
            apply(self._paths.root, Rules(last=self._keep), {newest}, now=time.time())
        except (FtslurmError, OSError) as error:
            log.warning("old checkpoints in %s cannot be removed: %s", self._paths.root, error)

    def failed(self, generation: str, reason: str) -> None:
        """A word for rank 0, so that it does not wait; where it cannot be written, rank 0's patience ends."""
        folder = self._paths.generation(generation).manifests
        with contextlib.suppress(OSError):
            disk.make_folder(folder)
            disk.write_small(folder / _failure(self._ranks.rank), encode({"reason": reason[:4000]}))

    def is_whole(self, generation: str) -> bool:
        """Committed."""
        return self._paths.generation(generation).commit.exists()

    def restore(self, load: Callable[[Generation], T]) -> tuple[str, T] | None:
        """The newest first; all ranks load the same one, or go on to the next older one together."""
        names = self._of_rank_0("candidates", lambda: list(_candidates(self._paths.root)))
        reasons = []
        for number, name in enumerate(names):
            loaded, reason = self._try(name, load)
            told = [each for each in self._ranks.gather(f"loaded/{number}", reason) if each]
            if not told and loaded is not None:
                return name, loaded
            reasons.append(f"{name}: {told[0]}")
            self._refuse(name, told[0])
        if reasons or self._of_rank_0("lost", self._lost):
            raise CannotRestore(
                f"no checkpoint in {self._paths.root} can be loaded: {'; '.join(reasons) or 'all are in quarantine'}",
                hint="choose another folder to begin anew",
            )
        return None

    def _try(self, name: str, load: Callable[[Generation], T]) -> tuple[T | None, str]:
        try:
            with Generation.open(self._paths.generation(name), on_damage=_note) as saved:
                return load(saved), ""
        except (DataDamaged, StorageError) as error:
            return None, f"{'damaged' if isinstance(error, DataDamaged) else 'unreadable'}: {error}"

    def _refuse(self, name: str, reason: str) -> None:
        """Damaged ones are set aside, by rank 0 alone; what could not be read may be read another time."""
        if self._ranks.rank == 0:
            log.warning("checkpoint %s cannot be loaded: %s", name, reason)
            if reason.startswith("damaged"):
                quarantine(self._paths.root, name, reason, time.time())

    def _lost(self) -> list[str]:
        """Generations that were set aside are a reason not to begin anew in silence."""
        return [name for name in disk.entries_of(self._paths.quarantine) if is_generation(name)]

    def _of_rank_0(self, what: str, find: Callable[[], list[str]]) -> list[str]:
        """What rank 0 finds in the store, or the same error on every rank."""
        told = {"names": [], "error": ""}
        if self._ranks.rank == 0:
            try:
                told = {"names": find(), "error": ""}
            except (FtslurmError, OSError) as error:
                told = {"names": [], "error": str(error)}
        told = json.loads(self._ranks.share(what, json.dumps(told)))
        if told["error"]:
            raise StorageError(f"the checkpoints in {self._paths.root} cannot be looked through: {told['error']}")
        return list(told["names"])

    def _commit(self, paths: GenerationPaths, index: RankIndex) -> None:
        deadline = time.monotonic() + MANIFEST_PATIENCE_S
        manifests = [_await(paths, rank, deadline) for rank in range(index.world_size)]
        commit = Commit(
            run_id=self.run_id,
            generation=index.generation,
            world_size=index.world_size,
            epoch=self.attempt,
            parts=tuple(NodeManifest.from_bytes(data).part(digest_bytes(data)) for data in manifests),
            at=time.time(),
            about=index.about,
        )
        commit_durable(self._paths.root, commit)


def _note(path: Path, reason: str) -> None:
    log.warning("%s: %s", path, reason)


def _prepare(root: Path) -> list[str]:
    """Rank 0: run id and incarnation, which is one more than any of which something is left, committed or not."""
    paths = StorePaths(root)
    disk.make_folder(root.absolute())
    if not paths.run_file.exists():
        prepare_store(root, f"run-{secrets.token_hex(4)}", time.time())
    record = decode(disk.read_small(root, paths.run_file.name, 4096), "RUN.json")
    run_id = plain_name(record.get("run_id") if isinstance(record, dict) else None, "run_id")
    prepare_store(root, run_id, time.time())
    names = [name for place in (paths.generations, paths.quarantine, paths.trash) for name in disk.entries_of(place)]
    seen = [parse_generation(stem)[1] for stem in (name.partition(".")[0] for name in names) if is_generation(stem)]
    return [run_id, str(max([*seen, *(each.attempt for each in read_rollbacks(root))], default=-1) + 1)]


def _candidates(root: Path) -> Iterator[str]:
    """Committed generations of the live branch, the newest first; damaged ones too, to be refused aloud."""
    found, rollbacks = scan(root), read_rollbacks(root)
    names = [each.generation for each in found.generations]
    names += [each.generation for each in found.refused if not each.is_unfinished]
    yield from sorted((name for name in names if is_live(name, rollbacks)), key=parse_generation, reverse=True)


def _node(rank: int) -> str:
    return f"rank-{rank:05d}"


def _failure(rank: int) -> str:
    return f"{_node(rank)}.failed"


def _manifest(index: RankIndex) -> NodeManifest:
    """The manifest of a rank's two files."""
    data = index.to_bytes()
    chunks = "".join(digests_of(memoryview(data)))
    entry = FileEntry(name=index.index_name, size=len(data), chunks=chunks, rank=index.rank)
    return NodeManifest(
        run_id=index.run_id,
        generation=index.generation,
        node=_node(index.rank),
        world_size=index.world_size,
        files=(index.data_file, entry),
    )


def _await(paths: GenerationPaths, rank: int, deadline: float) -> bytes:
    """The manifest of a rank, looked for by its exact name. Raises StorageError: it failed, or does not come."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            return disk.read_small(paths.root, manifest_name(_node(rank)), MANIFEST_LIMIT_BYTES)
        if (paths.manifests / _failure(rank)).exists():
            raise StorageError(f"{paths.root.name} is not committed: rank {rank} could not write its part")
        if time.monotonic() >= deadline:
            raise StorageError(f"{paths.root.name} is not committed: nothing came from rank {rank}")
        time.sleep(_POLL_S)


def generation_of(place: Place, step: int) -> str:
    """The name of this program's generation of a step."""
    return generation_name(step, place.attempt)


def free_bytes(folder: Path) -> int:
    """What this user may still write there, or in the nearest folder above that exists."""
    while not folder.exists():
        folder = folder.parent
    about = os.statvfs(folder)
    return about.f_bavail * about.f_frsize
