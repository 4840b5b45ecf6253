"""An application of one node: `client.py write|read NODE NAME PATH`. Appends rows, or reads the last one, for ever.

Prints a JSON line for each transaction that it began, before COMMIT and at the end: the last one counts. It ends with
the end of its standard input. After an error it opens the database again, as applications do. It creates nothing: a
directory without the mount has no database.
"""

import json
import os
import random
import sqlite3
import sys
import threading
import time
from collections.abc import Callable

PAUSE_S = 0.01
AFTER_ERROR_S = 0.03

_LAST = "SELECT token FROM log ORDER BY id DESC LIMIT 1"


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"file:{path}?mode=rw", uri=True, isolation_level=None, timeout=1.0)
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _write(connection: sqlite3.Connection, node: str, token: str) -> bool:
    begun = time.monotonic_ns()
    record: dict[str, object] = {"node": node, "token": token, "parent": "", "begun_ns": begun, "outcome": "refused"}
    try:
        connection.execute("BEGIN IMMEDIATE")
        record["parent"] = parent = (connection.execute(_LAST).fetchone() or ("",))[0]
        connection.execute("INSERT INTO log (token, parent) VALUES (?, ?)", (token, parent))
        record["outcome"] = "unknown"
        _say(record | {"ended_ns": time.monotonic_ns()})  # what stands if this process does not survive COMMIT
        connection.execute("COMMIT")
        record["outcome"] = "ok"
    except sqlite3.Error as error:
        record["error"] = f"{error.sqlite_errorname}: {error}"
    record["ended_ns"] = time.monotonic_ns()
    _say(record)
    return record["outcome"] == "ok"


def _read(connection: sqlite3.Connection, node: str, client: str) -> bool:
    begun = time.monotonic_ns()
    try:
        connection.execute("BEGIN")
        (row_n,) = connection.execute("SELECT count(*) FROM log").fetchone()
        (head,) = connection.execute(_LAST).fetchone() or ("",)
        connection.execute("COMMIT")
    except sqlite3.Error:
        return False
    ended = time.monotonic_ns()
    _say({"node": node, "client": client, "begun_ns": begun, "ended_ns": ended, "head": head, "row_n": row_n})
    return True


def _say(record: dict[str, object]) -> None:
    os.write(1, json.dumps(record).encode() + b"\n")


def _go_on(path: str, act: Callable[[sqlite3.Connection], bool], ending: threading.Event) -> None:
    connection = None
    while not ending.is_set():
        try:
            connection = connection or _connect(path)
            if act(connection):
                ending.wait(random.uniform(0, 2 * PAUSE_S))
                continue
        except sqlite3.Error:
            pass
        if connection is not None:
            connection.close()
        connection = None
        ending.wait(AFTER_ERROR_S)


def main() -> None:
    """Works until standard input ends."""
    kind, node, name, path = sys.argv[1:]
    ending = threading.Event()
    number = 0

    def act(connection: sqlite3.Connection) -> bool:
        nonlocal number
        number += 1
        if kind == "write":
            return _write(connection, node, f"{name}-{number}")
        return _read(connection, node, name)

    worker = threading.Thread(target=_go_on, args=(path, act, ending))
    worker.start()
    sys.stdin.read()
    ending.set()
    worker.join()


if __name__ == "__main__":
    main()
