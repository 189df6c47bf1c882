from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from ftslurm.config import Config
from ftslurm.observer.__main__ import observe
from ftslurm.runtime import observing
from ftslurm.runtime.observing import Observing
from tests.insight.journals import CONFIG, Tale
from tests.observer.test_families import samples
from tests.observer.worlds import eventful, lines_of, now, run_with

PATIENCE_S = 30.0
TELL = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read())"


def observed(paths, lines: str) -> None:
    """Let an observer read these lines to their end."""
    observe(paths, io.StringIO(lines))


def test_it_tells_takes_away_and_ends(tmp_path, caplog):
    """A whole run: the end is told, the file is gone, nothing is complained of."""
    tale = eventful().finish()
    out = tmp_path / "out"
    notify = [{"on": ["failure", "finished"], "exec": [sys.executable, "-c", TELL, str(out)], "every": "1h"}]
    paths = run_with(tmp_path)
    observed(paths, lines_of(tale, notify=notify))
    assert caplog.records == []
    assert not paths.metrics.exists()
    told = [event["occasion"] for line in out.read_text().splitlines() for event in json.loads(line)["events"]]
    assert (told[0], told[-1]) == ("failure", "finished")


def test_where_the_supervisor_was_killed_the_file_stays(tmp_path):
    """No word of an end: the series stand, and the age of the supervisor's heartbeat tells."""
    tale = eventful()
    paths = run_with(tmp_path)
    observed(paths, lines_of(tale, end=False))
    found = samples(paths.metrics.read_text())
    assert found["ftslurm_heartbeat_unixtime", ()] == pytest.approx(tale.now)
    assert found["ftslurm_attempts_total", ()] == 3


def test_what_was_before_is_learnt_from_the_journal_and_counted_once(tmp_path):
    """A second supervisor's observer knows the whole run; entries that it has read it does not count again."""
    tale = eventful()
    paths = run_with(tmp_path, tale)
    observed(paths, lines_of(tale, end=False))
    once = samples(paths.metrics.read_text())
    assert once["ftslurm_attempts_total", ()] == 3
    assert once["ftslurm_checkpoints_total", (("outcome", "saved"),)] == 5


@pytest.mark.parametrize("damage", ["", "{}", "\x00\xff"])
def test_a_journal_that_cannot_be_read_ends_nothing(tmp_path, damage, caplog):
    """Metrics then begin with what comes, and that is said."""
    tale = Tale().start()
    paths = run_with(tmp_path)
    paths.journal(1).write_text(f"{damage}\n{damage}\n" if damage else "")
    observed(paths, lines_of(tale, end=False))
    assert ("the journal cannot be read" in caplog.text) == bool(damage)
    assert paths.metrics.exists()


def context_of(paths, **wanted: object) -> SimpleNamespace:
    """As much of a supervisor's context as the feed looks at."""
    config = Config.model_validate({**CONFIG, "observe": wanted})
    job = SimpleNamespace(requeue_id="101", user="ada", partition="gpu")
    return SimpleNamespace(paths=paths, config=config, job=job)


def test_the_feed_gives_a_process_what_happens(tmp_path):
    """From the supervisor's side: entries go in, the file comes; at the end both are gone."""
    tale = eventful()
    paths = run_with(tmp_path)
    fed = Observing(context_of(paths), lambda: now(tale))
    fed.start()
    for entry in tale.entries:
        fed.entry(entry.line())
    child = None
    deadline = threading.Event()
    for _ in range(int(PATIENCE_S / 0.05)):
        child = fed._child or child
        if paths.metrics.exists():
            break
        deadline.wait(0.05)
    assert paths.metrics.exists()
    fed.close(PATIENCE_S)
    assert not paths.metrics.exists()
    assert child is not None
    assert child.returncode == 0


def test_nothing_is_started_where_nothing_is_asked_for(tmp_path):
    """`metrics: none` and nobody to tell: no process, no thread, no line kept."""
    fed = Observing(context_of(run_with(tmp_path), metrics="none"), dict)
    fed.start()
    fed.entry("{}")
    fed.close()
    assert fed._thread is None
    assert fed._lines.empty()


def test_a_process_that_hangs_holds_nobody_up(tmp_path, monkeypatch):
    """Entries are taken without a wait, up to a limit, and the end waits for its deadline only."""
    monkeypatch.setattr(observing, "MODULE", "this_module_is_not_there")
    monkeypatch.setattr(observing, "MOST_WAITING", 5)
    stuck = [sys.executable, "-c", "import time; time.sleep(600)"]
    real = subprocess.Popen
    monkeypatch.setattr(observing.subprocess, "Popen", lambda argv, **how: real(stuck, **how))
    fed = Observing(context_of(run_with(tmp_path)), lambda: {"much": "x" * 200_000})
    fed.start()
    for _ in range(100):
        fed.entry("{}")
    assert fed._lost
    fed.close(0.5)
    assert fed._child is None
