"""A filesystem without a mount, whose node process is the test."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fuseless_link import Link
from tests.support.fuseless_mount import CountingDisk, FuselessMount


@pytest.fixture
def disk() -> CountingDisk:
    return CountingDisk()


@pytest.fixture
def mount(tmp_path: Path, disk: CountingDisk) -> Iterator[FuselessMount]:
    mount = FuselessMount(tmp_path / "data", disk=disk)
    mount.operations.node_pid = os.getpid()
    yield mount
    mount.close()


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Link]:
    link = Link(tmp_path)
    yield link
    link.close()


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Link]:
    link = Link(tmp_path / "replica", primary=False)
    yield link
    link.close()
