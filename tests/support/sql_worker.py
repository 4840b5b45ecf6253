"""An application under test: holds SQLite connections and does what it is told, line by line.

Run as a program. Each line of standard input is a JSON array `[operation, connection, argument...]`, each line
of standard output the JSON answer: `{"rows": [...]}` or `{"error": NAME, "text": MESSAGE}`. It imports nothing of
the project, as the applications it stands for do not. Blobs appear as `{"blob": length, "head": hex}`.
"""

import json
import sqlite3
import sys

_HEAD_BYTES = 16


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return {"blob": len(value), "head": value[:_HEAD_BYTES].hex()}
    return value


class Worker:
    """The connections of one application process, by number."""

    def __init__(self) -> None:
        """Starts without connections."""
        self.connections: dict[int, sqlite3.Connection] = {}

    def open(self, number: int, uri: str, busy_timeout_ms: int) -> list[object]:
        """Opens a connection in autocommit mode; transactions are the caller's statements."""
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=busy_timeout_ms / 1000)
        self.connections[number] = connection
        return []

    def close(self, number: int) -> list[object]:
        """Closes one connection."""
        self.connections.pop(number).close()
        return []

    def sql(self, number: int, text: str, parameters: list[object]) -> list[object]:
        """Executes one statement and returns its rows."""
        cursor = self.connections[number].execute(text, parameters)
        return [[_plain(value) for value in row] for row in cursor.fetchall()]

    def many(self, number: int, text: str, rows: list[list[object]]) -> list[object]:
        """Executes one statement for many parameter rows."""
        self.connections[number].executemany(text, rows)
        return []

    def start(self, number: int, text: str) -> list[object]:
        """Steps a query once and keeps the statement open, so that the read transaction lasts."""
        self._cursor = self.connections[number].execute(text)
        row = self._cursor.fetchone()
        return [[_plain(value) for value in row]] if row is not None else []

    def finish(self, number: int) -> list[object]:
        """Fetches the rest of the query of `start`."""
        rows = self._cursor.fetchall()
        self._cursor.close()
        return [[_plain(value) for value in row] for row in rows]

    def backup(self, number: int, target: int, pages: int) -> list[object]:
        """Copies this connection's database into another connection's, `pages` at a time (-1: at once)."""
        self.connections[number].backup(self.connections[target], pages=pages)
        return []

    def load_extension(self, number: int, path: str) -> list[object]:
        """Loads an extension into one connection."""
        connection = self.connections[number]
        connection.enable_load_extension(True)
        connection.load_extension(path)
        return []


def main() -> None:
    """Answers requests until standard input ends. Connections are then left as a killed process leaves them."""
    worker = Worker()
    for line in sys.stdin:
        operation, *arguments = json.loads(line)
        try:
            answer: dict[str, object] = {"rows": getattr(worker, operation)(*arguments)}
        except sqlite3.Error as error:
            answer = {"error": getattr(error, "sqlite_errorname", type(error).__name__), "text": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
