"""Access to the golden data: bytes that the Go tools and SQLite wrote."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2] / "data" / "golden"


def read(path: str) -> bytes:
    """Returns a file; `path` as in the manifests, relative to the golden data."""
    return (ROOT / path).read_bytes()


def load(path: str) -> dict[str, Any]:
    """Returns a manifest."""
    content: dict[str, Any] = json.loads(read(path))
    return content


def sha256(data: bytes) -> str:
    """Returns the digest as the manifests have it."""
    return hashlib.sha256(data).hexdigest()


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """Cuts `data` into pieces of `size` bytes."""
    for offset in range(0, len(data), size):
        yield data[offset : offset + size]


def flipped_bits(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields `data` with each of its bits flipped in turn, and the number of that bit."""
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        yield bit, bytes(damaged)
