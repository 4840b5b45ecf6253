"""Fixtures of the tests on two real nodes: a shared pair, a pair of one's own, sessions on both mounts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.fuse_mounts import connection_number
from tests.support.litefs_node import Pair
from tests.support.scenario import file_stem


@pytest.fixture(scope="session")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    pair = Pair(tmp_path_factory.mktemp("shared-cluster"))
    yield pair
    pair.stop()


@pytest.fixture
def cluster(_shared: Pair, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Sessions on a primary and a replica that tests share; each test uses file names of its own."""
    if not (_shared.primary.is_alive and _shared.replica.is_alive):
        _shared.stop()
        _shared.start()
    yield from _opened(_shared, request)


@pytest.fixture
def own_cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Sessions on two running nodes of this test alone, which it may kill and restart."""
    pair = Pair(tmp_path / "pair")
    pair.start()
    try:
        yield from _opened(pair, request)
    finally:
        pair.stop()


@pytest.fixture
def quick_cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The same, of nodes that reconnect at once."""
    pair = Pair(tmp_path / "pair")
    pair.replica.config_path.write_text(pair.replica.config_path.read_text() + '  reconnect-delay: "20ms"\n')
    pair.start()
    try:
        yield from _opened(pair, request)
    finally:
        pair.stop()
    for node in (pair.primary, pair.replica):
        assert connection_number(node.mount_dir) is None, "a mount is left behind"


def _opened(pair: Pair, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    logs = {node: len(node.log_text()) for node in (pair.primary, pair.replica)}
    cluster = Cluster(pair, file_stem(request.node.name))
    yield cluster
    cluster.close()
    for node, before in logs.items():
        request.node.add_report_section("teardown", f"log of the {node.root.name}", node.log_text()[before:][-20000:])
