"""What differs between two generations of a store: tensors or files, values, metrics, sizes.

Digests are compared, not bytes. Where a tensor was cut among other ranks its pieces have no common digests: then both
are read, one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from ftslurm.checkpoint.digest import digest_bytes
from ftslurm.checkpoint.layout import StorePaths
from ftslurm.checkpoint.store import read_files
from ftslurm.core.rankindex import Entry, data_name, index_name
from ftslurm.core.strictjson import encode
from ftslurm.errors import DataDamaged, StorageError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from ftslurm.checkpoint.reader import Generation
    from ftslurm.checkpoint.versions import Version
    from ftslurm.core.wholeness import Tensor

Facts: TypeAlias = Mapping[str, tuple[str, str]]
"""By name: its form (type and shape, or size), and what stands for its content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One name that differs: `what` is added, removed, form or content."""

    name: str
    what: str
    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """All that differs, and how many names are the same."""

    changes: tuple[Change, ...]
    same: int
    metrics: Mapping[str, tuple[float | None, float | None]]


def is_of_library(root: Path, version: Version) -> bool:
    """Whether a generation was written by `ftslurm.training`; raises as `compare`."""
    folder = StorePaths(root).generation(version.generation)
    with _words_for(version.generation):
        files = read_files(folder.root, version.commit)
    return {index_name(0), data_name(0)} <= {entry.name for entry in files if entry.rank == 0}


def compare(
    root: Path, before: Version, after: Version, count: Callable[[int, int], None] = lambda *_: None
) -> Difference:
    """Say what differs from `before` to `after`; `count` hears how many of how many tensors were compared.

    Raises:
        UsageError: they are of two layouts.
        DataDamaged: a record of one of them is damaged.
        StorageError: one of them cannot be read.
    """
    kinds = {is_of_library(root, version) for version in (before, after)}
    if len(kinds) > 1:
        raise UsageError(f"{before.generation} and {after.generation} are of two layouts: files and library")
    with _words_for(f"{before.generation} or {after.generation}"):
        changes, same = _of_library(root, before, after, count) if kinds.pop() else _of_files(root, before, after)
    return Difference(changes=changes, same=same, metrics=_metrics(before, after))


@contextmanager
def _words_for(what: str) -> Iterator[None]:
    """The system's errors as ours."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataDamaged(f"{what}: {error.filename} is missing") from error
    except OSError as error:
        raise StorageError(f"cannot read {what}: {error.strerror}") from error


def _metrics(before: Version, after: Version) -> dict[str, tuple[float | None, float | None]]:
    old, new = ({} if each.commit.about is None else each.commit.about.metrics for each in (before, after))
    return {name: (old.get(name), new.get(name)) for name in sorted({*old, *new})}


def _of_files(root: Path, before: Version, after: Version) -> tuple[tuple[Change, ...], int]:
    old, new = (
        {
            entry.name: (f"{entry.size} bytes", entry.chunks)
            for entry in read_files(StorePaths(root).generation(each.generation).root, each.commit)
        }
        for each in (before, after)
    )
    return _changes(old, new)


def _of_library(
    root: Path, before: Version, after: Version, count: Callable[[int, int], None]
) -> tuple[tuple[Change, ...], int]:
    from ftslurm.checkpoint.reader import Generation

    with ExitStack() as opened:
        paths = (StorePaths(root).generation(each.generation) for each in (before, after))
        old, new = (opened.enter_context(Generation.open(path)) for path in paths)
        facts_old, facts_new = dict(_facts(old)), dict(_facts(new))
        common = old.whole.tensors.keys() & new.whole.tensors.keys()
        for number, key in enumerate(common):
            count(number, len(common))
            first, second = old.whole.tensors[key], new.whole.tensors[key]
            if facts_old[key][0] == facts_new[key][0] and _boxes(first) != _boxes(second):
                facts_old[key] = (facts_old[key][0], _read(old, first))
                facts_new[key] = (facts_new[key][0], _read(new, second))
        return _changes(facts_old, facts_new)


def _facts(generation: Generation) -> Iterator[tuple[str, tuple[str, str]]]:
    """Every name of a generation with its form and digests: tensors, each rank's own, and the common values."""
    whole = generation.whole
    for key, tensor in whole.tensors.items():
        yield key, (_form(tensor.dtype, tensor.shape), " ".join(entry.digest for entry in _sorted(tensor)))
    for rank, own in enumerate(whole.own):
        for key, entry in own.items():
            yield f"{key} of rank {rank}", (_form(entry.dtype, entry.sizes), entry.digest)
    for name, value in _leaves(whole.objects()):
        yield f"value {name}", ("value", digest_bytes(encode({"": value})))


def _form(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype} {list(shape)}"


def _sorted(tensor: Tensor) -> list[Entry]:
    return sorted((entry for _, entry in tensor.pieces), key=lambda entry: (entry.offsets, entry.sizes))


def _boxes(tensor: Tensor) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    return [(entry.offsets, entry.sizes) for entry in _sorted(tensor)]


def _read(generation: Generation, tensor: Tensor) -> str:
    """The digest of a whole tensor."""
    from ftslurm.checkpoint.arrays import raw_bytes

    return digest_bytes(raw_bytes(generation, tensor))


def _leaves(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name in sorted(value):
        below = value[name]
        if isinstance(below, dict) and below:
            yield from _leaves(below, f"{path}{name}.")
        else:
            yield f"{path}{name}", below


def _changes(old: Facts, new: Facts) -> tuple[tuple[Change, ...], int]:
    """What is different, by name; and how many names are the same."""
    found: list[Change] = []
    for name in sorted({*old, *new}):
        first, second = old.get(name), new.get(name)
        if first == second:
            continue
        before, after = (side[0] if side else "" for side in (first, second))
        what = "content" if before == after else "form"
        if not (first and second):
            what = "removed" if first else "added"
        found.append(Change(name=name, what=what, before=before, after=after))
    return tuple(found), len({*old, *new}) - len(found)
