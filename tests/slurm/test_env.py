from __future__ import annotations

import subprocess

import pytest

from ftslurm.errors import UsageError
from ftslurm.slurm import env

# What a batch script on Slurm 22.05 finds in its environment (recorded), asked for with tasks, CPUs and GPUs.
BATCH = {
    "PATH": "/usr/bin:/bin", "HOME": "/home/alice", "LANG": "C.UTF-8", "TMPDIR": "/tmp", "OMP_NUM_THREADS": "4",
    "SLURMD_NODENAME": "n3", "SLURM_CLUSTER_NAME": "lab", "SLURM_CONF": "/etc/slurm/slurm.conf",
    "SLURM_CPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "4", "SLURM_GPUS_ON_NODE": "2", "SLURM_GPUS_PER_NODE": "a100:2",
    "SLURM_GTIDS": "0", "SLURM_JOBID": "11", "SLURM_JOB_CPUS_PER_NODE": "8(x2),4", "SLURM_JOB_GID": "100",
    "SLURM_JOB_ID": "11", "SLURM_JOB_NAME": "gpt small", "SLURM_JOB_NODELIST": "n[3,1-2]", "SLURM_JOB_NUM_NODES": "3",
    "SLURM_JOB_PARTITION": "gpu", "SLURM_JOB_UID": "1001", "SLURM_JOB_USER": "alice", "SLURM_LOCALID": "0",
    "SLURM_NNODES": "3", "SLURM_NODEID": "0", "SLURM_NODELIST": "n[3,1-2]", "SLURM_NODE_ALIASES": "(null)",
    "SLURM_NPROCS": "5", "SLURM_NTASKS": "5", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PRIO_PROCESS": "0",
    "SLURM_PROCID": "0", "SLURM_SUBMIT_DIR": "/home/alice/run", "SLURM_SUBMIT_HOST": "login",
    "SLURM_TASKS_PER_NODE": "2(x2),1", "SLURM_TASK_PID": "22997", "SLURM_TOPOLOGY_ADDR": "n3",
    "SLURM_WORKING_CLUSTER": "lab:10.0.0.1:6817:9728:109", "SLURM_JOB_END_TIME": "1760086401",
}  # fmt: skip

# What a task of an ftslurm step adds to that: a takeover starts srun from here.
TASK = {
    "SLURM_DISTRIBUTION": "cyclic", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1", "SLURM_SRUN_COMM_HOST": "10.0.0.1",
    "SLURM_SRUN_COMM_PORT": "44779", "SLURM_STEPID": "0", "SLURM_STEP_ID": "0", "SLURM_STEP_LAUNCHER_PORT": "44779",
    "SLURM_STEP_NODELIST": "n[1-3]", "SLURM_STEP_NUM_NODES": "3", "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_TASKS_PER_NODE": "1(x3)", "SLURM_UMASK": "0022", "SRUN_DEBUG": "3", "SLURM_CPU_BIND": "quiet,mask_cpu:0x1",
    "SLURM_CPU_BIND_LIST": "0x1", "SLURM_CPU_BIND_TYPE": "mask_cpu:", "SLURM_CPU_BIND_VERBOSE": "quiet",
    "PMIX_RANK": "2", "PMIX_NAMESPACE": "slurm.pmix.11.0", "PMI_RANK": "2", "OMPI_COMM_WORLD_RANK": "2",
    "PRTE_LAUNCHED": "1", "HYDI_CONTROL_FD": "9",
}  # fmt: skip

# srun(1), INPUT ENVIRONMENT VARIABLES, Slurm 22.05 to 25.11: each one changes what a step gets.
SRUN_READS = """
SLURM_ACCOUNT SLURM_ACCTG_FREQ SLURM_BCAST SLURM_BCAST_EXCLUDE SLURM_BURST_BUFFER SLURM_CLUSTERS SLURM_COMPRESS
SLURM_CONSTRAINT SLURM_CORE_SPEC SLURM_CPU_BIND SLURM_CPU_FREQ_REQ SLURM_CPUS_PER_GPU SRUN_CPUS_PER_TASK SLURM_DEBUG
SLURM_DELAY_BOOT SLURM_DEPENDENCY SLURM_DISABLE_STATUS SLURM_DIST_PLANESIZE SLURM_DISTRIBUTION SLURM_EPILOG SLURM_EXACT
SLURM_EXCLUSIVE SLURM_EXIT_ERROR SLURM_EXIT_IMMEDIATE SLURM_EXPORT_ENV SLURM_GPU_BIND SLURM_GPU_FREQ SLURM_GPUS
SLURM_GPUS_PER_NODE SLURM_GPUS_PER_TASK SLURM_GRES SLURM_GRES_FLAGS SLURM_HINT SLURM_IMMEDIATE SLURM_JOB_NUM_NODES
SLURM_KILL_BAD_EXIT SLURM_LABELIO SLURM_MEM_BIND SLURM_MEM_PER_CPU SLURM_MEM_PER_GPU SLURM_MEM_PER_NODE SLURM_MPI_TYPE
SLURM_NETWORK SLURM_NNODES SLURM_NO_KILL SLURM_NPROCS SLURM_NTASKS SLURM_NTASKS_PER_CORE SLURM_NTASKS_PER_GPU
SLURM_NTASKS_PER_NODE SLURM_NTASKS_PER_SOCKET SLURM_NTASKS_PER_TRES SLURM_OPEN_MODE SLURM_OVERCOMMIT SLURM_OVERLAP
SLURM_PARTITION SLURM_POWER SLURM_PROFILE SLURM_PROLOG SLURM_QOS SLURM_REMOTE_CWD SLURM_REQ_SWITCH SLURM_RESERVATION
SLURM_RESV_PORTS SLURM_SEND_LIBS SLURM_SIGNAL SLURM_SPREAD_JOB SLURM_STDERRMODE SLURM_STDINMODE SLURM_STDOUTMODE
SLURM_STEP_GRES SLURM_STEP_KILLED_MSG_NODE_ID SLURM_TASK_EPILOG SLURM_TASK_PROLOG SLURM_THREAD_SPEC SLURM_THREADS
SLURM_THREADS_PER_CORE SLURM_TIMELIMIT SLURM_TRES_BIND SLURM_TRES_PER_TASK SLURM_UNBUFFEREDIO SLURM_USE_MIN_NODES
SLURM_WAIT SLURM_WAIT4SWITCH SLURM_WCKEY SLURM_WHOLE SLURM_WORKING_DIR SLURM_HOSTFILE SRUN_CONTAINER SRUN_EXPORT_ENV
SRUN_INPUT SRUN_OUTPUT SRUN_ERROR SLURM_STEP_ID SLURM_PROCID SLURM_LOCALID SLURM_JOB_NODELIST SLURM_NODELIST
SLURM_CPUS_PER_TASK SLURM_RLIMIT_CORE SLURM_EXTERNAL_LAUNCHER SLURM_SEGMENT_SIZE SLURM_STEPMGR SLURM_CONSOLIDATE_SEGMENTS
""".split()  # noqa: SIM905 - a list of a hundred quoted names is not clearer


def test_job_is_read_from_a_batch_environment():
    """Every fact that Slurm states arrives with its type, node order included."""
    job = env.job_from_env(BATCH)
    assert (job.job_id, job.nodelist, job.num_nodes) == ("11", ("n3", "n1", "n2"), 3)
    assert (job.ntasks, job.ntasks_per_node, job.tasks_per_node) == (5, 2, (2, 2, 1))
    assert (job.cpus_per_task, job.cpus_per_node, job.gpus_per_node, job.gpus_on_node) == (4, (8, 8, 4), 2, 2)
    assert (job.batch_host, job.submit_dir, job.end_time) == ("n3", "/home/alice/run", 1760086401)
    assert (job.job_name, job.partition, job.user, job.restart_count) == ("gpt small", "gpu", "alice", 0)
    assert (job.array_job_id, job.array_task_id, job.no_kill, job.requeue_id) == (None, None, False, "11")


def test_what_was_not_asked_for_is_none():
    """A job of `-N3` alone has no task count, and none is made up."""
    job = env.job_from_env({"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-3]"})
    assert (job.ntasks, job.ntasks_per_node, job.cpus_per_task, job.gpus_per_node, job.batch_host) == (None,) * 5
    assert (job.num_nodes, job.end_time, job.tasks_per_node) == (3, None, ())


def test_array_task_is_requeued_by_its_array_id():
    """Requeueing an array task by SLURM_JOB_ID would requeue the whole array."""
    job = env.job_from_env({**BATCH, "SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "0", "SLURM_RESTART_COUNT": "2"})
    assert (job.requeue_id, job.restart_count) == ("9_0", 2)


def test_marker_tells_of_no_kill():
    """Only the marker of a submitted script says that the job has --no-kill."""
    assert env.job_from_env({**BATCH, env.NO_KILL_MARKER: "1"}).no_kill is True
    assert env.job_from_env({**BATCH, "SLURM_NO_KILL": "1"}).no_kill is False


@pytest.mark.parametrize(
    "wrong",
    [
        {"SLURM_JOB_ID": ""}, {"SLURM_JOB_ID": "x"}, {"SLURM_JOB_ID": "1;2"}, {"SLURM_NTASKS": "many"},
        {"SLURM_NTASKS": "-1"}, {"SLURM_JOB_NODELIST": "n["}, {"SLURM_TASKS_PER_NODE": "2(y3)"},
        {"SLURM_TASKS_PER_NODE": "1(x999999)"}, {"SLURM_RESTART_COUNT": "1.5"}, {"SLURM_NTASKS": "\u0661"},
    ],
)  # fmt: skip
def test_values_that_slurm_cannot_have_written_are_refused(wrong):
    """A damaged environment is a usage error that names the value, not a wrong plan."""
    with pytest.raises(UsageError):
        env.job_from_env({**BATCH, "SLURM_JOBID": "", **wrong})


@pytest.mark.parametrize(
    ("text", "count"),
    [("8", 8), ("a100:4", 4), ("gpu:a100:4", 4), ("gpu:2(S:0-1)", 2), ("a100:2,h100:3", 5), ("", None)],
)
def test_gpus_are_counted_in_every_form(text, count):
    """A count, a type with a count, several types, sockets behind: the number comes out."""
    assert env.job_from_env({**BATCH, "SLURM_GPUS_PER_NODE": text}).gpus_per_node == count


@pytest.mark.parametrize("name", SRUN_READS)
def test_no_option_of_srun_reaches_our_own_steps(name):
    """A variable that srun reads as an option, or that belongs to another step, is not in the environment of a step."""
    assert name not in env.step_env({**BATCH, **TASK, name: "1"})


def test_manual_page_of_this_machine_names_no_other_option():
    """Every SLURM_ or SRUN_ variable under INPUT ENVIRONMENT VARIABLES of srun(1) here is dropped, or finds the job."""
    page = subprocess.run(
        ["man", "-P", "cat", "srun"], env={"PATH": "/usr/bin:/bin", "MANWIDTH": "500", "LC_ALL": "C"}, timeout=60,
        capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    section = page.partition("INPUT ENVIRONMENT VARIABLES")[2].partition("OUTPUT ENVIRONMENT VARIABLES")[0]
    names = {word for line in section.splitlines() for word in line.split()[:1] if word.startswith(("SLURM_", "SRUN_"))}
    if not names:
        pytest.skip("there is no manual page of srun on this machine")
    kept = {name for name in names if name in env.step_env(dict.fromkeys(names, "1"))}
    assert kept <= {"SLURM_CONF", "SLURM_JOB_ID", "SLURM_JOB_NAME"}


def test_step_environment_still_finds_the_job():
    """The job and its cluster are found, and everything that is not Slurm's stays."""
    left = env.step_env({**BATCH, **TASK})
    assert (left["SLURM_JOB_ID"], left["SLURM_JOBID"], left["SLURM_CONF"]) == ("11", "11", "/etc/slurm/slurm.conf")
    assert (left["PATH"], left["OMP_NUM_THREADS"], left["SLURM_SUBMIT_DIR"]) == (
        "/usr/bin:/bin",
        "4",
        "/home/alice/run",
    )
    assert not {name for name in left if name.startswith(("PMI", "OMPI_", "PRTE_", "HYD", "SRUN_"))}


def test_mca_settings_of_the_user_survive():
    """A site's or user's MCA settings are no identity of a step and stay."""
    settings = {"PMIX_MCA_gds": "hash", "OMPI_MCA_btl": "tcp,self", "PRTE_MCA_plm": "slurm"}
    assert settings.items() <= env.step_env(settings).items()


def test_users_taste_reaches_the_training_step_but_counts_do_not():
    """Ranks keep MPI type and hint of the environment; tasks, nodes, binding and export rules are the launcher's."""
    asked = {"SLURM_MPI_TYPE": "pmix", "SLURM_HINT": "nomultithread", "SLURM_EXPORT_ENV": "NONE"}
    left = env.training_env({**BATCH, **TASK, **asked})
    assert (left["SLURM_MPI_TYPE"], left["SLURM_HINT"]) == ("pmix", "nomultithread")
    dropped = {"SLURM_EXPORT_ENV", "SLURM_NTASKS", "SLURM_NNODES", "SLURM_CPU_BIND", "SLURM_JOB_NODELIST", "PMIX_RANK"}
    assert not dropped & set(left)


def test_commands_get_nothing_of_the_job():
    """Only the ways to find the cluster survive for sbatch and its sisters."""
    asked = {"SBATCH_PARTITION": "x", "SQUEUE_FORMAT": "%i", "SACCT_FORMAT": "x", "SLURM_TIME_FORMAT": "relative"}
    left = env.clean({**BATCH, **TASK, **asked})
    assert {name for name in left if name.startswith(("S", "PMI"))} - {"SHELL"} == {
        "SLURM_CONF", "SLURM_CLUSTER_NAME", "SLURM_WORKING_CLUSTER", "PMIX_RANK", "PMIX_NAMESPACE", "PMI_RANK"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("environ", "identity"),
    [
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}, (3, 8, 1)),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "6", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}, (3, 6, 1)),
        # Open MPI 5: mpirun starts one daemon a node through srun, so SLURM_PROCID is 0 in every rank.
        ({"PMIX_RANK": "5", "OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
          "SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}, (5, 8, 1)),
        # srun --mpi=pmix
        ({"PMIX_RANK": "5", "SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"}, (5, 8, 1)),
        # MPICH and Intel MPI
        ({"PMI_RANK": "5", "PMI_SIZE": "8", "MPI_LOCALRANKID": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, (5, 8, 1)),
        ({"MV2_COMM_WORLD_RANK": "2", "MV2_COMM_WORLD_SIZE": "4", "MV2_COMM_WORLD_LOCAL_RANK": "0"}, (2, 4, 0)),
    ],
)  # fmt: skip
def test_mpi_launchers_word_goes_before_slurms(environ, identity):
    """Under mpirun the rank is the launcher's; under srun it is Slurm's."""
    assert env.rank_identity(environ) == identity


@pytest.mark.parametrize(
    "environ",
    [{}, {"SLURM_PROCID": "9", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}, {"PMIX_RANK": "1"}, {"PMI_RANK": "x"}],
)
def test_no_identity_is_made_up(environ):
    """Without a launcher's mark, or with numbers that do not fit, there is no rank."""
    with pytest.raises(UsageError):
        env.rank_identity(environ)
