"""Applications that write or read all the time on a thread, and know what they were told."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

from tests.support.cluster import await_true
from tests.support.scenario import Connection, Session
from tests.support.sql_client import SqlError

LONG_S = 40.0


class Application(ABC):
    """Runs until it is stopped; what it meets other than errors of SQLite is raised then."""

    def __init__(self) -> None:
        """Starts nothing."""
        self.failure: BaseException | None = None
        self.outage_s = 0.0
        """Longest time between two successes."""
        self._last = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._guarded, name="application")

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends; raises what it met other than errors of SQLite."""
        self._stopping.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    @abstractmethod
    def run(self) -> None:
        """Works until `_stopping` is set."""

    def _guarded(self) -> None:
        self._last = time.monotonic()
        try:
            self.run()
        except BaseException as error:  # noqa: BLE001 - it is raised by `stop`
            self.failure = error

    def _succeeded(self) -> float:
        """Notes a success. Returns the time since the one before, in seconds."""
        now = time.monotonic()
        since_s, self._last = now - self._last, now
        self.outage_s = max(self.outage_s, since_s)
        return since_s


class Writer(Application):
    """Inserts numbered rows on whichever node lets it, and knows which were acknowledged.

    A connection that was refused is closed, as an application has to after the primary has changed.
    """

    def __init__(
        self,
        sessions: Sequence[Session],
        statement: str = "INSERT INTO t VALUES (?)",
        *,
        opening: str = "",
        busy_timeout_ms: int = 0,
        pause_s: float = 0.0005,
    ) -> None:
        """Starts a process on each node.

        Args:
            sessions: one per node, on the same file names.
            statement: inserts the row whose number is its parameter.
            opening: statement for each new connection.
            busy_timeout_ms: of the connections.
            pause_s: after an error.
        """
        super().__init__()
        self._processes = [(session, session.process()) for session in sessions]
        self._statement = statement
        self._opening = opening
        self._busy_timeout_ms = busy_timeout_ms
        self._pause_s = pause_s
        self.acknowledged: list[int] = []
        self.refused: list[int] = []
        self.gaps_s: list[float] = []
        """Between one acknowledged row and the next, when the node in between changed."""
        self.refusals: dict[int, str] = {}
        """What each node said last when it refused."""
        self._avoided: set[int] = set()
        self._turn = 0

    def avoid(self, number: int) -> None:
        """Uses a node no more, and returns when that is so.

        An application that opens a database in WAL mode while the mount goes may die of SIGBUS: it maps a file.
        """
        self._avoided.add(number)
        await_true(
            lambda: self._turn != number or not self._thread.is_alive(), "the writer is elsewhere", timeout_s=LONG_S
        )

    def use_all(self) -> None:
        """Uses all nodes again."""
        self._avoided.clear()

    def run(self) -> None:
        """Writes row after row."""
        row, changed = 0, False
        connections: dict[int, Connection] = {}
        while not self._stopping.is_set():
            turn = self._turn
            row += 1  # never the same again: what was refused may be there, if the process died that refused it
            try:
                self._insert(turn, row, connections)
            except SqlError as error:
                self.refused.append(row)
                self.refusals[turn] = error.name
                old = connections.pop(turn, None)
                if old is not None:
                    old.close()
                self._turn = (turn + 1) % len(self._processes)
                changed = True
                self._stopping.wait(self._pause_s)
                continue
            since_s = self._succeeded()
            if changed:
                self.gaps_s.append(since_s)
            changed = False
            self.acknowledged.append(row)

    def _insert(self, turn: int, row: int, connections: dict[int, Connection]) -> None:
        if turn in self._avoided:
            raise SqlError("AVOIDED", "the test stops this node")
        if turn not in connections:
            session, process = self._processes[turn]
            connections[turn] = session.connect(process=process, busy_timeout_ms=self._busy_timeout_ms)
            if self._opening:
                connections[turn].unrecorded(self._opening)
        connections[turn].unrecorded(self._statement, row)


class Reader(Application):
    """Reads the newest row of `t` all the time, and sees that rows never vanish."""

    def __init__(self, session: Session) -> None:
        """Opens nothing yet."""
        super().__init__()
        self._session = session
        self._process = session.process()
        self.read_n = 0

    def run(self) -> None:
        """Reads."""
        connection = None
        newest = 0
        while not self._stopping.is_set():
            try:
                if connection is None:
                    connection = self._session.connect(process=self._process, busy_timeout_ms=2000)
                ((found, count),) = connection.unrecorded("SELECT max(id), count(*) FROM t")
            except SqlError:
                if connection is not None:
                    connection.close()
                connection = None
                self._stopping.wait(0.01)
                continue
            assert int(str(found or 0)) >= newest, f"row {newest} was seen, now the newest is {found} of {count}"
            newest = int(str(found or 0))
            self.read_n += 1
            self._succeeded()
            self._stopping.wait(0.002)
