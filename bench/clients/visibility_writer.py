"""Commits a numbered row at intervals: PATH JOURNAL_MODE COUNT INTERVAL_S. Prints when each COMMIT returned.

Times are CLOCK_MONOTONIC of the machine, in nanoseconds: every process of the machine reads the same clock.
"""

import json
import sqlite3
import sys
import time


def main() -> None:
    """Waits for a line on standard input after the table is there, so that the reader can get ready."""
    path, mode, count, interval = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    connection.execute(f"PRAGMA journal_mode = {mode}")
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
    connection.execute("INSERT INTO t VALUES (0, zeroblob(100))")
    print("ready", flush=True)
    sys.stdin.readline()
    committed = {}
    for number in range(1, count + 1):
        connection.execute("INSERT INTO t VALUES (?, zeroblob(100))", (number,))
        committed[number] = time.monotonic_ns()
        time.sleep(interval)
    print(json.dumps(committed), flush=True)


main()
