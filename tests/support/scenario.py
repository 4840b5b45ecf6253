"""Runs one scenario in two places, plain ext4 and the mount, and compares what SQLite answered.

Strategy: ext4 is the oracle. A scenario is a function of a `Session`; whatever it does through the session is
written down, statement by statement, with rows or the extended error code. The same scenario run on the
mount must give the same transcript. What a scenario expects beyond that, it asserts itself.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.support import children
from tests.support.sql_client import Rows, SqlError, SqlProcess

Scenario = Callable[["Session"], None]


def file_stem(test_name: str) -> str:
    """Returns what the databases of a test are called, on mounts that tests share."""
    return re.sub(r"[^a-z0-9]+", "-", test_name.removeprefix("test_").lower()).strip("-")[:80]


class Place(Protocol):
    """A directory for databases, and how to free those who hang in it."""

    @property
    def mount_dir(self) -> Path:
        """Where databases are opened."""

    def free(self) -> None:
        """Makes whoever waits for this directory get an error."""


@dataclass(frozen=True, slots=True)
class BareDirectory:
    """A directory on the machine's own file system: the oracle."""

    mount_dir: Path

    def free(self) -> None:
        """Does nothing: no call on a local disk waits for another process."""


class Connection:
    """One SQLite connection of one application process, whose answers are written down."""

    def __init__(self, session: "Session", process: SqlProcess, number: int) -> None:
        """Made by `Session.connect`."""
        self.process = process
        self.number = number
        self._session = session

    def sql(self, text: str, *parameters: object) -> Rows:
        """Executes one statement that must succeed, and returns its rows."""
        return self._note(text, self.process.call("sql", self.number, text, list(parameters)))

    def many(self, text: str, rows: list[list[object]]) -> None:
        """Executes one statement for many parameter rows."""
        self._note(text, self.process.call("many", self.number, text, rows))

    def attempt(self, text: str) -> str:
        """Executes one statement and returns "ok" or the extended error code."""
        try:
            self.process.call("sql", self.number, text, [])
            outcome = "ok"
        except SqlError as error:
            outcome = error.name
        self._session.note(f"{self.number}: {text[:200]} -> {outcome}")
        return outcome

    def start(self, text: str) -> Rows:
        """Steps a query once; its read transaction lasts until `finish`."""
        return self._note(text, self.process.call("start", self.number, text))

    def finish(self) -> Rows:
        """Fetches the rest of the started query."""
        return self._note("finish", self.process.call("finish", self.number))

    def backup(self, target: "Connection", *, pages: int = -1) -> None:
        """Copies this database into that of a connection of the same process."""
        assert target.process is self.process, "SQLite's backup needs both connections in one process"
        self._note("backup", self.process.call("backup", self.number, target.number, pages))

    def unrecorded(self, text: str, *parameters: object) -> Rows:
        """Executes one statement whose answer may differ between places (a wait, a race, a random value)."""
        return self.process.call("sql", self.number, text, list(parameters))

    def close(self) -> None:
        """Closes the connection; the process lives on."""
        self.process.call("close", self.number)
        self._session.note(f"{self.number}: close")

    def _note(self, text: str, rows: Rows) -> Rows:
        self._session.note(f"{self.number}: {text[:200]} -> {str(rows)[:2000]}")
        return rows


class Session:
    """One run of a scenario in one place."""

    def __init__(self, place: Place, stem: str) -> None:
        """Args: place: where databases lie; stem: begins every file name, so that scenarios do not meet."""
        self.place = place
        self.transcript: list[str] = []
        self.databases: list[str] = []
        self._stem = stem
        self._processes: list[SqlProcess] = []
        self._connection_n = 0

    def path(self, name: str = "db") -> Path:
        """Returns the path of a file of this scenario; nothing is opened."""
        return self.place.mount_dir / f"{self._stem}-{name}"

    def process(self, *, environment: dict[str, str] | None = None, prefix: tuple[str, ...] = ()) -> SqlProcess:
        """Starts an application process that ends with the session."""
        process = SqlProcess(free=self.place.free, environment=environment, prefix=prefix)
        self._processes.append(process)
        return process

    def connect(
        self, name: str = "db", *, process: SqlProcess | None = None, query: str = "", busy_timeout_ms: int = 0
    ) -> Connection:
        """Opens a connection, in a process of its own unless one is given.

        Args:
            name: of the database within the scenario; ":memory:" and absolute paths are taken as they are.
            query: parameters of the URI, "mode=ro" for example.
        """
        process = process or self.process()
        self._connection_n += 1
        if name == ":memory:" or name.startswith("/"):
            uri = f"file:{name}?{query}"
        else:
            uri = f"file:{self.path(name)}?{query}"
            if name not in self.databases:
                self.databases.append(name)
        process.call("open", self._connection_n, uri, busy_timeout_ms)
        return Connection(self, process, self._connection_n)

    def run(self, *command: str | Path, stdin: str = "") -> str:
        """Runs a command that may touch this place and must succeed; writes down what it printed."""
        done = children.run(command, free=self.place.free, stdin=stdin)
        assert done.code == 0, f"{command}: exit {done.code}\n{done.err}"
        self.note(f"{Path(command[0]).name} -> {done.out[:2000]}")
        return done.out

    def shell(self, name: str, script: str) -> str:
        """Feeds a script to the sqlite3 shell, writes down output and errors, returns both."""
        if name not in self.databases:
            self.databases.append(name)
        done = children.run(["sqlite3", "-batch", self.path(name)], free=self.place.free, stdin=script)
        self.note(f"sqlite3 -> {done.code} {done.out[:2000]} {done.err[:2000]}")
        return done.out + done.err

    def exists(self, name: str) -> bool:
        """Whether a file of this scenario exists, asked by a child process."""
        found = children.run(["test", "-e", self.path(name)], free=self.place.free).code == 0
        self.note(f"exists {name} -> {found}")
        return found

    def size(self, name: str) -> int:
        """Returns the size of a file of this scenario in bytes."""
        return int(self.run("stat", "-c", "%s", self.path(name)))

    def forget(self, name: str) -> None:
        """Takes a database off the list that is checked at the end (it was dropped, or never committed)."""
        self.databases.remove(name)

    def note(self, line: str) -> None:
        """Adds a line to the transcript, with this place's directory taken out."""
        self.transcript.append(line.replace(str(self.place.mount_dir), ""))

    def close(self) -> None:
        """Ends every application process; those killed by the scenario are gone already."""
        for process in self._processes:
            process.kill()
