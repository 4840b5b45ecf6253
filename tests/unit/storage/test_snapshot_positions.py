"""A snapshot shows one position, whatever is committed and written into the base while it is read."""

from pathlib import Path

from litefs.link.messages import SnapshotOpened
from litefs.storage.snapshot import SnapshotReader
from tests.support.faulty_disk import QuickDisk
from tests.support.storage_world import World


def open_snapshot(world: World) -> SnapshotOpened:
    """What the filesystem process does when it is asked for one."""
    database = world.database()
    aside = database.base.open_aside(1, database.txid, database.base_txid, database.page_n)
    return SnapshotOpened(
        snapshot_id=1,
        name=database.name,
        txid=database.txid,
        checksum=database.checksum,
        page_size=database.page_size,
        page_n=database.page_n,
        timestamp_ms=0,
        base_txid=database.base_txid,
        base_path=str(database.base.path),
        aside_path=str(aside.path),
        aside_map_path=str(aside.map_path),
    )


def test_pages_overwritten_and_cut_off_since_are_shown_as_they_were(tmp_path: Path) -> None:
    world = World(tmp_path, QuickDisk())
    player = world.player()
    world.commit(player, range(1, 30))
    world.tidy()
    world.commit(player, [3, 4])
    wanted = player.content
    opened = open_snapshot(world)
    world.commit(player, range(1, 20), 15)
    world.commit(player, range(1, 100))
    world.tidy()
    assert not world.refusals
    reader = SnapshotReader(opened, world.database().directory / "log", 1, compress=False)
    shown = b"".join(bytes(run) for _, run in reader.pages())
    reader.close()
    assert shown == wanted
    world.close()
