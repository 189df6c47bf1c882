"""What `ftslurm doctor --probe` has proven about a cluster, kept for `submit`: one JSON file for each cluster.

The file is <XDG_CONFIG_HOME or ~/.config>/ftslurm/sites/<cluster>.json. What was proven holds for the partition that
was probed, and for no other: nodes differ. It stands in for `auto` and for values that the user has not written; what
he wrote wins. What a submission took from it is written into the run's folder, where the supervisor reads it: a run
never changes because a profile did.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftslurm.config import Config
from ftslurm.errors import CannotCreate, FtslurmError, StorageError
from ftslurm.paths import PRIVATE_FILE, RunPaths, site_profiles
from ftslurm.slurm.client import SlurmClient

SCHEMA = 1
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """What a probe job has shown on the nodes of one partition; None and empty: it could not tell.

    `scratch` is a node-local folder that can be written on every probed node, or `none` where there is none.
    `interface` is only set where the automatic choice is wrong. `mpi` is the kind of srun's --mpi that gave ftslurm's
    own mpi4py one world, or `none`; the user's program may have another MPI library. `mpi_offered` are all kinds.
    """

    made: str
    slurm: str
    nodes: tuple[str, ...] = ()
    scratch: str = ""
    scratch_private: bool | None = None
    interface: str = ""
    mpi: str = ""
    mpi_offered: tuple[str, ...] = ()
    requeue: bool | None = None
    sbatch: bool | None = None
    ssh: bool | None = None
    ping: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteProfile:
    """A cluster by its name, with what was proven in each partition."""

    cluster: str
    default_partition: str = ""
    slurmd_timeout_s: float | None = None
    partitions: Mapping[str, Proven] = field(default_factory=dict)

    def proven(self, partition: str | None) -> Proven | None:
        """What was proven where a job would run; None for the partition is the cluster's default."""
        return self.partitions.get(partition or self.default_partition)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a submission takes from a profile: values by their key in the configuration, and remarks for the user."""

    values: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    remarks: tuple[str, ...] = ()


def path_of(cluster: str) -> Path:
    """Where a cluster's profile is kept.

    Raises:
        StorageError: the cluster's name cannot be a file's.
    """
    if not _NAME.fullmatch(cluster) or cluster.startswith("."):
        raise StorageError(f"the cluster's name {cluster[:100]!r} cannot be a file's name")
    return site_profiles() / f"{cluster}.json"


def load(cluster: str) -> SiteProfile | None:
    """The profile of a cluster; None if there is none.

    Raises:
        StorageError: it cannot be read, or is of another form.
    """
    path = path_of(cluster)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["meta"]["schema"] != SCHEMA:
            raise StorageError(f"{path} is of another version", hint="run `ftslurm doctor --probe` again")
        partitions = {name: _proven(each) for name, each in record.pop("partitions").items()}
        return SiteProfile(partitions=partitions, **_known(SiteProfile, record))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StorageError(f"{path} is damaged: {error}", hint="run `ftslurm doctor --probe` again") from error


def save(profile: SiteProfile) -> Path:
    """Write the profile in one piece; what was proven in other partitions stays.

    Raises:
        CannotCreate: the file cannot be written.
    """
    path = path_of(profile.cluster)
    with contextlib.suppress(StorageError):  # a damaged one is replaced
        older = load(profile.cluster)
        if older is not None:
            profile = dataclasses.replace(profile, partitions={**older.partitions, **profile.partitions})
    record = {"meta": {"schema": SCHEMA}, **dataclasses.asdict(profile)}
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(temporary, record)
        temporary.replace(path)
    except OSError as error:
        raise CannotCreate(f"cannot write {path}: {error.strerror}") from error
    return path


def for_submission(config: Config, client: SlurmClient) -> Taken:
    """What this cluster's profile says for a configuration. Slurm is asked only if there is any profile at all."""
    if not any(site_profiles().glob("*.json")):
        return Taken()
    try:
        site = client.config().values
        cluster = site.get("ClusterName", "")
        profile = load(cluster)
    except FtslurmError as error:
        return Taken(remarks=(f"the site profile is not used: {error}",))
    proven = profile.proven(config.resources.partition) if profile else None
    if proven is None:
        return Taken()
    remarks = []
    if proven.slurm != site.get("SLURM_VERSION", proven.slurm):
        remarks.append(
            f"the site profile is stale: made with Slurm {proven.slurm}, now {site['SLURM_VERSION']};"
            " run `ftslurm doctor --probe` again"
        )
    values = wanted(config, proven)
    source = f"{path_of(cluster)} of {proven.made[:10]}"
    remarks += [f"{key.rstrip('_')} = {value} (site profile {source})" for key, value in values.items()]
    return Taken(values=values, source=source, remarks=tuple(remarks))


def wanted(config: Config, proven: Proven) -> dict[str, str]:
    """The values of a configuration that the profile knows better: `auto`, and MPI where the user named none."""
    values: dict[str, str] = {}
    if config.checkpoint.scratch == "auto" and proven.scratch:
        values["checkpoint.scratch"] = proven.scratch
    if config.network.interface == "auto" and proven.interface:
        values["network.interface"] = proven.interface
    named = "mpi" in config.launch.model_fields_set
    # Only where the default cannot be right: which kind the user's program needs is known to its MPI library alone.
    refused = bool(proven.mpi_offered) and config.launch.mpi not in ("none", *proven.mpi_offered)
    if config.launch.launcher == "srun" and not named and refused:
        values["launch.mpi"] = proven.mpi or "none"
    if config.recovery.continue_ == "auto" and proven.requeue is False:
        values["recovery.continue_"] = "resubmit" if proven.sbatch else "none"
    return values


def tuned(config: Config, values: Mapping[str, str]) -> Config:
    """The configuration with these values put in."""
    for key, value in values.items():
        section, _, name = key.partition(".")
        changed = getattr(config, section).model_copy(update={name: value})
        config = config.model_copy(update={section: changed})
    return config


def keep(paths: RunPaths, taken: Taken) -> None:
    """Write what a submission took into the run's folder; nothing where it took nothing.

    Raises:
        CannotCreate: the file cannot be written.
    """
    if not taken.values:
        return
    try:
        _write(paths.site, {"meta": {"schema": SCHEMA}, "source": taken.source, "values": dict(taken.values)})
    except OSError as error:
        raise CannotCreate(f"cannot write {paths.site}: {error.strerror}") from error


def of_run(config: Config, paths: RunPaths) -> Config:
    """The configuration of a run as it was submitted: the user's file, with what was taken from a profile.

    Raises:
        StorageError: the record of it cannot be read.
    """
    try:
        values = json.loads(paths.site.read_text(encoding="utf-8"))["values"]
        return tuned(config, values)
    except FileNotFoundError:
        return config
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StorageError(f"cannot read {paths.site}: {error}") from error


def _proven(record: Mapping[str, Any]) -> Proven:
    known: dict[str, Any] = _known(Proven, record)
    for name in ("nodes", "mpi_offered"):
        known[name] = tuple(known.get(name, ()))
    return Proven(**known)


def _known(kind: type, record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that this release knows; a later one may write more."""
    names = {each.name for each in dataclasses.fields(kind)}
    return {name: value for name, value in record.items() if name in names}


def _write(path: Path, record: Mapping[str, Any]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(record, file, indent=1)
        file.write("\n")
