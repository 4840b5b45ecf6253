"""An application that reads without pause and judges what it reads. Run as a program; it imports nothing of ours.

Arguments: the database, a file of shared 64-bit words, its number (1 and on). Words: 0: the newest transaction that
`apply` returned from; 1: nonzero to end; 2 and on: how many read transactions each reader has done. At the end one line
of JSON: what was wrong.
"""

import json
import mmap
import random
import sqlite3
import sys


def opened(path: str) -> sqlite3.Connection:
    """Returns a connection that waits for nobody: only opening may, for SQLite itself locks others out there."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    connection.execute("PRAGMA cache_size = 5")
    connection.execute("SELECT n FROM state").fetchone()
    connection.execute("PRAGMA busy_timeout = 0")
    return connection


def judge(connection: sqlite3.Connection, chance: random.Random) -> tuple[int, list[str]]:
    """Reads in one transaction, in several ways. Returns the number seen, and what does not agree."""
    wrong = []
    seen = connection.execute("SELECT n, row_n, total FROM state").fetchone()
    for _ in range(2):
        rows = connection.execute("SELECT count(*), total(length(body)), max(n) FROM t").fetchone()
        if (rows[0], rows[1]) != seen[1:] or (rows[2] or 0) > seen[0]:
            wrong.append(f"transaction {seen[0]}: {rows} instead of {seen}")
    if chance.random() < 0.1:
        verdict = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if verdict != "ok":
            wrong.append(f"transaction {seen[0]}: {verdict}")
    if connection.execute("SELECT n FROM state").fetchone()[0] != seen[0]:
        wrong.append(f"transaction {seen[0]} changed while it was read")
    return seen[0], wrong


def main() -> None:
    """Reads until it is told to end."""
    path, words_path, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with open(words_path, "r+b") as file:
        words = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
    chance = random.Random(number)
    connection = opened(path)
    wrong: list[str] = []
    before = 0
    while not words[1]:
        published = words[0]
        try:
            connection.execute("BEGIN")
            seen, found = judge(connection, chance)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            wrong.append(f"{type(error).__name__}: {error}")
            break
        wrong += found
        if seen < published:
            wrong.append(f"stale: {seen} after {published} was applied")
        if seen < before:
            wrong.append(f"went back from {before} to {seen}")
        before = seen
        words[1 + number] += 1
        if chance.random() < 0.02:
            connection.close()
            connection = opened(path)
    print(json.dumps(wrong[:10]))


if __name__ == "__main__":
    main()
