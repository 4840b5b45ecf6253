"""Inserts rows of 100 bytes into an existing table at intervals until told to stop: PATH INTERVAL_S.

Says "ready", begins with a line on standard input and ends with its end of file. Prints how many it inserted.
"""

import json
import select
import sqlite3
import sys


def main() -> None:
    """Inserts one row per transaction; busy time-outs are waited for, for a reader may be in the way."""
    path, interval = sys.argv[1], float(sys.argv[2])
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    connection.execute("PRAGMA synchronous = NORMAL")
    print("ready", flush=True)
    sys.stdin.readline()
    done = 0
    while not select.select([sys.stdin], [], [], interval)[0]:
        connection.execute("INSERT INTO t (body) VALUES (zeroblob(100))")
        done += 1
    print(json.dumps({"tx": done}), flush=True)


main()
