"""Names and words that come from outside, on every surface that people or programs read.

A new surface is one line in SURFACES: what it is called, what kind of reader it has, and a function that produces what
that reader gets of a run whose journal, logs, store and ledger are full of `EVIL`.
"""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ftslurm import cli
from ftslurm.checkpoint.commit import quarantine
from ftslurm.core.conditions import NodeHealth
from ftslurm.core.events import StoreDiffers
from ftslurm.core.fabric import RingChanged, RingState
from ftslurm.core.health import Level
from ftslurm.core.lemons import Mark
from ftslurm.ledger import Writer
from ftslurm.observe_section import Observe
from ftslurm.observer.__main__ import observe
from ftslurm.paths import RunPaths
from ftslurm.runtime import hooks, logs
from ftslurm.runtime.voice import Voice
from tests.checkpoint.world import AT, World
from tests.insight.journals import DEAD, NODES, Tale, config_policy, make_run
from tests.observer.worlds import now
from tests.slurm.fake import FakeSlurm

EVIL = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>",
    '"><evil attribute="',
    "\x1b[2J\x1b]0;owned\x07",
    "\nforged: all is well\r\nforged: again",
    "over\rforged",
    "\u202eexe.txt\u2066\u200f",
    "\u2028forged\u2029forged\x85forged",
    "\x9b2J\x7f\x00\x08",
    '\\ {label="x"} 1\n# HELP forged',
    "\ud800\U000e0041",
)  # fmt: skip
ALL = "x".join(EVIL)
NODE = f"n3{ALL}"
JOB = "101"


# -------------------------------------------------------------------------------------------------- who reads it


def for_its_own_lines(text: str) -> None:
    """Lines of printable characters: the lines of a program's own output, or of what the user has typed."""
    bad = [
        c for c in text if c != "\n" and (unicodedata.category(c)[0] == "C" or unicodedata.category(c) in ("Zl", "Zp"))
    ]
    assert not bad, f"{bad[0]!a} in {text[max(text.index(bad[0]) - 60, 0) :][:120]!a}"


def for_a_terminal(text: str) -> None:
    """The same, and no line is begun by what stands in a name."""
    for_its_own_lines(text)
    forged = [line for line in text.split("\n") if line.startswith("forged")]
    assert not forged, forged


def for_json(text: str) -> None:
    """What a terminal may read, and one JSON document, or one a line."""
    for_a_terminal(text)
    try:
        json.loads(text)
    except ValueError:
        for line in text.splitlines():
            json.loads(line)


class _Page(HTMLParser):
    """The elements and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [tag, *(name for name, _ in attrs), *(f"src={value}" for name, value in attrs if name == "src")]


def for_a_browser(text: str) -> None:
    """No element and no attribute is of somebody else's making; nothing turns the direction of writing."""
    page = _Page()
    page.feed(text)
    assert not {"evil", "onerror", "attribute", "src=x"} & set(page.found)
    assert "<script>alert" not in text
    for_its_own_lines(text)


def for_prometheus(text: str) -> None:
    """Each line is a comment or a sample whose labels are quoted; no sample is forged."""
    for_a_terminal(text)
    for line in text.splitlines():
        assert line.startswith(("#", "ftslurm_")), line
        assert not line.startswith("# HELP forged")


# ------------------------------------------------------------------------------------------------------ the run


@dataclass
class Place:
    """A run of hostile words, and the world around it."""

    run: RunPaths
    world: World
    ledger: Path
    capfd: pytest.CaptureFixture[str]

    def printed(self, *argv: str) -> str:
        """What a command prints, on both streams."""
        self.capfd.readouterr()
        cli.exit_code(list(argv))
        done = self.capfd.readouterr()
        return done.out + done.err

    def out(self, *argv: str) -> str:
        """What a command prints on stdout."""
        self.capfd.readouterr()
        cli.exit_code(list(argv))
        return self.capfd.readouterr().out

    def on_a_terminal(self, *argv: str) -> str:
        """What a command prints where stdout is one."""
        ours, theirs = pty.openpty()
        environ = {**os.environ, "COLUMNS": "120", "TERM": "xterm"}
        code = f"from ftslurm import cli; cli.main({list(argv)!r})"
        process = subprocess.Popen([sys.executable, "-c", code], stdout=theirs, stderr=subprocess.PIPE, env=environ)
        os.close(theirs)
        found = bytearray()
        while data := _read(ours):
            found += data
        process.communicate(timeout=60)
        os.close(ours)
        return found.decode("utf-8", "surrogateescape").replace("\r\n", "\n")  # the terminal's own line ends


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # EIO: nobody writes any more
        return b""


def tale() -> Tale:
    """A rank that fails with hostile last words, a node of a hostile name that is lost, a store that refuses."""
    told = Tale(config_policy(), nodes=(*NODES[:2], NODE, NODES[3]), job_id=JOB)
    told.start().save(100, after=10).crash(1, tail=f"Traceback:\n{ALL}\nValueError: {ALL}").launched()
    words = {who: (what, f"{detail} {ALL}") for who, (what, detail) in DEAD.items()}
    told.lose(NODE, words).launched()
    told.happen(NodeHealth(node="n1", level=Level.CRITICAL, metric=ALL, device=ALL, reason=ALL), after=1.0)
    told.happen(StoreDiffers(generation="000000100-0000", reason=ALL), after=1.0)
    told.happen(RingChanged(state=RingState.LOST, nodes=NODES[:2], detail=ALL), after=1.0)
    return told


def fill_logs(run: RunPaths) -> None:
    """What ranks printed, and what ftslurm's own processes logged."""
    folder = run.attempt_logs(2)
    folder.mkdir()
    for rank in range(2):
        run.rank_log(2, rank).write_bytes(f"{ALL}\n50%\r100%\n{ALL}".encode("utf-8", "replace"))
    record = {
        "@timestamp": "2026-02-25T06:13:20.123Z", "log.level": "error", "message": ALL,
        "labels": {"node": NODE, "role": ALL, "rank": ALL}, "error": {"stack_trace": f"Traceback\n{ALL}"},
    }  # fmt: skip
    bad = {**record, "@timestamp": ALL, "log.level": ALL}
    lines = [json.dumps(record), json.dumps(bad), f"torn {ALL.splitlines()[0]}"]
    run.process_log(2, "agent", "n1").write_text("\n".join(lines), errors="replace")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Place]:
    """The run, its store, its logs, the ledger, and a Slurm that has a hostile reason for everything."""
    (tmp_path / "slurm").mkdir()
    fake = FakeSlurm(tmp_path / "slurm")
    for name in ("PATH", "FAKE_SLURM_STATE"):
        monkeypatch.setenv(name, fake.environ[name])
    monkeypatch.setenv("FTSLURM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("FTSLURM_RUN_ROOT", raising=False)
    monkeypatch.delenv("FTSLURM_LEDGER", raising=False)
    world = World(tmp_path / "world")
    world.save(1, {"n1": {"step_1/a.pt": b"x"}})
    world.save(2, {"n1": {"step_2/a.pt": b"x"}})
    quarantine(world.store, "000000002-0000", ALL, AT)
    run = make_run(tmp_path / "home" / "runs", tale(), checkpoint={"files": "step_*.pt", "shared": str(world.store)})
    fill_logs(run)
    ledger = tmp_path / "home" / "runs" / "ledger"
    Writer(ledger, "test").mark(Mark(node="n1", at=time.time(), cause=ALL, reason=ALL, run=ALL, job=ALL))
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    yield Place(run, world, ledger, capfd)
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)


# ------------------------------------------------------------------------------------------------- the surfaces


@contextmanager
def unheard() -> Iterator[None]:
    """Nobody else hears what is logged: a lone surrogate in pytest's report cannot be sent from a worker."""
    root = logging.getLogger()
    before, root.handlers[:] = root.handlers[:], []
    try:
        yield
    finally:
        root.handlers[:] = before


def said_by_a_process(place: Place) -> str:
    """Standard error of a process that logs, and its file."""
    place.capfd.readouterr()
    with unheard():
        logs.to_file(logs.Process(paths=place.run, role="agent", job_id=ALL, node="n2"))
        error = OSError(ALL)
        logs.complain(logging.getLogger("hostile"), error, ALL)
        logs.finish(60.0)
    return place.capfd.readouterr().err + place.run.process_log(0, "agent", "n2").read_text()


def said_to_the_job(place: Place) -> str:
    """The job's own output, as far as it is ftslurm's."""
    del place
    before, sys.stdout = sys.stdout, io.StringIO()
    try:
        voice = Voice()
        voice.say(f"rank 1 failed: {ALL.splitlines()[0]}{ALL}")
        voice.close()
        return sys.stdout.getvalue()
    finally:
        sys.stdout = before


def said_by_a_hook(place: Place) -> str:
    """A hook that prints hostile words: the supervisor's log and standard error."""
    place.capfd.readouterr()
    words = ALL.replace("\0", "").encode("utf-8", "replace").decode()
    with unheard():
        logs.to_file(logs.Process(paths=place.run, role="supervisor", job_id=JOB, node="n1"))
        hooks.Hooks({}, place.run.run_id)._run((sys.executable, "-c", "import sys; print(sys.argv[1])", words), b"{}")
        logs.finish(60.0)
    return place.capfd.readouterr().err + place.run.process_log(0, "supervisor", "n1").read_text()


def metrics(place: Place) -> str:
    """The textfile that Prometheus reads, of a run whose job has a hostile name, user and partition."""
    job = {"name": ALL, "job_id": ALL, "user": ALL, "partition": ALL}
    told = [{"job": job, "observe": Observe(metrics="textfile").plain()}, {"now": now(tale())}]
    observe(place.run, io.StringIO("".join(json.dumps(line) + "\n" for line in told)))
    return place.run.metrics.read_text(encoding="utf-8")


def report(place: Place, *suffixes: str) -> str:
    """What `ftslurm report` writes, of the files with these endings."""
    folder = place.run.root / "told"
    assert cli.exit_code(["report", JOB, "--out", str(folder)]) == 0
    found = [path for path in sorted(folder.iterdir()) if path.suffix in suffixes]
    assert found
    return "".join(path.read_text(encoding="utf-8") for path in found)


def drawn_faults(place: Place) -> str:
    """The picture of the faults that the ledger and the journal know."""
    picture = place.run.root / "faults.svg"
    assert cli.exit_code(["nodes", "--analyze", "--picture", str(picture)]) == 0
    return picture.read_text(encoding="utf-8")


def store(place: Place) -> str:
    """The store's own folder."""
    return str(place.world.store)


class Surface(NamedTuple):
    """Something that is read, by whom, and how it comes about."""

    name: str
    reader: Callable[[str], None]
    produce: Callable[[Place], str]


COLUMNS = "+CODE,DURABLE,EPOCH,EXCLUDED,FOLDER,HEALTH,RANKS,REQUEUES,RUN,STATE,SUPERVISOR,WANTED"
SURFACES = (
    Surface("status", for_a_terminal, lambda place: place.printed("status", JOB)),
    Surface("status, all columns", for_a_terminal, lambda place: place.printed("status", "-o", COLUMNS)),
    Surface("status --parsable", for_a_terminal, lambda place: place.printed("status", "--parsable", "-o", COLUMNS)),
    Surface("status --json", for_json, lambda place: place.out("status", "--json")),
    Surface("explain", for_a_terminal, lambda place: place.printed("explain", JOB)),
    Surface("explain -v", for_a_terminal, lambda place: place.printed("explain", JOB, "-v")),
    Surface("explain --json", for_json, lambda place: place.out("explain", JOB, "-v", "--json")),
    Surface("logs on a terminal", for_its_own_lines, lambda place: place.on_a_terminal("logs", JOB)),
    Surface("logs of all ranks", for_a_terminal, lambda place: place.on_a_terminal("logs", JOB, "--rank", "all")),
    Surface("logs --own", for_a_terminal, lambda place: place.printed("logs", JOB, "--own")),
    Surface("logs --level", for_json, lambda place: place.out("logs", JOB, "--level", "error", "--json")),
    Surface("nodes", for_a_terminal, lambda place: place.printed("nodes")),
    Surface("nodes --json", for_json, lambda place: place.out("nodes", "--json")),
    Surface("nodes --analyze", for_a_terminal, lambda place: place.printed("nodes", "--analyze")),
    Surface("nodes --analyze --json", for_json, lambda place: place.out("nodes", "--analyze", "--json")),
    Surface("nodes --analyze --picture", for_a_browser, drawn_faults),
    Surface("checkpoint ls", for_a_terminal, lambda place: place.printed("checkpoint", "ls", store(place))),
    Surface("checkpoint ls --json", for_json, lambda place: place.out("checkpoint", "ls", store(place), "--json")),
    Surface("checkpoint log", for_a_terminal, lambda place: place.printed("checkpoint", "log", JOB)),
    Surface("checkpoint verify", for_a_terminal, lambda place: place.printed("checkpoint", "verify", JOB)),
    Surface("an error about a run", for_its_own_lines, lambda place: place.printed("explain", ALL.replace("/", ""))),
    Surface("an error about a folder", for_its_own_lines, lambda place: place.printed("explain", f"/{ALL}".replace("\0", ""))),
    Surface("an error about a node", for_its_own_lines, lambda place: place.printed("logs", JOB, "--agent", NODE)),
    Surface("an error about an option", for_its_own_lines, lambda place: place.printed("status", f"--{ALL}")),
    Surface("an error about a command", for_its_own_lines, lambda place: place.printed(ALL)),
    Surface("report --json", for_json, lambda place: place.out("report", JOB, "--json")),
    Surface("the report's page", for_a_browser, lambda place: report(place, ".html")),
    Surface("the report's pictures", for_a_browser, lambda place: report(place, ".svg")),
    Surface("the report's data", for_its_own_lines, lambda place: report(place, ".json")),
    Surface("the report's tables", for_its_own_lines, lambda place: report(place, ".csv").replace("\r\n", "\n")),
    Surface("metrics", for_prometheus, metrics),
    Surface("the log of a process", for_a_terminal, said_by_a_process),
    Surface("what a hook printed", for_a_terminal, said_by_a_hook),
    Surface("the job's own output", for_a_terminal, said_to_the_job),
)  # fmt: skip


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
def test_no_name_acts_on_its_reader(surface: Surface, place: Place) -> None:
    """Whatever is in a job's name, a node's, a rank's last words or a log line: it is shown, and does nothing."""
    text = surface.produce(place)
    assert text.strip()
    surface.reader(text)


@pytest.mark.parametrize(
    ("reader", "text"),
    [
        *((for_a_terminal, text) for text in EVIL[2:8]),
        *((for_its_own_lines, text) for text in EVIL[4:8]),
        (for_a_browser, f"<p>{EVIL[0]}</p>"),
        (for_a_browser, f'<p title="{EVIL[1]}">'),
        (for_prometheus, f'ftslurm_run_info{{name="{EVIL[8]}"}} 1'),
        (for_json, "[1"),
    ],
)
def test_the_readers_notice(reader: Callable[[str], Any], text: str) -> None:
    """Each reader of these tests does object to what it is there for."""
    with pytest.raises((AssertionError, ValueError)):
        reader(text)
