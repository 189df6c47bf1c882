from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.lab.longer import long_test
from tests.local_ranks import ROOT, clean_environment


@long_test("a hundredth of the simulator's benchmark still takes ten seconds")
def test_the_benchmark_runs(tmp_path: Path) -> None:
    """From end to end; what it compares is right within what so few runs can tell, and the bytes are the same."""
    argv = [sys.executable, ROOT / "scripts" / "benchmarks" / "simulate.py", "--quick", "--out", tmp_path]
    done = subprocess.run(argv, env=clean_environment(), capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    value = json.loads((tmp_path / "simulate.json").read_text())
    assert all(abs(each["z"]) <= 3.5 for each in value["cells"])
    assert all(abs(each["simulated"] - each["published"]) <= 0.02 for each in value["table"])
    assert value["speed"]["same_bytes"]
    assert (tmp_path / "simulate.md").read_text() == done.stdout.removesuffix("\n")
