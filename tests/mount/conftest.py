"""Fixtures of the tests on a real mount: a shared node, a node of one's own, the judge."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.filesystem_node import FilesystemNode
from tests.support.judge import Judge


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips what needs a mount where the kernel offers none; in CI that is a failure instead."""
    if Path("/dev/fuse").exists() or os.environ.get("CI") == "true":
        return
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="/dev/fuse is missing"))


@pytest.fixture(scope="session")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FilesystemNode]:
    node = FilesystemNode(tmp_path_factory.mktemp("shared-node"))
    yield node
    node.stop()


@pytest.fixture
def node(_shared: FilesystemNode, request: pytest.FixtureRequest) -> Iterator[FilesystemNode]:
    """A running primary that tests share; each uses file names of its own. One that a test broke is started anew."""
    if not _shared.is_alive:
        _shared.stop()
        _shared.start()
    log_before = len(_shared.log_text())
    yield _shared
    request.node.add_report_section("teardown", "log of the node", _shared.log_text()[log_before:][-20000:])


@pytest.fixture
def own_node(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FilesystemNode]:
    """A running primary of this test alone, which it may kill and restart."""
    node = FilesystemNode(tmp_path / "node")
    node.start()
    yield node
    node.stop()
    request.node.add_report_section("teardown", "log of the node", node.log_text()[-20000:])


@pytest.fixture
def judge(node: FilesystemNode, tmp_path: Path, request: pytest.FixtureRequest) -> Judge:
    """Judges on the shared node."""
    return Judge(node=node, bare_dir=_bare(tmp_path), stem=_stem(request.node.name))


@pytest.fixture
def own_judge(own_node: FilesystemNode, tmp_path: Path, request: pytest.FixtureRequest) -> Judge:
    """Judges on a node of this test alone."""
    return Judge(node=own_node, bare_dir=_bare(tmp_path), stem=_stem(request.node.name))


def _bare(tmp_path: Path) -> Path:
    bare = tmp_path / "bare"
    bare.mkdir()
    return bare


def _stem(test_name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", test_name.removeprefix("test_").lower()).strip("-")[:80]
