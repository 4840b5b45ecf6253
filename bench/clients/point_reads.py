"""Reads rows of 100 bytes by primary key in random order: PATH SECONDS. Prints reads per second.

The table must exist (`inserts.py` makes it). Reads come in batches of 5,000, so that the clock costs nothing.
"""

import json
import random
import sqlite3
import sys
import time

BATCH = 5000


def main() -> None:
    """Measures for the given time after one batch of warming up."""
    path, seconds = sys.argv[1], float(sys.argv[2])
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    (row_n,) = connection.execute("SELECT max(id) FROM t").fetchone()
    keys = [(random.randint(1, row_n),) for _ in range(BATCH)]
    execute = connection.execute
    text = "SELECT body FROM t WHERE id = ?"
    batches = -1
    started = time.perf_counter()
    elapsed = 0.0
    while elapsed < seconds:
        for key in keys:
            execute(text, key).fetchone()
        batches += 1
        now = time.perf_counter()
        if batches == 0:
            started = now
        elapsed = now - started
    print(json.dumps({"reads/s": batches * BATCH / elapsed}))


main()
