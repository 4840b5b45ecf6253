"""Wal-indexes are mapped as they appear, on a plain directory, which maps as a mount does."""

import logging
from pathlib import Path

import pytest

from litefs.node.shm_guard import HEADERS_SIZE, MAPPED_BYTES, ShmGuard
from tests.unit.node.fake_duties import eventually


def is_kept(guard: ShmGuard, path: Path) -> bool:
    """Whether the guard reaches what others have mapped."""
    guard.zero_all()
    return path.read_bytes()[:HEADERS_SIZE] == bytes(HEADERS_SIZE)


def test_databases_without_a_wal_index_hold_up_none_that_has_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a start, when no application has opened any of many databases yet."""
    caplog.set_level(logging.INFO)
    path = tmp_path / "app.db-shm"
    path.write_bytes(b"x" * MAPPED_BYTES)
    guard = ShmGuard(str(tmp_path))
    guard.start()
    for number in range(50):  # each is waited for
        guard.add(f"idle{number}.db")
    guard.add("app.db")
    eventually(lambda: is_kept(guard, path))
    assert not caplog.records


def test_a_wal_index_that_is_still_being_made_is_waited_for(tmp_path: Path) -> None:
    guard = ShmGuard(str(tmp_path))
    guard.start()
    path, other = tmp_path / "app.db-shm", tmp_path / "other.db-shm"
    path.write_bytes(b"x" * (MAPPED_BYTES - 1))
    guard.add("app.db")
    other.write_bytes(b"x" * MAPPED_BYTES)
    guard.add("other.db")
    eventually(lambda: is_kept(guard, other))  # so the first was looked at, too
    path.write_bytes(b"x" * MAPPED_BYTES)
    eventually(lambda: is_kept(guard, path))
