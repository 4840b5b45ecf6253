"""Inserts rows of 100 bytes, one transaction each: PATH JOURNAL_MODE SYNCHRONOUS SECONDS [ROWS].

With ROWS it fills a table of that many rows in one transaction first. Prints transactions per second.
"""

import json
import sqlite3
import sys
import time

WARM_UP = 20


def main() -> None:
    """Measures for the given time after a few inserts of warming up."""
    path, mode, synchronous, seconds = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    connection.execute(f"PRAGMA journal_mode = {mode}")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, body BLOB)")
    body = (b"x" * 100,)
    execute = connection.execute
    text = "INSERT INTO t (body) VALUES (?)"
    if len(sys.argv) > 5:
        execute("BEGIN")
        connection.executemany(text, [body] * int(sys.argv[5]))
        execute("COMMIT")
    done = 0
    elapsed = 0.0
    if seconds:
        for _ in range(WARM_UP):
            execute(text, body)
        started = time.perf_counter()
        while elapsed < seconds:
            execute(text, body)
            done += 1
            elapsed = time.perf_counter() - started
    print(json.dumps({"tx/s": done / elapsed if elapsed else 0.0, "tx": done}))


main()
