"""`ftslurm doctor`: what at this site would stop or weaken a run, and what to set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftslurm.cli.interruption import ended_as_interrupted
from ftslurm.cli.progress import waiting

if TYPE_CHECKING:
    from ftslurm.cli.progress import Waiting
    from ftslurm.config import Config
    from ftslurm.doctor.probe import Request
    from ftslurm.doctor.report import Visit

EXAMPLES = """\b
Examples:
  ftslurm doctor                                      # Slurm's settings and this host; submits nothing
  ftslurm doctor train.yaml                           # the same, and this configuration against the site
  ftslurm doctor --probe                              # a short job on two nodes, then a site profile for `submit`
  ftslurm doctor --probe -p gpu -N 2 --sbatch --account=proj1 --sbatch --gpus-per-node=1
  ftslurm doctor --json | jq -r '.findings[] | select(.standing == "applies") | .traps[0]'

\b
Exit codes: 0 nothing would stop a run; 78 something would; 69 Slurm does not answer, or the probe job did
not run in time; 77 Slurm refuses the probe job.
"""


@click.command(epilog=EXAMPLES)
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--probe", is_flag=True, help="Run a job of two minutes at most, and write the site profile.")
@click.option("-p", "--partition", help="Partition of the probe job; left out: the configuration's, or the default.")
@click.option("-N", "--nodes", type=click.IntRange(1, 64), default=2, show_default=True, help="Nodes of the probe job.")
@click.option("--sbatch", "options", multiple=True, help="An option for the probe job, as --account=NAME; may repeat.")
@click.option("--wait", default="10m", show_default=True, help="How long the probe job may wait in the queue.")
@click.option("--run-root", type=click.Path(path_type=Path), help="Folder of runs to look at; beats the file.")
@click.option("--all", "everything", is_flag=True, help="List also what ftslurm handles itself and what is fine.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def doctor(
    config: Path | None,
    *,
    probe: bool,
    partition: str | None,
    nodes: int,
    options: tuple[str, ...],
    wait: str,
    run_root: Path | None,
    everything: bool,
    as_json: bool,
) -> int:
    """Say what at this site would stop a run or weaken its recovery, with the setting to use for each.

    Reads Slurm's configuration and looks at this host; with CONFIG also checks that file against the site. Every
    finding has the number of its trap, what it means and what to set.
    """
    import json

    from ftslurm import siteprofile, submission
    from ftslurm.config import load
    from ftslurm.doctor import report
    from ftslurm.doctor.probe import Request
    from ftslurm.errors import SiteForbids
    from ftslurm.slurm.client import SlurmClient

    loaded = load(config) if config else None
    named = submission.named_root(loaded, run_root)
    proven = siteprofile.for_submission(loaded, SlurmClient()).run_root if loaded else ""
    root = named or submission.run_root_of(loaded, None, profile=proven, script=config)
    request = Request(partition=partition, nodes=nodes, options=options, wait_s=_duration(wait)) if probe else None
    with waiting("the probe job" if probe else "asking Slurm, looking at this host", quiet=as_json) as shown:
        visit = _visit(loaded, root, request, named, shown)
    if as_json:
        click.echo(json.dumps(visit.record(), indent=1))
    else:
        click.echo(report.text(visit, everything=everything), nl=False)
    return 0 if visit.sound else SiteForbids.exit_code


def _duration(text: str) -> float:
    from ftslurm.errors import UsageError
    from ftslurm.quantities import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--wait: {error}") from error


def _visit(config: Config | None, root: Path, request: Request | None, named: Path | None, shown: Waiting) -> Visit:
    """Look, probe if asked to, and judge."""
    from ftslurm.doctor import visit
    from ftslurm.doctor.probe import Listener
    from ftslurm.slurm.client import SlurmClient

    client = SlurmClient()
    site = visit.gather(client, root, config)
    if request is None:
        return visit.without_probe(site, with_config=config is not None)
    probing = visit.Probing(root=root, named=named, request=request, config=config, listener=Listener(_tell, shown))
    with ended_as_interrupted():
        return visit.with_probe(client, site, probing)


def _tell(words: str) -> None:
    click.echo(f"ftslurm doctor: {words}", err=True)
