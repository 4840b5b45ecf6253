"""The WAL writer against SQLite's readers. Each invariant (I…) and pitfall (P…) has a control that breaks it."""

import dis
import resource
from collections.abc import Iterable
from pathlib import Path

import pytest

from litefs.errors import FormatError, LockHeldError
from litefs.node import wal_writer
from litefs.node.mounted_database import MountedDatabase, Page
from litefs.node.wal_index_map import WalIndexMap
from litefs.node.wal_writer import WalWriter
from tests.support.sql_client import SqlError
from tests.unit.node.wal_world import WalWorld, apply, check_index, numbers, query, wal_world

PAGE_SIZES = [512, 1024, 4096, 65536]


# ---- I1: what apply returned from is visible ----


class Unpublished(WalWriter):
    """Control: everything but the new header."""

    def apply(self, pages: Iterable[Page], page_size: int, commit: int) -> None:
        index = self._map()
        index.publish = lambda header: None  # type: ignore[method-assign]
        super().apply(pages, page_size, commit)
        self._published = index.headers()


def seen_after_each_apply(world: WalWorld, kind: type[WalWriter]) -> list[tuple[int, list[int]]]:
    """Returns for each transaction its number, and what a connection saw that was open before."""
    apply(world.writer(), world.next())  # the first header is published
    world.close_writers()
    writer, reader = world.writer(kind), world.reader()
    seen = []
    for _ in range(5):
        apply(writer, world.next())
        seen.append((world.n, numbers(reader)))
    return seen


def test_i1_a_reader_that_starts_after_an_apply_sees_it(world: WalWorld) -> None:
    assert all(found == [n] for n, found in seen_after_each_apply(world, WalWriter))


def test_i1_control_a_header_that_is_not_stored_shows(world: WalWorld) -> None:
    assert all(found != [n] for n, found in seen_after_each_apply(world, Unpublished))


# ---- I2: a read transaction sees one state ----


class RestartsUnderReaders(WalWriter):
    """Control: starts over although readers use the WAL."""

    def restart(self, wait_s: float = 0.0) -> bool:
        self._reset(self._map())
        return True


def two_reads_of_one_transaction(world: WalWorld, kind: type[WalWriter]) -> tuple[object, object]:
    """Reads a table twice in one transaction, with transactions, checkpoints and a restart in between."""
    writer = world.writer(kind)
    apply(writer, world.next(200))
    reader = world.reader()
    whole = "SELECT group_concat(hex(body)) FROM (SELECT body FROM t ORDER BY id)"
    query(reader, "PRAGMA cache_size = 1")  # what was read is not kept
    query(reader, "BEGIN")
    first = query(reader, whole)
    writer.checkpoint()
    writer.restart()
    for row_n in (200, 150, 300):
        apply(writer, world.next(row_n))
        writer.checkpoint()
    try:
        return first, query(reader, whole)
    except SqlError as error:
        return first, error.name


def test_i2_a_read_transaction_sees_one_state_whatever_is_applied(world: WalWorld) -> None:
    first, second = two_reads_of_one_transaction(world, WalWriter)
    assert first == second


def test_i2_control_a_restart_under_a_reader_shows(world: WalWorld) -> None:
    first, second = two_reads_of_one_transaction(world, RestartsUnderReaders)
    assert first != second


# ---- I4: byte for byte the source ----


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("auto_vacuum", [0, 1])
def test_i4_after_any_transactions_the_database_is_the_source_byte_for_byte(
    tmp_path: Path, page_size: int, auto_vacuum: int
) -> None:
    with wal_world(tmp_path, page_size, auto_vacuum) as world:
        writer, reader = world.writer(), world.reader()
        for row_n in (3, 400, 20, 1, 150):  # grows and, with auto_vacuum, shrinks
            apply(writer, world.next(row_n))
            assert numbers(reader) == [world.n]
            if row_n == 20:
                assert writer.checkpoint() == writer.mx_frame
        apply(writer, world.record("CREATE TABLE u (x); INSERT INTO u VALUES (1)"))
        apply(writer, world.record("DROP TABLE t"))
        apply(writer, world.record("VACUUM"))
        assert query(reader, "PRAGMA integrity_check") == [["ok"]]
        reader.close()
        world.close_writers()
        assert world.checkpointed() == world.last.state


def test_i4_control_a_page_that_is_left_out_shows(world: WalWorld) -> None:
    writer = world.writer()
    transaction = world.next(400)
    writer.apply(transaction.pages[:-2] + transaction.pages[-1:], transaction.page_size, transaction.commit)
    world.close_writers()
    with pytest.raises((AssertionError, SqlError)):
        assert world.checkpointed() == world.last.state


# ---- I7: the files stay ----


class Unshared(WalWriter):
    """Control: does not hold the database open."""

    def open(self) -> None:
        super().open()
        self._database.unlock()


def inodes_and_rows(world: WalWorld, kind: type[WalWriter]) -> tuple[bool, list[int]]:
    """Opens and closes the only connection between applies; whether the files stayed, and what a new one sees."""
    writer = world.writer(kind)
    apply(writer, world.next())
    before = [path.stat().st_ino for path in (world.wal_path, world.shm_path)]
    for _ in range(3):
        reader = world.reader()
        numbers(reader)
        reader.call("close", 0)
        apply(writer, world.next())
    exist = world.wal_path.exists() and world.shm_path.exists()
    stayed = exist and [path.stat().st_ino for path in (world.wal_path, world.shm_path)] == before
    return stayed, numbers(world.reader())


def test_i7_the_last_connection_does_not_take_the_wal_with_it(world: WalWorld) -> None:
    assert inodes_and_rows(world, WalWriter) == (True, [world.n])


def test_i7_control_without_shared_it_does_and_commits_are_lost(world: WalWorld) -> None:
    assert inodes_and_rows(world, Unshared) == (False, [1])


# ---- I8: nobody is kept out ----


def test_i8_readers_that_wait_for_nobody_are_never_refused(world: WalWorld) -> None:
    writer, reader = world.writer(), world.reader()
    for turn in range(12):
        apply(writer, world.next(1 + 40 * (turn % 3)))
        assert numbers(reader) == [world.n]
        assert numbers(world.fresh_reader()) == [world.n]
        if turn % 3 == 2:
            assert writer.checkpoint() == writer.mx_frame
            assert numbers(world.fresh_reader()) == [world.n], "from the database file alone"
            assert writer.restart()
            assert numbers(reader) == [world.n]


def test_i8_control_an_applier_that_locks_the_database_is_noticed(world: WalWorld) -> None:
    database = MountedDatabase(str(world.directory), "db")
    database.open()
    database.lock_exclusive(1.0)
    with pytest.raises(SqlError, match="BUSY"):
        numbers(world.reader())
    database.close()


def test_p13_applications_cannot_write_and_their_checkpoints_do_not_wait(world: WalWorld) -> None:
    writer, application = world.writer(), world.reader()
    apply(writer, world.next())
    with pytest.raises(SqlError, match="BUSY"):
        query(application, "INSERT INTO t VALUES (99, 1, x'')")
    assert query(application, "PRAGMA wal_checkpoint(TRUNCATE)")[0][0] == 1, "busy"
    busy, frame_n, done = query(application, "PRAGMA wal_checkpoint(PASSIVE)")[0]
    assert (busy, frame_n, done) == (0, writer.mx_frame, writer.mx_frame)
    apply(writer, world.next())
    assert numbers(application) == [world.n]
    world.close_writers()
    query(application, "INSERT INTO t VALUES (99, 1, x'')")


# ---- I9: the WAL stays short ----


def longest_wal(world: WalWorld, *, checkpoints: bool) -> int:
    writer, reader = world.writer(), world.reader()
    longest = 0
    for _ in range(60):
        apply(writer, world.next(20))
        assert numbers(reader) == [world.n]
        if checkpoints and writer.mx_frame > 50 and writer.checkpoint() == writer.mx_frame:
            writer.restart()
        longest = max(longest, world.wal_path.stat().st_size)
    return longest


def test_i9_the_wal_stays_short_with_short_readers(world: WalWorld) -> None:
    assert longest_wal(world, checkpoints=True) < 100 * 1100


def test_i9_control_without_checkpoints_it_grows(world: WalWorld) -> None:
    assert longest_wal(world, checkpoints=False) > 300 * 1100


def test_a_long_reader_keeps_the_wal_and_it_is_cut_when_the_reader_goes(
    world: WalWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal_writer, "WAL_BYTES_KEPT", 100_000)
    writer, reader = world.writer(), world.reader()
    apply(writer, world.next(50))
    query(reader, "BEGIN")
    old = numbers(reader)
    for _ in range(20):
        apply(writer, world.next(50))
        assert writer.checkpoint() < writer.mx_frame, "frames that the reader does not see stay in the WAL"
        assert not writer.restart()
    assert world.wal_path.stat().st_size > 100_000
    assert numbers(reader) == old
    query(reader, "COMMIT")
    assert writer.checkpoint() == writer.mx_frame
    assert writer.restart()
    assert world.wal_path.stat().st_size == 0
    apply(writer, world.next(50))
    assert numbers(reader) == [world.n]


# ---- P4, P5: publishing ----


class HalfTheIndexBeforeTheHeader(WalWriter):
    """Control: publishes with half of the entries."""

    def _write_frames(self, index: WalIndexMap, pages: Iterable[Page], commit: int) -> tuple[int, tuple[int, int]]:
        whole = index.append
        index.append = lambda first_frame, pgnos: whole(first_frame, pgnos[: len(pgnos) // 2])  # type: ignore[method-assign]
        frame_n, checksum = super()._write_frames(index, pages, commit)
        self._publish(index, self._mx_frame + frame_n, commit, checksum)
        self._hook("header-published")
        return frame_n, checksum


def is_whole_after_death(world: WalWorld, kind: type[WalWriter], point: str) -> bool:
    """Dies in an apply. Whether a connection that was open sees the transaction before."""
    first, second = world.next(200), world.next(200)
    apply(world.writer(), first)
    idle = world.reader()
    assert numbers(idle) == [1]
    world.close_writers()
    assert world.run_and_die(lambda writer: apply(writer, second), point, kind)
    try:
        return numbers(idle) == [1] and query(idle, "PRAGMA integrity_check") == [["ok"]]
    except SqlError:
        return False


@pytest.mark.parametrize("point", ["frames-written", "index-written"])
def test_p4_before_the_header_nothing_is_visible(world: WalWorld, point: str) -> None:
    assert is_whole_after_death(world, WalWriter, point)


def test_p4_control_a_header_before_the_index_shows_half_a_transaction(world: WalWorld) -> None:
    assert not is_whole_after_death(world, HalfTheIndexBeforeTheHeader, "header-published")


def test_p5_nothing_can_come_between_the_two_stores_of_a_header() -> None:
    """CPython lets other threads run at calls and at jumps backwards, and nowhere else."""
    names = [instruction.opname for instruction in dis.get_instructions(WalIndexMap.publish)]
    first, second = [at for at, name in enumerate(names) if name in ("STORE_SUBSCR", "STORE_SLICE")][:2]
    between = names[first + 1 : second]
    assert not [name for name in between if name.startswith(("CALL", "PRECALL", "JUMP_BACKWARD", "RESUME"))], between


# ---- what a transaction may be ----


def test_p8_a_page_1_that_leaves_wal_mode_is_refused(world: WalWorld) -> None:
    writer, reader = world.writer(), world.reader()
    apply(writer, world.next())
    page = bytearray(world.last.state[:1024])
    page[18:20] = b"\1\1"
    with pytest.raises(FormatError, match="leaves WAL mode"):
        writer.apply([(1, bytes(page))], 1024, world.last.commit)
    assert numbers(reader) == [world.n]
    apply(writer, world.next())
    assert numbers(reader) == [world.n]


def test_a_transaction_of_another_page_size_is_refused(world: WalWorld) -> None:
    writer, reader = world.writer(), world.reader()
    apply(writer, world.next())
    with pytest.raises(FormatError):
        writer.apply([(2, bytes(512))], 512, world.last.commit)
    apply(writer, world.next())
    assert numbers(reader) == [world.n]


def test_a_transaction_without_pages_changes_nothing(world: WalWorld) -> None:
    writer, reader = world.writer(), world.reader()
    writer.apply([], 1024, world.last.commit)
    apply(writer, world.next())
    before = world.shm_path.read_bytes()
    writer.apply([], 1024, world.last.commit)
    assert world.shm_path.read_bytes() == before
    assert numbers(reader) == [world.n]
    apply(writer, world.next())
    assert numbers(reader) == [world.n]


def test_a_writer_that_finds_a_foreign_header_stops(world: WalWorld) -> None:
    """Nobody can write while WRITE is held, so this is a wal-index that was voided or destroyed."""
    writer = world.writer()
    apply(writer, world.next())
    with world.shm_path.open("r+b") as shm:
        shm.write(bytes(96))
    with pytest.raises(FormatError, match="somebody else"):
        apply(writer, world.next())


def test_pages_that_cannot_be_read_leave_the_state_as_it_was(world: WalWorld) -> None:
    writer, reader = world.writer(), world.reader()
    apply(writer, world.next(200))
    broken = world.next(400)

    def failing() -> Iterable[Page]:
        yield from broken.pages[:100]
        raise OSError("the log cannot be read")

    for _ in range(2):
        with pytest.raises(OSError, match="cannot be read"):
            writer.apply(failing(), broken.page_size, broken.commit)
        assert numbers(reader) == [1]
    apply(writer, broken)
    assert numbers(reader) == [2]
    check_index(world.shm_path.read_bytes(), world.wal_path.read_bytes())


@pytest.mark.parametrize("room", [32, 1000, 33_000, 100_000])
def test_a_disk_that_becomes_full_leaves_the_state_as_it_was(world: WalWorld, room: int) -> None:
    """No file grows beyond what it is and `room` bytes: the frame at the limit is written in part."""
    writer, reader = world.writer(), world.reader()
    apply(writer, world.next(20))
    large = world.next(400)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (world.wal_path.stat().st_size + room, hard))
    try:
        for _ in range(2):
            with pytest.raises(OSError, match="too large"):
                apply(writer, large)
            assert numbers(reader) == [1]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    apply(writer, large)
    assert numbers(reader) == [2]
    check_index(world.shm_path.read_bytes(), world.wal_path.read_bytes())
    reader.call("close", 0)
    world.close_writers()
    assert world.checkpointed() == large.state


# ---- becoming the writer ----


def test_opening_waits_for_an_application_that_writes(world: WalWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal_writer, "OPEN_TIMEOUT_S", 0.05)
    application = world.reader()
    query(application, "BEGIN IMMEDIATE")
    with pytest.raises(LockHeldError, match="python"):
        world.writer()
    query(application, "COMMIT")
    apply(world.writer(), world.next())
    assert numbers(application) == [world.n]


def test_what_applications_committed_is_taken_over(world: WalWorld) -> None:
    application = world.reader()
    query(application, "INSERT INTO t VALUES (1, 5, x'00')")
    before = world.wal_path.stat().st_size
    writer = world.writer()
    assert writer.mx_frame == (before - 32) // (24 + 1024)
    assert numbers(application) == [5]


def test_leaving_wal_mode_needs_everybody_gone(world: WalWorld) -> None:
    writer, reader = world.writer(), world.reader()
    apply(writer, world.next())
    numbers(reader)
    with pytest.raises(LockHeldError):
        writer.leave_wal_mode(0.05)
    apply(writer, world.next())
    assert numbers(reader) == [world.n], "the writer goes on"
    reader.call("close", 0)
    writer.leave_wal_mode(0.05)
    assert not world.wal_path.exists()
    assert not world.shm_path.exists()
    assert world.path.read_bytes() == world.last.state
