"""Owner of the fake Slurm of tests/bin: makes its state, scripts its faults, reads what was asked of it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

BIN = Path(__file__).parent.parent / "bin"


class FakeSlurm:
    """Four idle nodes n1 to n4, one partition, accounting on; `environ` finds it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "slurm.json"
        self.path.write_text(
            json.dumps(
                {
                    "next_id": 101,
                    "partitions": ["main"],
                    "partition": "PartitionName=main Default=YES DefaultTime=NONE GraceTime=0 MaxNodes=UNLIMITED "
                    "MaxTime=1-00:00:00 MinNodes=0 Nodes=n[1-4] PreemptMode=OFF State=UP TotalNodes=4",
                    "mpi_list": "MPI plugin types are...\n\tnone\n\tpmi2\n\tpmix\n"
                    "specific pmix plugin versions available: pmix_v4",
                    "nodes": {f"n{number}": {"state": "IDLE", "reason": ""} for number in range(1, 5)},
                    "jobs": {},
                    "history": {},
                    "accounting": True,
                    "config": {
                        "SlurmdTimeout": "300 sec",
                        "MinJobAge": "300 sec",
                        "KillWait": "30 sec",
                        "JobRequeue": "1",
                    },
                    "faults": {},
                }
            )
        )

    @property
    def environ(self) -> dict[str, str]:
        """The environment in which its commands are the first on PATH."""
        return {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "FAKE_SLURM_STATE": str(self.path)}

    @property
    def state(self) -> dict[str, Any]:
        """Everything it knows, as it is now."""
        with self._locked() as file:
            state: dict[str, Any] = json.load(file)
        return state

    @property
    def calls(self) -> list[list[str]]:
        """Every command line so far."""
        log = Path(f"{self.path}.calls")
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def fail(self, call: str, kind: str, times: int = 1) -> None:
        """Let calls that begin with `call` go wrong; kinds as in tests/bin/fake_slurm.py."""
        self.change("faults", call, value={"kind": kind, "times": times})

    def change(self, *path: str, value: object) -> None:
        """Set one value, as in `nodes, n3, state` to DOWN."""
        with self._locked() as file:
            state = place = json.load(file)
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value
            file.seek(0)
            file.truncate()
            json.dump(state, file)

    @staticmethod
    def srun(environ: dict[str, str], words: list[str]) -> int:
        """Run the command of the fake for job steps to its end; its exit code."""
        return subprocess.run([str(BIN / "srun"), *words], env=environ, timeout=60, check=False).returncode

    @contextlib.contextmanager
    def _locked(self) -> Iterator[IO[str]]:
        """Open the state while no command of the fake changes it."""
        with self.path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
