"""Tries a statement until the mount serves it: PATH TIMEOUT_S. Prints when a read and when a write first worked.

Times are CLOCK_MONOTONIC of the machine, in seconds.
"""

import json
import sqlite3
import sys
import time


def _first_success(path: str, text: str, deadline: float) -> float:
    while True:
        try:
            connection = sqlite3.connect(f"file:{path}?mode=rw", uri=True, isolation_level=None)
            connection.execute(text).fetchall()
            connection.close()
            return time.monotonic()
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.002)


def main() -> None:
    """Prints both moments."""
    path, deadline = sys.argv[1], time.monotonic() + float(sys.argv[2])
    read = _first_success(path, "SELECT count(*) FROM (SELECT id FROM t LIMIT 10)", deadline)
    write = _first_success(path, "INSERT INTO t (body) VALUES (zeroblob(100))", deadline)
    print(json.dumps({"read": read, "write": write}))


main()
