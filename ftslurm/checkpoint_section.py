"""The parts of a configuration that say how training is saved: `checkpoint`, and `state`, its history elsewhere.

With `files` the program writes what it wants, when it wants, and ftslurm recognises it by its name; with the name of a
framework, by what that framework writes; with `library` the program calls `ftslurm.training`, and ftslurm decides when
to save, and writes. Keys of one layout are refused in the other (`findings`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from ftslurm.fields import (
    Count,
    CountOrNone,
    Line,
    Lines,
    Rate,
    SaveEvery,
    SaveOn,
    Texts,
    duration,
)
from ftslurm.sections import Section

PLACEHOLDERS = ("run_dir", "run_id", "name")
Layout = Literal["files", "library", "hf", "lightning", "dcp", "megatron", "deepspeed"]
_PLACE = re.compile(r"(?:(?:[\w.-]+@)?[A-Za-z0-9][\w.-]*:)?/.*")
"""An absolute path, here or on another host."""

MetricName = Annotated[Line, Field(max_length=200)]


class Improvement(Section):
    """A metric that the program reports with its steps; a save follows when it is better than in every save before."""

    name: MetricName = Field(description="As in run.step(step, loss=...): loss")
    mode: Literal["min", "max"] = Field("min", description="What better means: less or more")


class Every(Section):
    """When a program of the library layout saves: any of these."""

    steps: Count | None = Field(
        None, description="At multiples of this step; too low stands still too often, too high loses work at a failure"
    )
    time: SaveEvery = Field(
        None,
        description="Time since the last save, or auto (Daly's interval, from the measured cost of a save and the time"
        " between failures); too low stands still too often, too high loses work",
    )
    epoch: Annotated[bool, Field(strict=True)] = Field(default=False, description="At the end of every epoch")
    metric: Improvement | None = Field(None, description="When a metric is better than in every save before")

    @model_validator(mode="after")
    def _any(self) -> Every:
        if self.steps is None and self.time is None and not self.epoch and self.metric is None:
            raise ValueError("expected at least one of steps, time, epoch and metric")
        return self


class KeepBest(Section):
    """Checkpoints that are kept because they are good."""

    metric: MetricName = Field(description="A metric that the program reports with its steps")
    mode: Literal["min", "max"] = Field("min", description="What good means: little or much")
    count: Count = Field(1, description="How many are kept; too high fills the storage")


class Checkpoint(Section):
    """Where checkpoints are written, and how they are recognised, kept and handed back."""

    layout: Layout = Field(
        "files",
        description="files: what the program writes itself; library: the program calls ftslurm.training; else the"
        " framework that writes them",
    )
    mode: Literal["drain", "in-place"] = Field(
        "drain",
        description="drain: written to scratch, and brought to shared storage from there; in-place: the program writes"
        " to shared storage, and nothing is copied; not in the library layout",
    )
    folder: Line | None = Field(
        None,
        description="Where the program writes, on shared storage; absolute, or relative to the working directory;"
        " in-place only",
    )
    also: Lines = Field(
        (),
        description="Patterns (glob) of further files that belong to the checkpoint of {step}, relative to the folder;"
        " in-place only",
    )
    manage: Annotated[bool, Field(strict=True)] = Field(
        default=False,
        description="Whether old and damaged checkpoints that the program has written in place may be removed and set"
        " aside, and its tracker file rewritten",
    )
    reshards: Literal["auto", "yes", "no"] = Field(
        "auto",
        description="Whether another number of ranks can load a checkpoint; auto: by the layout (no for megatron and"
        " deepspeed); no: the run never goes on smaller",
    )
    scratch: Line = Field("auto", description="Node-local folder: auto, none or a path; auto tries the usual ones")
    shared: Line = Field(
        "{run_dir}/checkpoints", description="Folder on shared storage; may hold {run_dir}, {run_id}, {name}"
    )
    partner: Literal["auto", "none", "always"] = Field(
        "auto",
        description="A second copy on another node's scratch, from which a restart needs no shared storage; auto: in"
        " the library layout on two or more nodes",
    )
    keep_last: Count = Field(5, description="Newest checkpoints that are kept; 1 leaves nothing to fall back to")
    keep_best: KeepBest | None = Field(None, description="Best checkpoints that are kept besides; library layout")
    keep_every: CountOrNone = Field(
        0, description="One checkpoint in so many steps is kept for good; 0: none, too low fills the storage"
    )
    max_age: Annotated[float, *duration(60, 3650 * 86400)] | None = Field(
        None, description="Checkpoints younger than this are kept, too; too high fills the storage"
    )
    drain: Literal["auto", "copy", "rsync"] = Field(
        "auto", description="How checkpoints get from scratch to shared storage"
    )
    drain_to: Line | None = Field(None, description="A further copy: a path, or host:/path (by rsync)")
    drain_width: Count = Field(
        16,
        description="Nodes that drain at a time; too low makes checkpoints durable late, too high storms the storage",
    )
    durable_every: Annotated[float, *duration(1, 30 * 86400)] | None = Field(
        None,
        description="At most one checkpoint in this time goes to shared storage; left out: as many as it takes; too"
        " high loses work where nodes and their partners are lost together",
    )
    rate_limit: Rate = Field(
        None, description="Most bytes a second that one node drains, as in 200M/s; left out: no limit"
    )
    delta: Literal["none", "auto"] = Field(
        "none",
        description="auto: differential saves are drained as differences, compressed, as long as that is measured to be"
        " faster; library layout",
    )
    every: Every | None = Field(
        None, description="When to save, any of steps, time, epoch, metric; library layout; left out: time: auto"
    )
    min_interval: Annotated[float, *duration(0, 86400)] = Field(
        0.0, description="Never save sooner after the last save, unless asked to or at the time limit; library layout"
    )
    min_steps: CountOrNone = Field(
        0, description="Never save after fewer steps, unless asked to or at the time limit; library layout"
    )
    full_every: Count = Field(
        8,
        description="One save in so many is full, the others only refer to what did not change; 1: all are full, too"
        " high keeps old ones alive; library layout",
    )
    compression: Literal["none", "zstd"] = Field(
        "none", description="zstd: smaller saves that take more CPU beside training; library layout"
    )
    files: Lines = Field(
        (), description="Patterns (glob) of the checkpoint files, one or a list, relative to their folder; files layout"
    )
    done_marker: Line | None = Field(
        None, description="File that says a checkpoint is complete, as in {name}.done; files layout"
    )
    settle: Annotated[float, *duration(0.1, 3600)] = Field(
        2.0,
        description="Time without a change after which a file is complete; too low takes half-written files; files"
        " layout",
    )
    save_on: SaveOn | None = Field(
        None,
        description="How the program is asked to save: signal:NAME, file:PATH or none; left out: by the layout"
        " (signal:TERM for files); not in the library layout",
    )
    resume_args: Texts = Field(
        (),
        description="Appended to the command when there is a checkpoint; may hold {checkpoint}, {tag} and {step}; not"
        " in the library layout",
    )
    grace: Annotated[float, *duration(1, 86400)] = Field(
        60.0, description="Time given to the last save before the time limit; too low loses the work since the last one"
    )

    @property
    def in_library(self) -> bool:
        """Whether the program saves through `ftslurm.training`."""
        return self.layout == "library"

    @property
    def is_watched(self) -> bool:
        """Whether there will be checkpoints at all."""
        return self.layout != "files" or bool(self.files)

    @property
    def in_place(self) -> bool:
        """Whether checkpoints stay where the program writes them."""
        return self.mode == "in-place"

    @field_validator("files", "also", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("files", "also")
    @classmethod
    def _relative(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            if pattern.startswith(("/", "~")) or ".." in pattern.split("/"):
                raise ValueError("patterns are relative to the checkpoint folder and may not leave it")
        return value

    @field_validator("scratch")
    @classmethod
    def _place(cls, value: str) -> str:
        if value not in ("auto", "none") and not value.startswith("/"):
            raise ValueError("expected auto, none or an absolute path")
        return value

    @field_validator("shared")
    @classmethod
    def _template(cls, value: str) -> str:
        unknown = [name for name in re.findall(r"\{(.*?)\}", value) if name not in PLACEHOLDERS]
        if unknown:
            raise ValueError(f"unknown placeholder {{{unknown[0]}}}; there are {{run_dir}}, {{run_id}} and {{name}}")
        if not value.startswith(("/", "{run_dir}")):
            raise ValueError("expected an absolute path or one that starts with {run_dir}")
        return value

    @field_validator("drain_to")
    @classmethod
    def _destination(cls, value: str | None) -> str | None:
        return value if value is None else _destination_of(value)

    @field_validator("done_marker")
    @classmethod
    def _marker(cls, value: str | None) -> str | None:
        if value is not None and "{name}" not in value:
            raise ValueError("must hold {name}, the name of the checkpoint file, as in {name}.done")
        return value


class Sync(Section):
    """A second place for the history of the training's state."""

    to: Line = Field(description="Folder, or host:/path (by rsync over ssh without a password)")
    every: Annotated[float, *duration(1, 86400)] = Field(
        60.0, description="Time between two transfers; too low costs connections, too high loses the newest entries"
    )

    @field_validator("to")
    @classmethod
    def _destination(cls, value: str) -> str:
        return _destination_of(value)


class State(Section):
    """The history of the training's state: position, metrics and reason of every save, in the run's folder."""

    sync: Sync | None = Field(None, description="Where else it is kept; left out: nowhere")


def _destination_of(value: str) -> str:
    if not _PLACE.fullmatch(value):
        raise ValueError("expected an absolute path or host:/path")
    return value


# Keys that belong to one layout, and why not to the other.
_OF_LIBRARY = ("every", "min_interval", "min_steps", "full_every", "compression", "delta", "keep_best")
_OF_FILES = ("files", "done_marker", "settle", "save_on", "resume_args", "mode")
_OF_IN_PLACE = ("folder", "also", "manage")
_OF_NAMES = ("files", "done_marker")
_NOT_IN_FILES = "only with checkpoint.layout: library; with files the program decides when it saves, and what"
_NOT_IN_LIBRARY = "not with checkpoint.layout: library: ftslurm.training saves and restores by itself"


def _set(saved: Checkpoint, names: Iterable[str], why: str) -> Iterator[tuple[str, str]]:
    for name in names:
        if getattr(saved, name) != Checkpoint.model_fields[name].default:
            yield f"checkpoint.{name}", why


def _about_place(saved: Checkpoint) -> Iterator[tuple[str, str]]:
    """What does not go together with files that stay in place, or with files that do not."""
    if not saved.in_place:
        yield from _set(saved, _OF_IN_PLACE, "only with checkpoint.mode: in-place")
        return
    if saved.folder is None:
        yield "checkpoint.mode", "in-place needs checkpoint.folder: where the program writes"
    for name in ("drain", "drain_to", "partner"):
        yield from _set(saved, (name,), "not with checkpoint.mode: in-place: nothing is copied")
    for pattern in saved.also:
        if "{step}" not in pattern:
            why = f"{pattern!r} holds no {{step}}: what every save overwrites belongs to none of them"
            yield "checkpoint.also", why


def findings(saved: Checkpoint, most_nodes: int) -> Iterator[tuple[str, str]]:
    """What is wrong between fields that are right one by one: (key, sentence naming the other key)."""
    names, why = (_OF_FILES, _NOT_IN_LIBRARY) if saved.in_library else (_OF_LIBRARY, _NOT_IN_FILES)
    yield from _set(saved, names, why)
    if saved.layout not in ("files", "library"):
        yield from _set(saved, _OF_NAMES, f"only with checkpoint.layout: files; the names of {saved.layout} are known")
    yield from _about_place(saved)
    if saved.drain == "copy" and ":" in (saved.drain_to or "").split("/")[0]:
        yield "checkpoint.drain_to", "host:/path needs rsync, but checkpoint.drain is copy"
    if saved.resume_args and not saved.is_watched:
        yield "checkpoint.resume_args", "there is never a checkpoint to resume from without checkpoint.files"
    if saved.partner == "always" and most_nodes < 2:
        yield "checkpoint.partner", "there is no partner: resources.nodes is 1"
    if saved.in_library and saved.delta == "auto" and saved.full_every == 1:
        yield "checkpoint.delta", "there are no differential saves: checkpoint.full_every is 1"
