"""Starting a WAL over: when, in which order (P2), and not under a checkpointer (P3)."""

from collections.abc import Iterator

import pytest

from litefs.formats.wal_index import READ_MARK_N, READ_MARK_UNUSED
from litefs.node import locks
from litefs.node.mounted_database import MountedDatabase, Page
from litefs.node.wal_checkpoint import Checkpoint
from litefs.node.wal_index_map import WalIndexMap
from litefs.node.wal_writer import WalWriter
from tests.support.sql_client import SqlProcess
from tests.unit.node.wal_world import WalWorld, apply, check_index, numbers, query


def test_a_restart_waits_for_what_is_not_in_the_database(world: WalWorld) -> None:
    writer = world.writer()
    assert not writer.restart(), "an empty WAL has nothing to start over"
    apply(writer, world.next())
    assert not writer.restart()
    writer.checkpoint()
    assert writer.restart()
    assert (writer.mx_frame, writer.backfilled_n) == (0, 0)


def test_an_apply_starts_over_by_itself_with_salts_that_old_frames_do_not_have(world: WalWorld) -> None:
    writer = world.writer()
    apply(writer, world.next(50))
    before = world.wal_path.read_bytes()
    writer.checkpoint()
    frame_n = writer.mx_frame
    apply(writer, world.record("UPDATE t SET n = 99 WHERE id = 1"))
    after = world.wal_path.read_bytes()
    assert writer.mx_frame == len(world.last.pages) < frame_n
    assert len(after) == len(before), "the file is kept and written from its beginning"
    salt1, sequence = (int.from_bytes(before[at : at + 4], "big") for at in (16, 12))
    assert int.from_bytes(after[16:20], "big") == salt1 + 1
    assert int.from_bytes(after[12:16], "big") == sequence + 1
    assert after[20:24] != before[20:24]
    check_index(world.shm_path.read_bytes(), after)


def test_readers_of_the_database_file_do_not_hold_up_a_restart(world: WalWorld) -> None:
    writer = world.writer()
    apply(writer, world.next(50))
    writer.checkpoint()
    reader = world.reader()
    query(reader, "BEGIN")
    old = numbers(reader)  # under READ0
    assert writer.restart()
    apply(writer, world.next(10))
    assert writer.checkpoint() == 0, "its pages must not be overwritten"
    assert numbers(reader) == old
    query(reader, "COMMIT")
    assert writer.checkpoint() == writer.mx_frame


def test_p10_after_a_restart_a_reader_that_cannot_write_marks_finds_one(world: WalWorld) -> None:
    writer = world.writer()
    apply(writer, world.next())
    writer.checkpoint()
    writer.restart()
    index = writer._map()
    assert [index.read_mark(mark) for mark in range(READ_MARK_N)] == [0, 0, *[READ_MARK_UNUSED] * 3]


# ---- P2: the order of a restart ----


class HeaderBeforeBackfill(WalWriter):
    """Control: SQLite's own order, in which a death leaves nBackfill > mxFrame."""

    def _reset(self, index: WalIndexMap) -> None:
        backfilled_n = index.backfilled_n
        super()._reset(index)
        index.backfilled_n = backfilled_n
        self._hook("marks-reset-last")


def die_in_restart(world: WalWorld, kind: type[WalWriter], point: str) -> SqlProcess:
    """Applies a transaction, checkpoints it, and dies in the restart. Returns a connection that stays open."""
    transaction = world.next(20)

    def work(writer: WalWriter) -> None:
        apply(writer, transaction)
        writer.checkpoint()
        writer.restart()

    idle = world.reader()
    numbers(idle)  # keeps the wal-index alive
    assert world.run_and_die(work, point, kind)
    return idle


def rows_after_death_in_restart(world: WalWorld, kind: type[WalWriter], point: str) -> list[int]:
    """Dies in a restart; then an application writes and leaves. Returns the rows of its that are found."""
    idle = die_in_restart(world, kind, point)
    query(idle, "INSERT INTO t SELECT value + 1000, 77, x'' FROM json_each('[1, 2, 3]')")
    query(idle, "PRAGMA wal_checkpoint(TRUNCATE)")
    idle.call("close", 0)
    reader = world.reader()
    assert query(reader, "PRAGMA integrity_check") == [["ok"]]
    return [n for (n,) in query(reader, "SELECT n FROM t WHERE id > 1000") if isinstance(n, int)]


def test_after_a_death_in_a_restart_the_old_frames_are_not_taken_for_new_ones(world: WalWorld) -> None:
    idle = die_in_restart(world, WalWriter, "restarted")
    writer = world.writer()
    assert writer.mx_frame == 0
    apply(writer, world.next(5))
    assert numbers(idle) == [2]


@pytest.mark.parametrize("point", ["marks-reset", "restarted"])
def test_p2_a_death_in_a_restart_loses_no_later_commit(world: WalWorld, point: str) -> None:
    assert rows_after_death_in_restart(world, WalWriter, point) == [77, 77, 77]


def test_p2_control_in_the_other_order_later_commits_vanish(world: WalWorld) -> None:
    assert rows_after_death_in_restart(world, HeaderBeforeBackfill, "marks-reset-last") == []


def test_p2_the_next_writer_does_not_believe_more_backfilled_frames_than_there_are(world: WalWorld) -> None:
    idle = die_in_restart(world, HeaderBeforeBackfill, "marks-reset-last")
    writer = world.writer()
    apply(writer, world.next(5))
    assert numbers(idle) == [world.n]


# ---- P3: a delayed checkpointer ----


class RestartsWithoutCkpt(WalWriter):
    """Control: does not ask whether somebody checkpoints."""

    def restart(self, wait_s: float = 0.0) -> bool:
        self._reset(self._map())
        return True


class DelayedCheckpoint(Checkpoint):
    """A checkpoint of SQLite before 3.51.3: it has CKPT, read the header, and goes on much later with what it read."""

    def _pages(self, first_frame: int, last_frame: int) -> Iterator[Page]:
        return (page for page in super()._pages(first_frame, last_frame) if page[0])


def seen_after_a_delayed_checkpoint(world: WalWorld, kind: type[WalWriter]) -> object:
    """Has a checkpointer of old wake up when the writer has tried to start over.

    Returns:
        What readers see of the transaction after that; it sets row 1 to 99.
    """
    writer = world.writer(kind)
    apply(writer, world.next(100))
    assert writer.checkpoint() == writer.mx_frame
    database = MountedDatabase(str(world.directory), "db")
    database.open()
    with world.shm_path.open("r+b") as shm, world.wal_path.open("rb") as wal:
        index = WalIndexMap(shm.fileno())
        assert locks.try_write(shm.fileno(), locks.CKPT)
        delayed = DelayedCheckpoint(
            database=database,
            wal_fd=wal.fileno(),
            shm_fd=shm.fileno(),
            index=index,
            page_size=1024,
            mx_frame=writer.mx_frame,
            page_n=world.last.commit,
            hook=lambda point: None,
        )
        writer.restart()
        apply(writer, world.record("UPDATE t SET n = 98 WHERE id = 1"))
        delayed.run(0.0)
        index.close()
    database.close()
    apply(writer, world.record("UPDATE t SET n = 99 WHERE id = 1"))
    found = query(world.reader(), "SELECT n FROM t WHERE id = 1")[0][0]
    world.close_writers()
    return found


def test_p3_no_restart_while_somebody_checkpoints(world: WalWorld) -> None:
    assert seen_after_a_delayed_checkpoint(world, WalWriter) == 99
    assert world.checkpointed() == world.last.state


def test_p3_control_a_restart_under_a_delayed_checkpointer_loses_a_commit(world: WalWorld) -> None:
    assert seen_after_a_delayed_checkpoint(world, RestartsWithoutCkpt) == 98
