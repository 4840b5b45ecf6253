"""I5: the writer killed at each of its points, whoever else has the database open, and the next writer."""

import os
from collections.abc import Callable, Iterable

import pytest

from litefs.formats.wal_index import INDEX_HEADER_SIZE, READ_MARK_N, READ_MARK_UNUSED, REGION_SIZE
from litefs.node.mounted_database import Page
from litefs.node.wal_writer import WalWriter
from tests.support.sql_client import SqlError, SqlProcess
from tests.unit.node.recorder import Transaction
from tests.unit.node.wal_world import WalWorld, apply, check_index, numbers, query

ROW_N = 1700
"""More pages than one write of frames takes."""

POINTS = {
    "wal-header-written": {1},
    "frames-written": {1},
    "index-written": {1, 2},
    "published": {2},
    "pages-checkpointed": {2},
    "backfilled": {2},
    "marks-reset": {2},
    "restarted": {2},
    "never": {3},
}
"""The first time that the writer gets there, and the transactions that readers may find then."""

CHECKPOINT_POINTS = ("pages-checkpointed", "backfilled", "marks-reset", "restarted")

Companion = Callable[[WalWorld], SqlProcess | None]


def nobody(world: WalWorld) -> None:
    return


def idle(world: WalWorld) -> SqlProcess:
    reader = world.reader()
    assert numbers(reader) == [1]
    return reader


def in_transaction(world: WalWorld) -> SqlProcess:
    reader = world.reader()
    query(reader, "BEGIN")
    assert numbers(reader) == [1]
    return reader


def two_transactions(world: WalWorld) -> tuple[Transaction, Transaction]:
    """Returns transactions 2 and 3; 1 is the state of the target."""
    world.next(ROW_N)
    world.reset()
    return world.next(ROW_N), world.next(ROW_N - 5)


def both(second: Transaction, third: Transaction) -> Callable[[WalWriter], None]:
    def work(writer: WalWriter) -> None:
        apply(writer, second)
        writer.checkpoint()
        writer.restart()
        apply(writer, third)

    return work


@pytest.mark.parametrize("companion", [nobody, idle, in_transaction])
@pytest.mark.parametrize("point", POINTS)
def test_i5_readers_find_a_whole_transaction_and_applying_again_gives_identical_bytes(
    world: WalWorld, point: str, companion: Companion
) -> None:
    second, third = two_transactions(world)
    reader = companion(world)
    died = world.run_and_die(both(second, third), point)
    if companion is in_transaction and point in CHECKPOINT_POINTS:
        assert not died, "it reads the database file, so nothing is checkpointed"
        expected = {3}
    else:
        assert died == (point != "never")
        expected = POINTS[point]
    if reader is not None and companion is in_transaction:
        assert numbers(reader) == [1]
        query(reader, "COMMIT")
    found = numbers(reader or world.reader())
    assert len(found) == 1
    assert set(found) <= expected
    fresh = world.reader()
    assert numbers(fresh) == found
    assert query(fresh, "PRAGMA integrity_check") == [["ok"]]
    writer = world.writer()
    assert numbers(fresh) == [max(expected)], "what was complete in the WAL is published at the latest now"
    for transaction in (second, third):
        apply(writer, transaction)
    check_index(world.shm_path.read_bytes(), world.wal_path.read_bytes())
    assert numbers(reader or fresh) == [3]
    world.close_writers()
    fresh.call("close", 0)
    assert world.checkpointed() == third.state


GARBAGE = {"none": None, "empty": b"", "noise": b"\xa5" * REGION_SIZE, "zeros": bytes(3 * REGION_SIZE)}


class AppliesInTwo(WalWriter):
    """Control: commits half of the pages before the others."""

    def apply(self, pages: Iterable[Page], page_size: int, commit: int) -> None:
        pages = list(pages)
        for half in (pages[: len(pages) // 2], pages[len(pages) // 2 :]):
            super().apply(half, page_size, commit)


def test_i5_control_half_a_transaction_shows(world: WalWorld) -> None:
    assert world.run_and_die(both(*two_transactions(world)), "published", AppliesInTwo)
    reader = world.reader()
    try:
        whole = len(numbers(reader)) == 1 and query(reader, "PRAGMA integrity_check") == [["ok"]]
    except SqlError:
        whole = False
    assert not whole


@pytest.mark.parametrize(
    "content", [None, b"", b"\xa5" * REGION_SIZE, bytes(3 * REGION_SIZE)], ids=["none", "empty", "garbage", "zeros"]
)
@pytest.mark.parametrize("point", ["frames-written", "index-written", "published"])
def test_a_wal_index_that_is_lost_or_garbage_is_made_anew(world: WalWorld, point: str, content: bytes | None) -> None:
    """Index-written: the frames are complete, and with no index to say otherwise they count."""
    second, third = two_transactions(world)
    assert world.run_and_die(both(second, third), point)
    world.void_index(content)
    writer, reader = world.writer(), world.reader()
    assert numbers(reader) == [1 if point == "frames-written" else 2]
    apply(writer, second)
    apply(writer, third)
    check_index(world.shm_path.read_bytes(), world.wal_path.read_bytes())
    reader.call("close", 0)
    world.close_writers()
    assert world.checkpointed() == third.state


def zeroed(shm: bytearray, old: bytes) -> None:
    shm[: 2 * INDEX_HEADER_SIZE] = bytes(2 * INDEX_HEADER_SIZE)


def torn(shm: bytearray, old: bytes) -> None:
    shm[:INDEX_HEADER_SIZE] = old[:INDEX_HEADER_SIZE]


def older(shm: bytearray, old: bytes) -> None:
    shm[:] = old.ljust(len(shm), b"\0")


def too_much_backfilled(shm: bytearray, old: bytes) -> None:
    shm[96:100] = b"\xff\xff\0\0"


def one_bit(shm: bytearray, old: bytes) -> None:
    shm[16] ^= 1
    shm[INDEX_HEADER_SIZE + 16] ^= 1


@pytest.mark.parametrize("damage", [zeroed, torn, older, too_much_backfilled, one_bit])
def test_a_wal_index_that_does_not_fit_its_wal_is_recovered_under_a_live_connection(
    world: WalWorld, damage: Callable[[bytearray, bytes], None]
) -> None:
    second, third = two_transactions(world)
    reader = idle(world)
    writer = world.writer()
    apply(writer, second)
    old = world.shm_path.read_bytes()
    assert writer.checkpoint() == writer.mx_frame
    apply(writer, third)
    world.close_writers()
    shm = bytearray(world.shm_path.read_bytes())
    damage(shm, old)
    with world.shm_path.open("r+b") as file:
        file.write(shm)
    writer = world.writer()
    index = writer._map()
    marks = [index.read_mark(mark) for mark in range(READ_MARK_N)]
    assert marks == [0, writer.mx_frame, *[READ_MARK_UNUSED] * 3]
    check_index(world.shm_path.read_bytes(), world.wal_path.read_bytes())
    assert numbers(reader) == [3]
    apply(writer, world.next(10))
    assert numbers(reader) == [4]
    reader.call("close", 0)
    world.close_writers()
    assert world.checkpointed() == world.last.state


def test_a_wal_shorter_than_its_index_says_is_recovered_as_far_as_it_goes(world: WalWorld) -> None:
    second, third = two_transactions(world)
    reader = idle(world)
    writer = world.writer()
    apply(writer, second)
    size = world.wal_path.stat().st_size
    apply(writer, third)
    world.close_writers()
    os.truncate(world.wal_path, size + 5000)
    writer = world.writer()
    check_index(world.shm_path.read_bytes(), world.wal_path.read_bytes())
    assert numbers(reader) == [2]
    apply(writer, third)
    assert numbers(reader) == [3]


def test_a_death_while_wal_mode_is_left_loses_nothing(world: WalWorld) -> None:
    second, _ = two_transactions(world)

    def leave(writer: WalWriter) -> None:
        apply(writer, second)
        writer.leave_wal_mode(1.0)

    assert world.run_and_die(leave, "unlinked")
    assert not world.wal_path.exists()
    assert numbers(world.reader()) == [2]
    assert world.checkpointed() == second.state
