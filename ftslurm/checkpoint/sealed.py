"""Small records that are sealed by their own digest, as COMMIT.json is: references and rollbacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftslurm.checkpoint.digest import digest_bytes
from ftslurm.core.strictjson import decode, encode, fields_of, refuse


def seal_record(record: Mapping[str, Any]) -> bytes:
    """The bytes of a file that holds a record and its seal."""
    return encode({"record": record, "seal": digest_bytes(encode(record))})


def open_record(data: bytes, keys: tuple[str, ...], what: str) -> dict[str, Any]:
    """The record in these bytes, with exactly these keys; their values are still to be checked.

    Raises:
        DataDamaged: it is not what was written.
    """
    fields = fields_of(decode(data, what), ("record", "seal"), what)
    record = fields_of(fields["record"], keys, what)
    if fields["seal"] != digest_bytes(encode(record)):
        refuse(f"{what} was changed: its seal does not fit")
    return record
