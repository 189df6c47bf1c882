"""Checkpoints of the files layout seen as a framework's: what has one step is one group.

With this the same watcher serves what frameworks write and what a program writes by patterns of its own.
"""

from __future__ import annotations

from pathlib import Path

from ftslurm.checkpoint import disk
from ftslurm.checkpoint.folderscan import identity_of, listing
from ftslurm.checkpoint.frameworks.framework import Found, Framework
from ftslurm.checkpoint.frameworks.table import FRAMEWORKS
from ftslurm.checkpoint.patterns import Marker, Patterns
from ftslurm.checkpoint.soundness import fault_of
from ftslurm.core.manifest import TEMP_SUFFIXES, FileEntry, program_path
from ftslurm.errors import DataDamaged

FILES = "files"


def framework_of(layout: str, files: tuple[str, ...], done_marker: str = "") -> Framework:
    """Return what is known about a layout; `files` and `done_marker` are those of the configuration."""
    if layout in FRAMEWORKS:
        return FRAMEWORKS[layout]
    patterns = Patterns.parse(files)
    marker = Marker(done_marker.replace("{name}", "{file}")) if done_marker else None
    own = _OfPatterns(patterns, marker)
    return Framework(
        name=FILES,
        reshards=True,
        save_on="signal:TERM",
        restore_by="path",
        enforced=True,
        find=own.find,
        check=own.check,
    )


class _OfPatterns:
    """The rows of a table that patterns make."""

    def __init__(self, patterns: Patterns, marker: Marker | None) -> None:
        self._patterns, self._marker = patterns, marker

    def find(self, root: Path) -> list[Found]:
        """All steps that have files, the newest last."""
        marker, steps = self._marker, dict[int, list[str]]()
        try:
            seen = listing(root, self._patterns)
        except FileNotFoundError:
            return []
        for name, (match, _) in seen.files.items():
            if not (marker and marker.is_one(name, match.step)):
                steps.setdefault(match.step, []).append(name)
        return [
            Found(step=step, name=_name_of(names, step), files=tuple(sorted(names)))
            for step, names in sorted(steps.items())
        ]

    def check(self, root: Path, found: Found, world: int | None = None) -> str:
        """Say what is wrong: an unsound file, a rank without one, a file without its marker."""
        try:
            for name in found.files:
                with disk.opened(root, name) as descriptor:
                    fault = fault_of(descriptor, root / name)
                if fault or (fault := self._unmarked(root, name, found.step)):
                    return f"{name}: {fault}"
        except DataDamaged as error:
            return str(error)
        except FileNotFoundError as error:
            return f"{error.filename} is missing"
        return self._lacks_ranks(found, world or 0)

    def _unmarked(self, root: Path, name: str, step: int) -> str:
        if self._marker is None:
            return ""
        wanted = self._marker.of(name, step)
        marker, file = identity_of(root, wanted), identity_of(root, name)
        fine = marker is not None and file is not None and marker.mtime_ns >= file.mtime_ns
        return "" if fine else f"its marker {wanted!r} is not there, or older"

    def _lacks_ranks(self, found: Found, world: int) -> str:
        if not self._patterns.has_rank:
            return ""
        matches = [self._patterns.match(name) for name in found.files]
        ranks = {match.rank for match in matches if match is not None and match.rank is not None}
        missing = [rank for rank in range(world) if rank not in ranks]
        return f"there is no file of rank {missing[0]}" if missing else ""


def _name_of(names: list[str], step: int) -> str:
    """What a program is given: a file, the folder that carries the step, or the top ("")."""
    return program_path([FileEntry(name=name, size=0, chunks="") for name in names], step)


def also_of(root: Path, patterns: tuple[str, ...], step: int) -> tuple[str, ...]:
    """The further files of a step, by the patterns that the user has named: relative, with {step} in them."""
    found = set[str]()
    for pattern in patterns:
        for path in root.glob(pattern.replace("{step}", str(step))):
            name = str(path.relative_to(root))
            if path.is_file() and not path.is_symlink() and not name.endswith(TEMP_SUFFIXES):
                found.add(name)
    return tuple(sorted(found))


def handed_over(framework: Framework, root: Path, step: int, names: frozenset[str]) -> Path:
    """Return what a program is given of a checkpoint whose files, with these names, lie below `root`."""
    found = [each for each in framework.find(root) if each.step == step and names.intersection(each.files)]
    return root / found[-1].name if found else root
