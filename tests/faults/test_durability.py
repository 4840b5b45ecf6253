"""What a power cut takes of the commits that were answered: as the application asked, and where every commit is synced.

The syncs that SQLite leaves out with `synchronous=OFF`, or NORMAL in WAL mode, are left out here.
"""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from litefs.errors import CommitRefusedError
from litefs.storage.steps import run
from litefs.storage.transaction import SMALL_PAGES_MAX
from tests.support.faulty_disk import NOTHING_UNSYNCED, FaultyDisk, QuickDisk
from tests.support.sqlite_player import JournalEnd, Player, commit_together
from tests.support.storage_world import World, crash_everywhere, fail_everywhere

LARGE = range(1, SMALL_PAGES_MAX + 3)


def delete(player: Player) -> None:
    player.commit(player.change([2]), sync=False)


def truncate(player: Player) -> None:
    player.commit(player.change([2]), sync=False, end=JournalEnd.TRUNCATE)


def persist(player: Player) -> None:
    player.commit(player.change([2]), sync=False, end=JournalEnd.PERSIST)


def large(player: Player) -> None:
    player.commit(player.change(LARGE), sync=False)


def wal(player: Player) -> None:
    player.wal_commit(player.change([2]))


def large_wal(player: Player) -> None:
    player.wal_commit(player.change(LARGE))


def drop(player: Player) -> None:
    run(player.store.drop(player.name))


def several(player: Player) -> None:
    players = [player, Player(player.store, "b.db")]
    commit_together(players, [each.change([2]) for each in players], sync=False)


WAYS = [delete, truncate, persist, large, wal, large_wal, drop, several]
each_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)


def start(world: World, way: Callable[[Player], None]) -> Player:
    """A database in the mode that the way of committing is for, all of it durable."""
    player = world.player()
    world.commit(player, range(1, 4))
    if way in (wal, large_wal):
        world.enter_wal(player)
    return player


def txid_after_power_cut(disk: FaultyDisk, left: Path, name: str = "a.db") -> int:
    """Returns where a database is that comes up with nothing but what was synced."""
    disk.leave(NOTHING_UNSYNCED, left)
    world = World(left, QuickDisk())
    try:
        return world.database(name).txid
    finally:
        world.close()


@pytest.mark.parametrize("every", [True, False], ids=["every-commit", "as-asked"])
@each_way
def test_a_power_cut_takes_an_answered_commit_only_where_its_application_wanted_no_sync(
    tmp_path: Path, way: Callable[[Player], None], every: bool
) -> None:
    (tmp_path / "live").mkdir()
    disk = FaultyDisk(tmp_path / "live")
    world = World(tmp_path / "live", disk, sync_every_commit=every)
    player = start(world, way)
    before = world.database().txid
    way(player)
    assert world.database().txid == before + 1
    assert txid_after_power_cut(disk, tmp_path / "left") == before + every
    if way is several and every:
        assert txid_after_power_cut(disk, tmp_path / "left-b", "b.db") == 1
    world.close()


@each_way
def test_a_sync_that_fails_refuses_this_commit_and_takes_nothing_else(
    tmp_path: Path, way: Callable[[Player], None]
) -> None:
    (tmp_path / "live").mkdir()
    disk = FaultyDisk(tmp_path / "live")
    world = World(tmp_path / "live", disk, sync_every_commit=True)
    player = start(world, way)
    before, content = world.database().txid, player.content
    fail_syncs(disk, "log.sync")
    with pytest.raises((CommitRefusedError, OSError)):
        way(player)
    assert (world.database().txid, player.served.read(0, 1 << 20)) == (before, content)
    assert txid_after_power_cut(disk, tmp_path / "left") == before
    fail_syncs(disk, "")
    player.look()
    world.commit(player, [3]) if not player.wal else world.wal_commit(player, [3])
    assert txid_after_power_cut(disk, tmp_path / "left-later") == before + 1
    world.close()


def fail_syncs(disk: FaultyDisk, label: str) -> None:
    """From now on calls with this label fail; none with ""."""

    def fail(called: str) -> None:
        disk.fail_at = len(disk.calls) + 1 if called == label else 0

    disk.before_call, disk.fail_at = fail, 0


def commits_without_syncs(world: World) -> None:
    player = world.player()
    world.commit(player, range(1, 4), sync=False)
    world.commit(player, [2], sync=False)
    world.enter_wal(player)
    world.wal_commit(player, [2])
    world.wal_commit(player, [3, 6])
    world.checkpoint_wal(player, 3)
    world.tidy()
    world.wal_commit(player, [2, 4], 5)


def test_answered_commits_survive_a_power_cut_before_every_disk_call(tmp_path: Path) -> None:
    assert crash_everywhere(tmp_path, commits_without_syncs, sync_every_commit=True) > 30


def test_answered_commits_survive_the_failure_of_every_disk_call(tmp_path: Path) -> None:
    assert fail_everywhere(tmp_path, commits_without_syncs, errno.EIO, sync_every_commit=True) > 10
