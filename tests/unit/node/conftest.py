"""A database in WAL mode per test, and clusters of nodes whose roles are driven."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.node.fake_duties import FakeCluster, Make
from tests.unit.node.wal_world import WalWorld, wal_world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[WalWorld]:
    with wal_world(tmp_path) as world:
        yield world


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes clusters, and ends their threads."""
    made: list[FakeCluster] = []

    def make_one(names: str, *, ttl_s: float = 10.0) -> FakeCluster:
        made.append(FakeCluster(tmp_path, names, ttl_s=ttl_s))
        return made[-1]

    yield make_one
    for cluster in made:
        cluster.close()
