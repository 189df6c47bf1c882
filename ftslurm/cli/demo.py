"""`ftslurm demo`: on the user's own cluster a rank is killed, the run goes on, and nothing of it is left."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftslurm.cli.interruption import ended_as_interrupted
from ftslurm.cli.progress import waiting

if TYPE_CHECKING:
    from ftslurm.config import Config
    from ftslurm.demo.course import Course
    from ftslurm.demo.outcome import Outcome
    from ftslurm.demo.removal import Before
    from ftslurm.insight.records import Story
    from ftslurm.paths import RunPaths
    from ftslurm.siteprofile import Taken
    from ftslurm.slurm.client import SlurmClient
    from ftslurm.slurm.script import JobRequest

EXAMPLES = """\b
Examples:
  ftslurm demo                                        # two nodes of the default partition, about a minute
  ftslurm demo -p debug -- --account=proj1 --qos=short
  ftslurm demo --nodes 1                              # two ranks on one node
  ftslurm demo --dry-run                              # print what would be submitted
  ftslurm demo --json | jq '.demo.training_again_s'
  ftslurm demo --keep                                 # leave the run, for ftslurm explain, logs, checkpoint ls
\b
The job asks for CPUs only and for at most five minutes; the program is ftslurm's own and needs no other package.
\b
Exit codes:
  0 the run survived; 1 it did not, and the reason is said; 2 wrong values; 69 Slurm does not answer, or the job does
  not start; 73 the run root cannot be written; 77 Slurm refuses the job; 78 the partition takes no such job
"""


@click.command(epilog=EXAMPLES)
@click.argument("sbatch_options", nargs=-1, type=click.UNPROCESSED)
@click.option("-p", "--partition", metavar="NAME", help="Partition; left out: the cluster's default.")
@click.option("-N", "--nodes", type=click.IntRange(min=1, max=64), default=2, show_default=True, help="Nodes.")
@click.option("--run-root", type=click.Path(path_type=Path), help="Folder on shared storage for the demonstration.")
@click.option("--dry-run", is_flag=True, help="Print the batch script and submit nothing.")
@click.option("--keep", is_flag=True, help="Leave the run's folder and what lies on the nodes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def demo(
    sbatch_options: tuple[str, ...],
    *,
    partition: str | None,
    nodes: int,
    run_root: Path | None,
    dry_run: bool,
    keep: bool,
    as_json: bool,
) -> int:
    """Show on this cluster that a run survives: a small training loses a rank and goes on from its checkpoint.

    No administrator rights and no GPU are needed, and nothing is left behind. Options after -- go to sbatch.
    """
    from ftslurm.demo.removal import Before
    from ftslurm.slurm.client import SlurmClient

    plan = _planned(SlurmClient(), Wishes(partition, nodes, sbatch_options, run_root, keep))
    _say(f"run root {plan.root}")
    if dry_run:
        plan.show()
        return 0
    before = Before.of(plan.root)
    with ended_as_interrupted():
        course = plan.submit(before)
        _say(f"job {course.job_id} is submitted to partition {plan.partition}; Ctrl-C ends and removes all of it")
        with waiting(f"job {course.job_id}", quiet=as_json) as course.count:
            story, found = _survive(course, before, plan)
    kept = str(course.paths.root) if keep else None
    if as_json:
        _print_json(course, story, found, kept)
    else:
        _print(course, story, found)
    return 0 if found.survived else 1


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user asks for."""

    partition: str | None
    nodes: int
    options: tuple[str, ...]
    run_root: Path | None
    keep: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will be submitted. `root` is the run root; the demonstration has a folder of its own in it."""

    client: SlurmClient
    config: Config
    taken: Taken
    root: Path
    folder: Path
    partition: str
    wishes: Wishes

    def request(self, paths: RunPaths) -> JobRequest:
        """The job; unless the run is kept, it sweeps its nodes in the end."""
        import sys

        from ftslurm import submission

        request = submission.request_of(self.config, paths, self.wishes.options)
        if self.wishes.keep:
            return request
        swept = (sys.executable, "-I", "-m", "ftslurm.demo.batch", str(paths.root), self.config.checkpoint.scratch)
        return replace(request, argv=swept)

    def show(self) -> None:
        """Print the script, and say what would follow."""
        from ftslurm.paths import RunPaths
        from ftslurm.slurm.script import render
        from ftslurm.submission import DRY_RUN_ID

        request = self.request(RunPaths(self.folder / f"{self.config.name}-{DRY_RUN_ID}"))
        click.echo(render(request), nl=False)
        _say("nothing is submitted; after two checkpoints the last rank would be killed, and in the end all be removed")

    def submit(self, before: Before) -> Course:
        """Make the run's folder and submit the job; where that fails, nothing is left."""
        from ftslurm import siteprofile, submission
        from ftslurm.cli.submit import send
        from ftslurm.demo import advice, removal
        from ftslurm.demo.course import Course
        from ftslurm.demo.program import REQUESTS
        from ftslurm.errors import FtslurmError, Refused
        from ftslurm.paths import RunPaths

        paths = RunPaths(self.folder / "none")
        try:
            file = _written(self.folder, self.config)
            paths = submission.prepare(self.config, file, self.folder)
            (paths.root / REQUESTS).mkdir(mode=0o700)
            siteprofile.keep(paths, self.taken)
            job_id = send(self.client, paths, self.request(paths))
        except (FtslurmError, KeyboardInterrupt) as error:
            # The answer may have been lost on its way, and the job be there.
            removal.withdraw(self.client, paths.run_id)
            removal.remove(self.folder, paths, "none", before)
            raise advice.with_advice(error) if isinstance(error, Refused) else error from error
        return Course(self.client, paths, job_id, _say)


def _planned(client: SlurmClient, wishes: Wishes) -> Plan:
    """Look at the site, and decide where and how."""
    import secrets
    import shutil

    from ftslurm import siteprofile, submission
    from ftslurm.demo import advice
    from ftslurm.errors import ServiceUnavailable
    from ftslurm.slurm.script import options_from_argv

    if shutil.which("sbatch") is None:
        raise ServiceUnavailable(
            "there is no sbatch on PATH",
            hint="use a login host of a Slurm cluster, or load the module that brings Slurm; a cluster on this machine:"
            " `ftslurm lab up`",
        )
    options_from_argv(wishes.options)
    partition = advice.partition_of(client.partitions(), wishes.partition, wishes.nodes)
    config = _config(partition, wishes.nodes)
    taken = siteprofile.for_submission(config, client)
    root = submission.run_root_of(None, wishes.run_root, profile=taken.run_root, script=Path.cwd())
    folder = root / f".demo-{secrets.token_hex(3)}"
    ledger = config.recovery.model_copy(update={"ledger": str(folder / "ledger")})
    config = siteprofile.tuned(config.model_copy(update={"recovery": ledger}), taken.values)
    return Plan(client=client, config=config, taken=taken, root=root, folder=folder, partition=partition, wishes=wishes)


def _config(partition: str, nodes: int) -> Config:
    """The demonstration as a user would write it."""
    import sys

    from ftslurm.config import Config
    from ftslurm.demo import program

    return Config.model_validate(
        {
            "name": "ftslurm-demo",
            "command": [sys.executable, "-I", program.__file__],
            "resources": {
                "nodes": nodes, "ranks_per_node": 1 if nodes > 1 else 2, "time": "5:00", "partition": partition,
            },
            "launch": {"mpi": "none"},
            "heartbeat": {"fabric": "none"},
            "recovery": {"continue": "none", "on_finish_after_takeover": "cancel"},
            "checkpoint": {"files": "step_*.json", "settle": "1s", "grace": "10s"},
        }
    )  # fmt: skip


def _written(folder: Path, config: Config) -> Path:
    """The configuration as a file in the demonstration's own folder."""
    from ftslurm.errors import CannotCreate

    file = folder / "demo.yaml"
    try:
        folder.mkdir(mode=0o700, parents=True)
        # JSON is YAML.
        file.write_text(json.dumps(config.model_dump(mode="json", by_alias=True), indent=1), encoding="utf-8")
    except OSError as error:
        raise CannotCreate(
            f"cannot write into {folder}: {error.strerror}",
            hint="--run-root names a folder on shared storage that you can write",
        ) from error
    return file


def _survive(course: Course, before: Before, plan: Plan) -> tuple[Story, Outcome]:
    """Kill a rank, wait for the end, and leave nothing, whatever happens."""
    from ftslurm import journal
    from ftslurm.demo import removal
    from ftslurm.demo.outcome import outcome
    from ftslurm.insight.story import story

    ended = False
    try:
        course.until_it_can_be_killed()
        killed = course.kill_a_rank()
        course.until_it_goes_on()
        course.until_its_end()
        ended = True
        told = story(journal.read(course.paths))
        found = outcome(killed, told, course.paths)
    except Exception:
        _say_why(course)
        raise
    finally:
        if not plan.wishes.keep:
            _say("removing what the demonstration has made")
            left = removal.end_job(course) if ended else removal.stop_job(course)
            left += removal.remove(plan.folder, course.paths, course.job_id, before)
            _say(f"left behind: {'; '.join(left) or 'nothing'}")
        elif not ended:
            _say(f"the run is kept: ftslurm status {course.job_id}; ftslurm cancel {course.job_id}")
    return told, found


def _say_why(course: Course) -> None:
    """What is known of a demonstration that failed, before it is removed."""
    from ftslurm import journal
    from ftslurm.errors import FtslurmError
    from ftslurm.insight.render import render
    from ftslurm.insight.story import story
    from ftslurm.insight.text import visible_lines

    with contextlib.suppress(FtslurmError, OSError):
        entries = list(journal.read(course.paths))
        if entries:
            click.echo(render(story(entries), title=f"run {course.paths.run_id}"), err=True, nl=False)
        for path in course.paths.logs.glob("job-*.out"):
            for line in visible_lines(path.read_text(encoding="utf-8", errors="replace"))[-20:]:
                click.echo(f"| {line}", err=True)


def _print(course: Course, story: Story, found: Outcome) -> None:
    from ftslurm.demo.outcome import words
    from ftslurm.insight.render import render
    from ftslurm.insight.text import terminal_width

    click.echo(render(story, title=f"run {course.paths.run_id}", width=terminal_width()))
    click.echo("The run survived:" if found.survived else "The run did not survive:")
    click.echo(words(found), nl=False)


def _print_json(course: Course, story: Story, found: Outcome, kept: str | None) -> None:
    from ftslurm.insight.export import SCHEMA, of_story

    run = {"run_id": course.paths.run_id, "job_id": course.job_id, "kept": kept}
    document = {"meta": {"schema": SCHEMA}, "run": run, "demo": found.plain(), "story": of_story(story)}
    click.echo(json.dumps(document, indent=2))


def _say(text: str) -> None:
    click.echo(f"ftslurm demo: {text}", err=True)
