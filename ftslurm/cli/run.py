"""`ftslurm run`: the supervisor, in any allocation; replaces the word srun in a script."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ftslurm.adoption import Told
    from ftslurm.paths import RunPaths
    from ftslurm.slurm.env import JobEnv

LAYOUTS = ("hf", "lightning", "dcp", "megatron", "deepspeed")
"""Of what frameworks write (`checkpoint.layout`)."""

EXAMPLES = """\b
Examples:
  ftslurm run -N4 --ntasks-per-node=8 -- python train.py       # in an sbatch script or a salloc shell, instead of srun
  ftslurm run --mpi=pmix ./solver input.dat
  ftslurm run --config train.yaml                              # settings and command from a file, this allocation
  ftslurm run --config ft.yaml -- python train.py              # a file without a command: only its settings
  ftslurm run --checkpoints out --checkpoint-layout hf --resume-args '--resume {checkpoint}' python train.py
  ftslurm run --chain -- python train.py                       # with #SBATCH --array=1-7%1: seven jobs, one run
  ftslurm run torchrun --nproc-per-node=8 train.py             # its world is ftslurm's, for every attempt anew
  ftslurm run --dry-run torchrun --nproc-per-node=8 train.py   # the command lines of the first attempt, and no more
\b
Submit the script with `ftslurm submit --from SCRIPT`, so that the job outlives a lost node.
"""


class SrunLike(click.Command):
    """Leaves everything that is not ftslurm's own to the reader of srun's command line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take ftslurm's own options from the front; the rest is srun's, with its separator."""
        from ftslurm.srunline import split_own

        own, rest = split_own(args)
        left = super().parse_args(ctx, own)
        ctx.params["srun_line"] = tuple(rest)
        return left


def _preview(srun_line: tuple[str, ...], job: JobEnv, told: Told) -> None:
    """Print how the first attempt would start, and on stderr what a smaller world would mean."""
    from ftslurm.adoption import settings
    from ftslurm.runtime.settings import smaller_worlds
    from ftslurm.runtime.steps import preview
    from ftslurm.submission import DRY_RUN_ID

    config = settings(srun_line, job, told)
    for sentence in smaller_worlds(config):
        click.echo(f"ftslurm: {sentence}", err=True)
    for line in preview(config, f"{config.name}-{DRY_RUN_ID}", job.nodelist[: config.resources.nodes[1]]):
        click.echo(line)


@click.command(cls=SrunLike, epilog=EXAMPLES, options_metavar="[OPTIONS] [SRUN-OPTIONS] [--] COMMAND...")
@click.option("--config", "file", type=click.Path(path_type=Path), help="A YAML file, with or without a command.")
@click.option("--checkpoints", metavar="FOLDER", help="Where the program writes its own; they are watched there.")
@click.option("--checkpoint-layout", type=click.Choice(LAYOUTS), help="What writes them: a framework.")
@click.option("--checkpoint-files", metavar="PATTERN", multiple=True, help="Their names, as in 'step_*.pt'.")
@click.option("--resume-args", metavar="TEXT", help="Added to COMMAND once there is one, as in '--from {checkpoint}'.")
@click.option("--run-name", help="Name of the run, by which a requeued job finds it again; left out: by its command.")
@click.option("--run-root", type=click.Path(path_type=Path), help="Folder for the run's folder.")
@click.option("--dry-run", is_flag=True, help="Print the command lines of the first attempt and start nothing.")
@click.option("--run-dir", type=click.Path(path_type=Path), hidden=True, help="An existing run; written by submit.")
@click.option("--chain", is_flag=True, help="The tasks of this array (1-N%1) are one run, one after the other.")
@click.option("--resumed", type=int, hidden=True, help="Continue a run that ended there; written by resume.")
def run(
    srun_line: tuple[str, ...],
    *,
    run_root: Path | None,
    dry_run: bool,
    run_dir: Path | None,
    chain: bool,
    resumed: int | None,
    **told: Any,  # noqa: ANN401 - click's values, which have their types
) -> int:
    """Run COMMAND under supervision in this allocation, with srun's own options, and keep it alive.

    Returns the run's exit code when the run has ended, and never before: a job that Slurm has requeued, or that another
    supervisor has taken over, waits here.
    """
    from ftslurm import ownjob
    from ftslurm.runtime.parent import Parent
    from ftslurm.slurm.env import job_from_env

    ownjob.forget_if_inherited(os.environ)
    if chain:
        _join()
    job = job_from_env(os.environ)
    if dry_run:
        _preview(srun_line, job, _told(**told))
        return 0
    if run_dir is None:
        from ftslurm.adoption import adopt

        run_dir = adopt(srun_line, job, _told(**told), run_root=run_root).root
    from ftslurm import runs
    from ftslurm.paths import RunPaths

    paths = RunPaths(run_dir)
    for name in {job.job_id, job.requeue_id}:  # a task of an array is known by two ids
        runs.link_job(paths, name)
    resumed = job.resumes(paths.run_id) if resumed is None else resumed
    _log_as_parent(paths, job)
    return Parent([*(["--resumed", str(resumed)] if resumed is not None else []), str(run_dir)]).run()


def _told(
    *,
    file: Path | None,
    run_name: str | None,
    checkpoints: str | None,
    checkpoint_layout: str | None,
    checkpoint_files: tuple[str, ...],
    resume_args: str | None,
) -> Told:
    """What the call says besides srun's line.

    Raises:
        UsageError: the options about checkpoints do not say enough.
    """
    from ftslurm.adoption import Told, checkpoint_keys
    from ftslurm.errors import UsageError

    saved = checkpoint_keys(checkpoints, checkpoint_layout, checkpoint_files, resume_args)
    if saved and file is None and checkpoints is None:
        raise UsageError("--checkpoints is missing: the folder where the program writes its checkpoints")
    return Told(file=file, run_name=run_name, checkpoint=saved)


def _log_as_parent(paths: RunPaths, job: JobEnv) -> None:
    """Log into the run's folder; what is for people is printed on the job's own output."""
    from ftslurm.runtime import logs

    logs.to_file(logs.Process(paths=paths, role="parent", job_id=job.requeue_id, node=logs.own_node()), speaks=False)


def _join() -> None:
    """Let the supervisor know, too, that this job is one of a chain."""
    from ftslurm.errors import UsageError
    from ftslurm.slurm.env import ARRAY_JOB_ID, CHAIN

    if not os.environ.get(CHAIN):
        if not os.environ.get(ARRAY_JOB_ID):
            raise UsageError(
                "--chain makes one run of the tasks of an array, and this job is none",
                hint="#SBATCH --array=1-3%1 lets three jobs run one after the other",
            )
        os.environ[CHAIN] = "1"
