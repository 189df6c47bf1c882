"""Does a file look finished? Its own structure is asked, not its content.

A zip's directory is written last, so a zip that ends in a sound directory was written to its end (torch.save, numpy's
npz). A safetensors header tells the file's size before the first tensor. Other formats tell nothing: they must only not
be empty. Sources: APPNOTE.TXT 6.3.10 section 4.3; the safetensors README.
"""

from __future__ import annotations

import os
import struct
import zipfile
from typing import TYPE_CHECKING

from ftslurm.core.strictjson import decode
from ftslurm.errors import DataDamaged

if TYPE_CHECKING:
    from pathlib import Path

_ZIP_START = b"PK\x03\x04"
_ZIP_END = b"PK\x05\x06"
_ZIP_END_BYTES = 22
_ZIP_LOCAL_BYTES = 30
_MUST_BE_ZIP = (".npz", ".zip")
_MAX_HEADER = 100_000_000
"""The limit of the safetensors format."""


def fault_of(descriptor: int, path: Path) -> str:
    """Why an open file cannot be finished; "" where nothing speaks against it."""
    size = os.fstat(descriptor).st_size
    if size == 0:
        return "it is empty"
    starts_as_zip = os.pread(descriptor, 4, 0) == _ZIP_START
    if starts_as_zip or path.name.endswith(_MUST_BE_ZIP):
        return _zip_fault(descriptor, size)
    if path.name.endswith(".safetensors"):
        return _safetensors_fault(descriptor, size)
    return ""


def tells_its_end(descriptor: int, path: Path) -> bool:
    """Whether `fault_of` of this file proves that it was written to its end."""
    return os.pread(descriptor, 4, 0) == _ZIP_START or path.name.endswith((*_MUST_BE_ZIP, ".safetensors"))


def _zip_fault(descriptor: int, size: int) -> str:
    tail_start = max(0, size - _ZIP_END_BYTES - 0xFFFF)
    tail = os.pread(descriptor, size - tail_start, tail_start)
    found = tail.rfind(_ZIP_END)
    if found < 0 or len(tail) - found < _ZIP_END_BYTES:
        return "the zip has no directory at its end"
    comment = struct.unpack_from("<H", tail, found + 20)[0]
    if found + _ZIP_END_BYTES + comment != len(tail):
        return "the zip goes on after its directory"
    try:
        with os.fdopen(os.dup(descriptor), "rb") as file, zipfile.ZipFile(file) as archive:
            return _entries_fault(descriptor, archive)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        return f"the zip's directory is unsound: {error}"


def _entries_fault(descriptor: int, archive: zipfile.ZipFile) -> str:
    """Every entry that the directory names must lie before the directory and begin as an entry does."""
    for entry in archive.infolist():
        start, end = entry.header_offset, entry.header_offset + _ZIP_LOCAL_BYTES + entry.compress_size
        if start < 0 or end > archive.start_dir or os.pread(descriptor, 4, start) != _ZIP_START:
            return f"the zip's directory names {entry.filename[:80]!r} where there is no such entry"
    return ""


def _safetensors_fault(descriptor: int, size: int) -> str:
    head = os.pread(descriptor, 8, 0)
    length = struct.unpack("<Q", head)[0] if len(head) == 8 else _MAX_HEADER + 1
    if length > min(_MAX_HEADER, size - 8):
        return "the safetensors header is cut off"
    try:
        header = decode(os.pread(descriptor, length, 8), "the safetensors header")
        if not isinstance(header, dict):
            return "the safetensors header is no object"
        ends = [int(value["data_offsets"][1]) for key, value in header.items() if key != "__metadata__"]
    except (DataDamaged, TypeError, KeyError, IndexError, ValueError) as error:
        return f"the safetensors header is unsound: {error}"
    wanted = 8 + length + max(ends, default=0)
    return "" if wanted == size else f"the safetensors header tells {wanted} bytes, the file has {size}"
