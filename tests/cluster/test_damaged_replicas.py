"""Damaged data directories: a replica keeps the damage and fetches the database anew, a primary does not start."""

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, await_true
from tests.support.filesystem_node import NodeFailedError
from tests.support.litefs_node import LitefsNode
from tests.support.scenario import Connection, Session


def _flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "base": lambda directory: _flip(directory / "database", 5000),
    "log": lambda directory: _flip(max((directory / "log").glob("*.ltxlog")), 10),
    "state": lambda directory: _flip(directory / "state", 20),
}


def _settled(cluster: Cluster, name: str, mode: str, source: Path) -> Connection:
    """A database that has all there is to damage on both nodes: a state file, pages of it in the base only, a log."""
    cluster.writers.run("cp", source, cluster.writers.path(name))
    cluster.sync_any(name)
    connection = cluster.writers.connect(name)
    connection.sql(f"PRAGMA journal_mode = {mode}")
    connection.sql("INSERT INTO t VALUES (50000, 'in the log')")
    cluster.sync(name)
    return connection


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A database on the machine's own disk, too large for a snapshot in one message."""
    path = tmp_path / "source.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
        connection.executemany("INSERT INTO t VALUES (?, zeroblob(900))", [[row] for row in range(4000)])
        connection.commit()
    return path


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_a_damaged_replica_sets_databases_aside_and_takes_snapshots(
    own_cluster: Cluster, mode: str, source: Path
) -> None:
    writers = {name: _settled(own_cluster, name, mode, source) for name in (*DAMAGES, "sound")}
    own_cluster.replica.stop()
    root = own_cluster.replica.data_dir
    directories = {name: root / "dbs" / own_cluster.writers.path(name).name for name in DAMAGES}
    for name, damage in DAMAGES.items():
        damage(directories[name])
    damaged = {name: _content(directory) for name, directory in directories.items()}
    own_cluster.replica.start()
    for name in writers:
        own_cluster.check(name)
    log = own_cluster.replica.log_text()
    assert log.count("set aside as") == len(DAMAGES)
    for name, directory in directories.items():
        (aside,) = (root / "dbs-aside").glob(f"{directory.name}-*")
        assert f"{directory.name}: damaged, set aside as {aside}: " in log
        assert _content(aside) == damaged[name]
        writers[name].sql("INSERT INTO t VALUES (100000, 'goes on')")
        own_cluster.check(name)
    await_true(lambda: not (root / "must-follow").exists(), "it has caught up")
    own_cluster.replica.restart()
    for name in writers:
        own_cluster.check(name)
    assert len(list((root / "dbs-aside").iterdir())) == len(DAMAGES)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_primary_refuses_to_start(tmp_path: Path, damage: str, source: Path) -> None:
    node = LitefsNode(tmp_path / "node")
    node.start()
    session = Session(node, "db")
    try:
        session.run("cp", source, session.path())
        session.connect().sql("INSERT INTO t VALUES (50000, 'in the log')")
        session.close()
        node.stop()
        directory = node.data_dir / "dbs" / session.path().name
        DAMAGES[damage](directory)
        before = _content(directory)
        with pytest.raises(NodeFailedError):
            node.start()
        assert str(directory) in node.log_text()
        assert _content(directory) == before
        assert not (node.data_dir / "dbs-aside").exists()
    finally:
        session.close()
        node.stop()


def _content(directory: Path) -> dict[str, bytes]:
    """The files of a database; a segment to be is none yet, and images are laid over the base before it is judged."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and not path.name.startswith("spare-") and path.name != "database"
    }
