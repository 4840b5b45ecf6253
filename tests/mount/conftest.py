"""Fixtures of the tests on a real mount: a shared primary with its replica, a node of one's own, the judge."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.filesystem_node import FilesystemNode
from tests.support.judge import Judge
from tests.support.litefs_node import Pair
from tests.support.scenario import file_stem


class SharedPair:
    """A primary and its replica for many tests; a pair that a test broke is replaced by a new one."""

    def __init__(self, root: Path) -> None:
        """Starts nothing."""
        self._root = root
        self._made = 0
        self._pair: Pair | None = None

    def running(self) -> Pair:
        """Returns a pair of which both nodes run."""
        if self._pair is None or not (self._pair.primary.is_alive and self._pair.replica.is_alive):
            self.stop()
            self._made += 1
            self._pair = Pair(self._root / str(self._made))
            self._pair.start()
        return self._pair

    def stop(self) -> None:
        """Stops what runs."""
        pair, self._pair = self._pair, None
        if pair is not None:
            pair.stop()


@pytest.fixture(scope="session")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedPair]:
    shared = SharedPair(tmp_path_factory.mktemp("shared-nodes"))
    yield shared
    shared.stop()


@pytest.fixture
def pair(_shared: SharedPair, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A running primary and its replica that tests share; each uses file names of its own."""
    running = _shared.running()
    nodes = (running.primary, running.replica)
    before = [len(node.log_text()) for node in nodes]
    yield running
    for node, start in zip(nodes, before, strict=True):
        name = f"log of the {node.root.name}"
        request.node.add_report_section("teardown", name, node.log_text()[start:][-20000:])


@pytest.fixture
def own_node(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FilesystemNode]:
    """A running primary of this test alone, which it may kill and restart."""
    node = FilesystemNode(tmp_path / "node")
    node.start()
    yield node
    node.stop()
    request.node.add_report_section("teardown", "log of the node", node.log_text()[-20000:])


@pytest.fixture
def judge(pair: Pair, tmp_path: Path, request: pytest.FixtureRequest) -> Judge:
    """Judges on the shared primary, and holds the shared replica against it."""
    stem = file_stem(request.node.name)
    return Judge(node=pair.primary, bare_dir=_bare(tmp_path), stem=stem, replicas=[pair.replica])


@pytest.fixture
def own_judge(own_node: FilesystemNode, tmp_path: Path, request: pytest.FixtureRequest) -> Judge:
    """Judges on a node of this test alone."""
    return Judge(node=own_node, bare_dir=_bare(tmp_path), stem=file_stem(request.node.name))


def _bare(tmp_path: Path) -> Path:
    bare = tmp_path / "bare"
    bare.mkdir()
    return bare
