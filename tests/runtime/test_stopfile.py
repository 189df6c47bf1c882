from __future__ import annotations

import os
from pathlib import Path

import pytest

from ftslurm.core.events import StopRequested
from ftslurm.paths import RunPaths
from ftslurm.runtime.requests import RequestWatch
from ftslurm.runtime.stopfile import request_stop, withdraw

NOBODY = 65534


class Watched:
    """A run's folder, and what its supervisor hears."""

    def __init__(self, root: Path) -> None:
        self.paths = RunPaths(root)
        self.paths.requests.mkdir()
        self.heard: list[StopRequested] = []
        self._watch = RequestWatch(self.paths, self.heard.append)

    def look(self) -> list[StopRequested]:
        """What is heard now, in all."""
        self._watch.look()
        return self.heard


@pytest.fixture
def run(tmp_path: Path) -> Watched:
    """A run's folder."""
    return Watched(tmp_path)


@pytest.mark.parametrize("place", [0, 1], ids=["requests", "the run's folder"])
@pytest.mark.parametrize(("text", "save"), [("after-save\n", True), ("now", False)])
def test_a_file_stops_the_run_once(run, place, text, save):
    """The two words are obeyed, who owns the file is told, and the file is gone."""
    path = run.paths.stops[place]
    path.write_text(text)
    (heard,) = run.look()
    assert (heard.why, heard.save) == ("user", save)
    assert f"(uid {os.getuid()})" in heard.by
    assert not path.exists()
    assert len(run.look()) == 1


@pytest.mark.parametrize("text", ["", "after-save; rm -rf /", "AFTER-SAVE", "x" * 100_000, "\x1b[2J"])
def test_any_other_text_is_not_obeyed(run, text):
    """Nothing but the two words is believed; the file stays for its owner to see."""
    run.paths.stops[0].write_text(text)
    assert run.look() == []
    assert run.paths.stops[0].exists()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/etc/passwd")])
def test_what_is_no_file_neither_stops_nor_blocks(run, make):
    """A pipe would hang a careless reader, a link would lead it elsewhere."""
    make(run.paths.stops[0])
    assert run.look() == []
    run.paths.stops[1].write_text("now")
    assert len(run.look()) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file to another user needs root")
def test_whose_file_it_is_is_told(run):
    """The owner's uid, and the name where there is one."""
    path = run.paths.stops[1]
    path.write_text("after-save")
    os.chown(path, NOBODY, NOBODY)
    assert f"(uid {NOBODY})" in run.look()[0].by
    path.write_text("now")
    os.chown(path, 4_000_000, -1)
    assert run.look()[1].by == "uid 4000000"


def test_what_nobody_has_seen_is_withdrawn(run):
    """A run that is resumed does not stop for what was asked of it before."""
    request_stop(run.paths.stops, after_save=True)
    assert len(withdraw(run.paths.stops)) == 1
    assert run.look() == []
    assert withdraw(run.paths.stops) == ()
