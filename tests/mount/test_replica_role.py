"""A node that is not primary: reads go on, writes are refused with SQLite's own words.

Rollback modes only: in WAL mode a replica's `-wal` is made and held by its node process (`tests/cluster`).
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import children
from tests.support.filesystem_node import FilesystemNode
from tests.support.scenario import Session
from tests.support.verdict import check_database

MODES = ("DELETE", "TRUNCATE", "PERSIST")


@pytest.fixture
def demoted(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FilesystemNode]:
    """A replica whose data directory was a primary's: one database per journal mode, named after it."""
    primary = FilesystemNode(tmp_path / "node")
    primary.start()
    session = Session(primary, "db")
    try:
        for mode in MODES:
            connection = session.connect(mode)
            connection.sql(f"PRAGMA journal_mode = {mode}")
            connection.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT)")
            connection.many("INSERT INTO t VALUES (?, 'row')", [[row] for row in range(20)])
            connection.close()
    finally:
        session.close()
        primary.stop()
    replica = FilesystemNode(tmp_path / "node", primary=False)
    replica.start()
    yield replica
    replica.stop()
    request.node.add_report_section("teardown", "log of the node", replica.log_text()[-20000:])


@pytest.mark.parametrize("mode", MODES)
def test_a_replica_reads_and_refuses_writes_as_a_readonly_database(demoted: FilesystemNode, mode: str) -> None:
    session = Session(demoted, "db")
    try:
        text = session.shell(mode, "SELECT count(*) FROM t;\nINSERT INTO t VALUES (100, 'x');\n")
        assert text.startswith("20\n")
        assert "attempt to write a readonly database" in text
        assert "20" in session.shell(mode, "SELECT count(*) FROM t;\n")
    finally:
        session.close()


@pytest.mark.parametrize("mode", MODES)
def test_a_replica_refuses_a_drop(demoted: FilesystemNode, mode: str) -> None:
    done = children.run(["rm", "-f", demoted.mount_dir / f"db-{mode}"], free=demoted.free)
    assert done.code != 0
    assert "Permission denied" in done.err
    session = Session(demoted, "db")
    try:
        assert session.connect(mode).sql("SELECT count(*) FROM t") == [[20]]
    finally:
        session.close()


@pytest.mark.parametrize("mode", MODES)
def test_a_new_primary_takes_writes_where_the_replica_was(demoted: FilesystemNode, mode: str) -> None:
    demoted.stop()
    promoted = FilesystemNode(demoted.mount_dir.parent)
    promoted.start()
    session = Session(promoted, "db")
    try:
        session.connect(mode).sql("INSERT INTO t VALUES (100, 'promoted')")
        assert check_database(promoted, session.path(mode)).txid > 20
    finally:
        session.close()
        promoted.stop()
