"""What a start makes of a log that a power cut left in pieces, and what it must not leave for the next start."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from litefs.storage.disk import Buffer
from litefs.storage.log_format import (
    RECORD_HEADER_SIZE,
    STATE_OFFSET,
    RecordState,
    encode_record_header,
    segment_name,
)
from litefs.storage.log_reader import ImageRef, LogReader
from litefs.storage.recovery import scan_log
from litefs.storage.steps import run
from tests.support.faulty_disk import NOTHING_UNSYNCED, FaultyDisk, QuickDisk
from tests.support.sqlite_player import Player
from tests.support.storage_world import NEVER, World, examine


def image(root: Path, txid: int) -> ImageRef:
    """Where an image of the first database lies."""
    reader = LogReader(root / "dbs/a.db/log")
    try:
        return next(reader.images(txid, txid))
    finally:
        reader.close()


def spoil(root: Path, txid: int) -> None:
    """A power cut took the last sector of an image that nobody was promised."""
    ref = image(root, txid)
    with ref.path.open("r+b") as segment:
        segment.seek(ref.offset + ref.size - 16)
        segment.write(os.urandom(16))


def content(world: World) -> tuple[int, bytes]:
    """The position of the first database, and its bytes."""
    served = world.store.databases["a.db"]
    return served.database.txid, served.read(0, 1 << 30)


def unsynced_commits(world: World, sizes: list[int]) -> list[bytes]:
    """Transactions with `synchronous=OFF` that write so many pages each; returns the states after them."""
    player = world.player()
    states = []
    for size in sizes:
        world.commit(player, range(1, size + 1), sync=False)
        states.append(player.content)
    assert not world.refusals
    return states


def test_the_log_ends_at_a_gap_between_its_segments(tmp_path: Path) -> None:
    """The end of one segment is lost, the next one survived: neither of its images counts."""
    world = World(tmp_path, QuickDisk())
    states = unsynced_commits(world, [4, 4, 22, 2])
    world.close()
    assert image(tmp_path, 2).path != image(tmp_path, 3).path
    ref = image(tmp_path, 2)
    with ref.path.open("r+b") as segment:
        segment.truncate(ref.offset - 64)  # the record's header, too
    world = World(tmp_path, QuickDisk())
    assert content(world) == (1, states[0])
    world.close()


def test_a_segment_whose_removal_came_back_is_no_part_of_the_log(tmp_path: Path) -> None:
    """Both old segments were removed, one removal is durable; and nobody was promised what the newest one holds."""
    world = World(tmp_path, QuickDisk())
    player = world.player()
    for _ in range(2):
        world.commit(player, range(1, 21))
    oldest = tmp_path / "dbs/a.db/log" / segment_name(1)
    back = oldest.read_bytes()
    world.tidy()
    assert not oldest.exists()
    world.commit(player, range(1, 21), sync=False)
    world.close()
    spoil(tmp_path, 3)
    oldest.with_name(segment_name(2)).unlink()
    oldest.write_bytes(back)
    world = World(tmp_path, QuickDisk())
    assert content(world)[0] == 2
    assert world.database().log.first_txid() == 0
    world.commit(Player(world.store, create=False), [2])
    assert [path.name for path in oldest.parent.glob("*.ltxlog")] == [segment_name(3)]
    world.close()


def test_a_record_header_before_the_image_of_a_voided_record_is_a_torn_tail(tmp_path: Path) -> None:
    """The header ends a sector, and the power cut left it alone of a record that was as long as the voided one."""
    world = World(tmp_path, QuickDisk())
    player = world.player()
    world.commit(player, range(1, 5))
    before = player.content
    world.commit(player, [2, 3])
    world.close()
    found = scan_log(QuickDisk(), tmp_path / "dbs/a.db/log")
    found.close(QuickDisk())
    record, old = found.records[1], found.records[1].header
    header = encode_record_header(
        RecordState.LIVE, old.length, 2, 2, 0, old.post_apply ^ 1, old.segment_id, old.durable
    )
    with record.segment.path.open("r+b") as segment:
        segment.seek(record.offset - RECORD_HEADER_SIZE)
        segment.write(header)
    world = World(tmp_path, QuickDisk())
    assert content(world) == (1, before)
    world.close()


def test_what_lies_behind_the_end_of_the_log_does_not_come_back(tmp_path: Path) -> None:
    """Image 2 is torn; the next life writes another image 2 of the same length, before the old image 3."""
    world = World(tmp_path, QuickDisk())
    unsynced_commits(world, [4, 4, 4])
    world.close()
    spoil(tmp_path, 2)
    for _ in range(2):
        world = World(tmp_path, QuickDisk())
        player = Player(world.store, seed=2, create=False)
        if world.database().txid == 1:
            world.commit(player, range(1, 5), sync=False)
        assert not world.refusals
        assert content(world) == (2, player.content)
        world.close()


def test_a_start_makes_durable_what_it_lays_over_the_base(tmp_path: Path) -> None:
    """The process died, its successor recovered, and then the power failed: base and log must still fit."""
    live = tmp_path / "live"
    live.mkdir()
    disk = FaultyDisk(live)
    world = World(live, disk)
    player = world.player()
    world.commit(player, range(1, 5))
    world.tidy()
    world.commit(player, [2, 3], sync=False)
    world.close()
    world = World(live, disk, world.promises)
    assert world.database().txid == 2
    disk.sync("written back", world.database().base.fd)  # by the kernel, which asks nobody
    left = tmp_path / "left"
    disk.leave(NOTHING_UNSYNCED, left)
    world.close()
    examine(left, world.promises)


def test_a_start_makes_the_names_of_segments_durable(tmp_path: Path) -> None:
    """The process died when the last image had just begun a segment; its successor calls that image durable."""
    live = tmp_path / "live"
    live.mkdir()
    disk = FaultyDisk(live)
    world = World(live, disk)
    player = world.player()
    world.commit(player, range(1, 15))
    world.commit(player, range(1, 15), sync=False)
    assert image(live, 1).path != image(live, 2).path
    world.close()
    world = World(live, disk, world.promises)
    assert world.database().log.durable_txid == 2
    world.promises.of("a.db").durable = 2
    disk.leave(NOTHING_UNSYNCED, tmp_path / "left")
    world.close()
    examine(tmp_path / "left", world.promises)


class FailingOnce(QuickDisk):
    """A disk on which one sync of the base file fails."""

    def __init__(self) -> None:
        self.failures = 1

    def sync(self, label: str, fd: int) -> None:
        if label == "base.sync" and self.failures:
            self.failures -= 1
            raise OSError(errno.EIO, "injected")
        super().sync(label, fd)


def test_s_never_moves_again_after_a_sync_of_the_base_failed(tmp_path: Path) -> None:
    """What the failed sync lost is not written again by one that succeeds: only a start lays the log over it."""
    world = World(tmp_path, FailingOnce())
    world.commit(world.player(), range(1, 5))
    for _ in range(3):
        world.tidy()
    assert world.database().base_txid == 0
    world.close()


def test_a_snapshot_keeps_the_images_it_may_need(tmp_path: Path) -> None:
    """Retention never removes an image after the S that an open snapshot began from."""
    world = World(tmp_path, QuickDisk())
    player = world.player()
    world.commit(player, range(1, 8))
    world.database().base.open_aside(1, 1, 0, 7)
    for _ in range(8):
        world.commit(player, range(1, 8))
    world.tidy()
    assert world.database().base_txid == 9
    assert world.database().log.first_txid() == 1
    world.database().base.close_aside(1)
    run(world.housekeeper.forget(world.database(), NEVER))
    assert world.database().log.first_txid() > 1
    world.close()


class WritesAndFails(QuickDisk):
    """A disk that writes all of one image, and then says that it did not."""

    def __init__(self) -> None:
        self.failures = 0

    def write(self, label: str, fd: int, data: Buffer, offset: int) -> None:
        super().write(label, fd, data, offset)
        if label in ("log.append", "log.append_header") and self.failures:
            self.failures -= 1
            raise OSError(errno.EIO, "injected")


@pytest.mark.parametrize("page_n", [4, 80], ids=["small", "streamed"])
def test_an_image_that_was_refused_does_not_come_back(tmp_path: Path, page_n: int) -> None:
    """The application was told that its transaction failed, whatever the disk holds of it."""
    disk = WritesAndFails()
    world = World(tmp_path, disk)
    player = world.player()
    world.commit(player, range(1, 5))
    disk.failures = 1
    world.commit(player, range(1, page_n + 1))
    assert len(world.refusals) == 1
    world.close()
    world = World(tmp_path, QuickDisk())
    assert content(world) == (1, player.content)
    world.close()


def test_a_decision_outlives_the_database_that_it_was_written_in(tmp_path: Path) -> None:
    """A power cut left the other members prepared; once a start has counted them, they count by themselves."""
    world = World(tmp_path, QuickDisk())
    players = [world.player(name) for name in ("b.db", "a.db")]
    world.commit_together(players, [1, 2])
    decided = players[1].content
    world.close()
    ref = image(tmp_path, 1)
    with ref.path.open("r+b") as segment:
        segment.seek(ref.offset - RECORD_HEADER_SIZE + STATE_OFFSET)
        segment.write(bytes([RecordState.PREPARED]))
    world = World(tmp_path, QuickDisk())
    assert content(world) == (1, decided)
    world.close()
    shutil.rmtree(tmp_path / "dbs/b.db")
    world = World(tmp_path, QuickDisk())
    assert content(world) == (1, decided)
    world.close()


@pytest.mark.parametrize("how", ["load", "replacement"])
def test_a_decision_outlives_the_log_that_it_was_written_in(tmp_path: Path, how: str) -> None:
    """The marks in the other logs are not durable yet when a whole new state takes the place of the first database."""
    (tmp_path / "live").mkdir()
    disk = FaultyDisk(tmp_path / "live")
    world = World(tmp_path / "live", disk)
    players = [world.player(name) for name in ("a.db", "b.db")]
    world.commit_together(players, [1, 2])
    if how == "load":
        world.load(players[0], range(1, 4), 3)
    else:
        world.replace(players[0], range(1, 4), 3, txid=2)
    disk.leave(NOTHING_UNSYNCED, tmp_path / "left")
    world.close()
    examine(tmp_path / "left", world.promises)


@pytest.mark.parametrize("sync", [True, False], ids=["FULL", "OFF"])
def test_an_earlier_decision_outlives_the_log_that_it_was_written_in(tmp_path: Path, sync: bool) -> None:
    """The database that is replaced decided twice, about different members, and its new state names one decision."""
    (tmp_path / "live").mkdir()
    disk = FaultyDisk(tmp_path / "live")
    world = World(tmp_path / "live", disk)
    players = [world.player(name) for name in ("a.db", "b.db", "c.db")]
    world.commit_together(players[:2], [1, 2])
    world.commit_together(players[::2], [1, 2], sync=sync)
    world.load(players[0], range(1, 4), 3)
    disk.leave(NOTHING_UNSYNCED, tmp_path / "left")
    world.close()
    world.promises.groups.pop()  # what was not synced need not be whole, see docs/guarantees.md
    examine(tmp_path / "left", world.promises)


def test_an_image_whose_decision_is_not_durable_stays_out_of_the_base(tmp_path: Path) -> None:
    """The images of a transaction without syncs were synced by the housekeeper, just before it was decided."""
    (tmp_path / "live").mkdir()
    disk = FaultyDisk(tmp_path / "live")
    world = World(tmp_path / "live", disk)
    players = [world.player(name) for name in ("a.db", "b.db")]
    for player in players:
        world.commit(player, range(1, 4))

    def sync_logs_first(label: str) -> None:
        if label == "log.mark_live" and label not in disk.calls:
            for player in players:
                run(world.database(player.name).sync_log())

    disk.before_call = sync_logs_first
    world.commit_together(players, [2], sync=False)
    assert [world.database(player.name).log.durable_txid for player in players] == [1, 1]
    for database in (world.database(player.name) for player in players):
        disk.sync("written back", database.base.fd)  # by the kernel, which asks nobody
    disk.leave(NOTHING_UNSYNCED, tmp_path / "left")
    world.close()
    examine(tmp_path / "left", world.promises)


def test_a_journal_mode_that_only_the_log_knows_is_known_after_a_start(tmp_path: Path) -> None:
    """Otherwise the first checkpoint in the WAL that is there next would be refused as a write without a journal."""
    world = World(tmp_path, QuickDisk())
    player = world.player()
    world.commit(player, range(1, 5))
    player.commit(player.change([1], wal=True), sync=False)  # so that page 1 waits in a layer, above the base
    assert world.database().wal_mode
    world.close()
    world = World(tmp_path, QuickDisk())
    assert world.database().wal_mode
    world.close()
