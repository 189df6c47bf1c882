"""Which damages of a checkpoint are noticed when it is loaded: torch.load, safetensors, DCP, ftslurm.

The same tensors are saved twice, as two steps, by each of the four. Then one copy of the newer step after the other is
damaged, always in the same places, and loaded. A load that raises has *noticed* the damage; one that returns other
numbers than were saved was *silent*; one that returns the right numbers needs no notice. Nothing is measured in
seconds, so the table is the same on every machine with the same versions.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import machine
import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file

from tests.checkpoint.libraryworld import Library, arrays, load

Tensors = dict[str, torch.Tensor]
OLD, NEW = 10, 20
HEADER = ["damage", "tried", "torch.load", "safetensors", "DCP", "ftslurm"]
METHOD = """{size:.1f} MB of tensors, two steps, two shards where the format has shards. *noticed n*: the load raised,
so the program knows. *silent n*: the load returned other numbers than were saved. *right n*: the numbers were right all
the same (a padding byte, a field that nobody reads). ftslurm has to refuse what it has not written even where the
numbers would be right. A format of a single file has no shard to mix up (-). Positions are spread evenly over each
file. `scripts/bench corruption` makes the table again."""


def tensors(step: int, rows: int) -> Tensors:
    """What is saved."""
    return {key.replace("/", "."): torch.from_numpy(array) for key, array in arrays(step, rows).items()}


@dataclass(frozen=True)
class Format:
    """One way to save. `payload` and `records` are patterns of the files with numbers, and with words about them."""

    name: str
    save: Callable[[Path, int, int], None]
    load: Callable[[Path, int, int], Tensors]
    payload: str
    records: tuple[str, ...] = ()
    shards: bool = False


def _save_torch(folder: Path, step: int, rows: int) -> None:
    torch.save(tensors(step, rows), folder / "state.pt")


def _load_torch(folder: Path, step: int, rows: int) -> Tensors:
    del step, rows
    loaded: Tensors = torch.load(folder / "state.pt", weights_only=True)
    return loaded


def _save_safetensors(folder: Path, step: int, rows: int) -> None:
    save_file(tensors(step, rows), folder / "state.safetensors")


def _load_safetensors(folder: Path, step: int, rows: int) -> Tensors:
    del step, rows
    return load_file(folder / "state.safetensors")


def _save_dcp(folder: Path, step: int, rows: int) -> None:
    writer = dcp.FileSystemWriter(folder, thread_count=2)
    dcp.save(tensors(step, rows), storage_writer=writer, no_dist=True)


def _load_dcp(folder: Path, step: int, rows: int) -> Tensors:
    into = {key: torch.full_like(tensor, 77) for key, tensor in tensors(step, rows).items()}
    dcp.load(into, checkpoint_id=folder, no_dist=True)
    return into


def _save_ftslurm(folder: Path, step: int, rows: int) -> None:
    library = Library(folder, rows).prepare()
    made = library.paths(library.save(step)).root
    for each in (*made.iterdir(), *(folder / "checkpoints").iterdir()):
        if each.parent == made:
            each.rename(folder / each.name)
    shutil.rmtree(folder / "checkpoints")


def _load_ftslurm(folder: Path, step: int, rows: int) -> Tensors:
    from ftslurm.checkpoint.layout import GenerationPaths
    from ftslurm.core.manifest import generation_name

    named = folder.parent / generation_name(step, 0)
    folder.rename(named)
    try:
        loaded, _ = load(GenerationPaths(named), arrays(step, rows))
    finally:
        named.rename(folder)
    return {key.replace("/", "."): torch.from_numpy(array) for key, array in loaded.items()}


FORMATS = [
    Format("torch.load", _save_torch, _load_torch, "*.pt"),
    Format("safetensors", _save_safetensors, _load_safetensors, "*.safetensors"),
    Format("DCP", _save_dcp, _load_dcp, "*.distcp", (".metadata",), shards=True),
    Format("ftslurm", _save_ftslurm, _load_ftslurm, "d/*.bin", ("d/*.json", "m/*.json", "COMMIT.json"), shards=True),
]

# -------------------------------------------------------------------------------------------------------------- damages


@dataclass(frozen=True)
class Case:
    """The folder that is damaged, that of the step before, and how often each kind is tried."""

    folder: Path
    old: Path
    form: Format
    tries: int

    def files(self, *patterns: str) -> list[Path]:
        """Those that match, in the same order everywhere."""
        return sorted(path for pattern in patterns for path in self.folder.glob(pattern))

    def payload(self) -> list[Path]:
        """The files with numbers."""
        return self.files(self.form.payload)

    def all(self) -> list[Path]:
        """Every file."""
        return self.files(self.form.payload, *self.form.records)


@contextlib.contextmanager
def kept(*paths: Path) -> Iterator[None]:
    """Whatever happens inside, the files are as before afterwards."""
    before = {path: path.read_bytes() for path in paths}
    try:
        yield
    finally:
        for path, data in before.items():
            path.write_bytes(data)


Damage = Callable[[Case], Iterator[None]]
"""Yields once for each trial, with the damage done; heals it when asked for the next."""


def _edited(path: Path, edit: Callable[[bytearray], Any]) -> Iterator[None]:
    with kept(path):
        data = bytearray(path.read_bytes())
        edit(data)
        path.write_bytes(data)
        yield


def _flip(at: int) -> Callable[[bytearray], None]:
    def edit(data: bytearray) -> None:
        data[at] ^= 1 << at % 8

    return edit


def _places(size: int, count: int) -> list[int]:
    return [size * (2 * number + 1) // (2 * count) for number in range(count)]


def bit_in_numbers(case: Case) -> Iterator[None]:
    """One bit flipped, in a file with numbers."""
    for path in case.payload():
        for at in _places(path.stat().st_size, case.tries // len(case.payload())):
            yield from _edited(path, _flip(at))


def bit_at_an_end(case: Case) -> Iterator[None]:
    """One bit flipped in the first or last bytes of a file with numbers."""
    for path in case.payload():
        size = path.stat().st_size
        for at in (*range(8), *range(size - 8, size)):
            yield from _edited(path, _flip(at))


def bit_in_records(case: Case) -> Iterator[None]:
    """One bit flipped in a file that says what lies where."""
    files = case.files(*case.form.records)
    for path in files:
        for at in _places(path.stat().st_size, max(1, case.tries // len(files))):
            yield from _edited(path, _flip(at))


def zeroed_page(case: Case) -> Iterator[None]:
    """4 KiB zeroed, in a file with numbers."""
    for path in case.payload():
        for at in _places(path.stat().st_size // 4096, case.tries // len(case.payload())):
            yield from _edited(
                path, lambda data, at=at: data.__setitem__(slice(at * 4096, (at + 1) * 4096), bytes(4096))
            )


def swapped_pages(case: Case) -> Iterator[None]:
    """Two blocks of 64 KiB under each other's place."""
    size = 1 << 16

    def edit(data: bytearray) -> None:
        middle = len(data) // 2 // size * size
        data[middle : middle + size], data[middle - size : middle] = (
            data[middle - size : middle],
            data[middle : middle + size],
        )

    for path in case.payload():
        yield from _edited(path, edit)


def truncated(case: Case) -> Iterator[None]:
    """A file cut off: by a byte, by a page, in the middle, to nothing."""
    for path in case.all():
        size = path.stat().st_size
        for left in (size - 1, max(size - 4096, 1), size // 2, 0):
            yield from _edited(path, lambda data, left=left: data.__delitem__(slice(left, None)))


def never_written(case: Case) -> Iterator[None]:
    """A file of the right size whose second half was never written: zeros, after a power cut."""
    for path in case.all():
        yield from _edited(
            path, lambda data: data.__setitem__(slice(len(data) // 2, None), bytes(len(data) - len(data) // 2))
        )


def longer(case: Case) -> Iterator[None]:
    """A file with 4 KiB more at its end."""
    for path in case.all():
        yield from _edited(path, lambda data: data.extend(b"\xff" * 4096))


def missing(case: Case) -> Iterator[None]:
    """A file is gone."""
    for path in case.all():
        with kept(path):
            path.unlink()
            yield


def shard_of_another_step(case: Case) -> Iterator[None]:
    """One shard is that of the step before."""
    if case.form.shards:
        for path in case.payload():
            with kept(path):
                shutil.copy(case.old / path.relative_to(case.folder), path)
                yield


def swapped_shards(case: Case) -> Iterator[None]:
    """Two shards under each other's names."""
    if case.form.shards:
        one, two = case.payload()
        with kept(one, two):
            mine = one.read_bytes()
            one.write_bytes(two.read_bytes())
            two.write_bytes(mine)
            yield


def records_of_another_step(case: Case) -> Iterator[None]:
    """A file that says what lies where is that of the step before."""
    for path in case.files(*case.form.records):
        with kept(path):
            shutil.copy(case.old / path.relative_to(case.folder), path)
            yield


DAMAGES: list[Damage] = [
    bit_in_numbers, bit_at_an_end, bit_in_records, zeroed_page, swapped_pages, never_written, truncated, longer,
    missing, shard_of_another_step, swapped_shards, records_of_another_step,
]  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- measure


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What the peers print and log beside their errors is left out."""
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def outcome(form: Format, folder: Path, rows: int) -> str:
    """What a load of the damaged folder comes to. DCP's errors are no Exceptions, but BaseExceptions."""
    try:
        with quiet():
            loaded = form.load(folder, NEW, rows)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - whatever is raised is noticed
        return "noticed"
    return "right" if _same(loaded, tensors(NEW, rows)) else "silent"


def _same(loaded: Tensors, wanted: Tensors) -> bool:
    if loaded.keys() != wanted.keys():
        return False
    for key, tensor in wanted.items():
        found = loaded[key]
        if (found.dtype, found.shape) != (tensor.dtype, tensor.shape):
            return False
        if np.asarray(found).tobytes() != np.asarray(tensor).tobytes():
            return False
    return True


def measure(rows: int, tries: int, place: Path) -> dict[str, dict[str, dict[str, int]]]:
    """Damage -> format -> outcome -> how often."""
    found: dict[str, dict[str, dict[str, int]]] = {str(damage.__doc__).rstrip("."): {} for damage in DAMAGES}
    for form in FORMATS:
        folders = {step: place / form.name / str(step) for step in (OLD, NEW)}
        for step, folder in folders.items():
            folder.mkdir(parents=True)
            with quiet():
                form.save(folder, step, rows)
        if outcome(form, folders[NEW], rows) != "right":
            raise SystemExit(f"{form.name} does not load what it has saved")
        case = Case(folder=folders[NEW], old=folders[OLD], form=form, tries=tries)
        for damage in DAMAGES:
            count = Counter(outcome(form, case.folder, rows) for _ in damage(case))
            found[str(damage.__doc__).rstrip(".")][form.name] = dict(sorted(count.items()))
    return found


def render(value: dict[str, Any]) -> str:
    """The page."""
    rows = []
    for damage, by_format in value["found"].items():
        tried = "/".join(str(sum(by_format[form.name].values())) for form in FORMATS)
        rows.append([damage, tried, *(_cell(by_format[form.name]) for form in FORMATS)])
    head = "# Corruption: what is noticed when a checkpoint is loaded\n"
    versions = f"torch {value['torch']}, safetensors {value['safetensors']}.\n"
    return "\n".join([head, METHOD.format(size=value["size_mb"]) + "\n", versions, machine.table(HEADER, rows)])


def _cell(count: dict[str, int]) -> str:
    if not count:
        return "-"
    told = ", ".join(f"{word} {count[word]}" for word in ("noticed", "silent", "right") if word in count)
    return f"**{told}**" if "silent" in count else told


def main() -> int:
    """Damage, load and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=100, help="places of each kind (default 100)")
    parser.add_argument("--quick", action="store_true", help="little data, few places")
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder of the results")
    asked = parser.parse_args()
    rows, tries = (300, 6) if asked.quick else (1300, asked.tries)
    with tempfile.TemporaryDirectory() as place:
        found = measure(rows, tries, Path(place))
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors(NEW, rows).values())
    value = {
        "found": found,
        "tries": tries,
        "size_mb": round(size / 1e6, 1),
        "torch": machine.version("torch"),
        "safetensors": machine.version("safetensors"),
    }
    machine.write_json(asked.out / "corruption.json", value)
    (asked.out / "corruption.md").write_text(render(value), encoding="utf-8")
    print(render(value))
    return 0


if __name__ == "__main__":
    sys.exit(main())
