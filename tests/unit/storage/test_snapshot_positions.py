"""A snapshot shows one position, whatever is committed and written into the base while it is read."""

from pathlib import Path

from litefs.filesystem.snapshots import open_snapshot
from litefs.storage.snapshot import SnapshotReader
from tests.support.faulty_disk import QuickDisk
from tests.support.sqlite_player import Player
from tests.support.storage_world import World


def test_pages_overwritten_and_cut_off_since_are_shown_as_they_were(tmp_path: Path) -> None:
    world = World(tmp_path, QuickDisk())
    player = world.player()
    world.commit(player, range(1, 30))
    world.tidy()
    world.commit(player, [3, 4])
    wanted = player.content
    opened = open_snapshot(world.database(), 1)
    world.commit(player, range(1, 20), 15)
    world.commit(player, range(1, 100))
    world.tidy()
    assert not world.refusals
    reader = SnapshotReader(opened, world.database().directory / "log", 1, compress=False)
    shown = b"".join(bytes(run) for _, run in reader.pages())
    reader.close()
    assert shown == wanted
    world.close()


def test_a_database_that_was_dropped_and_made_again_with_other_pages_is_shown_as_it_was(tmp_path: Path) -> None:
    """Pages of the old size are still on their way into the base when the first page of the new size is written."""
    world = World(tmp_path, QuickDisk())
    player = world.player()
    world.commit(player, range(1, 30))
    world.tidy()
    wanted = player.content
    opened = open_snapshot(world.database(), 1)
    world.commit(player, [4, 20], sync=False)
    world.drop(player)
    small = Player(world.store, page_size=512)
    after = small.change(range(1, 4))
    small.begin(after, sync=True)
    small.write_pages(after, sync=True)
    world.tidy()
    assert not world.refusals
    reader = SnapshotReader(opened, world.database().directory / "log", 1, compress=False)
    shown = b"".join(bytes(run) for _, run in reader.pages())
    reader.close()
    assert shown == wanted
    world.close()
