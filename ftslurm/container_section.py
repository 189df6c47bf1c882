"""The part of a configuration that puts the ranks into a container: `launch.container`.

ftslurm itself never enters it. The rank's wrapper stays outside and starts the container's command as its child, so
signals, environment and the end of every process are as without one. Where srun starts tasks inside of a container by
itself (pyxis), the wrapper has to run inside; it travels through the run's folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field

from ftslurm.fields import Line, Texts
from ftslurm.sections import Section

SRUN_CONTAINER = "--container"
"""How the options of srun begin that start a task inside of a container: Slurm's own (OCI) and those of pyxis."""


class Container(Section):
    """A container for the ranks. Placeholders in `command`: docs/how-to/containers.md."""

    command: Texts = Field(
        (), description="What runs the program inside, before the program's own command, as in [apptainer, exec, a.sif]"
    )
    wrapper: Literal["auto", "outside", "inside"] = Field(
        "auto",
        description="Where the rank's wrapper runs; auto: outside, but inside where launch.srun starts tasks in a"
        " container (--container...)",
    )
    python: Annotated[Line, Field(max_length=4096)] = Field(
        "python3", description="Python of the container, from 3.8 on; used where the wrapper runs inside"
    )
    env: Literal["auto", "inherit", "apptainer", "singularity"] = Field(
        "auto",
        description="How variables get inside: inherit, or also by APPTAINERENV_ or SINGULARITYENV_ names, which beat"
        " --cleanenv and the image's own; auto: by the command's words",
    )

    def is_inside(self, srun: Sequence[str]) -> bool:
        """Whether the wrapper runs inside, with these options of srun."""
        by_srun = any(option.startswith(SRUN_CONTAINER) for option in srun)
        return self.wrapper == "inside" or (self.wrapper == "auto" and by_srun)

    @property
    def prefixes(self) -> tuple[str, ...]:
        """What is put before a variable's name so that it arrives inside, besides the name itself."""
        names = [word.rpartition("/")[2] for word in self.command]
        for name in ("apptainer", "singularity"):
            if self.env == name or (self.env == "auto" and name in names):
                return (f"{name.upper()}ENV_",)
        return ()


def findings(container: Container | None, srun: Sequence[str], launcher: str) -> Iterator[tuple[str, str]]:
    """What is wrong between fields that are right one by one: (key, sentence naming the other key)."""
    if container is None:
        return
    if not container.command and not container.is_inside(srun):
        yield "launch.container.command", "is missing, and launch.srun starts no container either"
    if container.wrapper == "outside" and any(option.startswith(SRUN_CONTAINER) for option in srun):
        yield "launch.container.wrapper", "cannot be outside: launch.srun starts every task inside of a container"
    if launcher == "mpirun" and container.is_inside(srun) and not container.command:
        yield "launch.container.wrapper", "is inside by launch.srun, which launch.launcher: mpirun does not use"
