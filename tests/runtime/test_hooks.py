from __future__ import annotations

import json
import os
import time
from pathlib import Path

from ftslurm.core.conditions import CallHook
from ftslurm.runtime.hooks import Hooks

PATIENCE_S = 30.0


def wait_for(path):
    """Wait until a hook has written a whole line."""
    deadline = time.monotonic() + PATIENCE_S
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        os.sched_yield()
    return path.read_text()


def test_a_hook_gets_the_facts_on_standard_input(tmp_path):
    """One JSON object; arguments as they were given, no shell."""
    program = tmp_path / "hook"
    program.write_text('#!/bin/sh\ncat > "$2"\n')
    program.chmod(0o755)
    out = tmp_path / "heard"
    hooks = Hooks({"health": (str(program), "$(touch x); y", str(out))}, "run-1")
    hooks.call(CallHook(hook="health", facts={"node": "n3", "level": "failed"}))
    assert json.loads(wait_for(out)) == {"hook": "health", "run_id": "run-1", "node": "n3", "level": "failed"}


def test_a_hook_that_hangs_is_killed_with_all_it_started(tmp_path):
    """The next one has its turn."""
    program = tmp_path / "hook"
    program.write_text(
        '#!/bin/sh\ngrep -q \'"first"\' || { echo done > "$1"; exit; }\nsleep 600 & echo $! > "$1.pid"; wait\n'
    )
    program.chmod(0o755)
    out = tmp_path / "out"
    hooks = Hooks({"health": (str(program), str(out))}, "run-1", deadline_s=2.0)
    hooks.call(CallHook(hook="health", facts={"node": "first"}))
    hooks.call(CallHook(hook="health", facts={"node": "second"}))
    assert wait_for(out) == "done\n"
    status = Path(f"/proc/{wait_for(tmp_path / 'out.pid').strip()}/stat")
    assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_hook_that_is_not_there_hurts_nobody(caplog, tmp_path):
    """It is logged; a hook that nobody has set is nothing."""
    out = tmp_path / "never"
    Hooks({"health": ()}, "run-1").call(CallHook(hook="health"))
    hooks = Hooks({"health": (str(tmp_path / "no-such-program"),)}, "run-1")
    hooks.call(CallHook(hook="health"))
    deadline = time.monotonic() + PATIENCE_S
    while "cannot be run" not in caplog.text:
        assert time.monotonic() < deadline
        os.sched_yield()
    assert not out.exists()
