"""Looks at one database through its directory and prints what it found as JSON. Run as a program.

    python -m tests.support.probe PATH [--large] [--replica]

A fresh process, so that nothing is seen but what a new application would see. `--large` reads the file in pieces
instead of having SQLite serialize the database in memory. `--replica` does not checkpoint and so compares no file.

Printed:
    integrity       rows of `PRAGMA integrity_check`
    checksum        of the database as SQLite shows it, recomputed from its pages, 16 hex digits
    file_checksum   of the bytes of the database file after a checkpoint (TRUNCATE) left nothing in the WAL,
    file_page_n, file_bytes
    position        what `<database>-pos` says, or null where there is no such file
    page_size, page_n, journal_mode, sha256 (of the pages), content (sha256 of the dump)
"""

import hashlib
import json
import os
import sqlite3
import sys

from litefs.formats.checksum import database_checksum, page_checksums

_PIECE_BYTES = 4 << 20


def _checksum_of_bytes(data: bytes | memoryview, page_size: int) -> int:
    return database_checksum(page_checksums(memoryview(data), page_size, 1))


def _checksum_of_file(path: str, page_size: int) -> tuple[int, int, str]:
    """Returns checksum, page count and SHA-256 of a database file, in bounded memory."""
    checksums: list[int] = []
    digest = hashlib.sha256()
    pages_per_piece = max(1, _PIECE_BYTES // page_size)
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(pages_per_piece * page_size):
            digest.update(piece)
            checksums += page_checksums(memoryview(piece), page_size, len(checksums) + 1)
    return database_checksum(checksums), len(checksums), digest.hexdigest()


def _position(path: str) -> str | None:
    try:
        with open(f"{path}-pos", encoding="ascii") as file:
            return file.read().rstrip("\n")
    except FileNotFoundError:
        return None


def _look(path: str, *, large: bool, replica: bool) -> dict[str, object]:
    position_before = _position(path)
    connection = sqlite3.connect(f"file:{path}?mode=rw", uri=True, isolation_level=None, timeout=20)
    found: dict[str, object] = {
        "integrity": [row[0] for row in connection.execute("PRAGMA integrity_check")],
        "journal_mode": connection.execute("PRAGMA journal_mode").fetchone()[0],
        "page_n": connection.execute("PRAGMA page_count").fetchone()[0],
    }
    page_size: int = connection.execute("PRAGMA page_size").fetchone()[0]
    found["page_size"] = page_size
    if not large:
        pages = connection.serialize()
        found["checksum"] = f"{_checksum_of_bytes(pages, page_size):016x}"
        found["sha256"] = hashlib.sha256(pages).hexdigest()
        content = hashlib.sha256()
        for line in connection.iterdump():
            content.update(line.encode(errors="surrogateescape") + b"\n")
        found["content"] = content.hexdigest()
    if not replica:
        found["checkpoint"] = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if not replica or large:
        checksum, page_n, digest = _checksum_of_file(path, page_size)
        found |= {"file_checksum": f"{checksum:016x}", "file_page_n": page_n, "file_bytes": os.stat(path).st_size}
        found |= {"checksum": found.get("checksum", f"{checksum:016x}"), "sha256": found.get("sha256", digest)}
    connection.close()
    found["position"] = _position(path)
    found["position_before"] = position_before
    return found


def main() -> None:
    """Prints one JSON object about the database named on the command line."""
    arguments = sys.argv[1:]
    print(json.dumps(_look(arguments[0], large="--large" in arguments, replica="--replica" in arguments)))


if __name__ == "__main__":
    main()
