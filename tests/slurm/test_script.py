from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.errors import UsageError
from ftslurm.slurm import script
from ftslurm.slurm.script import JobRequest, render, sbatch_argv
from tests.slurm.hostile import CANARY, CONTROL, TEXTS

PLAIN = JobRequest(
    name="gpt-small", run_dir="/shared/runs/gpt-small", argv=("/usr/bin/python3", "-I", "-m", "ftslurm"), min_nodes=4,
    max_nodes=4,
)  # fmt: skip

DUMP = """
import json, os, sys
json.dump({"argv": sys.argv[2:], "environ": dict(os.environ)}, open(sys.argv[1], "w"))
"""


def directives_of(text: str, quotes: str = "\"'") -> list[str]:
    """The words of all directives, by the rules of sbatch's reader: quotes group, backslash escapes, `#` ends."""
    words = []
    for line in text.splitlines():
        if not line.startswith("#SBATCH"):
            if line.strip() and not line.lstrip().startswith("#"):
                break
            continue
        word, quote, escaped = "", "", False
        for character in [*line.removeprefix("#SBATCH"), " "]:
            if escaped:
                word, escaped = word + character, False
            elif character == "\\":
                escaped = True
            elif quote:
                quote, word = ("", word) if character == quote else (quote, word + character)
            elif character in quotes:
                quote = character
            elif character == "#":
                break
            elif character.isspace():
                words += [word] if word else []
                word = ""
            else:
                word += character
    return words


def options_of(request: JobRequest) -> list[str]:
    """Every option that sbatch would see, from the script and from the command line."""
    return [*directives_of(render(request)), *sbatch_argv(request)]


def run_script(request: JobRequest, folder: Path) -> dict:
    """What a program started by the script in a real bash was given; `folder` is its working folder."""
    program = folder / "program.py"
    program.write_text(DUMP)
    argv = (sys.executable, "-I", "-S", str(program), str(folder / "seen.json"), *request.argv[1:])
    text = render(replace(request, argv=argv))
    path = folder / "job.sbatch"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    path.chmod(0o755)
    done = subprocess.run([str(path)], cwd=folder, timeout=60, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(child.name for child in folder.iterdir()) == ["job.sbatch", "program.py", "seen.json"]
    return json.loads((folder / "seen.json").read_text())


def test_script_of_a_plain_request():
    """The whole text: what is asked of Slurm, the marker, and nothing of the user's in the body."""
    request = replace(
        PLAIN, ranks_per_node=8, cpus_per_rank=12, gpus_per_node=8, time_s=86400.0, partition="gpu", exclude=("n3", "n7"),
        options=(("account", "proj1"), ("exclusive", True)),
    )  # fmt: skip
    text = render(request)
    assert sbatch_argv(request) == []
    assert directives_of(text) == [
        "--job-name=gpt-small", "--nodes=4", "--ntasks-per-node=8", "--cpus-per-task=12", "--gpus-per-node=8",
        "--time=1-00:00:00", "--partition=gpu", "--exclude=n[3,7]", "--output=/shared/runs/gpt-small/slurm-%j.out",
        "--open-mode=append", "--signal=B:USR2@120", "--no-kill", "--requeue", "--account=proj1", "--exclusive",
    ]  # fmt: skip
    assert text.startswith("#!/bin/bash -p\n")
    assert "export FTSLURM_NO_KILL=1\n" in text
    assert "\n  /usr/bin/python3 -I -m ftslurm &\n" in text
    assert text.endswith("\n")


def test_range_of_nodes_and_no_requeue():
    """A range of nodes and a site without requeue are said as Slurm says them."""
    options = options_of(replace(PLAIN, min_nodes=2, requeue=False, ntasks=16, signal_lead_s=300))
    assert {"--nodes=2-4", "--no-requeue", "--ntasks=16", "--signal=B:USR2@300"} <= set(options)
    assert "--requeue" not in options


def test_script_is_valid_bash():
    """Bash accepts the script without running it."""
    assert subprocess.run(["/bin/bash", "-n"], input=render(PLAIN), text=True, timeout=60, check=False).returncode == 0


def test_there_are_enough_hostile_values():
    """At least 200 different hostile values go through each of the tests below."""
    assert len(TEXTS) >= 200
    assert not set(TEXTS) & set(CONTROL)


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text)[:30])
def test_hostile_text_reaches_the_run_as_it_is(text, tmp_path):
    """Through a real bash an argument and a variable arrive byte for byte, and nothing in them is executed."""
    seen = run_script(replace(PLAIN, argv=("/x", text, f"-{text}"), exports={"FTSLURM_X": text}), tmp_path)
    assert seen["argv"] == [text, f"-{text}"]
    assert seen["environ"]["FTSLURM_X"] == text
    assert seen["environ"]["FTSLURM_NO_KILL"] == "1"
    assert not (tmp_path / CANARY).exists()


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text)[:30])
def test_hostile_text_is_one_word_of_sbatch(text):
    """Name, comment, partition and any option are one word with this value, by every release's rules of quoting."""
    request = replace(
        PLAIN,
        name="x" + text,
        comment=text + "y",
        partition="p" + text,
        options=(("account", text), ("qos", "q" + text)),
    )
    wanted = {
        f"--job-name=x{text}",
        f"--comment={text}y",
        f"--partition=p{text}",
        f"--account={text}",
        f"--qos=q{text}",
    }
    rendered = render(request)
    assert wanted <= set(options_of(request))
    assert directives_of(rendered) == directives_of(rendered, quotes='"') == directives_of(rendered, quotes="")
    plain_lines = [line.removeprefix("#SBATCH ") for line in rendered.splitlines() if line.startswith("#SBATCH ")]
    assert plain_lines == directives_of(rendered) == shlex.split(" ".join(plain_lines))


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text)[:30])
def test_hostile_folder_is_the_output_folder_or_refused(text):
    """A run's folder of any name becomes a pattern that means just this folder; a backslash is refused."""
    request = replace(PLAIN, run_dir=f"/shared/{text}x")
    if "\\" in text or ".." in f"/shared/{text}x".split("/"):
        with pytest.raises(UsageError, match=r"backslash|absolute"):
            render(request)
        return
    output = next(word for word in options_of(request) if word.startswith("--output=")).removeprefix("--output=")
    assert re.sub(r"%(%|j)", lambda match: {"%": "%", "j": "1"}[match[1]], output) == f"/shared/{text}x/slurm-1.out"


@pytest.mark.parametrize("text", CONTROL, ids=lambda text: ascii(text)[:30])
@pytest.mark.parametrize(
    "place",
    [
        lambda text: {"name": text}, lambda text: {"comment": text}, lambda text: {"partition": text},
        lambda text: {"run_dir": "/x" + text}, lambda text: {"output": PLAIN.run_dir + "/" + text},
        lambda text: {"options": (("account", text),)}, lambda text: {"exports": {"FTSLURM_X": text}},
        lambda text: {"argv": ("/x", text)}, lambda text: {"exclude": (text,)}, lambda text: {"exports": {text: "x"}},
        lambda text: {"options": ((text, True),)},
    ],
)  # fmt: skip
def test_control_characters_are_refused_everywhere(text, place):
    """No newline, escape sequence or NUL gets into a script, wherever it stands."""
    request = replace(PLAIN, **place(text))
    for call in (render, sbatch_argv):
        with pytest.raises(UsageError) as caught:
            call(request)
        assert text not in str(caught.value) or text == "\t"


@given(st.text(alphabet=st.characters(exclude_categories=["Cc", "Cs"]), max_size=60))
def test_any_printable_text_is_quoted_back(text):
    """For any text without control characters bash's own rules give the argument back."""
    lines = [line.strip() for line in render(replace(PLAIN, argv=("/x", text))).splitlines()]
    line = next(line for line in lines if line.startswith("/x"))
    assert shlex.split(line.removesuffix(" &")) == ["/x", text]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"min_nodes": 0}, "not a range"), ({"min_nodes": 5}, "not a range"), ({"max_nodes": 10**9}, "not a range"),
        ({"ntasks": 0}, "ntasks 0"), ({"ranks_per_node": -1}, "ranks_per_node -1"), ({"gpus_per_node": -1}, "gpus_per_node"),
        ({"cpus_per_rank": 2**40}, "cpus_per_rank"), ({"time_s": 0.0}, "time limit"), ({"time_s": -5.0}, "time limit"),
        ({"signal_lead_s": 0}, "signal 0 s"), ({"signal_lead_s": 70_000}, "signal 70000 s"), ({"name": ""}, "name is empty"),
        ({"argv": ()}, "absolute path"), ({"argv": ("python3",)}, "absolute path"), ({"run_dir": "runs"}, "absolute"),
        ({"run_dir": "/a/../b"}, "absolute"), ({"output": "/etc/passwd"}, "not inside"),
        ({"output": "/shared/runs/gpt-small/../x"}, "not inside"), ({"output": "/shared/runs/gpt-small/%q"}, "no pattern"),
        ({"output": "/shared/runs/gpt-small/a\\b"}, "backslash"), ({"exclude": ("-x",)}, "not the name of a node"),
        ({"name": "x" * 1025}, "more than 1024"), ({"comment": "é" * 600}, "more than 1024"),
        ({"argv": ("/x", "y" * 70_000)}, "more than 65536"), ({"argv": ("/x", *["y" * 60_000] * 9)}, "together"),
        ({"argv": ("/x", "\ud800")}, "cannot be encoded"), ({"exports": {"1x": "y"}}, "not a variable"),
        ({"options": (("nodes", "3"),)}, "set by the run itself"), ({"options": (("part", "x"),)}, "--partition"),
        ({"options": (("no-k", True),)}, "--no-kill"), ({"options": (("wrap", "x"),)}, "cannot be passed"),
        ({"options": (("parsabl", True),)}, "cannot be passed"), ({"options": (("-A", "x"),)}, "not the long name"),
        ({"options": (("A", "x"),)}, "not the long name"), ({"options": (("account", False),)}, "text or true"),
        ({"options": (("account=x --wrap", "y"),)}, "not the long name"),
    ],
)  # fmt: skip
def test_requests_that_cannot_be_right_are_refused(change, complaint):
    """Numbers out of range, options that collide (also abbreviated), paths that lead outside: one clear sentence."""
    with pytest.raises(UsageError, match=re.escape(complaint)):
        render(replace(PLAIN, **change))


def test_all_mistakes_come_at_once():
    """Three mistakes give one message with all three."""
    with pytest.raises(UsageError) as caught:
        render(replace(PLAIN, name="a\nb", ntasks=0, options=(("wrap", "x"),)))
    assert [word in str(caught.value) for word in ("name has", "ntasks 0", "--wrap")] == [True] * 3


def test_options_of_a_command_line():
    """`--qos=high --exclusive` become options; anything else says how to write it."""
    assert script.options_from_argv(["--qos=a b", "--exclusive", "--x-y="]) == (
        ("qos", "a b"), ("exclusive", True), ("x-y", ""),
    )  # fmt: skip
    for word in ("-A", "x", "--", "--qos high", "-"):
        with pytest.raises(UsageError):
            script.options_from_argv([word])


# --- the shell that starts the run -------------------------------------------------------------------------------------

WAITER = """
import os, signal, sys, time
out = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
heard = []
for name in ("USR2", "TERM"):
    signal.signal(getattr(signal, "SIG" + name), lambda number, frame: heard.append(number) or
                  os.write(out, signal.Signals(number).name.encode() + b"\\n"))
os.write(out, b"ready\\n")
until = time.monotonic() + 30
while len(heard) < int(sys.argv[2]) and time.monotonic() < until:
    time.sleep(0.01)
if sys.argv[3] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(sys.argv[3]))
"""


def write_script(folder: Path, argv: tuple[str, ...]) -> Path:
    """The rendered script as a file to be executed, as slurmd does."""
    path = folder / "job.sbatch"
    path.write_text(render(replace(PLAIN, argv=argv)))
    path.chmod(0o755)
    return path


def start_shell(folder: Path, signals: int, ending: str) -> subprocess.Popen:
    """The rendered script in a bash, with a program that waits for so many signals and then ends as told."""
    program = folder / "program.py"
    program.write_text(WAITER)
    argv = (sys.executable, "-I", str(program), str(folder / "heard"), str(signals), ending)
    return subprocess.Popen([str(write_script(folder, argv))], cwd=folder)


def wait_heard(folder: Path, lines: list[str]) -> None:
    """Wait until the program has written just these lines."""
    heard = folder / "heard"
    deadline = time.monotonic() + 30
    while not heard.exists() or heard.read_text().splitlines() != lines:
        assert time.monotonic() < deadline, heard.read_text() if heard.exists() else "nothing"
        time.sleep(0.01)


def test_signals_to_the_shell_reach_the_run(tmp_path):
    """The warning before the limit and a TERM are handed on, and the script's exit code is the run's."""
    shell = start_shell(tmp_path, 2, "7")
    wait_heard(tmp_path, ["ready"])
    os.kill(shell.pid, signal.SIGUSR2)
    wait_heard(tmp_path, ["ready", "SIGUSR2"])
    os.kill(shell.pid, signal.SIGTERM)
    wait_heard(tmp_path, ["ready", "SIGUSR2", "SIGTERM"])
    assert shell.wait(timeout=30) == 7


@pytest.mark.parametrize(("ending", "code"), [("0", 0), ("3", 3), ("75", 75), ("kill", 137)])
def test_exit_code_of_the_run_is_the_scripts(tmp_path, ending, code):
    """Slurm sees how the run ended, also when a signal ended it."""
    assert start_shell(tmp_path, 0, ending).wait(timeout=30) == code


def test_warning_before_the_run_has_its_handler_does_not_kill_it(tmp_path):
    """A program that knows nothing of the warning survives it, since the script starts it with USR2 ignored."""
    argv = ("/bin/sh", "-c", f"echo ready > {tmp_path}/heard; kill -USR2 $$; exit 5")
    assert subprocess.run([str(write_script(tmp_path, argv))], timeout=30, check=False).returncode == 5


def test_startup_files_of_the_user_do_not_run(tmp_path):
    """BASH_ENV and exported functions of the submitting shell are not executed by the batch shell."""
    (tmp_path / "rc").write_text(f"touch {tmp_path}/{CANARY}\n")
    path = write_script(tmp_path, ("/bin/true",))
    environ = {
        "PATH": "/usr/bin:/bin", "BASH_ENV": str(tmp_path / "rc"),
        "BASH_FUNC_kill%%": f"() {{ touch {tmp_path}/{CANARY}; }}", "BASH_FUNC_wait%%": f"() {{ touch {tmp_path}/{CANARY}; }}",
    }  # fmt: skip
    done = subprocess.run([str(path)], env=environ, timeout=30, check=False)
    assert done.returncode == 0
    assert not (tmp_path / CANARY).exists()
