"""A served node per test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from litefs.http.replication import StreamSettings
from tests.unit.http.fake_node import FakeNode
from tests.unit.http.serving import Served


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakeNode]:
    fake = FakeNode(tmp_path)
    yield fake
    fake.close()


@pytest.fixture
def served(node: FakeNode) -> Iterator[Served]:
    service = Served(node, StreamSettings(compress=True, snapshot_timeout_s=10.0))
    yield service
    service.stop()


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A primary without databases, for requests that change nothing."""
    service = Served(FakeNode(tmp_path_factory.mktemp("calm")), StreamSettings(compress=True, snapshot_timeout_s=10.0))
    yield service
    service.stop()


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Served]:
    """A node that may not change anything."""
    fake = FakeNode(tmp_path, primary=False)
    service = Served(fake, StreamSettings(compress=True, snapshot_timeout_s=10.0))
    yield service
    service.stop()
    fake.close()
