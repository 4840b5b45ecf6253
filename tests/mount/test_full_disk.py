"""A data directory without space: SQLite says so in every journal mode, and goes on when space returns."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.filesystem_node import FilesystemNode, NodeFailedError
from tests.support.scenario import Connection, Session
from tests.support.sql_client import SqlError
from tests.support.verdict import check_database

VOLUME_MB = 40
MANY_ROWS = """INSERT INTO t SELECT n, randomblob(100000) FROM
    (WITH RECURSIVE c(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM c WHERE n < 200) SELECT n FROM c)"""
MODES = ["DELETE", "TRUNCATE", "PERSIST", "WAL"]


class SmallVolume:
    """A node whose data directory is a file system of its own."""

    def __init__(self, root: Path) -> None:
        """Mounts the volume and starts the node."""
        self.node = FilesystemNode(root / "node")
        self._filler = self.node.data_dir / "filler"
        command = ["mount", "-t", "tmpfs", "-o", f"size={VOLUME_MB}m", "none", str(self.node.data_dir)]
        subprocess.run(command, timeout=10, check=True)
        self.session = Session(self.node, "db")
        self.node.start()

    def close(self) -> None:
        """Stops the node and detaches the volume."""
        self.session.close()
        self.node.stop()
        subprocess.run(["umount", "-l", str(self.node.data_dir)], timeout=10, check=True)

    def fill(self, *, leave_mb: int = 0) -> None:
        """Takes the space there is, but for some."""
        with self._filler.open("wb", buffering=0) as filler:
            try:
                while filler.write(bytes(64 << 10)):
                    pass
            except OSError:
                pass
            filler.truncate(max(0, filler.tell() - (leave_mb << 20)))

    def empty(self) -> None:
        """Gives it back."""
        self._filler.unlink()


pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small volume")


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[SmallVolume]:
    volume = SmallVolume(tmp_path)
    yield volume
    volume.close()


def refusal(connection: Connection, text: str) -> str:
    """What SQLite says to a statement that fails."""
    with pytest.raises(SqlError) as refused:
        connection.unrecorded(text)
    return f"{refused.value.name}: {refused.value}"


@pytest.mark.parametrize("synchronous", ["FULL", "OFF"])
def test_a_full_disk_is_said_to_be_full_in_every_mode(volume: SmallVolume, synchronous: str) -> None:
    connections = {mode: volume.session.connect(mode) for mode in MODES}
    for mode, connection in connections.items():
        connection.sql(f"PRAGMA synchronous = {synchronous}")
        connection.sql(f"PRAGMA journal_mode = {mode}")
        connection.sql("CREATE TABLE t (n)")
        connection.sql("INSERT INTO t VALUES (1)")
    volume.fill()
    for mode, connection in connections.items():
        for _ in range(2):
            said = refusal(connection, "INSERT INTO t VALUES (2)")
            assert "SQLITE_FULL" in said, f"{mode}: {said}"
            assert "database or disk is full" in said
        assert connection.sql("SELECT n FROM t") == [[1]]
        assert volume.session.connect(mode).sql("SELECT n FROM t") == [[1]]
    volume.empty()
    for mode, connection in connections.items():
        connection.sql("INSERT INTO t VALUES (3)")
        check_database(volume.node, volume.session.path(mode))
    volume.node.restart()
    for mode in MODES:
        assert volume.session.connect(mode).sql("SELECT n FROM t") == [[1], [3]]


@pytest.mark.parametrize("mode", MODES)
def test_a_transaction_that_outgrows_the_disk_is_told_while_it_is_written(volume: SmallVolume, mode: str) -> None:
    connection = volume.session.connect()
    connection.sql(f"PRAGMA journal_mode = {mode}")
    connection.sql("PRAGMA cache_size = 20")
    connection.sql("CREATE TABLE t (n, body)")
    connection.sql("INSERT INTO t VALUES (1, randomblob(100000))")
    volume.fill(leave_mb=7)
    for _ in range(2):
        said = refusal(connection, MANY_ROWS)
        assert "SQLITE_FULL" in said
        assert connection.sql("SELECT max(n) FROM t") == [[1]]
    volume.empty()
    connection.sql("INSERT INTO t VALUES (3, randomblob(100000))")
    check_database(volume.node, volume.session.path())


def test_a_start_that_has_to_write_and_cannot_says_why_and_loses_nothing(volume: SmallVolume) -> None:
    connection = volume.session.connect("WAL")
    connection.sql("PRAGMA journal_mode = WAL")
    connection.sql("CREATE TABLE t (n, body)")
    connection.sql("INSERT INTO t VALUES (1, randomblob(100000))")
    volume.node.kill()
    volume.fill()
    with pytest.raises(NodeFailedError) as refusal_to_start:
        volume.node.start()
    said = str(refusal_to_start.value)
    assert f"{volume.node.data_dir}: No space left on device" in said
    assert "Traceback" not in said
    volume.empty()
    volume.node.restart()
    assert volume.session.connect("WAL").sql("SELECT n, length(body) FROM t") == [[1, 100000]]


def test_a_node_that_dies_on_a_full_disk_starts_again_and_serves_reads(volume: SmallVolume) -> None:
    for mode in ("DELETE", "WAL"):
        connection = volume.session.connect(mode)
        connection.sql(f"PRAGMA journal_mode = {mode}")
        connection.sql("CREATE TABLE t (n)")
        connection.sql("INSERT INTO t VALUES (1)")
    volume.node.restart()  # the database files have everything: what they lacked a start would have to write
    volume.fill()
    for _ in range(2):
        volume.node.kill()
        volume.node.start()
        for mode in ("DELETE", "WAL"):
            connection = volume.session.connect(mode)
            assert connection.sql("SELECT n FROM t") == [[1]]
            assert "SQLITE_FULL" in refusal(connection, "INSERT INTO t VALUES (2)")
    volume.empty()
    for mode in ("DELETE", "WAL"):
        volume.session.connect(mode).sql("INSERT INTO t VALUES (3)")
        check_database(volume.node, volume.session.path(mode))
