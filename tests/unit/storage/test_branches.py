"""Two histories with the same transaction ids: a position is (txid, checksum), and the id alone proves nothing."""

from pathlib import Path

import pytest

from litefs.errors import PositionMismatchError
from litefs.storage.followed import append_image, append_spooled
from litefs.storage.log_reader import LogReader
from litefs.storage.steps import run
from tests.support.faulty_disk import QuickDisk
from tests.support.sqlite_player import Player
from tests.support.storage_world import World


def branch(root: Path, seed: int) -> list[bytes]:
    """Returns the images of a history of two transactions."""
    world = World(root, QuickDisk())
    player = Player(world.store, seed=seed)
    for _ in range(2):
        world.commit(player, range(1, 5))
    reader = LogReader(world.database().log.directory)
    images = [reader.read(ref, 0, ref.size) for ref in reader.images(1, 2)]
    reader.close()
    world.close()
    return images


def test_an_image_of_another_history_is_refused_though_its_number_follows(tmp_path: Path) -> None:
    ours, theirs = branch(tmp_path / "ours", 1), branch(tmp_path / "theirs", 2)
    replica = World(tmp_path / "replica", QuickDisk(), primary=False)
    replica.store.create("a.db")
    database = replica.database()
    append_image(database, ours[0])
    (tmp_path / "spooled").write_bytes(theirs[1])
    with pytest.raises(PositionMismatchError):
        append_image(database, theirs[1])
    with pytest.raises(PositionMismatchError):
        run(append_spooled(database, tmp_path / "spooled"))
    assert database.logged_txid == 1
    assert append_image(database, ours[1]) == 2
    replica.close()
