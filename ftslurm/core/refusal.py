"""Whether Slurm's "no" to a launch is final: some words mean that no later try can succeed.

A slurmctld that is away, busy or starting deserves minutes of patience; an option that srun does not know, none.
What is not known here counts as passing. "Requested node configuration is not available" is not final by itself: Slurm
says it also of a node that it has just taken out of the job, and the next plan leaves that node out. Its tries are
fewer, though more than enough for Slurm's next word on the job.
"""

from __future__ import annotations

import re
from enum import StrEnum

FINAL_TRIES = 2
UNLIKELY_TRIES = 6


class Refusal(StrEnum):
    """How final a refusal is."""

    PASSING = ""
    UNLIKELY = "slurm_refuses_the_request"
    FINAL = "slurm_refuses_for_good"


_FINAL = re.compile(
    r"(unrecognized|invalid|unknown|ambiguous) option|option .* (requires an argument|is ambiguous)|"
    r"Invalid (--|numeric value|MPI|mpi|generic resource|gres|GRES|constraint|feature|account|qos|"
    r"memory specification)|MPI plugin type|Couldn't find the specified plugin name for mpi|"
    r"[Cc]annot (create|find) (context for )?mpi|Invalid .* specification|"
    r"More (processors|nodes|tasks) requested than permitted|Unable to open file|is not on PATH"
)
_UNLIKELY = re.compile(
    r"Requested node configuration is not available|"
    r"Memory (required by task is not available|specification can not be satisfied)|"
    r"Invalid node name specified|Requested nodes? .* not in (the )?(job|allocation)|Invalid job id specified"
)


def of(output: str) -> Refusal:
    """Return how final a launcher's words are."""
    if _FINAL.search(output):
        return Refusal.FINAL
    return Refusal.UNLIKELY if _UNLIKELY.search(output) else Refusal.PASSING


def tries(signature: str, patient: int) -> int:
    """Return how many launches in a row may fail like this; `patient` where time may help."""
    fewer: dict[str, int] = {Refusal.FINAL: FINAL_TRIES, Refusal.UNLIKELY: UNLIKELY_TRIES}
    return fewer.get(signature, patient)
