"""Makes a database of incompressible rows: PATH MEGABYTES [--no-sync]. Transactions of 32 MB each."""

import json
import os
import sqlite3
import sys

ROW_BYTES = 4000
ROWS_PER_TRANSACTION = 8000


def main() -> None:
    """Inserts until the size is reached."""
    path, megabytes = sys.argv[1], float(sys.argv[2])
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
    left = int(megabytes * 1e6 / ROW_BYTES)
    while left > 0:
        now = min(left, ROWS_PER_TRANSACTION)
        noise = os.urandom(now * ROW_BYTES)
        rows = ((noise[index * ROW_BYTES : (index + 1) * ROW_BYTES],) for index in range(now))
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO t (body) VALUES (?)", rows)
        connection.execute("COMMIT")
        left -= now
    (page_n,) = connection.execute("PRAGMA page_count").fetchone()
    (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    print(json.dumps({"bytes": page_n * page_size}))


main()
