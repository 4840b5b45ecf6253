"""A database in WAL mode per test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.node.wal_world import WalWorld, wal_world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[WalWorld]:
    with wal_world(tmp_path) as world:
        yield world
