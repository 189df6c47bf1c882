"""Durations and sizes as people write them, parsed once, and written back so that they parse to the same value.

Rules: a number without a unit is refused, because programs disagree on what it means (to Slurm a bare number is
*minutes*, to most others seconds). Seconds are floats, sizes are whole bytes. Sizes are binary, as Slurm writes them:
`G` is GiB. Slurm's own time forms are those of sbatch(1), `--time`. Every function raises ValueError with a sentence
for the user.
"""

from __future__ import annotations

import math
import re

_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile(r"(?:[0-9]{1,15}(?:\.[0-9]{1,6})?(?:ms|[dhms]))+")
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|[dhms])")
# [days-]hours[:minutes[:seconds]] with days, minutes[:seconds] or hours:minutes:seconds without.
_SLURM_TIME = re.compile(r"(?:([0-9]{1,6})-)?([0-9]{1,9})(?::([0-9]{1,2}))?(?::([0-9]{1,2}))?")
_SIZE = re.compile(r"([0-9]{1,18})(\.[0-9]{1,6})?(?:([KMGTP])(?:iB)?|B)")
_BYTES = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}

DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)?(ms|[dhms]))+$"
SLURM_TIME_PATTERN = r"^([0-9]+-)?[0-9]+(:[0-9]{1,2}){0,2}$|" + DURATION_PATTERN
SIZE_PATTERN = r"^[0-9]+(\.[0-9]+)?([KMGTP](iB)?|B)$"
RATE_PATTERN = r"^[0-9]+(\.[0-9]+)?([KMGTP](iB)?|B)/s$"


def parse_duration(text: str) -> float:
    """Seconds of `500ms`, `30s`, `1h30m`, `2d`."""
    if not _DURATION.fullmatch(text):
        raise ValueError(f"expected a duration such as 500ms, 30s, 15m, 2h or 1h30m, got {_shown(text)}")
    parts = _DURATION_PART.findall(text)
    units = [unit for _, unit in parts]
    if units != sorted(set(units), key=list(_SECONDS).index):
        raise ValueError(f"units must go from large to small, each once, as in 1h30m; got {_shown(text)}")
    return math.fsum(float(number) * _SECONDS[unit] for number, unit in parts)


def format_duration(seconds: float) -> str:
    """Write seconds with the largest unit that keeps the number whole: 90.0 is `90s`, 0.5 is `500ms`."""
    for unit, worth in _SECONDS.items():
        count = round(seconds / worth)
        if count and math.isclose(count * worth, seconds, rel_tol=1e-12):
            return f"{count}{unit}"
    return "0s" if seconds == 0 else f"{seconds * 1000:.6f}".rstrip("0").rstrip(".") + "ms"


def parse_slurm_time(text: str) -> float:
    """Seconds of a time limit: Slurm's forms (`90:00` is 90 minutes, `1-12` a day and 12 hours) or `90m`, `2h`."""
    match = _SLURM_TIME.fullmatch(text)
    if match is None:
        try:
            return parse_duration(text)
        except ValueError:
            raise ValueError(f"expected a time such as 1-00:00:00, 1:30:00, 90m or 2h, got {_shown(text)}") from None
    days, first, second, third = match.groups()
    if days is None and third is None:
        return int(first) * 60.0 + _below(second, 60, "seconds", text)
    hours = _below(first, 24, "hours after the days", text) if days is not None else int(first)
    minutes = _below(second, 60, "minutes", text)
    return int(days or 0) * 86400.0 + hours * 3600.0 + minutes * 60.0 + _below(third, 60, "seconds", text)


def format_slurm_time(seconds: float) -> str:
    """Write `D-HH:MM:SS`, rounded up to a whole second: a limit that is rounded to 0 would mean *no limit*."""
    whole = math.ceil(seconds)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    day, hour = divmod(hours, 24)
    return f"{day}-{hour:02d}:{minute:02d}:{second:02d}"


def parse_size(text: str) -> int:
    """Bytes of `512K`, `1.5G`, `10GiB`, `100B`; binary units."""
    match = _SIZE.fullmatch(text)
    if match is None:
        decimal = re.fullmatch(r"([0-9.]+)([KMGTP])[bB]", text)
        hint = f"; write {decimal[1]}{decimal[2]} (binary, as Slurm counts)" if decimal else ""
        raise ValueError(f"expected a size such as 512K, 100M or 1.5G, got {_shown(text)}{hint}")
    whole, fraction, unit = match.groups()
    worth = _BYTES.get(unit or "", 1)
    return int(whole) * worth + round(float(fraction or 0) * worth)


def format_size(size_bytes: int) -> str:
    """Write bytes with the largest unit that keeps the number whole."""
    for unit, worth in reversed(_BYTES.items()):
        if size_bytes and size_bytes % worth == 0:
            return f"{size_bytes // worth}{unit}"
    return f"{size_bytes}B"


def short_size(size_bytes: int) -> str:
    """Three digits and a binary unit: 1.5G."""
    size = float(size_bytes)
    for unit in ("B", "K", "M", "G", "T"):
        if size < 1000 or unit == "T":
            return f"{size:.0f}{unit}" if size >= 100 or unit == "B" else f"{size:.1f}{unit}"
        size /= 1024
    return ""


def parse_rate(text: str) -> int:
    """Bytes a second of `200M/s`."""
    if not text.endswith("/s"):
        raise ValueError(f"expected a rate such as 200M/s, got {_shown(text)}")
    return parse_size(text.removesuffix("/s"))


def format_rate(bytes_per_s: int) -> str:
    """Write bytes a second as `200M/s`."""
    return f"{format_size(bytes_per_s)}/s"


def _below(digits: str | None, limit: int, what: str, text: str) -> int:
    """The number, 0 when absent; refused when it should have carried into the next larger unit."""
    number = int(digits or 0)
    if number >= limit:
        raise ValueError(f"{what} must be below {limit} in {_shown(text)}")
    return number


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
