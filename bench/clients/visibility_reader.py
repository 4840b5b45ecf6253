"""Polls a replica by SQL and notes when each numbered row is first seen: PATH LAST POLL_S. Prints the times.

Times are CLOCK_MONOTONIC of the machine, in nanoseconds. The database must be there.
"""

import json
import sqlite3
import sys
import time


def main() -> None:
    """Ends when the last row was seen."""
    path, last, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    # Without a time-out: SQLite would sleep a millisecond before it looks again, and that would be measured.
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None, timeout=0)
    print("ready", flush=True)
    seen: dict[int, int] = {}
    newest = 0
    while newest < last:
        try:
            (found,) = connection.execute("SELECT max(id) FROM t").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:  # the applier holds the lock for a moment
                raise
            time.sleep(pause)
            continue
        if found is not None and found > newest:
            now = time.monotonic_ns()
            for number in range(newest + 1, found + 1):
                seen[number] = now
            newest = found
        time.sleep(pause)
    print(json.dumps(seen), flush=True)


main()
