from __future__ import annotations

import pytest

from ftslurm.core.refusal import FINAL_TRIES, UNLIKELY_TRIES, Refusal, of, tries


@pytest.mark.parametrize(
    "words",
    [
        "srun: unrecognized option '--frobnicate'",
        "srun: error: Couldn't find the specified plugin name for mpi/nope looking at all files",
        "srun: error: cannot find mpi plugin for mpi/nope\nsrun: error: MPI: Cannot create context for mpi/nope",
        "srun: error: Invalid MPI type 'nope', --mpi=list for acceptable types",
        "srun: error: Invalid generic resource (gres) specification",
        "srun: error: Unable to allocate resources: Invalid feature specification",
        "srun: error: Invalid --distribution specification",
        "mpirun is not on PATH",
    ],
)
def test_what_cannot_get_better_is_final(words):
    """Words of Slurm 22.05, each from a call of the lab's srun."""
    assert of(words) is Refusal.FINAL
    assert tries(of(words), 8) == FINAL_TRIES


@pytest.mark.parametrize(
    "words",
    [
        "srun: error: Unable to create step for job 8: Requested node configuration is not available",
        "srun: error: Unable to create step for job 8: Memory required by task is not available",
        "srun: error: Memory specification can not be satisfied",
        "srun: error: Unable to allocate resources: Invalid node name specified",
        "srun: error: Unable to confirm allocation for job 8: Invalid job id specified",
    ],
)
def test_what_slurms_next_word_may_explain_is_tried_longer(words):
    """A node that has just left the job makes Slurm say the same."""
    assert of(words) is Refusal.UNLIKELY
    assert FINAL_TRIES < tries(of(words), 8) == UNLIKELY_TRIES < 8


@pytest.mark.parametrize(
    "words",
    [
        "",
        "srun: error: Unable to contact slurm controller (connect failure)",
        "srun: error: Unable to create step for job 8: Requested nodes are busy",
        "srun: error: Unable to create step for job 8: Job/step already completing or completed",
        "srun: error: Task launch for StepId=8.1 failed on node n1: Invalid job credential",
        "slurm_load_jobs error: Socket timed out on send/recv operation",
        "srun: error: fetch_config: DNS SRV lookup failed",
    ],
)
def test_everything_else_gets_patience(words):
    """Slurm is away, busy or starting: minutes, as ever."""
    assert of(words) is Refusal.PASSING
    assert tries(of(words), 8) == 8


def test_a_signature_of_another_kind_means_patience():
    """Launches may fail for reasons that are not Slurm's."""
    assert tries("exit 1 ValueError", 8) == 8
