"""A disk on which every sync, copy and removal takes long: who does not ask for one is answered meanwhile.

Which calls are made off the loop is tested call by call in `unit/filesystem/test_free_loop.py`; here a kernel is
between, and the server's own work behind the commits.
"""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import children
from tests.support.litefs_node import LitefsNode
from tests.support.scenario import Connection, Session
from tests.support.verdict import check_database

DELAY_S = 0.8
"""Long beside what the bystander does meanwhile (milliseconds), on a machine with other load too."""

PAUSE_S = 0.02
"""Between two transactions of the bystander. Its log must not fill faster than this disk makes segments."""

ACTION_TIMEOUT_S = 60.0


class SlowNode:
    """A node with a slow disk, a bystander, and a database whose transactions need the disk."""

    def __init__(self, root: Path) -> None:
        """Starts it. Data directory and process are made at full speed."""
        self.node = LitefsNode(root / "node")
        self.node.environment["LITEFS_FAULTS"] = f"delay:[!d]*:{DELAY_S}"  # all labels but those of `data_dir`
        self.session = Session(self.node, "db")
        self.source = root / "source.db"
        script = "CREATE TABLE t (n, body); INSERT INTO t VALUES (1, zeroblob(3000000))"
        children.checked(["sqlite3", self.source, script], free=self.node.free)
        self.node.start()
        # A bystander that made and removed journals would wait for the directory, which the kernel locks in a rename.
        self.bystander = self._connect("bystander", "TRUNCATE")
        self._answer_n = 0

    def busy(self, name: str) -> Connection:
        """Makes a database whose transactions need the disk."""
        connection = self._connect(name, "DELETE")
        connection.sql("PRAGMA synchronous = FULL")
        return connection

    def _connect(self, name: str, mode: str) -> Connection:
        connection = self.session.connect(name)
        connection.sql("PRAGMA synchronous = OFF")
        connection.sql("PRAGMA page_size = 512")
        connection.sql(f"PRAGMA journal_mode = {mode}")
        connection.sql("CREATE TABLE t (n, body)")
        return connection

    def close(self) -> None:
        """Ends everything."""
        self.session.close()
        self.node.stop()

    def slowest_answer_until(self, done: Callable[[], bool]) -> float:
        """Has the bystander write and read until something is done. Returns its longest wait in seconds."""
        slowest, started = 0.0, time.monotonic()
        while not done():
            asked = time.monotonic()
            self.bystander.unrecorded("INSERT INTO t VALUES (?, 'x')", self._answer_n)
            assert self.bystander.unrecorded("SELECT max(n) FROM t") == [[self._answer_n]]
            slowest = max(slowest, time.monotonic() - asked)
            self._answer_n += 1
            assert asked - started < ACTION_TIMEOUT_S
            time.sleep(PAUSE_S)
        assert time.monotonic() - started > DELAY_S, "nothing was slow"
        return slowest

    def txid(self, name: str) -> int:
        """Returns the transaction that the mount shows of a database."""
        return int(self.node.read(self.session.path(name).name + "-pos").partition("/")[0] or "0", 16)


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlowNode]:
    slow = SlowNode(tmp_path_factory.mktemp("slow-disk"))
    yield slow
    slow.close()


def commit(slow: SlowNode, busy: Connection, name: str) -> Callable[[], bool]:
    """A transaction larger than the first segment."""
    before = slow.txid(name)
    busy.process.send("sql", busy.number, "INSERT INTO t VALUES (2, randomblob(300000))", [])
    return lambda: slow.txid(name) > before


def load(slow: SlowNode, busy: Connection, name: str) -> Callable[[], bool]:
    """`cp` over the database."""
    busy.close()
    before = slow.txid(name)
    slow.session.run("cp", slow.source, slow.session.path(name))
    return lambda: slow.txid(name) > before


def import_over(slow: SlowNode, busy: Connection, name: str) -> Callable[[], bool]:
    """An import, which is a replacement through the mount."""
    busy.close()
    before = slow.txid(name)
    url = f"http://127.0.0.1:{slow.node.port}/import?name={slow.session.path(name).name}"
    command = ["curl", "-fsS", "--data-binary", f"@{slow.source}", url]
    threading.Thread(target=children.checked, args=(command,), kwargs={"free": slow.node.free}).start()
    return lambda: slow.txid(name) > before


def drop(slow: SlowNode, busy: Connection, name: str) -> Callable[[], bool]:
    """`rm`, and what the housekeeping does for it."""
    busy.close()
    slow.session.run("rm", slow.session.path(name))
    until = time.monotonic() + 3 * DELAY_S
    return lambda: time.monotonic() > until


@pytest.mark.parametrize("action", [commit, load, import_over, drop])
def test_a_database_that_waits_for_the_disk_holds_up_no_other(
    slow: SlowNode, action: Callable[[SlowNode, Connection, str], Callable[[], bool]]
) -> None:
    name = action.__name__
    done = action(slow, slow.busy(name), name)
    assert slow.slowest_answer_until(done) < 0.9 * DELAY_S
    check_database(slow.node, slow.session.path("bystander"))
    if action is not drop:
        check_database(slow.node, slow.session.path(name))
