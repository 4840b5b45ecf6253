"""`data.durability: every-commit` with a real SQLite that asks for no syncs."""

import time
from collections.abc import Iterator

import pytest

from tests.support.cluster import await_true
from tests.support.filesystem_node import FilesystemNode
from tests.support.scenario import Session
from tests.support.verdict import check_database

SYNC_S = 0.7


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """On a node whose logs are slow to sync; its databases were made before they were."""
    node = FilesystemNode(tmp_path_factory.mktemp("every-commit"), settings={"sync_every_commit": True})
    session = Session(node, "db")
    try:
        node.start()
        for mode in ("WAL", "TRUNCATE"):
            session.shell(mode, f"PRAGMA journal_mode = {mode}; CREATE TABLE t (n);")
        node.stop()
        node.environment["LITEFS_FAULTS"] = f"delay:log.sync:{SYNC_S}"
        node.start()
        yield session
    finally:
        session.close()
        node.stop()


@pytest.mark.parametrize(("mode", "synchronous"), [("WAL", "NORMAL"), ("TRUNCATE", "OFF")])
def test_a_commit_waits_for_the_disk_though_sqlite_does_not(session: Session, mode: str, synchronous: str) -> None:
    def position() -> str:
        return session.run("cat", f"{session.path(mode)}-pos")

    writer = session.connect(mode)
    writer.sql(f"PRAGMA journal_mode = {mode}")
    writer.sql(f"PRAGMA synchronous = {synchronous}")
    before = position()
    started = time.monotonic()
    writer.process.send("sql", writer.number, "INSERT INTO t VALUES (1)", [])
    await_true(lambda: position() != before, "the commit")
    assert time.monotonic() - started >= SYNC_S, "a replica could have the commit before the disk had it"
    writer.process.receive()
    assert writer.sql("SELECT * FROM t") == [[1]]
    check_database(session.place, session.path(mode))
