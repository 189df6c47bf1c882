"""Takes a copy of another node's part of a generation: every file whole, right and fsynced, the manifest last.

As `ftslurm.checkpoint.drain`, the other way round: who needs the bytes asks for them. A copy that was cut short has no
manifest and so does not exist; what is right already is not sent again.
"""

from __future__ import annotations

from collections.abc import Sequence

from ftslurm.checkpoint import disk
from ftslurm.checkpoint.copying import Copier
from ftslurm.checkpoint.digest import Pace
from ftslurm.checkpoint.layout import GenerationPaths, manifest_name
from ftslurm.checkpoint.places import Place, first
from ftslurm.core.actions import Pair
from ftslurm.errors import DataDamaged


def replicate(places: Sequence[Place], pair: Pair, target: GenerationPaths, pace: Pace) -> int:
    """Bring the part to `target`, from the first place that has it right; returns the bytes that had to come.

    Raises:
        DataDamaged: no place has the right bytes.
        StorageError: a place cannot be asked now.
        OSError: this node's disk cannot be written.
        TryAgain: `pace` says stop.
    """
    for folder in (target.data, target.manifests):
        disk.make_folder(folder)
    what = f"{target.root.name} of {pair.owner}"
    _, (data, manifest) = first(what, places, lambda place: place.manifest(pair.owner, pair.digest))
    if (manifest.node, manifest.generation) != (pair.owner, target.root.name):
        raise DataDamaged(f"the manifest of {what} is that of {manifest.node} and {manifest.generation}")
    came = 0
    for entry in manifest.files:
        copier = Copier(source=target.data, target=target.data, owner="partner", durable=True, pace=pace)
        if copier.is_there(entry):
            disk.fsync_way(target.data, entry.name)
            continue
        came += first(
            f"{what}: {entry.name}",
            places,
            lambda place, entry=entry: Copier(  # type: ignore[misc]
                source=place.source, target=target.data, owner="partner", durable=True, pace=pace
            ).bring(entry),
        )[1]
    disk.write_small(target.root / manifest_name(pair.owner), data)
    return came
