"""A primary and its replica under test: a session on each mount, and the verdict over both."""

import time
from collections.abc import Callable
from pathlib import Path

from tests.support.litefs_node import LitefsNode, Pair
from tests.support.scenario import Session
from tests.support.sql_client import SqlError
from tests.support.verdict import Finding, await_position, check_database, check_replica

_NO_POSITION = "0000000000000000/0000000000000000"

AWAIT_TIMEOUT_S = 20.0
"""What takes milliseconds gets this long on a machine with other load."""


class Cluster:
    """What a test of two nodes works with.

    Attributes:
        primary, replica: the nodes.
        writers: the session of applications on the primary's mount.
        readers: the session of applications on the replica's mount.
    """

    def __init__(self, pair: Pair, stem: str) -> None:
        """Args: pair: running; stem: begins the names of this test's files on both mounts."""
        self.pair = pair
        self.primary, self.replica = pair.primary, pair.replica
        self.writers = Session(pair.primary, stem)
        self.readers = Session(pair.replica, stem)

    def close(self) -> None:
        """Ends all applications."""
        self.writers.close()
        self.readers.close()

    def position(self, name: str = "db") -> str:
        """Returns what the primary says of a database's position; "" if there is no such database."""
        return self.primary.read(self.writers.path(name).name + "-pos").strip()

    def replica_position(self, name: str = "db") -> str:
        """Returns what the replica says."""
        return self.replica.read(self.readers.path(name).name + "-pos").strip()

    def sync(self, name: str = "db", *, timeout_s: float = AWAIT_TIMEOUT_S) -> str:
        """Waits until the replica shows the primary's position, and returns it."""
        position = self.position(name)
        await_position(self.replica, self.readers.path(name), position, timeout_s=timeout_s)
        return position

    def sync_any(self, name: str = "db") -> None:
        """Waits until the replica shows any state of a database: for tests that write all the time."""
        await_true(lambda: self.replica_position(name) not in ("", _NO_POSITION), f"{name} arrives")

    def check(self, name: str = "db", *, large: bool = False) -> Finding:
        """Fails unless a database is sound on the primary, and the same on the replica."""
        finding = check_database(self.primary, self.writers.path(name), large=large)
        check_replica(self.replica, self.readers.path(name), finding, large=large)
        return finding


def await_true(condition: Callable[[], object], what: str, *, timeout_s: float = AWAIT_TIMEOUT_S) -> None:
    """Asks again and again until a condition holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(0.01)


def succeeds(action: Callable[[], object]) -> bool:
    """Whether SQLite does something now; an application is free to try again."""
    try:
        action()
    except SqlError:
        return False
    return True


def follower_of(primary: LitefsNode, root: Path, *, extra: str = "") -> LitefsNode:
    """Returns another replica of a primary, not started."""
    return LitefsNode(root, primary_port=primary.port, extra=extra)
