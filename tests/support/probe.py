"""Looks at one database through its directory and prints what it found as JSON. Run as a program.

    python -m tests.support.probe PATH [--large] [--replica]

A fresh process, so that nothing is seen but what a new application would see. `--large` reads the file in pieces
instead of having SQLite serialize the database in memory. `--replica` does not checkpoint.

Printed:
    integrity       rows of `PRAGMA integrity_check`
    checksum        of the database as SQLite shows it, recomputed from its pages, 16 hex digits
    file_checksum   of the bytes of the database file after a checkpoint (TRUNCATE) left nothing in the WAL, on a
                    replica of file and WAL together,
    file_page_n
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


def _checksum_of_file(path: str, page_size: int, newer: dict[int, bytes]) -> tuple[int, int, str]:
    """Returns checksum, page count and SHA-256 of a database file under newer pages, in bounded memory."""
    checksums: list[int] = []
    digest = hashlib.sha256()
    pages_per_piece = max(1, _PIECE_BYTES // page_size)
    with open(path, "rb", buffering=0) as file:
        while piece := bytearray(file.read(pages_per_piece * page_size)):
            first = len(checksums) + 1
            following = first + len(piece) // page_size
            for pgno in [pgno for pgno in newer if first <= pgno < following]:
                piece[(pgno - first) * page_size : (pgno - first + 1) * page_size] = newer.pop(pgno)
            digest.update(piece)
            checksums += page_checksums(memoryview(piece), page_size, first)
    for pgno in range(len(checksums) + 1, max(newer, default=0) + 1):
        page = newer.get(pgno, bytes(page_size))  # only the lock page is in no frame
        digest.update(page)
        checksums += page_checksums(memoryview(page), page_size, pgno)
    return database_checksum(checksums), len(checksums), digest.hexdigest()


def _pages_of_wal(path: str, page_size: int) -> dict[int, bytes]:
    """Returns the newest committed content of each page in the WAL. Nobody may be writing."""
    newest: dict[int, bytes] = {}
    uncommitted: dict[int, bytes] = {}
    if not os.path.exists(f"{path}-wal"):
        return newest
    with open(f"{path}-wal", "rb") as wal:
        salts = wal.read(32)[16:24]
        while len(header := wal.read(24)) == 24 and header[8:16] == salts:
            uncommitted[int.from_bytes(header[:4], "big")] = wal.read(page_size)
            commit = int.from_bytes(header[4:8], "big")
            if commit:
                newest = {pgno: page for pgno, page in (newest | uncommitted).items() if pgno <= commit}
                uncommitted = {}
    return newest


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
    }
    page_size: int = connection.execute("PRAGMA page_size").fetchone()[0]
    page_n: int = connection.execute("PRAGMA page_count").fetchone()[0]
    found |= {"page_size": page_size, "page_n": page_n}
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
        assert os.stat(path).st_size == page_n * page_size, "the file ends elsewhere than the database"
    if not replica or large:
        newer = _pages_of_wal(path, page_size) if replica else {}
        checksum, file_page_n, digest = _checksum_of_file(path, page_size, newer)
        found |= {"file_checksum": f"{checksum:016x}", "file_page_n": file_page_n}
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
