"""Snapshots: exactly the state of one position, whatever is committed while they are read."""

import os
import random
from collections.abc import Iterator

import pytest

from litefs.errors import CorruptStateError
from litefs.filesystem.snapshots import open_snapshot
from litefs.formats.ltx_decoder import decode_image
from litefs.storage.database import Database
from litefs.storage.snapshot import RUN_BYTES, SnapshotReader
from litefs.storage.steps import run
from tests.support.faulty_disk import FaultyDisk
from tests.support.sqlite_player import PAGE_SIZE, Player
from tests.support.storage_world import World


def reader_of(database: Database, snapshot_id: int = 1) -> SnapshotReader:
    return SnapshotReader(open_snapshot(database, snapshot_id), database.log.directory, 7, compress=True)


def read_rest(pages: Iterator[tuple[int, memoryview]]) -> bytes:
    return b"".join(bytes(run) for _, run in pages)


@pytest.fixture
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pages at a time, so that much can happen between two of them."""
    assert RUN_BYTES > 2 * PAGE_SIZE
    monkeypatch.setattr("litefs.storage.snapshot.RUN_BYTES", 2 * PAGE_SIZE)


def commit_something(world: World, player: Player, rng: random.Random) -> None:
    count = len(player.pages)
    page_n = rng.choice([None, None, count + 3, max(3, count - 4)])
    limit = page_n or count
    pgnos = rng.sample(range(1, limit + 1), min(limit, rng.choice([1, 2, 5, 70])))
    if player.wal:
        world.wal_commit(player, pgnos, page_n, sync=rng.random() < 0.5)
        if rng.random() < 0.4:
            world.checkpoint_wal(player, rng.randint(player._backfilled, len(player._frames)))
    else:
        world.commit(player, pgnos, page_n, sync=rng.random() < 0.5)
    if rng.random() < 0.4:
        world.tidy()


@pytest.mark.usefixtures("small_runs")
@pytest.mark.parametrize("wal", [False, True], ids=["rollback", "wal"])
@pytest.mark.parametrize("seed", range(12))
def test_a_snapshot_is_exact_under_commits_checkpoints_and_housekeeping(world: World, wal: bool, seed: int) -> None:
    rng = random.Random(seed)
    player = world.player()
    world.commit(player, range(1, rng.choice([6, 90])))
    if wal:
        world.enter_wal(player)
    for _ in range(rng.randint(0, 4)):
        commit_something(world, player, rng)
    expected = player.content
    reader = reader_of(world.database())
    read = []
    for _, pages in reader.pages():
        read.append(bytes(pages))
        commit_something(world, player, rng)
    assert b"".join(read) == expected, f"seed {seed}"
    reader.close()
    world.database().base.close_aside(1)
    assert not world.refusals


@pytest.mark.usefixtures("small_runs")
def test_two_snapshots_of_different_positions_do_not_disturb_each_other(world: World) -> None:
    player = world.player()
    world.commit(player, range(1, 9))
    world.tidy()
    first, first_content = reader_of(world.database(), 1), player.content
    world.commit(player, range(1, 9))
    second, second_content = reader_of(world.database(), 2), player.content
    world.commit(player, range(1, 5), 4)
    world.tidy()
    assert read_rest(first.pages()) == first_content
    world.commit(player, range(1, 9))
    assert read_rest(second.pages()) == second_content
    first.close()
    second.close()


def test_the_log_that_a_snapshot_needs_is_kept_until_it_is_closed(world: World) -> None:
    player = world.player()
    for _ in range(8):
        world.commit(player, range(1, 9))
    database = world.database()
    reader = reader_of(database)
    expected = player.content
    for _ in range(8):
        world.commit(player, range(1, 9))
        world.tidy()
    assert database.base_txid == 16
    assert database.log.first_txid() == 1
    reader.close()
    reader = SnapshotReader(reader._opened, database.log.directory, 7, compress=False)
    assert read_rest(reader.pages()) == expected
    reader.close()
    database.base.close_aside(1)
    world.tidy()
    assert database.log.first_txid() > 8


def test_the_image_of_a_snapshot_verifies_and_holds_the_position(world: World) -> None:
    player = world.player()
    world.commit(player, range(1, 9))
    world.commit(player, [2], 5)
    reader = reader_of(world.database())
    header, pages, trailer = decode_image(b"".join(reader.ltx_chunks()))
    reader.close()
    assert (header.min_txid, header.max_txid, header.commit, header.node_id) == (1, 2, 5, 7)
    assert b"".join(page for _, page in pages) == player.content
    assert trailer.post_apply == world.database().checksum


def test_a_dropped_database_has_an_empty_snapshot(world: World) -> None:
    player = world.player()
    world.commit(player, range(1, 5))
    run(world.store.drop("a.db"))
    reader = reader_of(world.database())
    header, pages, _ = decode_image(b"".join(reader.ltx_chunks()))
    reader.close()
    assert (header.max_txid, header.commit, pages) == (2, 0, [])


def test_a_full_disk_gives_the_snapshot_up_and_not_the_commit(world: World) -> None:
    player = world.player()
    world.commit(player, range(1, 9))
    world.tidy()
    reader = reader_of(world.database())
    assert isinstance(world.disk, FaultyDisk)
    world.disk.full = ("aside.*",)
    world.commit(player, range(1, 9))
    assert not world.refusals
    with pytest.raises(CorruptStateError, match="no space"):
        read_rest(reader.pages())
    reader.close()


@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_snapshot_that_cannot_be_begun_leaves_nothing(world: World, call: int) -> None:
    player = world.player()
    world.commit(player, range(1, 9))
    database = world.database()
    before = len(os.listdir("/proc/self/fd"))
    assert isinstance(world.disk, FaultyDisk)
    world.disk.fail_at = len(world.disk.calls) + call
    with pytest.raises(OSError, match=r"injected at call \d+, aside"):
        reader_of(database)
    assert not database.base.asides
    assert len(os.listdir("/proc/self/fd")) == before
    assert not list(database.directory.glob("aside-*"))


def test_a_snapshot_closed_while_a_layer_is_written_disturbs_nothing(world: World) -> None:
    player = world.player()
    world.commit(player, range(1, 9))
    world.tidy()
    database = world.database()
    reader = reader_of(database)
    world.commit(player, range(1, 9), sync=False)
    run(database.sync_log())
    layer = database.base.freeze(database.log.durable_txid)
    assert layer is not None
    assert isinstance(world.disk, FaultyDisk)
    world.disk.before_call = lambda label: database.base.close_aside(1) if label == "base.write_run" else None
    database.base.write_layer(layer)
    database.base.written(layer)
    assert database.base.path.read_bytes() == player.content
    reader.close()


@pytest.mark.usefixtures("small_runs")
def test_a_replacement_leaves_the_snapshot_of_the_old_state_readable(world: World) -> None:
    player = world.player()
    world.commit(player, range(1, 9))
    expected = player.content
    reader = reader_of(world.database())
    pages = reader.pages()
    first = bytes(next(pages)[1])
    world.load(player, range(1, 4), 3)
    world.commit(player, range(1, 4))
    world.tidy()
    assert first + read_rest(pages) == expected
    reader.close()
