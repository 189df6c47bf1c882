"""One visit of the doctor: gather the facts, run the probe if one is wanted, put the rules to the facts."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ftslurm import siteprofile, submission
from ftslurm.config import Config, Network
from ftslurm.doctor import config_rules, host, limits, probe, probe_facts, slurm_facts
from ftslurm.doctor.config_rules import CONFIG_RULES
from ftslurm.doctor.facts import Facts, UnknownFact, Value
from ftslurm.doctor.handled_rules import HANDLED_RULES
from ftslurm.doctor.host_rules import HOST_RULES
from ftslurm.doctor.limits import LIMIT_RULES
from ftslurm.doctor.probe_rules import CONFIG_PROBE_RULES, PROBE_RULES
from ftslurm.doctor.report import Visit
from ftslurm.doctor.rules import Rule, judge
from ftslurm.doctor.slurm_rules import SLURM_RULES
from ftslurm.errors import FtslurmError, Refused, UsageError
from ftslurm.siteprofile import SiteProfile
from ftslurm.slurm.client import SlurmClient
from ftslurm.slurm.script import options_from_argv, render

SITE_RULES: tuple[Rule, ...] = (*SLURM_RULES, *HOST_RULES, *HANDLED_RULES)
ALL_RULES: tuple[Rule, ...] = (*CONFIG_RULES, *LIMIT_RULES, *CONFIG_PROBE_RULES, *PROBE_RULES, *SITE_RULES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What is known without a job; `partitions` is None where Slurm did not tell."""

    facts: Facts
    partitions: Mapping[str, Mapping[str, str]] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Probing:
    """What a probe needs to know: where, what kind, for which configuration, and who hears of its progress.

    `named` is the run root where the user has named it: only then the profile keeps it.
    """

    root: Path
    named: Path | None = None
    request: probe.Request
    config: Config | None
    listener: probe.Listener


def gather(client: SlurmClient, run_root: Path, config: Config | None) -> Site:
    """Ask Slurm and look at this host.

    Raises:
        ServiceUnavailable: slurmctld does not answer.
    """
    known: dict[str, Value] = slurm_facts.facts(client)
    partitions: Mapping[str, Mapping[str, str]] | None
    try:
        partitions = client.partitions()
    except FtslurmError:
        partitions = None
    else:
        known |= slurm_facts.of_partitions(partitions)
    known |= host.facts(client, run_root, slurm_facts.some_hosts(partitions or {}))
    if config is not None:
        known |= config_rules.facts(config, partitions)
        known |= limits.facts(client, config, (partitions or {}).get(str(known.get("config.partition"))))
        known |= _asked(client, config, run_root)
    return Site(facts=Facts(known), partitions=partitions)


def _asked(client: SlurmClient, config: Config, run_root: Path) -> dict[str, Value]:
    """What Slurm says to the very job that would be submitted; nothing is submitted."""
    try:
        request = submission.preview(config, run_root, ())
        forecast = client.test_only(render(request), submission.command_line(request))
    except (Refused, UsageError) as error:
        return {"config.refused": True, "config.slurm_says": str(error)}
    except FtslurmError as error:
        return {"config.refused": None, "config.slurm_says": str(error)}
    return {"config.refused": False, "config.slurm_says": forecast.text}


def without_probe(site: Site, *, with_config: bool) -> Visit:
    """The visit's result from what is known without a job, and which profile `submit` would read."""
    rules = (*CONFIG_RULES, *LIMIT_RULES, *SITE_RULES) if with_config else SITE_RULES
    cluster = str(site.facts.values.get("slurm.cluster") or "")
    path = ""
    remarks: tuple[str, ...] = ("There is no site profile yet.",)
    try:
        profile = siteprofile.load(cluster) if cluster else None
    except FtslurmError as error:
        remarks = (f"The site profile is not used: {error}",)
    else:
        if profile is not None:
            path = str(siteprofile.path_of(cluster))
            remarks = _about(profile, path, str(site.facts.values.get("slurm.release") or ""))
    return Visit(facts=site.facts, findings=judge(rules, site.facts), profile=path, remarks=remarks)


def with_probe(client: SlurmClient, site: Site, probing: Probing) -> Visit:
    """Run the probe job, judge all that is known, and write the profile.

    Raises:
        ServiceUnavailable: the job did not start or end in time.
        Refused: Slurm does not take it.
        CannotCreate: the run root, or the profile, cannot be written.
    """
    config = probing.config
    partition = probing.request.partition or (config.resources.partition if config else None)
    options = (*_of_config(config), *probing.request.options)
    options_from_argv(options)
    request = replace(probing.request, partition=partition, options=options)
    result = probe.run(client, probing.root, request, _told(site.facts, config), probing.listener)
    facts = site.facts.also(probe_facts.facts(result))
    rules = (
        (*CONFIG_RULES, *LIMIT_RULES, *CONFIG_PROBE_RULES, *PROBE_RULES, *SITE_RULES)
        if config
        else (*PROBE_RULES, *SITE_RULES)
    )
    path, remark = _profile(facts, site, partition, probing.named)
    return Visit(facts=facts, findings=judge(rules, facts), probed=True, profile=path, remarks=(remark,))


def _of_config(config: Config | None) -> list[str]:
    """The options of a configuration that decide where and whether a job runs."""
    if config is None:
        return []
    wanted = ("account", "qos", "reservation", "constraint", "exclude")
    given = [f"--{name}={config.resources.sbatch[name]}" for name in wanted if name in config.resources.sbatch]
    gpus = config.resources.gpus_per_node
    return [*given, *([f"--gpus-per-node={gpus}"] if gpus else [])]


def _told(facts: Facts, config: Config | None) -> dict[str, Any]:
    """What the probe's processes must know."""
    network = config.network if config else Network()
    try:
        kinds = facts.words("slurm.mpi_types")
    except UnknownFact:
        kinds = ()
    return {
        "interface": network.interface,
        "ports": list(network.ports),
        "scratch": config.checkpoint.scratch if config else "auto",
        "mpi": config.launch.mpi if config else "pmix",
        "mpi_types": list(kinds),
    }


def _profile(facts: Facts, site: Site, partition: str | None, root: Path | None) -> tuple[str, str]:
    """Write what was proven; only of nodes that answered."""
    cluster = str(facts.values.get("slurm.cluster") or "")
    default = config_rules.default_partition(site.partitions or {})
    where = partition or default
    answered, asked = facts.values.get("probe.answered"), facts.values.get("probe.nodes")
    if not asked or set(_texts(asked)) != set(_texts(answered)) or not cluster or not where:
        return "", "No site profile was written: not every node of the probe job answered."
    made = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    profile = SiteProfile(
        cluster=cluster,
        default_partition=default,
        slurmd_timeout_s=facts.number("conf.SlurmdTimeout") if facts.knows("conf.SlurmdTimeout") else None,
        partitions={where: probe_facts.proven(facts.values, made, root)},
    )
    path = str(siteprofile.save(profile))
    return path, f"Site profile written for partition {where}: {path}"


def _texts(value: Value) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else ()


def _about(profile: SiteProfile, path: str, release: str) -> tuple[str, ...]:
    lines = []
    for name, each in profile.partitions.items():
        stale = f"; stale: Slurm is {release} now" if each.slurm != release else ""
        lines.append(f"Site profile of {each.made[:10]} (Slurm {each.slurm}) for partition {name}{stale}: {path}")
    return tuple(lines)
