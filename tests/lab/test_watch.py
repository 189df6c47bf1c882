"""`ftslurm status --watch` beside a real run: painted on a terminal, and in plain lines where there is none."""

from __future__ import annotations

import signal
import subprocess

import pytest

from ftslurm.lab.cluster import Cluster
from ftslurm.lab.machine import Who
from tests.cli.onterminal import LIMIT_S, terminal
from tests.lab.longer import long_test
from tests.lab.training import LabRun, patient

pytestmark = pytest.mark.lab


def watching(run: LabRun) -> list[str]:
    """The command of the run's own user on the login host."""
    argv = ["ftslurm", "status", "--watch", "--interval", "0.5", str(run.root)]
    return run.lab.command("login", argv, Who(user=run.lab.user, env={"TERM": "xterm-256color"}))


@long_test("a display that follows a whole run")
@pytest.mark.timeout(400)
def test_a_killed_rank_and_a_cut_node_are_seen_while_they_happen(lab: Cluster) -> None:
    """On a terminal in a picture that is given back in the end; off it in a line each; both end with the run."""
    run = patient(lab, name="watched", nodes=3, user=lab.user)
    with (
        subprocess.Popen(watching(run), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as told,
        terminal(watching(run)) as on,
    ):
        try:
            first = on.read("q leaves")
            assert "training" in first
            assert "ooo" in first
            run.processes("rank")[-1].send(signal.SIGKILL)
            on.read("rank_killed")
            run.wait("the next attempt", lambda: len(run.restored_steps()) == 2)
            newest = run.newest()
            run.wait("checkpoints go on", lambda: run.newest() > newest)
            lab.cut("n3")
            on.read("n3 lost")
            run.wait("the attempt after that", lambda: len(run.restored_steps()) == 3)
            run.enough()
            assert on.end() == 0, run.story()
            lines, complaints = told.communicate(timeout=LIMIT_S)
        finally:
            told.kill()
    assert (told.returncode, complaints) == (0, ""), lines
    assert on.written.count("\x1b[?1049h") == on.written.count("\x1b[?1049l") == 1
    assert "finished" in on.written[on.written.rindex("\x1b[?1049l") :]
    assert "\x1b" not in lines
    order = ["training attempt=0", "! rank_killed", "training attempt=1", "! node_unreachable", "(n3 lost)", "finished"]
    places = [lines.index(word) for word in order]
    assert places == sorted(places), lines
    assert "finished attempt=2 nodes=2 ranks=2" in lines
    assert run.wait_end() == ("finished", 0)
