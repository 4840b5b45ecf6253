"""Checkpoints without SQLite, under the marks of its readers."""

import os
from pathlib import Path

import pytest

from litefs.node import locks
from tests.support.sql_client import SqlProcess
from tests.unit.node.wal_world import WalWorld, apply, numbers, query, wal_world

ROWS = (100, 300, 40)


def reader_at(world: WalWorld) -> SqlProcess:
    reader = world.reader()
    query(reader, "BEGIN")
    assert numbers(reader) == [world.n]
    return reader


def test_everything_is_checkpointed_when_nobody_reads(world: WalWorld) -> None:
    writer = world.writer()
    for row_n in ROWS:
        apply(writer, world.next(row_n))
    assert writer.checkpoint() == writer.mx_frame == writer.backfilled_n
    assert world.path.read_bytes() == world.last.state
    assert writer.checkpoint() == writer.mx_frame, "again: nothing to do"


def test_a_database_that_shrank_is_cut_off(world: WalWorld) -> None:
    writer = world.writer()
    apply(writer, world.next(500))
    writer.checkpoint()
    before = world.path.stat().st_size
    world.record("DELETE FROM t WHERE id > 3; VACUUM")
    state = world.last.state
    pages = [(at // 1024 + 1, state[at : at + 1024]) for at in range(0, len(state), 1024)]
    writer.apply(pages, 1024, len(pages))
    writer.checkpoint()
    assert world.path.stat().st_size < before
    assert world.path.read_bytes() == state


def test_it_goes_as_far_as_the_oldest_reader_and_the_file_shows_that_state(world: WalWorld) -> None:
    writer = world.writer()
    readers, states, frames = [], [], []
    for row_n in ROWS:
        apply(writer, world.next(row_n))
        readers.append(reader_at(world))
        states.append(world.last.state)
        frames.append(writer.mx_frame)
    apply(writer, world.next(200))
    for reader, state, frame in zip(readers, states, frames, strict=True):
        assert writer.checkpoint() == frame
        assert world.path.read_bytes()[: len(state)] == state
        assert all(numbers(other) == [n] for n, other in enumerate(readers, 1) if n > readers.index(reader))
        query(reader, "COMMIT")
    assert writer.checkpoint() == writer.mx_frame
    assert world.path.read_bytes() == world.last.state


def test_a_reader_of_the_database_file_holds_it_up(world: WalWorld) -> None:
    writer = world.writer()
    apply(writer, world.next(20))
    writer.checkpoint()
    reader = reader_at(world)  # everything is in the file: it takes READ0
    apply(writer, world.next(30))
    assert writer.checkpoint() < writer.mx_frame
    assert numbers(reader) == [1]
    query(reader, "COMMIT")
    assert writer.checkpoint() == writer.mx_frame


def test_it_waits_for_a_reader_as_long_as_it_may(world: WalWorld) -> None:
    writer = world.writer()
    apply(writer, world.next(20))
    reader = reader_at(world)
    apply(writer, world.next(20))
    reader.send("sql", 0, "COMMIT", [])
    assert writer.checkpoint(wait_s=30.0) == writer.mx_frame
    reader.receive()


def test_it_leaves_the_work_to_who_checkpoints_already(world: WalWorld) -> None:
    writer = world.writer()
    apply(writer, world.next())
    with world.shm_path.open("r+b") as shm:
        assert locks.try_write(shm.fileno(), locks.CKPT)
        assert writer.checkpoint() == 0
    assert writer.checkpoint() == writer.mx_frame


def test_it_goes_on_where_sqlite_stopped(world: WalWorld) -> None:
    writer, application = world.writer(), world.reader()
    apply(writer, world.next(50))
    query(application, "PRAGMA wal_checkpoint(PASSIVE)")
    assert writer.backfilled_n == writer.mx_frame
    apply(writer, world.next(60))
    apply(writer, world.next(10))
    assert writer.checkpoint() == writer.mx_frame
    assert world.path.read_bytes() == world.last.state
    assert query(application, "PRAGMA wal_checkpoint(PASSIVE)") == [[0, writer.mx_frame, writer.mx_frame]]


def test_after_it_all_locks_are_free(world: WalWorld) -> None:
    writer = world.writer()
    apply(writer, world.next())
    writer.checkpoint()
    fd = os.open(world.shm_path, os.O_RDWR)
    try:
        for lock in (locks.CKPT_RECOVER, *locks.READ):
            assert locks.holder(fd, lock) is None, lock
        assert locks.holder(fd, locks.WRITE) is not None
    finally:
        os.close(fd)


@pytest.mark.parametrize("page_size", [512, 65536])
def test_many_versions_of_the_same_pages_become_the_newest(tmp_path: Path, page_size: int) -> None:
    with wal_world(tmp_path, page_size) as world:
        writer = world.writer()
        for _ in range(10):
            apply(writer, world.next(50))
        assert writer.checkpoint() == writer.mx_frame
        assert world.path.read_bytes() == world.last.state
