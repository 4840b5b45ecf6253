"""Writes one transaction: PATH JOURNAL_MODE MEGABYTES. Prints the seconds from BEGIN to the end of COMMIT."""

import json
import os
import sqlite3
import sys
import time

ROW_BYTES = 1000


def main() -> None:
    """Fills a table with random bytes, which no compression makes cheaper."""
    path, mode, megabytes = sys.argv[1], sys.argv[2], float(sys.argv[3])
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA journal_mode = {mode}")
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
    noise = os.urandom(1 << 20)
    rows = int(megabytes * 1e6 / ROW_BYTES)
    starts = ((index * 7919) % (len(noise) - ROW_BYTES) for index in range(rows))
    bodies = ((noise[start : start + ROW_BYTES],) for start in starts)
    started = time.perf_counter()
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO t (body) VALUES (?)", bodies)
    connection.execute("COMMIT")
    print(json.dumps({"s": time.perf_counter() - started}))


main()
