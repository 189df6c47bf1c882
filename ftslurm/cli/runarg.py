"""What the commands about a run have in common: how it is named, and how the Tab key finds it.

A run is named by its folder, its run id, or the id of one of its jobs. Completion reads the local index only: a Tab
must cost no RPC and import nothing heavy.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click

MOST = 200


def complete_runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Run ids, newest first, and job ids that begin as typed so far."""
    del ctx, param
    from ftslurm import runs
    from ftslurm.paths import by_job, default_run_root

    names = [paths.run_id for paths in runs.all_runs()]
    try:
        jobs = sorted(
            os.listdir(by_job(default_run_root(), "x").parent), key=lambda name: (len(name), name), reverse=True
        )
    except OSError:
        jobs = []
    # Links with a dot belong to calls inside a job and are no ids of Slurm's.
    names += [name for name in jobs if "." not in name]
    return [name for name in names if name.startswith(incomplete)][:MOST]


def run_argument(name: str = "run", metavar: str = "RUN_OR_JOB", **more: Any) -> Callable[[Any], Any]:  # noqa: ANN401 - click's own options
    """The argument RUN_OR_JOB of a command."""
    return click.argument(name, metavar=metavar, shell_complete=complete_runs, **more)
