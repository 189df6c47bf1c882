"""Writes the tensors of one generation of the library layout as a safetensors file, for programs that know no ftslurm.

The form is that of huggingface/safetensors, README "Format": the length of the header (8 bytes, little endian), the
header as JSON, the tensors' raw bytes without holes. One tensor at a time is in memory, each verified chunk by chunk as
it is read; the file appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftslurm.checkpoint import disk
from ftslurm.checkpoint.arrays import raw_bytes
from ftslurm.checkpoint.layout import GenerationPaths
from ftslurm.checkpoint.reader import Generation
from ftslurm.core.rankindex import DTYPES
from ftslurm.errors import StorageError, UsageError

if TYPE_CHECKING:
    from ftslurm.core.wholeness import Tensor

MODEL = "model."
NAMES = {
    "bool": "BOOL", "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64", "uint8": "U8", "uint16": "U16",
    "uint32": "U32", "uint64": "U64", "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "complex64": "C64",
}  # fmt: skip
"""The types that the format knows, by our names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written: how many tensors, and the size of the file."""

    tensors: int
    size_bytes: int


def export(
    folder: GenerationPaths,
    target: Path,
    *,
    prefix: str = MODEL,
    tell: Callable[[int, int], None] = lambda _d, _a: None,
) -> Exported:
    """Write all tensors whose key begins with `prefix`, without it, to `target`; an older file is replaced.

    `tell` hears how many of the bytes are written.

    Raises:
        UsageError: there is none; or one of a type that the format does not know.
        DataDamaged: the generation is not what was written.
        StorageError: it cannot be read, or the file cannot be written.
    """
    with Generation.open(folder) as generation:
        tensors = generation.whole.tensors
        chosen = {key.removeprefix(prefix): tensors[key] for key in tensors if key.startswith(prefix)}
        if not chosen:
            raise UsageError(f"{folder.root.name} has no tensors whose names begin with {prefix!r}")
        about = {"format": "pt", "ftslurm_generation": folder.root.name, "ftslurm_digest": generation.digest}
        ordered = sorted(chosen, key=lambda name: (-DTYPES[chosen[name].dtype], name))
        header = _header([(name, chosen[name]) for name in ordered], about)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            size = _write(temporary, header, _told(generation, [chosen[name] for name in ordered], tell))
            temporary.replace(target)
            disk.fsync_folder(target.parent)
        except OSError as error:
            raise StorageError(f"cannot write {target}: {error.strerror}") from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
    return Exported(tensors=len(ordered), size_bytes=size)


def _header(tensors: Sequence[tuple[str, Tensor]], about: dict[str, str]) -> bytes:
    """The header with its length, padded so that the tensors begin at a multiple of 8."""
    record: dict[str, object] = {"__metadata__": about}
    at = 0
    for name, tensor in tensors:
        kind = NAMES.get(tensor.dtype)
        if kind is None or name in record:
            raise UsageError(f"{name!r} of the type {tensor.dtype} cannot stand in a safetensors file")
        end = at + _size(tensor)
        record[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(record, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _size(tensor: Tensor) -> int:
    return math.prod(tensor.shape) * DTYPES[tensor.dtype]


def _told(generation: Generation, tensors: Sequence[Tensor], tell: Callable[[int, int], None]) -> Iterator[memoryview]:
    """The bytes of the tensors, verified, one tensor after the other."""
    done, size = 0, sum(map(_size, tensors))
    for tensor in tensors:
        yield raw_bytes(generation, tensor)
        done += _size(tensor)
        tell(done, size)


def _write(path: Path, header: bytes, tensors: Iterable[memoryview]) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        disk.write_all(descriptor, header)
        for tensor in tensors:
            disk.write_all(descriptor, tensor)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return path.stat().st_size
