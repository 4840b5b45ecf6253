"""A full disk: the commit is refused, nothing that was committed is lost, and all goes on when space returns."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from litefs.formats.ltx_decoder import decode_image
from litefs.storage.housekeeping import SPARE_RETRY_S, Housekeeper
from litefs.storage.log_reader import LogReader
from litefs.storage.served import ServedDatabase
from litefs.storage.steps import run
from tests.support.fake_lease import VirtualClock
from tests.support.faulty_disk import EVERYTHING, NOTHING_UNSYNCED, FaultyDisk
from tests.support.sqlite_player import Player
from tests.support.storage_world import SEGMENT_BYTES, World, examine


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    root = tmp_path / "live"
    root.mkdir()
    world = World(root, FaultyDisk(root))
    yield world
    world.close()


def faulty(world: World) -> FaultyDisk:
    assert isinstance(world.disk, FaultyDisk)
    return world.disk


def survives(world: World) -> None:
    """Whatever the disk loses now, the promises hold."""
    for seed in (NOTHING_UNSYNCED, EVERYTHING, 2, 3):
        left = world.root.parent / f"left{seed}"
        faulty(world).leave(seed, left)
        examine(left, world.promises)


def content(served: ServedDatabase) -> bytes:
    return served.read(0, served.size)


@pytest.mark.parametrize("sync", [True, False], ids=["FULL", "OFF"])
@pytest.mark.parametrize("pages", [range(1, 5), range(1, 70)], ids=["small", "large"])
def test_a_commit_without_room_in_the_log_is_refused_and_the_next_succeeds(
    world: World, pages: range, sync: bool
) -> None:
    player = world.player()
    world.commit(player, pages)
    before = player.content
    faulty(world).full = ("log.append*", "log.spare*")
    for _ in range(SEGMENT_BYTES // 1024):
        world.commit(player, pages, sync=sync)
        if world.refusals:
            break
        before = player.content
    assert len(world.refusals) == 1
    assert "full" in world.refusals[0]
    assert content(player.served) == before
    survives(world)
    faulty(world).full = ()
    world.commit(player, pages)
    assert len(world.refusals) == 1
    assert content(player.served) == player.content != before
    survives(world)


def test_a_wal_commit_without_room_in_the_log_is_refused_twice_and_the_next_succeeds(world: World) -> None:
    player = world.player()
    world.commit(player, range(1, 4))
    world.enter_wal(player)
    world.wal_commit(player, [2], sync=True)
    before = player.pages
    faulty(world).full = ("log.append",)
    world.wal_commit(player, [2, 3, 4])
    assert len(world.refusals) == 1
    assert faulty(world).calls.count("log.append") == 5
    assert player.pages is before
    survives(world)
    faulty(world).full = ()
    world.wal_commit(player, [3], sync=True)
    world.checkpoint_wal(player)
    world.tidy()
    assert content(player.served) == player.content
    survives(world)


@pytest.mark.parametrize("label", ["overlay.*", "scratch.*"])
def test_a_transaction_without_room_to_spill_is_refused_and_rolled_back(
    world: World, label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("litefs.storage.scratch.SCRATCH_MEMORY_BYTES", 32 << 10)
    player = world.player()
    world.commit(player, range(1, 80))
    before = player.content
    faulty(world).full = (label,)
    world.commit(player, range(1, 80))
    assert len(world.refusals) == 1
    assert content(player.served) == before
    assert player.served.journal.file is None
    assert player.served.journal.overlay is None
    survives(world)
    faulty(world).full = ()
    world.commit(player, range(1, 80))
    assert len(world.refusals) == 1
    survives(world)


def test_pages_that_the_base_cannot_take_are_served_from_memory_until_it_can(world: World) -> None:
    player = world.player()
    world.commit(player, range(1, 5))
    faulty(world).full = ("base.*",)
    world.commit(player, [2, 3])
    world.commit(player, range(1, 70))
    world.commit(player, [2], 40)
    world.tidy()
    assert not world.refusals
    assert content(player.served) == player.content
    survives(world)
    assert world.database().base_txid < world.database().txid
    faulty(world).full = ()
    world.tidy()
    assert not world.database().base.layers
    assert world.database().base.path.read_bytes() == player.content
    assert world.database().base_txid == world.database().txid
    survives(world)


def test_a_checkpoint_of_the_log_without_room_for_the_state_file_is_tried_again(world: World) -> None:
    player = world.player()
    world.commit(player, range(1, 5))
    faulty(world).full = ("state*",)
    world.tidy()
    assert world.database().base_txid == 0
    faulty(world).full = ()
    world.tidy()
    assert world.database().base_txid == 1
    survives(world)


def test_a_segment_that_does_not_fit_gives_its_blocks_back_and_is_not_tried_at_each_commit(world: World) -> None:
    clock = VirtualClock()
    keeper = Housekeeper(0.0, clock=clock)
    player = world.player()
    for _ in range(4):
        world.commit(player, range(1, 5))
    database = world.database()
    assert database.log.wants_spare()
    faulty(world).full = ("log.spare_zeros",)
    run(keeper.prepare_segment(database))
    assert not list(database.log.directory.glob("spare-*"))
    faulty(world).full = ()
    run(keeper.prepare_segment(database))
    assert database.log.wants_spare()
    clock.now += SPARE_RETRY_S
    run(keeper.prepare_segment(database))
    assert not database.log.wants_spare()


def test_a_large_image_that_was_refused_leaves_room_for_the_one_that_is_tried_next(world: World) -> None:
    """It needs a segment of its own, which is there already when it is tried again."""
    player = world.player()
    world.commit(player, range(1, 5))
    faulty(world).full = ("log.append_chunk",)
    world.commit(player, range(1, 70))
    world.commit(player, range(1, 70))
    assert len(world.refusals) == 2
    faulty(world).full = ()
    world.commit(player, range(1, 70))
    world.tidy()
    run(world.housekeeper.forget(world.database(), 1e18))
    reader = LogReader(world.database().log.directory)
    (ref,) = reader.images(2, 2)
    assert decode_image(reader.read(ref, 0, ref.size))[0].max_txid == 2
    reader.close()
    survives(world)


def test_a_load_without_room_leaves_the_old_state_committed(world: World) -> None:
    player = world.player()
    world.commit(player, range(1, 5))
    other = Player(world.store, "other.db", seed=5)
    other.commit(other.change(range(1, 9)))
    data = other.content
    faulty(world).full = ("load.write",)
    world.store.databases["a.db"].truncate(0, by_sqlite=False)
    with pytest.raises(OSError, match="full"):
        player.served.write(0, data, by_sqlite=False)
    survives(world)
    faulty(world).full = ()
    player.served.write(0, data, by_sqlite=False)
    run(player.served.sync())
    assert content(player.served) == data
    assert world.database().txid == 2
