"""Durations and sizes as people write them in litefs.yml."""

import re

from litefs.errors import ConfigError

_SECONDS_PER_UNIT = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_DURATION = re.compile(rf"[-+]?(?:{_DURATION_PART.pattern})+", re.ASCII)

_BYTES_PER_UNIT = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_SIZE = re.compile(r"(\d+)\s*([kmg]?)(?:i?b)?", re.ASCII | re.IGNORECASE)


def parse_duration(text: str) -> float:
    """Reads a duration in Go's syntax, such as `10s`, `1m30s` or `250ms`.

    Returns:
        Seconds; negative when the text begins with a minus sign.

    Raises:
        ValueError: the text is not a duration. A number needs a unit, except `0`.

    Source: Go's `time.ParseDuration`.
    """
    if text.lstrip("+-") == "0" and len(text) <= len("-0"):
        return 0.0
    if not _DURATION.fullmatch(text):
        raise ValueError(f'"{text}" is not a duration: write numbers with units, such as "10s", "1m30s" or "250ms"')
    seconds = sum(float(number) * _SECONDS_PER_UNIT[unit] for number, unit in _DURATION_PART.findall(text))
    return -seconds if text.startswith("-") else seconds


def parse_positive_duration(text: str, flag: str) -> float:
    """Reads the duration that a flag gives.

    Returns:
        Seconds, more than 0.

    Raises:
        ConfigError: it is none.
    """
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise ConfigError(f"{flag}: {error}") from error
    if seconds <= 0:
        raise ConfigError(f"{flag} {text}: expected more than 0s")
    return seconds


def parse_size(text: str) -> int:
    """Reads a number of bytes, such as `64MB`, `64MiB`, `64M` or `67108864`. Units count in steps of 1024.

    Returns:
        Bytes.

    Raises:
        ValueError: the text is not a size.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}" is not a size: write a number of bytes, or one with KB, MB or GB, such as "64MB"')
    return int(match[1]) * _BYTES_PER_UNIT[match[2].lower()]


def format_size(size_bytes: float) -> str:
    """Writes a number of bytes for people, with one decimal: `1.5 MB`. Units count in steps of 1024."""
    for unit in ("B", "KB", "MB", "GB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TB"
