"""Whether this site can have MPI heartbeats, and with which library: asked with deadlines, in a process of its own.

A library that hangs when it is loaded, or a site without MPI, costs the run nothing but the heartbeats over the fabric.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from ftslurm.errors import FtslurmError
from ftslurm.slurm import env
from ftslurm.slurm.client import SlurmClient

LOAD_S = 15.0
_KINDS = {
    "open mpi": ("pmix",),
    "mpich": ("pmi2", "cray_shasta"),
    "cray mpich": ("cray_shasta", "pmi2"),
    "mvapich": ("pmi2", "pmix"),
    "intel": ("pmi2", "pmix"),
}
"""The kinds of `srun --mpi` that a library can be started with, the best first. Measured with Slurm 22.05: Open MPI 5
needs pmix; MPICH 5 from PyPI takes pmi2 and aborts in MPI_Init under pmix. The others are their vendors' word."""
_INSTALL = "pip install 'ftslurm[mpi]' against the site's MPI, into the environment that ftslurm runs in"


@dataclass(frozen=True, slots=True, kw_only=True)
class RingSupport:
    """What was found. `chosen` is the kind of `srun --mpi` for the ring; empty: none fits, and `problem` says why."""

    mpi4py: str = ""
    library: str = ""
    kinds: tuple[str, ...] = ()
    chosen: str = ""
    problem: str = ""

    @property
    def found(self) -> str:
        """One line for logs."""
        if self.problem:
            return self.problem
        return f"{self.library}, mpi4py {self.mpi4py}, srun --mpi={self.chosen}"


def ring_support(environ: Mapping[str, str], slurm: SlurmClient | None = None) -> RingSupport:
    """Return what this interpreter's mpi4py can do under this site's srun; takes seconds at most, raises nothing."""
    found, problem = _library(environ)
    if problem:
        return RingSupport(problem=problem)
    version, library = found["mpi4py"], found["library"]
    try:
        kinds = (slurm or SlurmClient()).mpi_types()
    except FtslurmError as error:
        return RingSupport(
            mpi4py=version, library=library, problem=f"srun does not say which kinds of MPI it knows: {error}"
        )
    chosen = choose(library, kinds)
    problem = "" if chosen else f"{library} fits none of srun's kinds of MPI ({', '.join(kinds) or 'none'})"
    return RingSupport(mpi4py=version, library=library, kinds=kinds, chosen=chosen, problem=problem)


def choose(library: str, kinds: tuple[str, ...]) -> str:
    """Return the kind of `srun --mpi` that fits a library best; empty where none does."""
    name = library.lower()
    fitting = max(((key, wanted) for key, wanted in _KINDS.items() if key in name), default=None, key=_by_length)
    wanted = fitting[1] if fitting else ("pmix", "pmi2")
    return next((kind for kind in wanted if kind in kinds), "")


def _by_length(row: tuple[str, tuple[str, ...]]) -> int:
    return len(row[0])


def _library(environ: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Return what is installed, or why nothing can be used."""
    argv = [sys.executable, "-I", "-m", "ftslurm.runtime.ring", "--library"]
    try:
        done = subprocess.run(
            argv, env=env.step_env(environ), capture_output=True, text=True, timeout=LOAD_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {}, f"loading mpi4py took longer than {LOAD_S:.0f} s"
    except OSError as error:
        return {}, f"mpi4py cannot be looked for: {error}"
    if done.returncode:
        why = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        hint = f" ({_INSTALL})" if "No module named" in why[0] else ""
        return {}, f"mpi4py cannot be used: {why[0][:300]}{hint}"
    return {str(name): str(value) for name, value in json.loads(done.stdout).items()}, ""
