"""How a run goes on in another job than this one: found out when a job starts, done when it has to end.

By a requeue of this job (`runtime.requeue`), in the next job of its chain, or in a new job that is submitted from here.
"""

from __future__ import annotations

import logging
import os

from ftslurm import chains, ownsubmission, runs, submission
from ftslurm.config import Config
from ftslurm.core.actions import Requeue
from ftslurm.core.events import RequeueAnswered
from ftslurm.core.recovery import NONE
from ftslurm.errors import FtslurmError, UsageError
from ftslurm.ownsubmission import Changes
from ftslurm.paths import RunPaths
from ftslurm.runtime.requeue import change, excludable
from ftslurm.slurm import nodeset
from ftslurm.slurm.client import JobField, SlurmClient
from ftslurm.slurm.env import JobEnv

log = logging.getLogger(__name__)

REQUEUE, CHAIN, RESUBMIT = "requeue", "chain", "resubmit"
ASK_S = 3.0
UNKNOWN = (
    "this job came from plain sbatch or salloc, so nobody knows what stood on its command line; "
    "`ftslurm submit --from SCRIPT` keeps that"
)

Found = tuple[str, str]
"""How the run can go on after this job (empty: nobody knows now), and what there is to say about it."""


def find_out(config: Config, job: JobEnv, paths: RunPaths) -> Found:
    """Ask Slurm, when a job begins, how the run can go on when this job has to end."""
    slurm, configured = SlurmClient(timeout_s=ASK_S), config.recovery.continue_
    try:
        if job.chain:
            return CHAIN, _chain_words(slurm, job)
        if configured == NONE:
            return NONE, ""
        if configured == RESUBMIT:
            problem = _why_not_resubmit(slurm, paths)
            words = f"this job cannot submit the next one ({problem}): {_end(job)}" if problem else ""
            return (NONE if problem else RESUBMIT), words
        way, words = _by_requeue(slurm, job, paths, also_resubmit=configured != REQUEUE)
    except FtslurmError as error:
        log.warning("how this job can be gone on from is not known: %s", error)
        return (CHAIN if job.chain else ""), ""
    lone = f"recovery.continue is {configured}, and this job is in no chain" if config.recovery.chain else ""
    return way, "; ".join(each for each in (lone, words) if each)


def _chain_words(slurm: SlurmClient, job: JobEnv) -> str:
    left = chains.further(slurm, job)
    if not left:
        return f"the last job of its chain: {_end(job)}"
    ids = ", ".join(each.job_id for each in left)
    return f"a job of a chain: after it the run goes on in job {ids}, as far as it has to"


def _by_requeue(slurm: SlurmClient, job: JobEnv, paths: RunPaths, *, also_resubmit: bool) -> Found:
    if slurm.job(job.job_id).requeue is not False:
        return REQUEUE, ""
    off = "Slurm does not requeue this job (Requeue=0: --no-requeue, the QOS, or JobRequeue=0 at this site)"
    problem = _why_not_resubmit(slurm, paths) if also_resubmit else "recovery.continue is requeue"
    if not problem:
        return RESUBMIT, f"{off}: when it has to end, it submits a new one for the run"
    allow = f"where the site lets you, `scontrol update JobId={job.requeue_id} Requeue=1` and a new start allow it"
    return NONE, f"{off}, and no other job is submitted ({problem}): {_end(job)}; {allow}"


def _end(job: JobEnv) -> str:
    return (
        "when its time is over or too few nodes are left, the run ends unfinished with what is saved, and "
        f"`ftslurm resume {job.requeue_id}` continues it"
    )


def _why_not_resubmit(slurm: SlurmClient, paths: RunPaths) -> str:
    """Why this host cannot submit the run's job once more; empty: it can."""
    try:
        own = ownsubmission.request_of(paths, Changes(), ownsubmission.without_marks(os.environ))
        how = submission.again(paths)
        if own is not None:
            ownsubmission.test_only(slurm, paths, own)
        elif how is not None:
            slurm.test_only(*how)
        else:
            return UNKNOWN
    except FtslurmError as error:
        return str(error)
    return ""


def go_on(job: JobEnv, paths: RunPaths, asked: Requeue) -> RequeueAnswered:
    """Let the run go on in the chain's next job, or in a new one; every refusal is in the answer."""
    try:
        return _next_of_chain(SlurmClient(), job, asked) if asked.by == CHAIN else _resubmitted(job, paths, asked)
    except FtslurmError as error:
        return RequeueAnswered(ok=False, detail=f"{error}; `ftslurm resume {job.requeue_id}` continues the run")


def _next_of_chain(slurm: SlurmClient, job: JobEnv, asked: Requeue) -> RequeueAnswered:
    left = chains.further(slurm, job)
    if not left:
        detail = f"job {job.requeue_id} is the last of its chain; `ftslurm resume {job.requeue_id}` continues the run"
        return RequeueAnswered(ok=False, detail=detail)
    forgiven: tuple[str, ...] = ()
    problems = []
    for each in left:
        exclude, forgiven = excludable(slurm, each.job_id, asked)
        if exclude:
            problems.append(change(slurm, each.job_id, JobField.EXC_NODE_LIST, nodeset.fold(exclude)))
    detail = f"job {left[0].job_id}, which is {left[0].state}; after it {len(left) - 1} more"
    return RequeueAnswered(ok=True, detail="; ".join(filter(None, (detail, *problems))), forgiven=forgiven)


def _resubmitted(job: JobEnv, paths: RunPaths, asked: Requeue) -> RequeueAnswered:
    """Submit the run's job once more, to begin when this one is over."""
    slurm = SlurmClient()
    exclude, forgiven = excludable(slurm, job.job_id, asked)
    new = _already(slurm, job, paths)
    if not new:
        try:
            new = _submit_next(job, paths, exclude)
        except FtslurmError:
            # Its answer may have been lost: then the job is there.
            new = _already(slurm, job, paths)
            if not new:
                raise
    runs.link_job(paths, new)
    without = f", without {', '.join(exclude)}" if exclude else ""
    return RequeueAnswered(ok=True, detail=f"job {new}, when job {job.job_id} is over{without}", forgiven=forgiven)


def _submit_next(job: JobEnv, paths: RunPaths, exclude: tuple[str, ...]) -> str:
    """The id of the new job: ftslurm's script as it stands in the run's folder, or the user's own.

    sbatch hands its environment on to the job.
    """
    changes = Changes(after=job.job_id, exclude=exclude)
    own = ownsubmission.request_of(paths, changes, ownsubmission.without_marks(os.environ))
    if own is not None:
        return ownsubmission.submit(SlurmClient(), paths, own)
    how = submission.again(paths)
    if how is None:
        raise UsageError(UNKNOWN)
    script, options = how
    slurm = SlurmClient(environ={name: value for name, value in os.environ.items() if not name.startswith("FTSLURM_")})
    without = [f"--exclude={nodeset.fold(exclude)}"] if exclude else []
    return slurm.submit(script, [*options, chains.after(job.job_id), *without]).partition(";")[0]


def _already(slurm: SlurmClient, job: JobEnv, paths: RunPaths) -> str:
    """A job that was submitted for the run before, by a supervisor before this one or with a lost answer."""
    others = [each for each in slurm.find_submitted(paths.run_id) if each != job.job_id]
    return others[-1] if others else ""
