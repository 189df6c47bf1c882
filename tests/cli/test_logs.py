from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftslurm import cli, journal
from ftslurm.paths import RunPaths
from tests.insight.journals import Tale, config_policy, make_run

FOLLOW = (
    "import ftslurm.cli.logs as l; l.POLL_S = l.LOOK_S = 0.02; l.QUIET_S = {quiet}; l.STILL_S = {still};"
    "from ftslurm import cli; cli.main(['logs', {name!r}, '-f', *{more!r}])"
)


def write(paths: RunPaths, attempt: int, rank: int, data: bytes) -> None:
    """What a rank has printed, as its agent ships it: appended."""
    path = paths.rank_log(attempt, rank)
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as file:
        file.write(data)


def lease(paths: RunPaths, t: float, job_id: str = "101") -> None:
    """The lease as its holder wrote it at `t`."""
    record = {"epoch": 1, "job_id": job_id, "restart": 0, "host": "n1", "pid": 1, "t": t}
    (paths.lease / "0").write_text(json.dumps(record))


def wait_for_line(process: subprocess.Popen[bytes], wanted: bytes) -> None:
    """Read stdout until a line is there; the test's timeout bounds it."""
    assert process.stdout is not None
    while (line := process.stdout.readline()) != wanted:
        assert line, f"{wanted!r} never came"


def following(paths: RunPaths, *more: str, quiet: float = 0.1, still: float = 1e9) -> subprocess.Popen[bytes]:
    """`ftslurm logs -f` as a process of its own, with short waits."""
    code = FOLLOW.format(quiet=quiet, still=still, name=paths.run_id, more=list(more))
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ)
    )


@pytest.fixture
def run(root: Path) -> RunPaths:
    """Give a run in its second attempt that still goes on."""
    tale = Tale(config_policy()).start().save(100, after=10)
    return make_run(root, tale.crash(0, signal=9).launched())


def test_rank_0_of_the_newest_attempt_byte_for_byte(run, capfdbinary):
    """Without options that file is printed unchanged, colours and broken bytes included."""
    write(run, 0, 0, b"old\n")
    data = b"\x1b[32mstep 1\x1b[0m\r50%\r100%\n\xff\xfe no newline"
    write(run, 1, 0, data)
    write(run, 1, 1, b"rank 1\n")
    assert cli.exit_code(["logs", "101"]) == 0
    assert capfdbinary.readouterr() == (data, b"")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--attempt", "0"], b"a0 r0\n"),
        (["--rank", "3"], b"a1 r3 x\na1 r3 y\n"),
        (["--rank", "3", "-n", "1"], b"a1 r3 y\n"),
        (["--rank", "all"], b"0| a1 r0\n3| a1 r3 x\n3| a1 r3 y\n"),
        (["--rank", "0,2-9", "-n", "1"], b"0| a1 r0\n3| a1 r3 y\n"),
        (["-n", "0"], b""),
    ],
)  # fmt: skip
def test_attempts_ranks_and_lines_are_chosen(run, capfdbinary, arguments, expected):
    """Attempt, ranks and the number of lines are what was asked for; several ranks have their number before each line."""
    write(run, 0, 0, b"a0 r0\n")
    write(run, 1, 0, b"a1 r0\n")
    write(run, 1, 3, b"a1 r3 x\na1 r3 y\n")
    assert cli.exit_code(["logs", run.run_id, *arguments]) == 0
    assert capfdbinary.readouterr().out == expected


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--attempt", "7"], 2, "no logs of attempt 7"),
        (["--rank", "9"], 2, "no log of the ranks asked for"),
        (["--rank", "x"], 2, "is no list of ranks"),
        (["--rank", "5-2"], 2, "is no list of ranks"),
        (["--rank", "0-9999999", "--attempt", "1"], 0, ""),
        (["--agent", "n9"], 2, "there is no log"),
        (["--agent", "../../key"], 2, "is not the name of a node"),
        (["--agent", "n1", "--supervisor"], 2, "choose one"),
        (["--json"], 2, "--own"),
        (["--level", "loud"], 2, "'loud' is not one of"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_said(run, capfd, arguments, code, words):
    """A wrong attempt, rank or node ends with one clear line and code 2."""
    write(run, 1, 0, b"x\n")
    assert cli.exit_code(["logs", "101", *arguments]) == code
    assert words in capfd.readouterr().err


def test_nothing_yet_is_try_again_and_nothing_ever_is_an_error(run, root, capfd):
    """A live run without output says 75 and that -f waits; one that has ended says where else to look."""
    assert cli.exit_code(["logs", "101"]) == 75
    assert "-f waits for it" in capfd.readouterr().err
    make_run(root, Tale(config_policy(), job_id="102").start().finish())
    assert cli.exit_code(["logs", "102"]) == 2
    assert "job-*.out" in capfd.readouterr().err


def test_ftslurms_own_logs_are_readable_and_safe(run, capfd):
    """A record is a line of time, level and message; nothing in it acts on the terminal; --json leaves it as it is."""
    record = {
        "@timestamp": "2026-02-25T06:13:20.123Z", "log.level": "error", "message": "it \x1b[2J broke\nforged",
        "error": {"stack_trace": "Traceback\n  File x\nOSError: \x9b"},
    }  # fmt: skip
    line = json.dumps(record)
    supervisor, agent = run.process_log(0, "supervisor", "n1"), run.process_log(1, "agent", "n3")
    for path in (supervisor, agent):
        path.parent.mkdir(exist_ok=True)
    supervisor.write_text(f"{line}\nnot json \x1b[2J\n")
    assert cli.exit_code(["logs", "101", "--supervisor"]) == 0
    out = capfd.readouterr().out
    assert out.splitlines() == [
        "2026-02-25 06:13:20 error    it \\x1b[2J broke\\nforged", "    Traceback", "      File x", "    OSError: \\x9b",
        "not json \\x1b[2J",
    ]  # fmt: skip
    agent.write_text(f"{line}\n")
    assert cli.exit_code(["logs", "101", "--agent", "n3", "--json"]) == 0
    assert capfd.readouterr().out == f"{line}\n"


def test_following_goes_over_attempts_to_the_end(run, root):
    """What is written later comes, also in an attempt that begins later, and the end of the run ends it."""
    write(run, 1, 0, b"one\n")
    with following(run) as process:
        wait_for_line(process, b"one\n")
        write(run, 1, 0, b"two\n")
        wait_for_line(process, b"two\n")
        write(run, 2, 0, b"three\n")
        wait_for_line(process, b"three\n")
        tale = Tale(config_policy()).start().save(100, after=10)
        tale.crash(0, signal=9).launched().crash(1, signal=9).launched().finish().write(run)
        write(run, 2, 0, b"last words")
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read() == b"last words"
        assert process.stderr.read() == b"==> attempt 2 <==\n"
        assert process.wait(timeout=30) == 0


def test_following_all_ranks_prints_whole_lines(run):
    """A line that is being written is not torn by one of another rank."""
    write(run, 1, 0, b"begun")
    write(run, 1, 1, b"whole\n")
    with following(run, "--rank", "all") as process:
        wait_for_line(process, b"1| whole\n")
        write(run, 1, 0, b" and done\n")
        wait_for_line(process, b"0| begun and done\n")
        process.terminate()
        process.communicate()


def test_following_starts_with_the_last_lines_only_at_first(run):
    """`-n` limits what is there already; what a later attempt writes comes whole."""
    write(run, 1, 0, b"a\nb\nc\n")
    with following(run, "-n", "1") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"c\n"
        write(run, 2, 0, b"d\ne\n")
        assert process.stdout.readline() == b"d\n"
        assert process.stdout.readline() == b"e\n"
        process.terminate()
        process.communicate()


def test_following_a_lost_run_ends_with_1(run, slurm):
    """With a lease that nobody renews and no live job in Slurm there is nobody left to wait for."""
    write(run, 1, 0, b"x\n")
    lease(run, time.time() - 3600)
    with following(run, still=60) as process:
        out, err = process.communicate(timeout=60)
    assert (out, process.returncode) == (b"x\n", 1)
    assert b"is gone" in err
    assert journal.holder(run) is not None


def test_following_waits_while_slurm_is_away(run, slurm):
    """No answer of Slurm's is no word that the run is gone."""
    write(run, 1, 0, b"x\n")
    lease(run, time.time() - 3600)
    slurm.fail("squeue", "down", times=99)
    with following(run, still=60) as process:
        assert process.stderr is not None
        assert b"still waiting" in process.stderr.readline()
        assert process.poll() is None
        process.terminate()
        process.communicate()


def test_ranks_below_torchrun_share_the_log_of_their_node(root, capfd):
    """Asked for rank 5 of nodes with four ranks, the log of rank 4 is printed, which holds what 4 to 7 have said."""
    torchrun = {"command": ["torchrun", "t.py"], "launch": {"launcher": "torchrun"}}
    paths = make_run(root, Tale(config_policy()), resources={"nodes": 2, "ranks_per_node": 4}, **torchrun)
    write(paths, 0, 0, b"of the first node\n")
    write(paths, 0, 4, b"of the second node\n")
    for ranks, printed in (("5", "of the second node\n"), ("3", "of the first node\n")):
        assert cli.exit_code(["logs", "101", "--rank", ranks]) == 0
        assert capfd.readouterr().out == printed
    assert cli.exit_code(["logs", "101", "--rank", "2-5"]) == 0
    assert capfd.readouterr().out.splitlines() == ["0| of the first node", "4| of the second node"]
