from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.runtime.conftest import Starter
from tests.runtime.stage import PATIENCE_S, RUN_ID, Agent, child_of, is_gone, rank_env, start_rank, wait_until

WORKER_TREE = Path(__file__).parents[1] / "programs" / "worker_tree.py"
SLEEP = ("sleep", "600")


def test_a_rank_says_who_it_is_and_how_it_ended(agent: Agent, start: Starter, folder: Path) -> None:
    """Register, go, exit, ack: identity, code and stderr's tail arrive, and the launcher sees the program's code."""
    process = start("sh", "-c", "echo out; echo why >&2; exit 7")
    said = agent.expect("register")
    assert (said["rank"], said["world"], said["local_rank"], said["attempt"], said["node"]) == (3, 4, 1, 2, "n1")
    assert (said["pid"], said["state"], said["child"]) == (process.pid, "waiting", None)
    agent.go(log=str(folder / "rank.log"))
    ended = agent.expect("exit")
    assert (ended["attempt"], ended["rank"], ended["code"], ended["signal"], ended["tail"]) == (2, 3, 7, 0, "why\n")
    assert process.wait(PATIENCE_S) == 7
    assert sorted((folder / "rank.log").read_text().splitlines()) == ["out", "why"]


def test_under_mpirun_the_rank_is_the_mpi_rank(agent: Agent, folder: Path) -> None:
    """SLURM_PROCID is 0 for every rank of mpirun: the MPI library's names count, and the only agent is ours."""
    names = {"PMIX_RANK": "5", "OMPI_COMM_WORLD_SIZE": "6", "OMPI_COMM_WORLD_LOCAL_RANK": "2", "SLURM_PROCID": "0"}
    process = start_rank(rank_env(folder, FTSLURM_LAUNCHER="mpirun", SLURMD_NODENAME="other", **names), "true")
    said = agent.expect("register")
    assert (said["rank"], said["world"], said["local_rank"], said["node"]) == (5, 6, 2, "n1")
    agent.say({"t": "kill"})
    assert process.wait(PATIENCE_S) == 137
    process.communicate()


def test_the_environment_is_the_one_of_the_attempt(agent: Agent, start: Starter, folder: Path) -> None:
    """Names are set and unset as told; the marks that fencing needs cannot be changed; stdin is empty."""
    start("sh", "-c", "env; cat", STALE="old", FTSLURM_ROLE="agent", FTSLURM_KEY_FILE="/nowhere")
    agent.expect("register")
    agent.go(env={"RANK": "3", "FTSLURM_ATTEMPT": "9"}, unset=["STALE"], log=str(folder / "rank.log"))
    agent.expect("exit")
    lines = (folder / "rank.log").read_text().splitlines()
    assert {"RANK=3", "FTSLURM_ATTEMPT=2", "FTSLURM_RANK=3", f"FTSLURM_RUN_ID={RUN_ID}"} <= set(lines)
    assert not [line for line in lines if line.startswith(("STALE=", "FTSLURM_ROLE=", "FTSLURM_KEY_FILE="))]


def test_the_command_can_be_replaced(agent: Agent, start: Starter, folder: Path) -> None:
    """The plan's argv wins over the one behind `--`, and its arguments are never read by a shell."""
    start("false")
    agent.expect("register")
    agent.go(argv=["printf", "%s|", "$(id)", "a b", "'"], log=str(folder / "rank.log"))
    assert agent.expect("exit")["code"] == 0
    assert (folder / "rank.log").read_text() == "$(id)|a b|'|"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("no-such-program", (127, "no-such-program cannot be started")),
        ("/etc", (126, "Permission denied")),
        ("true\0x", (126, "null")),
    ],
)
def test_a_command_that_cannot_start_says_why(
    agent: Agent, start: Starter, folder: Path, command: str, expected: tuple[int, str]
) -> None:
    """127 and 126 as in a shell, with the reason in the tail and in the log."""
    code, words = expected
    process = start("true")
    agent.expect("register")
    agent.go(argv=[command], log=str(folder / "rank.log"))
    ended = agent.expect("exit")
    assert ended["code"] == code == process.wait(PATIENCE_S)
    assert words in ended["tail"]
    assert words in (folder / "rank.log").read_text()


def test_set_up_lines_prepare_the_program(agent: Agent, start: Starter, folder: Path) -> None:
    """Lines run in one bash, in order, with exports kept; the program gets its own arguments, whatever they contain."""
    lines = ["export A=1", "f() { echo $((A + 1)); }", "export B=$(f)", "set -- eaten", "cd /"]
    start("sh", "-c", 'echo "$A $B $PWD $1"', "sh", "it's $HOME")
    agent.expect("register")
    agent.go(setup=lines, log=str(folder / "rank.log"))
    assert agent.expect("exit")["code"] == 0
    assert (folder / "rank.log").read_text() == "1 2 / it's $HOME\n"


@pytest.mark.parametrize("line", ["false; true", "source /no/such/file", "cd /nowhere", "exit 0", "if"])
def test_a_failing_set_up_line_is_named(agent: Agent, start: Starter, folder: Path, line: str) -> None:
    """The first line that fails ends the rank with 126, and the program is never started."""
    start("touch", str(folder / "ran"))
    agent.expect("register")
    agent.go(setup=["true", line, "true"], log=str(folder / "rank.log"))
    ended = agent.expect("exit")
    assert ended["code"] == 126
    assert f"in: {line}\n" in ended["tail"]
    assert not (folder / "ran").exists()


def test_modules_are_loaded_by_the_sites_module_function(agent: Agent, start: Starter, folder: Path) -> None:
    """`module` is taken from $MODULESHOME where it is no function yet; a module that does not load is named."""
    (folder / "init").mkdir()
    (folder / "init" / "bash").write_text('module() { echo "$*"; [ "$2" != bad ]; }\n')
    start("echo", "ran", MODULESHOME=str(folder))
    agent.expect("register")
    agent.go(modules=["cuda/12.8", "a b", "bad"], log=str(folder / "rank.log"))
    assert "in: module load 'bad'\n" in agent.expect("exit")["tail"]
    assert (folder / "rank.log").read_text().splitlines()[:3] == ["load cuda/12.8", "load a b", "load bad"]


def test_nothing_of_the_tree_is_left(agent: Agent, start: Starter, folder: Path) -> None:
    """A killed program takes plain, stubborn and re-parented children with it before its end is reported."""
    start(sys.executable, str(WORKER_TREE), str(folder / "tree"))
    agent.expect("register")
    agent.go(log=str(folder / "rank.log"))
    pids = wait_until(lambda: _announced(folder / "tree", 4), "four processes announced themselves")
    os.kill(pids["rank"], signal.SIGKILL)
    ended = agent.expect("exit")
    assert (ended["code"], ended["signal"]) == (137, 9)
    assert [kind for kind, pid in pids.items() if not is_gone(pid)] == []


def test_kill_ends_the_whole_tree_at_once(agent: Agent, start: Starter, folder: Path) -> None:
    """The agent's word is enough, for a program that ignores SIGTERM too."""
    process = start(sys.executable, str(WORKER_TREE), str(folder / "tree"))
    agent.expect("register")
    agent.go(log=str(folder / "rank.log"))
    pids = wait_until(lambda: _announced(folder / "tree", 4), "four processes announced themselves")
    agent.say({"t": "kill"})
    assert agent.expect("exit")["signal"] == 9
    assert [kind for kind, pid in pids.items() if not is_gone(pid)] == []
    assert process.wait(PATIENCE_S) == 137


def test_a_killed_wrapper_takes_its_program_along(agent: Agent, start: Starter, folder: Path) -> None:
    """SIGKILL of the wrapper, by Slurm or by the memory killer, leaves no program behind that nobody watches."""
    process = start(*SLEEP)
    agent.expect("register")
    agent.go(log=str(folder / "rank.log"))
    child = wait_until(lambda: child_of(process.pid), "the program runs")
    process.kill()
    wait_until(lambda: is_gone(child), "the program is gone")


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "USR1", "USR2"])
def test_a_signal_reaches_the_program_once_and_the_wrapper_stays(
    agent: Agent, start: Starter, folder: Path, name: str
) -> None:
    """What Slurm sends to the task is for the program, which may take its time to save."""
    process = start("bash", "-c", f"trap 'echo got {name}' {name}; echo ready; sleep 600 & wait; wait; echo end")
    agent.expect("register")
    log = folder / "rank.log"
    agent.go(log=str(log))
    wait_until(lambda: log.exists() and "ready" in log.read_text(), "the trap is set")
    process.send_signal(getattr(signal, f"SIG{name}"))
    wait_until(lambda: "got" in log.read_text(), "the program got the signal")
    assert log.read_text().count("got") == 1
    assert process.poll() is None


def test_the_agents_signal_reaches_group_or_program(agent: Agent, start: Starter, folder: Path) -> None:
    """`to: child` spares the program's helpers, for whom SIGTERM would be the end; the group gets it by default."""
    log = folder / "rank.log"
    start("bash", "-c", "bash -c \"trap 'echo helper' TERM; echo ready; while :; do sleep .05; done\" & "
          "trap 'echo program' TERM; while :; do wait; done")  # fmt: skip
    agent.expect("register")
    agent.go(log=str(log))
    wait_until(lambda: log.exists() and "ready" in log.read_text(), "the helper is ready")
    agent.say({"t": "signal", "signum": signal.SIGTERM, "to": "child"})
    wait_until(lambda: "program" in log.read_text(), "the program got it")
    assert "helper" not in log.read_text()
    agent.say({"t": "signal", "signum": signal.SIGTERM})
    wait_until(lambda: "helper" in log.read_text(), "the helper got it")


def _announced(folder: Path, count: int) -> dict[str, int]:
    found = [path.read_text().split() for path in folder.glob("attempt-2-*")]
    return {kind: int(pid) for kind, pid, _ in found} if len(found) == count else {}
