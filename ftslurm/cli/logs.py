"""`ftslurm logs`: what the ranks wrote, byte for byte; and the logs of ftslurm's own processes (`ownlogs`).

On a terminal the ranks' words are shown line by line with every character escaped that a terminal would act on, unless
they are asked for as they are.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftslurm.cli.ownlogs import LEVELS, Merged, Source, Wanted, check_place, ranks_on, sources
from ftslurm.cli.runarg import run_argument
from ftslurm.errors import Refused, RunFailed, ServiceUnavailable, TryAgain, UsageError

if TYPE_CHECKING:
    from ftslurm.insight.tail import Growing, Lines
    from ftslurm.paths import RunPaths

EXAMPLES = """\b
Examples:
  ftslurm logs 101                                    # rank 0 of the newest attempt
  ftslurm logs 101 -f                                 # follow it, from attempt to attempt, until the run has ended
  ftslurm logs 101 --attempt 0 --rank 3 -n 50         # the last 50 lines of one rank
  ftslurm logs 101 --rank all | grep -i error         # every rank, each line with its rank before it
  ftslurm logs 101 --node n3 -f --raw                 # the ranks on a node; colours and progress bars as they are
  ftslurm logs 101 --own                              # what ftslurm's own processes logged, all of them by time
  ftslurm logs 101 --level error                      # of that the errors; --node n3: those about n3
  ftslurm logs 101 --supervisor                       # one process; --agent n3 for that of a node
  ftslurm logs 101 --agent n3 --json | jq .message
\b
Exit codes:
  0 printed (with -f: the run has ended); 1 with -f: its job is gone and it has not ended by its own word;
  2 no such run, attempt, rank or node; 74 a log cannot be read; 75 nothing has been written yet
"""
POLL_S = 0.5
LOOK_S = 2.0
QUIET_S = 2.0
LATE_S = 25.0
"""Agents ship what is left within 20 s after the end of a run."""
ASK_S = 60.0
STILL_S = 120.0
"""A supervisor renews its lease every 30 s."""
_RANK_LOG = re.compile(r"rank-([0-9]+)\.log")


Sources = Callable[[], Sequence[Source]]
Ranks = tuple[range, ...]
Render = Callable[[Source, bytes], bytes]


@click.command(epilog=EXAMPLES)
@run_argument()
@click.option("--attempt", type=click.IntRange(min=0), help="Attempt; left out: the newest; of ftslurm's own all.")
@click.option("--rank", "ranks", help="Rank: a number, a list as 0,4-7, or all; left out: 0, or all of --node.")
@click.option("--node", metavar="NODE", help="Only the ranks on NODE; of ftslurm's own what is about NODE.")
@click.option(
    "-f", "--follow", is_flag=True, help="Go on with what is written, over attempts, until the run has ended."
)
@click.option("--own", is_flag=True, help="The logs of ftslurm's own processes instead, put together by time.")
@click.option("--agent", metavar="NODE", help="Of these only the agent on NODE.")
@click.option("--supervisor", is_flag=True, help="Of these only the supervisor.")
@click.option("--level", type=click.Choice(LEVELS), help="Of these only lines that are at least so grave.")
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), help="Only the last LINES lines of each rank, or of all own."
)
@click.option("--raw", is_flag=True, help="Also on a terminal every byte as it was written, whatever it does there.")
@click.option("--json", "as_json", is_flag=True, help="Logs of ftslurm's own as they are: one JSON object a line.")
def logs(
    run: str,
    *,
    attempt: int | None,
    ranks: str | None,
    node: str | None,
    follow: bool,
    own: bool,
    agent: str | None,
    supervisor: bool,
    level: str | None,
    lines: int | None,
    raw: bool,
    as_json: bool,
) -> int:
    """Print what the ranks of a run wrote.

    One rank's output is printed byte for byte, to a terminal without what a terminal would act on; that of several line
    by line, as `RANK| text`. How lines of different ranks followed each other is not known.
    """
    from ftslurm.runs import find_run

    paths = find_run(run)
    chosen = None if ranks is None else parse_ranks(ranks)
    if own or level or supervisor or agent is not None:
        role = _role(agent, supervisor=supervisor)
        asked = Wanted(role=role, place=agent, attempt=attempt, level=level, node=node, ranks=chosen)
        reader = _own_reader(paths, asked, lines, as_json=as_json)
    elif as_json:
        raise UsageError("--json is for the logs of ftslurm's own processes", hint="add --own, --supervisor or --agent")
    else:
        wanted = _in_logs(paths, chosen if ranks or node else parse_ranks("0"))
        first = _first(paths, attempt, wanted, waits=follow)
        reader = _rank_reader(paths, _Choice(first=first, onward=follow, ranks=wanted, node=node), lines, raw=raw)
    reader.once()
    code = _follow(paths, reader) if follow else 0
    reader.output.end()
    return code


# --------------------------------------------------------------------------------------------------- which files


def parse_ranks(text: str) -> Ranks | None:
    """The ranks in `0,4-7`; None for `all`.

    Raises:
        UsageError: it is neither.
    """
    if text == "all":
        return None
    ranks = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,7})(?:-([0-9]{1,7}))?", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise UsageError(f"--rank {text!r} is no list of ranks", hint="write 3, 0,4-7 or all")
        ranks.append(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(ranks)


def _in_logs(paths: RunPaths, wanted: Ranks | None) -> Ranks | None:
    """The ranks whose logs hold what these have written: below torchrun all ranks of a node write into the first's."""
    try:
        plain = json.loads(paths.resolved.read_text(encoding="utf-8"))
        shared = plain["launch"]["launcher"] == "torchrun"
        size = int(plain["resources"]["ranks_per_node"]) if shared else 1
    except (OSError, ValueError, KeyError, TypeError):
        return wanted  # without a record of it each rank has a log of its own
    if size == 1 or wanted is None:
        return wanted
    return tuple(range(each.start // size * size, each.stop, size) for each in wanted)


def _among(rank: int, wanted: Ranks | None) -> bool:
    return wanted is None or any(rank in each for each in wanted)


def _role(agent: str | None, *, supervisor: bool) -> str | None:
    from ftslurm.slurm.nodeset import check_name

    if agent is not None and supervisor:
        raise UsageError("--agent and --supervisor are two logs; choose one")
    if agent is not None:
        check_name(agent)
        return "agent"
    return "supervisor" if supervisor else None


def _own_reader(paths: RunPaths, wanted: Wanted, lines: int | None, *, as_json: bool) -> _Reader:
    check_place(paths, wanted)
    return _Reader(lambda: sources(paths, wanted), Merged(wanted, as_json=as_json, last=lines), None)


def _first(paths: RunPaths, attempt: int | None, wanted: Ranks | None, *, waits: bool) -> int:
    """The attempt to begin with. What is not there is refused, unless it is waited for."""
    if not waits:
        _check(paths, attempt, wanted)
    return attempt if attempt is not None else max(_attempts(paths), default=0)


def _rank_reader(paths: RunPaths, choice: _Choice, lines: int | None, *, raw: bool) -> _Reader:
    one = choice.node is None and choice.ranks is not None and sum(map(len, choice.ranks)) == 1
    return _Reader(lambda: _rank_logs(paths, choice), _Output(_form(one=one, raw=raw)), lines)


def _attempts(paths: RunPaths) -> list[int]:
    """The attempts of which ranks have written something, oldest first."""
    try:
        numbers = sorted(int(each.name) for each in paths.logs.iterdir() if each.name.isdigit())
    except FileNotFoundError:
        return []
    return [number for number in numbers if any(paths.attempt_logs(number).glob("rank-*.log"))]


def _ranks(paths: RunPaths, attempt: int) -> dict[int, Path]:
    """The logs of an attempt, by rank."""
    try:
        found = {each: _RANK_LOG.fullmatch(each.name) for each in paths.attempt_logs(attempt).iterdir()}
    except FileNotFoundError:
        return {}
    return {int(match[1]): path for path, match in sorted(found.items()) if match}


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """Which ranks of which attempts: the first, and with `onward` also later ones, as they appear."""

    first: int
    onward: bool
    ranks: Ranks | None
    node: str | None


def _rank_logs(paths: RunPaths, choice: _Choice) -> Sequence[Source]:
    """The files to print."""
    found = []
    for number in _attempts(paths):
        if number != choice.first and not (choice.onward and number > choice.first):
            continue
        there = None if choice.node is None else ranks_on(paths, number, choice.node)
        for rank, path in _ranks(paths, number).items():
            if _among(rank, choice.ranks) and (there is None or rank in there):
                found.append(Source(path=path, attempt=number, rank=rank))
    return found


def _check(paths: RunPaths, attempt: int | None, wanted: Ranks | None) -> None:
    """Refuse, with a reason, what is not there."""
    from ftslurm.core.events import ENDED
    from ftslurm.insight.summary import last_entry

    there = _attempts(paths)
    if attempt is not None and there and attempt not in there:
        raise UsageError(f"there are no logs of attempt {attempt}", hint=f"attempts: {', '.join(map(str, there))}")
    number = attempt if attempt is not None else max(there, default=0)
    ranks = _ranks(paths, number)
    if ranks and not any(_among(rank, wanted) for rank in ranks):
        raise UsageError(
            f"attempt {number} has no log of the ranks asked for", hint=f"ranks {min(ranks)} to {max(ranks)} have one"
        )
    if ranks:
        return
    text, where = f"no rank of run {paths.run_id} has written anything", f"{paths.logs}/job-*.out"
    last = last_entry(paths)
    if last is not None and last.phase in ENDED:
        raise UsageError(text, hint=f"the output of its job is in {where}")
    raise TryAgain(f"{text} yet", hint=f"-f waits for it; the output of its job is in {where}")


# ----------------------------------------------------------------------------------------------------- printing


def _form(*, one: bool, raw: bool) -> Render | None:
    """How lines are printed; None: not as lines, but as the bytes that come."""
    safe = not raw and sys.stdout.isatty()
    if one:
        return (lambda _, line: _safe(line)) if safe else None
    return lambda source, line: b"%d| %s" % (source.rank, _safe(line) if safe else line)


def _safe(line: bytes) -> bytes:
    """What a terminal may read. Of a line that was written over itself (a progress bar) the last form is shown."""
    from ftslurm.insight.text import visible

    text = line.removesuffix(b"\r").rpartition(b"\r")[2]
    return visible(text.decode("utf-8", "replace").expandtabs(8)).encode("utf-8", "replace")


class _Output:
    """Where everything goes: raw bytes, or whole lines that `render` has made."""

    def __init__(self, render: Render | None) -> None:
        self._render = render
        self._lines: dict[Source, Lines] = {}
        self._attempt: int | None = None

    def put(self, source: Source, data: bytes) -> None:
        """Print what has come of a file; before the first of a later attempt, say on stderr which it is."""
        if self._attempt is not None and source.attempt > self._attempt:
            click.echo(f"==> attempt {source.attempt} <==", err=True)
        self._attempt = max(source.attempt, self._attempt or 0)
        if self._render is None:
            click.echo(data, nl=False)
            return
        from ftslurm.insight.tail import Lines

        for line in self._lines.setdefault(source, Lines()).take(data):
            click.echo(self._render(source, line))

    def turn(self) -> None:
        """Everything is printed as it comes."""

    def end(self) -> None:
        """Print lines that never got their newline."""
        for source, lines in self._lines.items():
            for line in lines.end():
                click.echo(self._render(source, line) if self._render else line)


class _Reader:
    """Reads every source on from where it stopped."""

    def __init__(self, sources: Sources, output: _Output | Merged, lines: int | None) -> None:
        self._sources = sources
        self.output = output
        self._lines = lines
        self._files: dict[Source, Growing] = {}
        self._first = True

    def once(self) -> bool:
        """Print all that is new; whether there was anything.

        Raises:
            StorageError: a log cannot be read.
        """
        from ftslurm.errors import StorageError
        from ftslurm.insight.tail import Growing, start_of_last

        something = False
        for source in self._sources():
            try:
                if source not in self._files:
                    start = start_of_last(source.path, self._lines) if self._first and self._lines is not None else 0
                    self._files[source] = Growing(source.path, start)
                for chunk in self._files[source].chunks():
                    self.output.put(source, chunk)
                    something = True
            except OSError as error:
                raise StorageError(f"cannot read {source.path}: {error.strerror}") from error
        self._first = False
        self.output.turn()
        return something


def _follow(paths: RunPaths, reader: _Reader) -> int:
    """Print until the run has ended and its last output has come: agents ship what is left after the end."""
    life = _Life(paths)
    quiet_since = time.monotonic()
    over_since: float | None = None
    while True:
        something = reader.once()
        sys.stdout.flush()
        now = time.monotonic()
        quiet_since = now if something else quiet_since
        if over_since is None and life.over(now):
            over_since = quiet_since = now
        elif over_since is None and life.lost(now):
            click.echo(f"ftslurm: the job of run {paths.run_id} is gone; `ftslurm status` says more", err=True)
            return RunFailed.exit_code
        if over_since is not None and (now - quiet_since >= QUIET_S or now - over_since >= LATE_S):
            return 0
        time.sleep(POLL_S)


class _Life:
    """Whether there is anybody left to write; looked at now and then, Slurm asked seldom."""

    def __init__(self, paths: RunPaths) -> None:
        self._paths = paths
        self._look = self._ask = float("-inf")

    def over(self, now: float) -> bool:
        """Whether the run has ended by its own word."""
        from ftslurm.core.events import ENDED
        from ftslurm.insight.summary import last_entry

        if now < self._look:
            return False
        self._look = now + LOOK_S
        last = last_entry(self._paths)
        return last is not None and last.phase in ENDED

    def lost(self, now: float) -> bool:
        """Whether nobody holds the run any more, and Slurm has no live job of it. No answer is no word."""
        from ftslurm import journal
        from ftslurm.insight import index
        from ftslurm.slurm.client import SlurmClient

        holder = journal.holder(self._paths)
        if now < self._ask or holder is None or time.time() - holder.t < STILL_S:
            return False
        self._ask = now + ASK_S
        jobs = index.jobs_by_run(self._paths.root.parent).get(self._paths.root.resolve(), (holder.job_id,))
        try:
            known = SlurmClient().jobs(jobs)
        except (ServiceUnavailable, TryAgain, Refused) as error:
            click.echo(f"ftslurm: {error}; still waiting", err=True)
            return False
        return all(job.state.is_over for job in known.values())
