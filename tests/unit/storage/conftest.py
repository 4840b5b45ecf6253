"""A store in a fresh directory, on a disk that can be made to fail."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faulty_disk import FaultyDisk
from tests.support.storage_world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A primary's store. `world.disk` is a `FaultyDisk`."""
    root = tmp_path / "data"
    root.mkdir()
    world = World(root, FaultyDisk(root))
    yield world
    world.close()
