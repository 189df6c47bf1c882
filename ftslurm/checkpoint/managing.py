"""What may be done to files that a program has written in place: with `manage: true` only, and never to another's.

Without it only the records in the run's own folder come and go. With it old checkpoints are removed and damaged ones
set aside, file by file, and only a file that is still the one that was seen, and that no other generation names.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from ftslurm.checkpoint import disk, refs
from ftslurm.checkpoint.inplace import Changed, check_looks, read_place
from ftslurm.checkpoint.layout import StorePaths
from ftslurm.core.manifest import is_generation, parse_generation
from ftslurm.errors import DataDamaged

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ftslurm.checkpoint.inplace import Place

ASIDE = ".ftslurm-quarantine"
"""Below the program's folder: no framework looks for checkpoints there."""


def overtaken(root: Path, generation: str) -> tuple[str, ...]:
    """Return the generations of earlier attempts whose files this one has written again: nobody has those any more."""
    mine, tagged = read_place(StorePaths(root).generation(generation)), {ref.generation for ref in refs.listed(root)}
    if mine is None:
        return ()
    step, attempt = parse_generation(generation)
    return tuple(
        name
        for name, place in _others(root, generation, mine)
        if parse_generation(name) < (step, attempt) and name not in tagged and place.files.keys() & mine.files.keys()
    )


def remove(root: Path, generation: str) -> None:
    """Delete the program's files of a generation, and the folders that this empties.

    Raises:
        DataDamaged: nobody knows any more which they are.
        OSError: as the system says.
    """
    place = read_place(StorePaths(root).generation(generation))
    if place is None:
        return
    for name in _own(root, generation, place):
        path = place.folder / name
        path.unlink()
        _remove_empty(path.parent, place.folder)


def set_aside(root: Path, generation: str) -> Path | None:
    """Move the program's files of a generation to where it does not look for them; returns where that is.

    Raises as `remove`.
    """
    place = read_place(StorePaths(root).generation(generation))
    if place is None:
        return None
    target = place.folder / ASIDE / generation
    for name in _own(root, generation, place, changed=True):
        disk.make_folder((target / name).parent)
        (place.folder / name).rename(target / name)
        _remove_empty((place.folder / name).parent, place.folder)
    return target


def _others(root: Path, generation: str, place: Place) -> Iterator[tuple[str, Place]]:
    """The other generations in the same folder, as far as they can be read."""
    paths = StorePaths(root)
    for name in filter(is_generation, disk.entries_of(paths.generations)):
        if name == generation:
            continue
        with contextlib.suppress(DataDamaged, FileNotFoundError):
            other = read_place(paths.generation(name))
            if other is not None and other.folder == place.folder:
                yield name, other


def _own(root: Path, generation: str, place: Place, *, changed: bool = False) -> list[str]:
    """The files of a generation that no other one names and that are there; `changed`: or others in their place."""
    named = {name for _, other in _others(root, generation, place) for name in other.files}
    found = []
    for name in sorted(set(place.files) - named):
        try:
            check_looks(place, [name])
        except Changed:
            if not (changed and disk.is_there(place.folder, name)):
                continue
        found.append(name)
    return found


def _remove_empty(folder: Path, top: Path) -> None:
    while folder != top and top in folder.parents:
        try:
            folder.rmdir()
        except OSError:
            return  # not empty
        folder = folder.parent
