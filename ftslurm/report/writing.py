"""The files of a report, each written whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftslurm.errors import CannotCreate, StorageError
from ftslurm.paths import PRIVATE_FILE, PRIVATE_FOLDER
from ftslurm.report.data import csv_text, document, tables
from ftslurm.report.page import page

if TYPE_CHECKING:
    from ftslurm.report.contents import Contents
    from ftslurm.report.helper import Helper
    from ftslurm.report.pictures import Picture

NO_PICTURES = "There are no pictures: matplotlib is not installed (pip install 'ftslurm[report]')."


@dataclass(frozen=True, slots=True)
class Written:
    """The page and everything beside it."""

    page: Path
    files: tuple[Path, ...]
    pictures: bool


def write(contents: Contents, folder: Path, helper: Helper | None = None) -> Written:
    """Write the report into a folder, which is made if it is not there; a helper draws a part of it.

    Raises:
        CannotCreate: the folder cannot be made.
        StorageError: a file cannot be written.
    """
    try:
        folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    except OSError as error:
        raise CannotCreate(
            f"cannot make {folder}: {error.strerror}", hint="--out DIR chooses another folder"
        ) from error
    drawn = _drawn(contents, helper)
    beside = dict(_beside(contents, drawn or ()))
    remark = NO_PICTURES if drawn is None else ""
    name = f"training_report_{contents.run_id}.html"
    whole = page(contents, drawn or (), sorted(beside), remark).encode("utf-8", "replace")
    _write_all(folder, {**beside, name: whole})
    return Written(folder / name, tuple(folder / each for each in sorted(beside)), drawn is not None)


def _drawn(contents: Contents, helper: Helper | None) -> tuple[Picture, ...] | None:
    """The pictures; None where there is nothing to draw with."""
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        return None
    from ftslurm.report.pictures import pictures

    return tuple(pictures(contents, helper))


def _beside(contents: Contents, drawn: tuple[Picture, ...]) -> Iterator[tuple[str, bytes]]:
    for picture in drawn:
        yield f"{picture.name}_{contents.run_id}.png", picture.drawn.png
        yield f"{picture.name}_{contents.run_id}.svg", picture.drawn.wide
    data = json.dumps(document(contents), indent=2, allow_nan=False) + "\n"
    yield f"training_report_{contents.run_id}.json", data.encode()
    for name, rows in tables(contents).items():
        yield f"{name}_{contents.run_id}.csv", csv_text(rows).encode("utf-8", "replace")


def _write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        part = folder / f".{name}.{secrets.token_hex(4)}"
        try:
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, PRIVATE_FILE)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            part.replace(folder / name)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise StorageError(f"cannot write {folder / name}: {error.strerror}") from error
