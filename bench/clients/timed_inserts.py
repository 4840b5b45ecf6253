"""Inserts rows of 100 bytes in turn into databases: JOURNAL_MODE SYNCHRONOUS SECONDS PATH...

Prints transactions per second and the median time of one, in milliseconds.
"""

import json
import sqlite3
import statistics
import sys
import time
from itertools import cycle


def main() -> None:
    """Measures after one insert into each database."""
    mode, synchronous, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    connections = []
    for path in sys.argv[4:]:
        connection = sqlite3.connect(path, isolation_level=None, timeout=30)
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, body BLOB)")
        connection.execute("INSERT INTO t (body) VALUES (zeroblob(100))")
        connections.append(connection)
    times: list[float] = []
    started = last = time.perf_counter()
    for connection in cycle(connections):
        connection.execute("INSERT INTO t (body) VALUES (zeroblob(100))")
        now = time.perf_counter()
        times.append(now - last)
        last = now
        if now - started >= seconds:
            break
    print(json.dumps({"tx/s": len(times) / (last - started), "p50 ms": 1000 * statistics.median(times)}))


main()
