"""Readers without pause while transactions are applied, checkpointed and started over (I1, I2, I3, I8 at once)."""

import json
import mmap
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from litefs.node.mounted_database import Page
from litefs.node.wal_index_map import WalIndexMap
from litefs.node.wal_writer import WalWriter
from tests.unit.node.recorder import Transaction
from tests.unit.node.wal_world import WalWorld, apply, check_index

READER_N = 2
TRANSACTION_N = 250
READS_MIN = 150
"""Of each reader, while transactions are applied."""
TIMEOUT_S = 120.0
"""On a machine with other load; it takes about three seconds otherwise."""


class Readers:
    """The readers, and the words that they share with the test."""

    def __init__(self, world: WalWorld) -> None:
        words_path = world.directory / "words"
        words_path.write_bytes(bytes(8 * (2 + READER_N)))
        with words_path.open("r+b") as file:
            self.words = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
        program = Path(__file__).with_name("wal_reader.py")
        self._children = [
            subprocess.Popen(
                [sys.executable, "-I", "-S", program, world.path, words_path, str(number)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(1, READER_N + 1)
        ]
        world.children += self._children
        self._deadline = time.monotonic() + TIMEOUT_S

    @property
    def read_n(self) -> int:
        """How many read transactions the slowest reader has done."""
        return min(self.words[2:])

    def wait_for_reads(self, n: int) -> None:
        """Returns when each reader has done `n` read transactions more, or one has ended because of what it saw."""
        wanted = self.read_n + n
        while self.read_n < wanted and all(child.poll() is None for child in self._children):
            assert time.monotonic() < self._deadline, "readers do not come on"
            time.sleep(0.001)

    def end(self) -> list[str]:
        """Ends them. Returns what they found wrong."""
        self.words[1] = 1
        return [line for child in self._children for line in json.loads(child.communicate(timeout=TIMEOUT_S)[0])]


def change(world: WalWorld, chance: random.Random) -> Transaction:
    """Returns a transaction of any size: rows come, go and change, and `state` says what there is now."""
    world.n += 1

    def statements(connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN")
        for _ in range(chance.choice((1, 3, 40))):
            row = chance.randrange(400)
            if chance.random() < 0.3:
                connection.execute("DELETE FROM t WHERE id BETWEEN ? AND ?", (row, row + chance.randrange(20)))
            else:
                body = chance.randbytes(chance.randrange(3000))
                connection.execute("INSERT OR REPLACE INTO t VALUES (?, ?, ?)", (row, world.n, body))
        connection.execute("DELETE FROM state")
        connection.execute("INSERT INTO state SELECT ?, count(*), total(length(body)) FROM t", (world.n,))
        connection.execute("COMMIT")

    return world.record(statements)


def prepare(world: WalWorld) -> random.Random:
    world.n = 1
    world.record("CREATE TABLE state (n INTEGER, row_n INTEGER, total REAL)")
    world.record("INSERT INTO t VALUES (1, 1, zeroblob(5)); INSERT INTO state VALUES (1, 1, 5.0)")
    world.reset()
    return random.Random(7)


def test_readers_see_every_transaction_whole_at_once_and_without_waiting(world: WalWorld) -> None:
    chance = prepare(world)
    writer = world.writer()
    readers = Readers(world)
    readers.wait_for_reads(1)
    restart_n = 0
    while world.n < TRANSACTION_N or readers.read_n < READS_MIN:
        apply(writer, change(world, chance))
        readers.words[0] = world.n
        if world.n % 5 == 0:
            writer.checkpoint(wait_s=0.05)
            restart_n += writer.restart(wait_s=0.05)
        if world.n > TRANSACTION_N:
            readers.wait_for_reads(1)
    check_index(world.shm_path.read_bytes(), world.wal_path.read_bytes())
    assert readers.end() == []
    assert restart_n > 0
    world.close_writers()
    assert world.checkpointed() == world.last.state


class PublishesTooEarly(WalWriter):
    """Control: the header when half of the index is there, and readers come by before the rest is."""

    readers: Readers

    def _write_frames(self, index: WalIndexMap, pages: Iterable[Page], commit: int) -> tuple[int, tuple[int, int]]:
        missing: list[tuple[int, Sequence[int]]] = []
        enter = index.append

        def enter_half(first_frame: int, pgnos: Sequence[int]) -> None:
            half = len(pgnos) // 2
            enter(first_frame, pgnos[:half])
            missing.append((first_frame + half, pgnos[half:]))

        index.append = enter_half  # type: ignore[method-assign]
        frame_n, checksum = super()._write_frames(index, pages, commit)
        change, mx_frame, page_n, before = self._change, self._mx_frame, self._page_n, self._checksum
        self._publish(index, mx_frame + frame_n, commit, checksum)
        self._change, self._mx_frame, self._page_n, self._checksum = change, mx_frame, page_n, before
        self.readers.wait_for_reads(2)
        for first_frame, pgnos in missing:
            enter(first_frame, pgnos)
        index.append = enter  # type: ignore[method-assign]
        return frame_n, checksum


def test_control_readers_notice_a_header_that_comes_before_its_index(world: WalWorld) -> None:
    chance = prepare(world)
    apply(world.writer(), change(world, chance))
    world.close_writers()
    readers = PublishesTooEarly.readers = Readers(world)
    readers.wait_for_reads(1)
    writer = world.writer(PublishesTooEarly)
    for _ in range(20):
        apply(writer, change(world, chance))
        readers.words[0] = world.n
    assert readers.end() != []
