"""Power cuts in the middle of a recovery, and again in the life after it: no matter how often, nothing is lost."""

import copy
import shutil
from pathlib import Path

import pytest

from litefs.storage.database import Database
from litefs.storage.log_reader import LogReader
from litefs.storage.state import write_state
from litefs.storage.steps import Steps, run
from tests.support.faulty_disk import EVERYTHING, NOTHING_UNSYNCED, FaultyDisk, QuickDisk
from tests.support.sqlite_player import Player
from tests.support.storage_world import Promise, Promises, World, examine, examine_database


def first_life(world: World) -> None:
    """Leaves all kinds of things for a recovery: groups, unsynced images, checkpointed and not, several segments."""
    players = [world.player(name) for name in ("a.db", "b.db")]
    for player in players:
        world.commit(player, range(1, 8))
    world.tidy()
    world.commit_together(players, [1, 2])
    world.commit(players[0], [3], sync=False)
    world.commit(players[1], [4], sync=False)
    world.commit(players[0], [2, 3], sync=False)
    world.commit(players[1], range(1, 12), sync=False)
    world.commit(players[0], [5, 3], sync=False)


def settle_promises(world: World, promises: Promises) -> None:
    """What the restart found is what happened: the unsynced commits behind it are gone for good."""
    for name, promise in promises.by_name.items():
        found = world.database(name).txid
        promise.states = {found: promise.states[found]}
        promise.last = promise.durable = found
    promises.groups.clear()


@pytest.mark.parametrize("seed", [NOTHING_UNSYNCED, EVERYTHING, *range(2, 10)])
def test_survives_a_power_cut_before_every_disk_call_of_a_restart_and_of_the_life_after_it(
    tmp_path: Path, seed: int
) -> None:
    root = tmp_path / "first"
    root.mkdir()
    disk = FaultyDisk(root)
    world = World(root, disk)
    first_life(world)
    promises = world.promises
    second = tmp_path / "second"
    disk.leave(seed, second)
    world.close()

    disk = FaultyDisk(second)
    crash_n = 0

    def crash(label: str) -> None:
        nonlocal crash_n
        crash_n += 1
        for again in (NOTHING_UNSYNCED, seed * 1000 + crash_n + 2):
            left = tmp_path / f"left{crash_n}-{again}"
            disk.leave(again, left)
            try:
                examine(left, copy.deepcopy(promises), go_on=crash_n % 5 == 0)
            except Exception as error:
                raise AssertionError(f"power cut before {label}, call {len(disk.calls)}, seed {again}") from error

    disk.before_call = crash
    world = World(second, disk, promises)
    settle_promises(world, promises)
    # The same sizes as the images that were lost: where a new image ends an old one may begin.
    player = Player(world.store, "a.db", seed=9, create=False)
    for pgnos in ([3], [2, 3], [5, 3]):
        world.commit(player, pgnos, sync=False)
    world.tidy()
    crash("the end")
    disk.before_call = lambda label: None
    world.close()
    assert crash_n > 15


def same_life_again(world: World) -> World:
    """The process dies and starts again: the page cache, with all that was never synced, is still there."""
    world.close()
    return World(world.root, world.disk, world.promises)


@pytest.mark.parametrize("sync", [True, False], ids=["FULL", "OFF"])
def test_what_a_restart_of_the_process_finds_in_the_page_cache_survives_the_next_power_cut_whole(
    tmp_path: Path, sync: bool
) -> None:
    """The base takes pages from the log at start: the log must be durable before."""
    root = tmp_path / "live"
    root.mkdir()
    disk = FaultyDisk(root)
    world = World(root, disk)
    player = world.player()
    world.commit(player, range(1, 5))
    world.tidy()
    for pgnos in ([2], [3, 5], [2, 4]):
        world.commit(player, pgnos, sync=False)
    world = same_life_again(world)
    player = Player(world.store, "a.db", create=False)
    world.commit(player, [3], sync=sync)
    for seed in range(40):
        left = tmp_path / f"left{seed}"
        disk.leave(seed, left)
        examine(left, world.promises, go_on=False)
    world.close()


def _lose_image(log_dir: Path, txid: int) -> None:
    """Zeroes a part of an image, as of one that the disk did not write."""
    reader = LogReader(log_dir)
    (image,) = reader.images(txid, txid)
    reader.close()
    data = bytearray(image.path.read_bytes())
    data[image.offset + 600 : image.offset + 1000] = bytes(400)
    image.path.write_bytes(data)


def test_an_image_behind_a_lost_one_does_not_come_back(tmp_path: Path) -> None:
    """Images 2 and 3 are of one size. 2 is lost, 3 is not; where the new 2 ends the old 3 begins."""
    root = tmp_path / "live"
    root.mkdir()
    world = World(root, QuickDisk())
    player = world.player()
    world.commit(player, range(1, 5))
    run(world.database().sync_log())
    world.commit(player, [2], sync=False)
    world.commit(player, [2], sync=False)
    log_dir = world.database().log.directory
    world.close()
    _lose_image(log_dir, 2)
    for seed in range(30):
        again = tmp_path / f"again{seed}"
        shutil.copytree(root, again)
        disk = FaultyDisk(again)
        world = World(again, disk)
        assert world.database().txid == 1
        assert disk.calls.index("recovery.erase") < disk.calls.index("recovery.erase_sync")
        player = Player(world.store, "a.db", seed=seed, create=False)
        states = {1: player.content}
        player.commit(player.change([2]), sync=False)
        states[2] = player.content
        left = tmp_path / f"left{seed}"
        disk.leave(seed, left)
        world.close()
        for path in (again, left):
            world = World(path, QuickDisk())
            examine_database(world, "a.db", Promise(states=dict(states), durable=1, last=2))
            world.close()


def test_a_segment_behind_a_lost_image_does_not_come_back(tmp_path: Path) -> None:
    """Image 2 ends the first segment and is lost, 3 begins the second and is not; then another 2 is committed."""
    root = tmp_path / "live"
    root.mkdir()
    world = World(root, QuickDisk())
    player = world.player()
    world.commit(player, range(1, 12))
    world.commit(player, range(1, 10), sync=False)
    world.commit(player, range(1, 8), sync=False)
    segments = sorted(world.database().log.directory.glob("*.ltxlog"))
    assert [path.name for path in segments] == ["0000000000000001.ltxlog", "0000000000000003.ltxlog"]
    world.close()
    _lose_image(segments[0].parent, 2)
    disk = FaultyDisk(root)
    world = World(root, disk)
    assert world.database().txid == 1
    player = Player(world.store, "a.db", seed=5, create=False)
    player.commit(player.change([2]))
    disk.leave(NOTHING_UNSYNCED, tmp_path / "left")
    expected = Promise(states={2: player.content}, durable=2, last=2)
    world.close()
    world = World(tmp_path / "left", QuickDisk())
    examine_database(world, "a.db", expected)
    world.close()


def test_a_decided_image_counts_after_the_database_that_decided_has_forgotten_it(tmp_path: Path) -> None:
    root = tmp_path / "live"
    root.mkdir()
    disk = FaultyDisk(root)
    world = World(root, disk)
    players = [world.player(name) for name in ("a.db", "b.db")]
    for player in players:
        world.commit(player, range(1, 4))
    world.commit_together(players, [2])
    # Only `a.db` is marked durably so far; `b.db` is found prepared.
    disk.leave(NOTHING_UNSYNCED, tmp_path / "second")
    world.close()
    disk = FaultyDisk(tmp_path / "second")
    world = World(tmp_path / "second", disk)
    assert [world.database(name).txid for name in ("a.db", "b.db")] == [2, 2]
    player = Player(world.store, "a.db", create=False)
    for _ in range(4):
        player.commit(player.change(range(1, 8)))
    a = world.database("a.db")
    run(world.housekeeper.settle(a))
    world.housekeeper.checkpoint_due(a, 0.0)
    run(world.housekeeper.checkpoint(a, 0.0))
    run(world.housekeeper.forget(a, 1e18))
    assert a.log.first_txid() > 2
    a.group = 77  # of a later transaction with a third database
    run(_write_state_again(a))
    disk.leave(EVERYTHING, tmp_path / "third")
    world.close()
    world = World(tmp_path / "third", QuickDisk())
    assert world.database("b.db").txid == 2
    world.close()


def _write_state_again(database: Database) -> Steps[None]:
    yield lambda: write_state(database.disk, database.directory, database.state_now())
