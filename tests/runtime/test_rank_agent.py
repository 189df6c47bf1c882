"""The rank's wrapper when agents come and go, and when the disk under its log is ill."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from ftslurm.runtime import pump, rank
from tests.runtime.conftest import Starter
from tests.runtime.stage import KEY, PATIENCE_S, RANK_PY, Agent, child_of, is_gone, rank_env, start_rank, wait_until

LOUD = """
import os, sys
line = b"x" * 99 + b"\\n"
for _ in range(int(sys.argv[1]) // 10_000):
    os.write(1, line * 90); os.write(2, line * 10)
"""


def test_a_new_agent_adopts_a_running_rank(agent: Agent, start: Starter, folder: Path) -> None:
    """The agent dies and comes back on another port: same pid, state running, and the program never stopped."""
    process = start("sleep", "600")
    first = agent.expect("register")
    agent.go(log=str(folder / "rank.log"))
    agent.die()
    successor = Agent(folder, epoch=2)
    try:
        again = successor.expect("register")
        assert (again["state"], again["pid"], again["start"]) == ("running", first["pid"], first["start"])
        assert not is_gone(again["child"])
        successor.say({"t": "signal", "signum": signal.SIGTERM})
        assert (successor.expect("exit")["signal"], process.wait(PATIENCE_S)) == (15, 143)
    finally:
        successor.die()


def test_an_end_without_an_agent_is_reported_to_the_next(agent: Agent, start: Starter, folder: Path) -> None:
    """What happened while nobody listened is told when somebody does: registered as exited, then the exit."""
    os.mkfifo(folder / "gate")
    process = start("sh", "-c", f"read x < {folder}/gate; echo late >&2; exit 4")
    agent.expect("register")
    agent.go(log=str(folder / "rank.log"))
    agent.die()
    (folder / "gate").write_text("open\n")
    wait_until(lambda: "late" in _text(folder / "rank.log"), "the program ended")
    successor = Agent(folder)
    try:
        assert successor.expect("register")["pid"] == process.pid
        ended = successor.expect("exit")
        assert (ended["code"], ended["tail"]) == (4, "late\n")
        assert process.wait(PATIENCE_S) == 4
    finally:
        successor.die()


def test_an_unacknowledged_end_is_said_again(agent: Agent, start: Starter, folder: Path) -> None:
    """An agent that dies before it acknowledged may have told nobody: the next one hears it too."""
    agent.acks = False
    process = start("false")
    agent.expect("register")
    agent.go(log=str(folder / "rank.log"))
    agent.expect("exit")
    agent.die()
    successor = Agent(folder)
    try:
        assert successor.expect("register")["state"] == "exited"
        assert (successor.expect("exit")["code"], process.wait(PATIENCE_S)) == (1, 1)
    finally:
        successor.die()


def test_an_orphan_kills_its_program(agent: Agent, start: Starter, folder: Path) -> None:
    """Without any agent nobody can fence this rank: after the time it was given it ends, and its log says why."""
    process = start("sh", "-c", "trap '' TERM; sleep 600", FTSLURM_ORPHAN_AFTER="0.5")
    agent.expect("register")
    agent.go(log=str(folder / "rank.log"))
    agent.die()
    assert process.wait(PATIENCE_S) == 75
    assert "no agent for" in _text(folder / "rank.log")


def test_a_rank_that_never_started_leaves_when_its_agent_does(agent: Agent, start: Starter) -> None:
    """Before go there is nothing to lose: the wrapper says so on stderr and ends."""
    process = start("sleep", "600", FTSLURM_ORPHAN_AFTER="0.5")
    agent.expect("register")
    agent.die()
    assert process.wait(PATIENCE_S) == 75
    assert process.stderr is not None
    assert "no agent for" in process.stderr.read()


def test_a_rank_waits_for_its_agent(folder: Path, start: Starter) -> None:
    """Ranks and agents start in any order; a rank whose agent never comes says where it has looked."""
    folder.mkdir(mode=0o700)
    patient, impatient = start("true"), start("true", FTSLURM_AGENT_WAIT="0.5")
    assert impatient.wait(PATIENCE_S) == 75
    assert impatient.stderr is not None
    assert f"{folder} holds no file of an agent for n1" in impatient.stderr.read()
    late = Agent(folder)
    try:
        assert late.expect("register")["pid"] == patient.pid
    finally:
        late.die()


@pytest.mark.parametrize("wrong", [{"key": b"k" * 32}, {"run_id": "another-run"}])
def test_an_agent_of_another_run_is_not_obeyed(folder: Path, wrong: dict[str, object]) -> None:
    """Whoever listens on the agent's port without the key, or for another run, cannot start anything."""
    stranger = Agent(folder, **wrong)  # type: ignore[arg-type]
    try:
        path = folder / "agent-n1.json"
        path.write_text(path.read_text().replace(b"k".hex() * 32, KEY.hex()))
        process = start_rank(rank_env(folder, FTSLURM_AGENT_WAIT="0.6"), "true")
        assert process.wait(PATIENCE_S) == 75
        assert stranger.heard.empty()
        process.communicate()
    finally:
        stranger.die()


def test_an_agent_file_that_others_can_read_is_not_trusted(agent: Agent, folder: Path) -> None:
    """The key in it would not be secret."""
    (folder / "agent-n1.json").chmod(0o644)
    process = start_rank(rank_env(folder, FTSLURM_AGENT_WAIT="0.5"), "true")
    assert process.wait(PATIENCE_S) == 75
    assert process.stderr is not None
    assert "is not a private file of ours" in process.communicate()[1]


def test_the_older_of_two_epochs_is_not_obeyed(agent: Agent, start: Starter, folder: Path) -> None:
    """A rank that has met an agent of epoch 5 lets none of epoch 4 adopt it."""
    agent.die()
    newer = Agent(folder, epoch=5)
    process = start("sleep", "600", FTSLURM_ORPHAN_AFTER="1")
    newer.expect("register")
    newer.go(log=str(folder / "rank.log"))
    wait_until(lambda: child_of(process.pid), "the program runs")
    newer.die()
    older = Agent(folder, epoch=4)
    try:
        assert process.wait(PATIENCE_S) == 75
        assert older.heard.empty()
        assert "epoch 4, which 5 has replaced" in _text(folder / "rank.log")
    finally:
        older.die()


def test_outside_a_launcher_it_says_what_is_missing(folder: Path) -> None:
    """Started by hand it names what it misses and starts nothing."""
    process = start_rank({"PATH": "/usr/bin:/bin"}, "true")
    assert process.wait(PATIENCE_S) == 126
    assert "start it through srun or mpirun" in process.communicate()[1]


# ------------------------------------------------------------------------------------------------------------- the log


def test_no_byte_of_100_mb_is_lost(agent: Agent, start: Starter, folder: Path) -> None:
    """Two streams of 100 MB in all arrive whole, and no line of one is torn by the other."""
    start(sys.executable, "-c", LOUD, "100000000")
    agent.expect("register")
    agent.go(log=str(folder / "rank.log"))
    assert agent.expect("exit", 120)["code"] == 0
    data = (folder / "rank.log").read_bytes()
    assert len(data) == 100_000_000
    line = b"x" * 99 + b"\n"
    assert hashlib.sha256(data).digest() == hashlib.sha256(line * 1_000_000).digest()


def test_a_full_disk_never_reaches_the_program(agent: Agent, start: Starter) -> None:
    """Every write to the log fails with ENOSPC; the program's writes succeed, and its tail is reported."""
    start(sys.executable, "-c", LOUD, "3000000")
    agent.expect("register")
    agent.go(log="/dev/full")
    ended = agent.expect("exit")
    assert (ended["code"], len(ended["tail"])) == (0, pump.TAIL_BYTES)


def test_what_a_broken_disk_lost_is_counted(tmp_path: Path) -> None:
    """The newest MiB is kept while the log cannot be written, and the log says how much is missing before it."""
    (tmp_path / "logs").write_text("a file where the folder should be")
    carrier = pump.Pump(str(tmp_path / "logs" / "rank.log"))
    lines = [b"%08d " % number + b"y" * 90 + b"\n" for number in range(30_000)]
    for line in lines:
        carrier.write(line)
    (tmp_path / "logs").unlink()
    wait_until(lambda: carrier.write(b"") or (tmp_path / "logs" / "rank.log").exists(), "the log is there")
    note, kept = (tmp_path / "logs" / "rank.log").read_bytes().split(b"\n", 1)
    assert b"".join(lines).endswith(kept)
    assert pump.KEPT_BYTES - 100 <= len(kept) <= pump.KEPT_BYTES
    assert note.decode().startswith(f"ftslurm: {30_000 * 100 - len(kept)} bytes of output are missing here: ")


def test_an_unfinished_line_is_not_held_back(agent: Agent, start: Starter, folder: Path) -> None:
    """A progress bar has no newline: what is printed is seen soon, and nothing is added to it."""
    start("sh", "-c", "printf 'step 1'; exec sleep 600")
    agent.expect("register")
    agent.go(log=str(folder / "rank.log"))
    wait_until(lambda: _text(folder / "rank.log") == "step 1", "the line that has not ended is in the log")


def test_output_of_a_daemon_does_not_hold_the_rank(agent: Agent, start: Starter, folder: Path) -> None:
    """A left-over that holds the pipe open is killed, and the rank's end is reported."""
    start("sh", "-c", "setsid sh -c 'trap \"\" TERM HUP; echo left; sleep 600' & sleep 0.3; exit 5")
    agent.expect("register")
    agent.go(log=str(folder / "rank.log"))
    assert agent.expect("exit")["code"] == 5
    assert _text(folder / "rank.log") == "left\n"


@pytest.mark.parametrize("python", sorted(Path.home().glob(".pyenv/versions/3.[89].*/bin/python")) or [sys.executable])
def test_a_few_files_and_an_old_python_are_enough(tmp_path: Path, folder: Path, agent: Agent, python: Path) -> None:
    """Copied into a user's container: no package, no site, Python from 3.8 on."""
    for name in rank.FILES:
        (tmp_path / name).write_bytes((RANK_PY.parent / name).read_bytes())
    process = start_rank(rank_env(folder), "true", python=str(python), file=tmp_path / "rank.py")
    agent.expect("register")
    agent.go(setup=["true"], log=str(folder / "rank.log"))
    assert (agent.expect("exit")["code"], process.wait(PATIENCE_S)) == (0, 0)
    assert process.communicate()[1] == ""


@pytest.mark.parametrize(
    ("command", "level", "words"),
    [
        (["true"], "info", "rank 3 has ended with code 0"),
        (["sh", "-c", "kill -9 $$"], "error", "rank 3 has ended with signal 9"),
        (["/no/such/program"], "error", "rank 3 cannot be started: "),
    ],
)
def test_the_wrapper_logs_how_its_rank_ended(
    agent: Agent, start: Starter, folder: Path, command: list[str], level: str, words: str
) -> None:
    """Beside the output lie lines for log collectors, of the same form as those of ftslurm's other processes."""
    process = start(*command, SLURM_JOB_ID="9", SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="2")
    agent.expect("register")
    agent.go(log=str(folder / "rank.log"))
    agent.expect("exit")
    process.wait(PATIENCE_S)
    last = json.loads(_text(folder / "rank.ndjson").splitlines()[-1])
    assert (last["log.level"], last["message"][: len(words)]) == (level, words)
    assert last["@timestamp"].endswith("Z")
    labels = {name: last["labels"][name] for name in ("job_id", "rank", "role")}
    assert labels == {"job_id": "7_2", "rank": "3", "role": "wrapper"}
    assert set(last["labels"]) == {"run_id", "job_id", "attempt", "node", "rank", "role"}
    assert (last["event"]["outcome"] == "failure") == (level == "error")


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
