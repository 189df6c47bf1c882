"""What `submit --from` adds to a user's script, and what it refuses, with the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftslurm.errors import UsageError
from ftslurm.ownscript import Examined, examine

NAMES = ("FTSLURM_NO_KILL", "FTSLURM_HOME")
CALL = "ftslurm run python train.py"


def seen(*lines: str, given: tuple[str, ...] = (), environ: dict[str, str] | None = None, body: str = CALL) -> Examined:
    """Examine a script with some directives."""
    text = "\n".join(["#!/bin/bash", *(f"#SBATCH {line}" for line in lines), body, ""])
    return examine(text, given, environ or {}, NAMES, Path("/nowhere"))


def added(found: Examined) -> list[str]:
    """The options that were added."""
    return [each.option for each in found.additions]


def test_what_survival_needs_is_added_once():
    """What the file, the command line or the environment has said already is left alone."""
    assert added(seen()) == ["--no-kill", "--requeue", "--open-mode=append"]
    assert added(seen("--no-kill", "--requeue")) == ["--open-mode=append"]
    assert added(seen("--open-mode=append", given=("-k",), environ={"SBATCH_REQUEUE": ""})) == []
    assert all(each.why for each in seen().additions)


AGAIN = "ftslurm run --config again.yaml -- python train.py"


@pytest.mark.parametrize(
    ("body", "way", "needed"),
    [
        (AGAIN, "resubmit", False),
        ("ftslurm run --config=again.yaml -N2 python train.py", "none", False),
        ("ftslurm run --chain python train.py", "auto", False),
        (AGAIN, "requeue", True),
        (AGAIN, "auto", True),
        (f"{AGAIN}\n{CALL}", "resubmit", True),
        ("ftslurm run --config $FILE python train.py", "resubmit", True),
        ("ftslurm run --config 'again.yaml", "resubmit", True),
        (CALL, "resubmit", True),
    ],
)
def test_a_requeue_is_needed_unless_every_run_says_how_else_it_goes_on(tmp_path, body, way, needed):
    """In a file that can be read from here; then `--no-requeue` is no contradiction, and nothing is added."""
    (tmp_path / "again.yaml").write_text(f"recovery: {{continue: {way}}}\n")
    text = f"#!/bin/bash\n#SBATCH -N2\n{body}\n"
    assert ("--requeue" in added(examine(text, (), {}, NAMES, tmp_path))) is needed
    if needed:
        with pytest.raises(UsageError, match="--no-requeue"):
            examine(text, ("--no-requeue",), {}, NAMES, tmp_path)
    else:
        assert "--requeue" not in added(examine(text, ("--no-requeue",), {}, NAMES, tmp_path))


@pytest.mark.parametrize("text", ["", "[1]", "recovery: 3", "recovery: {continue: [x]}", "a: b: c"])
def test_a_file_that_says_nothing_needs_a_requeue(tmp_path, text):
    """It may be wrong, or become another one: what is not known is not assumed."""
    (tmp_path / "again.yaml").write_text(text)
    assert "--requeue" in added(examine(f"#!/bin/bash\n{AGAIN}\n", (), {}, NAMES, tmp_path))


@pytest.mark.parametrize(
    ("export", "option"),
    [
        ("ALL", None),
        ("ALL,X=1", None),
        ("NONE", "--export=FTSLURM_NO_KILL,FTSLURM_HOME"),
        ("X=1,PATH", "--export=X=1,PATH,FTSLURM_NO_KILL,FTSLURM_HOME"),
        ("FTSLURM_HOME=/x,FTSLURM_NO_KILL=1", "--export=FTSLURM_HOME=/x,FTSLURM_NO_KILL=1"),
    ],
)
def test_exports_of_the_user_are_kept(export, option):
    """Where not the whole environment goes to the job, the marks go with what the user has named."""
    for found in (
        seen(f"--export={export}"),
        seen(given=(f"--export={export}",)),
        seen(environ={"SBATCH_EXPORT": export}),
    ):
        assert [each for each in added(found) if each.startswith("--export")] == ([option] if option else [])


@pytest.mark.parametrize(
    ("lines", "given", "body", "words"),
    [
        (("-N2", "--no-requeue"), (), CALL, "line 3: --no-requeue"),
        (("--no-req",), (), CALL, "line 2: --no-requeue"),
        ((), ("--no-requeue",), CALL, "an option beside the script: --no-requeue"),
        (("--no-kill=off",), (), CALL, "line 2: --no-kill=off"),
        (("-N1", "hetjob", "-N2"), (), CALL, "line 3: a heterogeneous job"),
        ((), ("-N1", ":", "-N2"), CALL, "heterogeneous"),
        (("--export=NIL",), (), CALL, "line 2: --export=NIL"),
        (("--export-file=env",), (), CALL, "line 2: --export-file"),
        (("--wait",), (), CALL, "line 2: --wait changes what sbatch does, not the job; use `ftslurm submit --wait`"),
        ((), ("--parsable",), CALL, "--parsable"),
        ((), (), f"{CALL}\nsrun -N2 --kill-on-bad-exit=1 python x", "line 3: srun --kill-on-bad-exit"),
        ((), (), f"{CALL}\nsrun -K \\\n  python x", "line 3: srun --kill-on-bad-exit"),
        ((), (), "ftslurm run -o log.txt python x", "line 2: srun's option --output"),
        ((), (), "time ftslurm run -N2 --nodelist=n1 python x", "line 2: srun's option --nodelist"),
    ],
)
def test_contradictions_are_refused_with_their_line(lines, given, body, words):
    """Before the job waits in the queue, not when it starts."""
    with pytest.raises(UsageError) as caught:
        seen(*lines, given=given, body=body)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        "ftslurm run python train.py -o out --kill-on-bad-exit",
        "ftslurm run -K python x",
        f"# srun -K python x\n{CALL}",
        f"srun -N1 hostname\n{CALL} && srun --kill-on-bad-exit=0 tidy",
        f"echo 'a srun-like thing -K'\n{CALL}",
        "ftslurm run bash -c 'one; two'",
        "ftslurm run bash -c 'one\n srun\n two'",
    ],
)
def test_what_only_looks_like_a_contradiction_passes(body):
    """The program's own words, comments, and calls whose answer to a failed rank is no."""
    assert seen(body=body).additions


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("srun python train.py", "WARNING: the script does not call `ftslurm run`"),
        ("srun python train.py", "(line 2)"),
        ("ftslurm run python x &", "line 2: `ftslurm run` is in the background"),
        ("ftslurm run -K python x", "line 2: --kill-on-bad-exit is ignored"),
        (f"{CALL} || scontrol requeue $SLURM_JOB_ID", "line 2: the run asks for its requeues itself"),
    ],
)
def test_what_may_be_meant_is_said(body, words):
    """Strange, but not impossible."""
    assert words in "\n".join(seen(body=body).notes)


def test_nothing_is_said_of_an_ordinary_script():
    """A user who has done all right hears what was added and nothing else."""
    for body in (CALL, "ftslurm run x &\nwait", "/opt/bin/ftslurm run -N2 x 2>&1 | tee log", "exec ftslurm run x"):
        assert seen(body=body).notes == ()


def test_what_a_job_asks_for_is_known():
    """For the node ledger: how many nodes, where, and which ones are left out anyway; the command line beats the file."""
    found = seen("-N 2-4", "-p gpu", "--exclude=n[1-2]", given=("--partition=big",))
    assert (found.most_nodes, found.value("partition"), found.excluded) == (4, "big", ("n1", "n2"))
    assert (seen().most_nodes, seen().value("partition"), seen().excluded) == (1, None, ())
