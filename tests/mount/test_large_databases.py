"""Databases beyond the lock page: the page at 1 GiB exists in the file and in no image."""

import pytest

from tests.support.judge import Judge
from tests.support.scenario import Connection, Session

LOCK_BYTE = 1 << 30


def _size(connection: Connection) -> int:
    ((page_n,),) = connection.sql("PRAGMA page_count")
    assert isinstance(page_n, int)
    return page_n * 65536


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_a_database_grows_across_the_lock_page_and_shrinks_back(judge: Judge, mode: str) -> None:
    def scenario(session: Session) -> None:
        connection = session.connect()
        connection.sql("PRAGMA page_size = 65536")
        connection.sql("PRAGMA auto_vacuum = FULL")
        connection.sql("PRAGMA synchronous = OFF")
        connection.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
        connection.sql("INSERT INTO t VALUES (1, zeroblob(1072000000 / 2))")
        connection.sql("INSERT INTO t VALUES (2, zeroblob(1072000000 / 2))")
        assert _size(connection) < LOCK_BYTE
        connection.sql(f"PRAGMA journal_mode = {mode}")
        connection.sql("INSERT INTO t VALUES (3, zeroblob(5000000))")
        assert _size(connection) > LOCK_BYTE
        connection.sql("UPDATE t SET body = zeroblob(5100000) WHERE id = 3")
        connection.sql("DELETE FROM t WHERE id = 3")
        assert _size(connection) < LOCK_BYTE
        connection.sql("INSERT INTO t VALUES (4, zeroblob(4000000))")
        connection.sql("SELECT id, length(body) FROM t")

    judge.compare(scenario, large=True)
