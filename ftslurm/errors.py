"""Every error that ftslurm raises on purpose, and the exit code each one ends a command with.

The leaves say whose fault it is: the user's input, Slurm's refusal, the cluster's illness, damaged data, our bug.
Codes 0 to 2 are click's; the others are those of sysexits.h, so that cron and shell scripts can tell them apart.
Foreign exceptions are translated into these at the boundary where they arise.
"""

from __future__ import annotations

from typing import ClassVar


class FtslurmError(Exception):
    """Root of all; `hint` says what the user can do about it."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class RunFailed(FtslurmError):
    """The training ended without success."""

    exit_code = 1


class UsageError(FtslurmError):
    """A command was called with values that cannot be right."""

    exit_code = 2


class ConfigError(FtslurmError):
    """The configuration file has mistakes; all of them are in the message."""

    exit_code = 2


class RunStopped(FtslurmError):
    """The run was stopped as somebody had asked (`ftslurm stop`); `ftslurm resume` continues it."""

    exit_code = 79


class DataDamaged(FtslurmError):
    """Stored bytes are not the ones that were written."""

    exit_code = 65


class ServiceUnavailable(FtslurmError):
    """Something that is needed does not answer: slurmctld, shared storage, a node."""

    exit_code = 69


class InternalError(FtslurmError):
    """Our bug."""

    exit_code = 70


class IllegalTransition(InternalError):
    """An action of ours that the current phase does not allow; nothing was changed."""


class CannotCreate(FtslurmError):
    """A file or folder cannot be created where it has to be."""

    exit_code = 73


class StorageError(FtslurmError):
    """Reading or writing failed: read-only, full, over quota, stale."""

    exit_code = 74


class TryAgain(FtslurmError):
    """A passing condition: held by somebody else, rate limited, slurmctld busy."""

    exit_code = 75


class Refused(FtslurmError):
    """Slurm or the system says no: account, QOS, permission."""

    exit_code = 77


class SiteForbids(FtslurmError):
    """The site's configuration does not allow what the plan needs."""

    exit_code = 78
