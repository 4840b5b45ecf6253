import time
from pathlib import Path

import pytest

from litefs.filesystem.inodes import Inode, Kind
from litefs.filesystem.special_files import LAG_SIZE, NOT_READY_LAG_MS, ClusterView, special_content
from litefs.storage.database import CommitGate, Database, StoreSettings
from litefs.storage.disk import Disk
from litefs.storage.free_space import FreeSpace
from litefs.storage.served import ServedDatabase
from litefs.storage.state import DatabaseState


def inode(kind: Kind) -> Inode:
    return Inode(7, kind, "name", 0o444, 0, 0)


def lag(view: ClusterView) -> bytes:
    return special_content(inode(Kind.LAG), view)


def test_the_lag_of_a_primary_is_zero() -> None:
    assert lag(ClusterView(is_primary=True)) == b"+000000000\n"


def test_a_replica_that_is_not_ready_has_the_largest_lag_cut_to_the_size_of_the_file() -> None:
    """Twelve bytes in a file of eleven: the newline is lost, as with LiteFS 0.5."""
    assert len(b"%+010d\n" % NOT_READY_LAG_MS) == 12
    assert lag(ClusterView(primary_timestamp_ms=-1)) == b"+2147483647"


@pytest.mark.parametrize("behind_ms", [1, 250, 86_400_000])
def test_the_lag_of_a_replica_is_the_age_of_what_it_heard_last(behind_ms: int) -> None:
    before = time.time_ns() // 1_000_000
    text = lag(ClusterView(primary_timestamp_ms=before - behind_ms))
    after = time.time_ns() // 1_000_000
    assert behind_ms <= int(text) <= behind_ms + after - before
    assert len(text) == LAG_SIZE
    assert text[:1] == b"+"
    assert text[-1:] == b"\n"


def test_the_lag_is_negative_where_the_clock_of_the_primary_is_ahead() -> None:
    text = lag(ClusterView(primary_timestamp_ms=time.time_ns() // 1_000_000 + 90_000))
    assert text.startswith(b"-0000")
    assert len(text) == LAG_SIZE


def test_the_primary_file_holds_the_host_name_as_a_line() -> None:
    assert special_content(inode(Kind.PRIMARY), ClusterView(primary="node-1")) == b"node-1\n"


def test_the_lock_file_is_empty() -> None:
    assert special_content(inode(Kind.LOCK), ClusterView(is_primary=True)) == b""


def test_the_position_is_34_bytes_of_lower_hex(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    gate = CommitGate(0.0, time.monotonic)
    state = DatabaseState(base_txid=0xABC, checksum=0x8000_0000_0000_00FE, page_size=4096)
    database = Database("a.db", tmp_path, Disk(), FreeSpace(Disk(), tmp_path), StoreSettings(node_id=1), gate, state)
    position = inode(Kind.POS)
    position.served = ServedDatabase(database)
    assert special_content(position, ClusterView()) == b"0000000000000abc/80000000000000fe\n"
    database.close()


def test_a_position_without_a_database_is_empty() -> None:
    assert special_content(inode(Kind.POS), ClusterView()) == b""
