"""The log of a database: appending, syncing, voiding, rolling, forgetting, reading."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from litefs.errors import DiskLostError
from litefs.storage.log import NEW_NAMES, Log, LogRecord
from litefs.storage.log_format import RecordState, segment_name
from litefs.storage.log_reader import LogGapError, LogReader
from litefs.storage.recovery import scan_log
from litefs.storage.steps import run
from tests.support.faulty_disk import NOTHING_UNSYNCED, FaultyDisk, QuickDisk

SEGMENT_BYTES = 4096


@pytest.fixture
def disk(tmp_path: Path) -> FaultyDisk:
    return FaultyDisk(tmp_path)


@pytest.fixture
def log(tmp_path: Path, disk: FaultyDisk) -> Iterator[Log]:
    directory = tmp_path / "dbs/a.db/log"
    disk.make_directory("test", directory)
    log = Log(disk, directory, SEGMENT_BYTES)
    log.adopt([], 0)
    yield log
    log.close()


def image(txid: int, size: int = 500) -> bytes:
    return bytes([txid]) * size


def append(log: Log, txid: int, size: int = 500) -> LogRecord:
    return log.append(image(txid, size), txid, txid, txid)


def sync(log: Log) -> None:
    """Makes everything appended so far durable."""
    fds, txid = log.unsynced()
    log.sync_descriptors(fds)
    log.synced(fds, txid)


def forget(log: Log, through_txid: int, older_than_s: float = 1e18) -> int:
    """Removes old segments; returns how many."""
    doomed = log.forget(through_txid, older_than_s)
    log.remove(doomed)
    return len(doomed)


def found(log: Log) -> list[tuple[int, str]]:
    """What a recovery would see: (txid, state) of each record."""
    scanned = scan_log(QuickDisk(), log.directory)
    scanned.close(QuickDisk())
    return [(record.header.max_txid, record.header.state.name) for record in scanned.records]


def images(log: Log, first: int, last: int) -> list[bytes]:
    reader = LogReader(log.directory)
    try:
        return [reader.read(ref, 0, ref.size) for ref in reader.images(first, last)]
    finally:
        reader.close()


def test_images_come_back_as_they_were_over_many_segments(log: Log) -> None:
    sizes = [500, 1, 3000, 7, 2000, 9000, 500, 4096]
    for txid, size in enumerate(sizes, 1):
        append(log, txid, size)
    assert images(log, 1, 8) == [image(txid, size) for txid, size in enumerate(sizes, 1)]
    assert images(log, 4, 5) == [image(4, 7), image(5, 2000)]
    assert len(list(log.directory.glob("*.ltxlog"))) > 3
    assert log.first_txid() == 1


def test_a_sync_makes_durable_what_was_appended_before_it(log: Log, disk: FaultyDisk) -> None:
    append(log, 1)
    append(log, 2)
    assert log.durable_txid == 0
    fds, txid = log.unsynced()
    append(log, 3)
    log.sync_descriptors(fds)
    log.synced(fds, txid)
    assert log.durable_txid == 2
    assert log.unsynced()[0]
    sync(log)
    assert log.durable_txid == 3
    assert log.unsynced() == ({}, 3)


def test_a_record_says_what_was_durable_when_it_was_appended(log: Log) -> None:
    append(log, 1)
    sync(log)
    append(log, 2)
    append(log, 3)
    scanned = scan_log(QuickDisk(), log.directory)
    scanned.close(QuickDisk())
    assert [record.header.durable for record in scanned.records] == [0, 1, 1]


def test_a_failed_append_leaves_no_record_and_the_log_as_it_was(log: Log, disk: FaultyDisk) -> None:
    append(log, 1)
    disk.full = ("log.append",)
    with pytest.raises(OSError, match="full"):
        append(log, 2)
    assert found(log) == [(1, "LIVE")]
    disk.full = ()
    append(log, 2, 300)
    assert images(log, 1, 2) == [image(1), image(2, 300)]


def test_a_failed_append_that_cannot_be_struck_out_stops_the_process(log: Log, disk: FaultyDisk) -> None:
    append(log, 1)
    disk.full = ("log.append", "log.strike_out")
    with pytest.raises(DiskLostError):
        append(log, 2)


def test_a_voided_image_is_gone_and_its_txid_is_free(log: Log) -> None:
    append(log, 1)
    record = append(log, 2)
    sync(log)
    run(log.void(record, 1))
    assert (log.last_txid, log.durable_txid) == (1, 1)
    assert found(log) == [(1, "LIVE")]
    append(log, 2, 100)
    assert images(log, 1, 2) == [image(1), image(2, 100)]


def test_a_voided_image_does_not_come_back_with_the_first_bytes_of_the_next_one(log: Log, disk: FaultyDisk) -> None:
    """The next header lies across two sectors, and a power cut left the first of them."""
    append(log, 1)
    record = append(log, 2)
    sync(log)
    run(log.void(record, 1))
    disk.write("the first sector", record.fd, b"LREC" + bytes([RecordState.LIVE, 0, 0, 0]), record.offset)
    assert found(log) == [(1, "LIVE")]


def test_a_void_is_durable_before_it_returns(log: Log, disk: FaultyDisk) -> None:
    record = append(log, 1)
    before = len(disk.calls)
    run(log.void(record, 0))
    assert disk.calls[before:] == ["log.void", "log.void_sync"]


@pytest.mark.parametrize("label", ["log.void", "log.void_sync"])
def test_a_void_that_fails_stops_the_process(log: Log, disk: FaultyDisk, label: str) -> None:
    record = append(log, 1)
    disk.fail_at = len(disk.calls) + (1 if label == "log.void" else 2)
    with pytest.raises(DiskLostError):
        run(log.void(record, 0))
    assert disk.calls[-1] == label


def test_a_prepared_image_is_marked_live_in_place(log: Log) -> None:
    record = log.append(image(1), 1, 1, 1, group=9, state=RecordState.PREPARED)
    assert found(log) == [(1, "PREPARED")]
    log.mark_live(record)
    assert found(log) == [(1, "LIVE")]
    assert log.unsynced()[0]


def test_a_mark_is_not_durable_with_the_record_that_it_is_for(log: Log) -> None:
    record = log.append(image(1), 1, 1, 1, group=9, state=RecordState.PREPARED)
    sync(log)
    assert log.durable_txid == 1
    log.mark_live(record)
    assert log.durable_txid == 0
    sync(log)
    assert log.durable_txid == 1


def test_nothing_is_appended_beside_a_stream(log: Log) -> None:
    append(log, 1)
    stream = log.begin_stream(2, 2, 100)
    with pytest.raises(OSError, match="being appended"):
        append(log, 2)
    stream.write(b"ab")
    stream.write(b"c")
    stream.finish(2)
    append(log, 3)
    assert images(log, 2, 2) == [b"abc"]


def test_a_stream_that_is_given_up_leaves_nothing(log: Log) -> None:
    append(log, 1)
    stream = log.begin_stream(2, 2, 3000)
    stream.write(b"x" * 3000)
    stream.give_up()
    assert found(log) == [(1, "LIVE")]
    append(log, 2, 10)
    assert images(log, 1, 2) == [image(1), image(2, 10)]


def test_images_out_of_order_are_refused(log: Log) -> None:
    append(log, 1)
    for txid in (1, 3):
        with pytest.raises(OSError, match="prepared"):
            append(log, txid)


@pytest.mark.parametrize("call", range(1, 12))
def test_a_roll_that_fails_anywhere_can_be_tried_again(log: Log, disk: FaultyDisk, call: int) -> None:
    append(log, 1, 3500)
    disk.fail_at = len(disk.calls) + call
    try:
        append(log, 2, 3000)
        failed = False
    except OSError:
        failed = True
    assert failed == (len(disk.calls) >= disk.fail_at)
    disk.fail_at = 0
    if failed:
        # A smaller one fits into the present segment: a left-over of the roll must not hide it.
        append(log, 2, 100)
    append(log, 3, 3000)
    assert len(images(log, 1, 3)) == 3
    assert found(log) == [(1, "LIVE"), (2, "LIVE"), (3, "LIVE")]


def test_forgetting_stops_at_what_is_needed_young_or_unsynced(log: Log) -> None:
    for txid in range(1, 7):
        append(log, txid, 3000)
    assert forget(log, 3) == 0
    sync(log)
    assert forget(log, 3, 0.0) == 0
    assert forget(log, 3) == 3
    assert log.first_txid() == 4
    with pytest.raises(LogGapError):
        images(log, 3, 6)
    assert len(images(log, 4, 6)) == 3
    assert forget(log, 6) == 2
    assert log.first_txid() == 6


def test_a_log_that_is_about_to_be_replaced_forgets_nothing(log: Log) -> None:
    """Its segments would be removed by name, and the names may be those of the next log's segments by then."""
    for txid in range(1, 6):
        append(log, txid, 3000)
    sync(log)
    log.is_held = True
    assert forget(log, 5) == 0
    log.is_held = False
    assert forget(log, 5) > 0


def test_a_segment_that_is_read_can_be_forgotten(log: Log) -> None:
    for txid in range(1, 4):
        append(log, txid, 3000)
    sync(log)
    reader = LogReader(log.directory)
    refs = list(reader.images(1, 3))
    assert reader.read(refs[0], 0, 3000) == image(1, 3000)
    forget(log, 3)
    assert reader.read(refs[0], 10, 5) == image(1, 5)
    reader.close()
    with pytest.raises(LogGapError):
        reader.read(refs[0], 0, 1)
    reader.close()


def test_a_reader_goes_on_where_it_was(log: Log) -> None:
    reader = LogReader(log.directory)
    for txid in range(1, 9):
        append(log, txid, 1000)
        (ref,) = reader.images(txid, txid)
        assert reader.read(ref, 0, ref.size) == image(txid, 1000)
    assert [ref.min_txid for ref in reader.images(2, 8)] == list(range(2, 9))
    reader.close()


@pytest.mark.parametrize("range_", [(1, 1), (9, 9), (3, 9)])
def test_a_reader_says_what_is_not_there(log: Log, range_: tuple[int, int]) -> None:
    reader = LogReader(log.directory)
    with pytest.raises(LogGapError):
        list(reader.images(1, 1))
    for txid in range(1, 5):
        append(log, txid, 3000)
    sync(log)
    forget(log, 1)
    with pytest.raises(LogGapError):
        list(reader.images(*range_))
    reader.close()


def test_the_next_segment_is_made_ready_in_advance(log: Log, disk: FaultyDisk) -> None:
    append(log, 1, 1000)
    assert not log.wants_spare()
    append(log, 2, 1500)
    assert log.wants_spare()
    log.take_spare(log.make_spare(log.spare_capacity()))
    log.take_spare(log.make_spare(log.spare_capacity()))
    assert len(list(log.directory.glob("spare-*"))) == 1
    sync(log)
    before = len(disk.calls)
    append(log, 3, 3000)
    assert disk.calls[before:] == ["log.segment_rename", "log.append"]
    sync(log)
    assert disk.calls[before + 2 :] == ["log.sync_names", "log.sync"]


def test_room_is_made_off_the_loop_where_there_is_none(log: Log, disk: FaultyDisk) -> None:
    for txid in (1, 2, 3):
        assert not log.has_room(3000)
        steps = log.make_room(3000)
        made = next(steps)
        assert made is not None
        with pytest.raises(StopIteration):
            steps.send(made())
        assert log.has_room(3000)
        assert list(log.make_room(3000)) == []
        before = len(disk.calls)
        append(log, txid, 3000)
        assert disk.calls[before:] == ["log.segment_rename", "log.append"]


def test_room_that_cannot_be_made_leaves_nothing(log: Log, disk: FaultyDisk) -> None:
    append(log, 1, 3000)
    disk.full = ("log.spare_zeros",)
    with pytest.raises(OSError, match="full"):
        run(log.make_room(3000))
    assert [path.name for path in log.directory.iterdir()] == [segment_name(1)]
    disk.full = ()
    run(log.make_room(3000))
    append(log, 2, 3000)
    assert images(log, 1, 2) == [image(1, 3000), image(2, 3000)]


def test_room_made_for_a_log_that_was_replaced_meanwhile_is_given_back(log: Log) -> None:
    steps = log.make_room(3000)
    made = next(steps)
    assert made is not None
    spare = made()
    log.retire()
    with pytest.raises(StopIteration):
        steps.send(spare)
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(spare.fd)


def test_an_image_is_durable_only_with_the_name_of_its_segment(log: Log, disk: FaultyDisk, tmp_path: Path) -> None:
    disk.sync_directory("test", tmp_path)
    append(log, 1)
    fds, txid = log.unsynced()
    for fd in fds:
        if fd != NEW_NAMES:
            disk.sync("test", fd)
    disk.leave(NOTHING_UNSYNCED, tmp_path / "before")
    assert not list((tmp_path / "before/dbs/a.db/log").glob("*.ltxlog"))
    log.sync_descriptors(fds)
    log.synced(fds, txid)
    disk.leave(NOTHING_UNSYNCED, tmp_path / "left")
    assert list((tmp_path / "left/dbs/a.db/log").glob("*.ltxlog"))


def left_by_a_power_cut(disk: FaultyDisk, root: Path) -> list[int]:
    """The images of `log` that survive if nothing does that was not synced."""
    disk.leave(NOTHING_UNSYNCED, root / "left")
    scanned = scan_log(QuickDisk(), root / "left/dbs/a.db/log")
    scanned.close(QuickDisk())
    return [record.header.max_txid for record in scanned.records]


def test_a_segment_that_ends_during_a_sync_is_synced_once_more(log: Log, disk: FaultyDisk, tmp_path: Path) -> None:
    disk.sync_directory("test", tmp_path)
    append(log, 1)
    fds, txid = log.unsynced()
    log.sync_descriptors(fds)
    append(log, 2)
    append(log, 3, 3500)  # into the next segment
    log.synced(fds, txid)
    sync(log)
    assert left_by_a_power_cut(disk, tmp_path) == [1, 2, 3]


def test_a_segment_that_begins_during_a_sync_gets_a_durable_name(log: Log, disk: FaultyDisk, tmp_path: Path) -> None:
    disk.sync_directory("test", tmp_path)
    append(log, 1)
    fds, txid = log.unsynced()
    log.sync_descriptors(fds)
    stream = log.begin_stream(2, 2, 3500)  # into the next segment, and not finished when the sync is
    log.synced(fds, txid)
    stream.write(image(2, 3500))
    stream.finish(2)
    sync(log)
    assert left_by_a_power_cut(disk, tmp_path) == [1, 2]


def test_a_log_whose_names_could_not_be_synced_is_never_believed_again(log: Log, disk: FaultyDisk) -> None:
    record = append(log, 1)
    disk.fail_at = len(disk.calls) + 1
    fds, _ = log.unsynced()
    with pytest.raises(OSError, match="sync_names"):
        log.sync_descriptors(fds)
    with pytest.raises(OSError, match="earlier"):
        log.sync_descriptors(fds)
    with pytest.raises(DiskLostError):
        run(log.void(record, 0))


def test_segments_grow_with_the_database(tmp_path: Path) -> None:
    (tmp_path / "dbs/a.db/log").mkdir(parents=True)
    disk = FaultyDisk(tmp_path)
    log = Log(disk, tmp_path / "dbs/a.db/log", 4 << 20)
    sizes = []
    for txid in range(1, 12):
        append(log, txid, 200 << 10 if txid < 3 else 900 << 10)
        sizes.append(log.spare_capacity())
    assert sizes[0] == 512 << 10
    assert sizes[-1] == 4 << 20
    log.close()


def test_the_size_counts_what_is_there(log: Log) -> None:
    for txid in range(1, 7):
        append(log, txid, 3000)
    record = append(log, 7, 100)
    run(log.void(record, 6))
    sync(log)
    forget(log, 4)
    assert log.size_bytes == 2 * (64 + 72 + 3000)
