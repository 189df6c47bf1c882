"""Facts that Slurm tells without a job. What does not answer stays unknown; only its configuration must be there."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path

from ftslurm.doctor.facts import Value
from ftslurm.errors import FtslurmError
from ftslurm.slurm import nodeset, parse
from ftslurm.slurm.client import SlurmClient
from ftslurm.slurm.records import SiteConfig

MOST_HOSTS = 8


def facts(client: SlurmClient) -> dict[str, Value]:
    """Everything Slurm says about the site.

    Raises:
        ServiceUnavailable: slurmctld does not answer at all.
    """
    began = time.monotonic()
    text = client.run(["scontrol", "show", "config"]).check().stdout
    took = time.monotonic() - began
    config = parse.show_config(text)
    known = cgroup_settings(config) | of_config(config)
    known |= {"slurm.answer_s": took, "slurm.clock_offset_s": clock_offset(text, time.time() - took / 2)}
    try:
        known["slurm.client_release"] = _release(client.version())
    except FtslurmError:
        known["slurm.client_release"] = None
    try:
        known["slurm.mpi_types"] = client.mpi_types()
    except FtslurmError:
        known["slurm.mpi_types"] = None
    return known


def cgroup_settings(config: SiteConfig) -> dict[str, Value]:
    """Settings of a cgroup.conf that can be read here, beside slurm.conf; not every release shows them."""
    path = Path(config.values.get("SLURM_CONF") or "/etc/slurm/slurm.conf").with_name("cgroup.conf")
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.partition("#")[0].partition("=") for line in lines)
    return {f"conf.{name.strip()}": value.strip().lower() for name, equals, value in pairs if equals}


def clock_offset(text: str, now: float) -> float | None:
    """How far the clock of slurmctld's host is ahead of this one, from the first line of its configuration."""
    match = re.search(r"^Configuration data as of (\S+)", text)
    there = parse.epoch(match[1]) if match else None
    return None if there is None else there - now


def of_config(config: SiteConfig) -> dict[str, Value]:
    """What `scontrol show config` says; the release is slurmctld's, which may differ from this host's commands."""
    known: dict[str, Value] = {f"conf.{name}": value for name, value in config.values.items()}
    known["slurm.cluster"] = config.values.get("ClusterName") or None
    known["slurm.release"] = config.values.get("SLURM_VERSION") or None
    return known


def of_partitions(partitions: Mapping[str, Mapping[str, str]]) -> dict[str, Value]:
    """What matters for every partition at once."""
    modes = {fields.get("PreemptMode", "").lower() for fields in partitions.values()}
    grace = {fields.get("GraceTime", "") for fields in partitions.values()}
    return {
        "slurm.partitions": tuple(partitions),
        "slurm.partition_preempt": tuple(sorted(modes - {"", "off"})),
        "slurm.partition_grace": tuple(sorted(grace - {""})),
    }


def some_hosts(partitions: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    """A few compute nodes by name, to look for their ssh host keys."""
    hosts: list[str] = []
    for fields in partitions.values():
        try:
            hosts += nodeset.expand(fields.get("Nodes", ""))[:MOST_HOSTS]
        except FtslurmError:
            continue
    return tuple(dict.fromkeys(hosts))[:MOST_HOSTS]


def _release(numbers: tuple[int, ...]) -> str:
    """A release as Slurm writes it: 22.05.8."""
    year, month, *rest = numbers
    return ".".join([str(year), f"{month:02}", *map(str, rest)])
