"""The live wal-index (I6): what readers find in it, at every boundary, after deaths, and during recovery."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from litefs.formats.wal_index import REGION0_FRAME_N, REGION_FRAME_N, REGION_SIZE, WalIndexHeader
from litefs.node.wal_index_map import Region, WalIndexMap
from tests.support.wal_index_search import frames_of
from tests.unit.node.wal_world import apply, check_index, numbers, query, wal_world

SALTS = b"saltsalt"
FIRST, SECOND = REGION0_FRAME_N, REGION0_FRAME_N + REGION_FRAME_N
"""The last frames that regions 0 and 1 index: 4062 and 8158."""


def header(mx: int) -> bytes:
    return WalIndexHeader(
        change=mx,
        big_endian=False,
        page_size=512,
        mx_frame=mx,
        page_n=9,
        frame_checksum=(1, 2),
        salts=SALTS,
    ).encode()


def wal_of(pgnos: Sequence[int]) -> bytes:
    """Returns a WAL as far as `check_index` looks at it."""
    return bytes(32) + b"".join(pgno.to_bytes(4, "big") + bytes(4) + SALTS + bytes(8 + 512) for pgno in pgnos)


class Index:
    """A wal-index on disk, and what its frames are to be."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT)
        self.map = WalIndexMap(self.fd)
        self.pgnos: list[int] = []

    def append(self, pgnos: Sequence[int]) -> None:
        """Enters a transaction and publishes it."""
        self.map.append(len(self.pgnos) + 1, pgnos)
        self.pgnos += pgnos
        self.map.publish(header(len(self.pgnos)))

    def check(self) -> None:
        check_index(self.path.read_bytes(), wal_of(self.pgnos))

    def close(self) -> None:
        self.map.close()
        os.close(self.fd)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(tmp_path / "db-shm")
    yield index
    index.close()


@pytest.mark.parametrize(
    "sizes",
    [
        [FIRST - 1, 1, 1, 1],
        [FIRST, 1],
        [FIRST + 1],
        [FIRST - 1, 2],
        [SECOND],
        [SECOND - 1, 1, 1],
        [SECOND - 1, 2, REGION_FRAME_N],
        [1] * 50 + [SECOND, 3],
    ],
    ids=str,
)
def test_every_frame_is_found_at_the_boundaries_of_regions(index: Index, sizes: list[int]) -> None:
    pgno = 0
    for size in sizes:
        index.append(range(pgno + 1, pgno + size + 1))
        pgno += size
    index.check()
    assert index.map.pgnos(1, pgno) == list(range(1, pgno + 1))
    assert index.map.pgnos(FIRST - 1, min(FIRST + 2, pgno)) == list(range(FIRST - 1, min(FIRST + 2, pgno) + 1))


def test_a_page_that_is_written_again_and_again_is_found_in_each_frame(index: Index) -> None:
    for n in range(200):
        index.append([1, 2, 1, 7 + n % 3])
    index.append([5] * FIRST)
    index.check()


def test_pages_that_share_a_slot_are_told_apart(index: Index) -> None:
    index.append([1, 1 + 8192, 1 + 2 * 8192, 1, 8193])
    index.check()
    assert frames_of(index.path.read_bytes(), 8193, 5) == [2, 5]


@pytest.mark.parametrize("left", [1, 3, 300, FIRST + 5, SECOND + 5])
def test_entries_that_a_dead_writer_left_are_not_found(index: Index, tmp_path: Path, left: int) -> None:
    index.append([1, 2, 3])
    index.map.append(4, range(10, 10 + left))  # never published
    index.map.close()
    index.map = WalIndexMap(index.fd)
    index.append([2, 10])
    index.check()
    index.append(range(20, 20 + SECOND))
    index.check()


def test_an_apply_that_fails_leaves_entries_for_the_next_one_to_remove(index: Index) -> None:
    index.append(range(1, FIRST - 1))
    index.map.append(FIRST - 1, range(1, 100))
    index.append([7, 8, 9])
    index.check()


def test_pages_of_an_apply_that_failed_are_found_when_they_come_again(index: Index) -> None:
    index.append([1, 2, 3])
    index.map.append(4, [2, 2, 5])
    index.append([2, 5])
    index.check()


def test_after_a_restart_nothing_old_is_found(index: Index) -> None:
    index.append(range(1, SECOND + 100))
    index.pgnos.clear()
    index.append([3, 1])
    index.check()
    index.append(range(5, SECOND + 5))
    index.check()


def test_recovery_replaces_whatever_was_there(index: Index) -> None:
    index.append(range(1, SECOND + 100))
    index.pgnos = [*range(7, 7 + FIRST), 7, 8]
    index.map.rebuild(index.pgnos)
    index.map.publish(header(len(index.pgnos)))
    index.check()
    index.append([7, 9])
    index.check()


def memory_during(index: Index, monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]) -> list[bool]:
    """Whether the shared memory was what it was, each time that an entry was hashed."""
    before = index.path.read_bytes()
    seen: list[bool] = []
    hash_entries = Region._hash

    def watched(region: Region, entry: int, pgnos: Sequence[int]) -> None:
        seen.append(index.path.read_bytes() == before)
        hash_entries(region, entry, pgnos)
        seen.append(index.path.read_bytes() == before)

    monkeypatch.setattr(Region, "_hash", watched)
    work()
    return seen


def test_p6_readers_never_search_an_index_that_is_being_rebuilt(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    index.append(range(1, FIRST))
    assert all(memory_during(index, monkeypatch, lambda: index.map.rebuild(index.pgnos)))


def test_p6_control_building_in_place_shows(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    index.append(range(1, FIRST))
    assert not all(memory_during(index, monkeypatch, lambda: index.map.append(1, index.pgnos)))


def test_the_file_grows_by_written_bytes_so_that_a_full_disk_is_an_error_and_no_signal(index: Index) -> None:
    index.append(range(1, SECOND + 2))
    stat = index.path.stat()
    assert stat.st_size == 3 * REGION_SIZE
    assert stat.st_blocks * 512 >= stat.st_size, "no holes"


@pytest.mark.parametrize(
    ("offset", "data", "message"),
    [
        (48 + 8, b"\xff", "copies differ"),
        (96, b"\x0f\x27", "nBackfill"),
        (136, b"\x4d", "another page"),
        (16384 + 2 * 383, b"\0\0", "does not lead"),
        (32766, b"\x55\x05", "do not count"),
    ],
)
def test_i6_control_every_kind_of_damage_is_noticed(index: Index, offset: int, data: bytes, message: str) -> None:
    index.append(range(1, 50))
    shm = bytearray(index.path.read_bytes())
    shm[offset : offset + len(data)] = data
    with pytest.raises(AssertionError, match=message):
        check_index(bytes(shm), wal_of(index.pgnos))


# ---- with SQLite as the judge ----


@pytest.mark.parametrize("boundary", [FIRST, SECOND])
def test_sqlite_reads_and_checkpoints_across_the_boundaries(tmp_path: Path, boundary: int) -> None:
    with wal_world(tmp_path, 512) as world:
        page_n = world.next(1200, 400).commit
        writer, reader = world.writer(), world.reader()
        apply(writer, world.last)
        missing = boundary - 1 - writer.mx_frame
        whole = [(pgno, world.last.state[(pgno - 1) * 512 : pgno * 512]) for pgno in range(1, page_n + 1)]
        while missing > 0:
            writer.apply(whole[:missing], 512, page_n)
            missing = boundary - 1 - writer.mx_frame
        assert writer.mx_frame == boundary - 1
        for turn in range(3):
            writer.apply(whole[turn : turn + 1], 512, page_n)
            assert writer.mx_frame == boundary + turn
            assert query(reader, "PRAGMA integrity_check") == [["ok"]]
            assert numbers(world.fresh_reader()) == [world.n]
        check_index(world.shm_path.read_bytes(), world.wal_path.read_bytes())
        apply(writer, world.next(1200, 400))
        assert numbers(reader) == [world.n]
        query(reader, "BEGIN")
        assert numbers(reader) == [world.n]
        apply(writer, world.next(1100, 400))
        assert numbers(reader) == [world.n - 1]
        reader.call("close", 0)
        assert writer.checkpoint() == writer.mx_frame
        world.close_writers()
        assert world.checkpointed() == world.last.state


def test_a_transaction_larger_than_a_region_is_seen_whole(tmp_path: Path) -> None:
    with wal_world(tmp_path, 512) as world:
        writer, reader = world.writer(), world.reader()
        assert len(world.next(9000, 400).pages) > SECOND
        apply(writer, world.last)
        assert numbers(reader) == [1]
        check_index(world.shm_path.read_bytes(), world.wal_path.read_bytes())
        apply(writer, world.next(10))
        assert numbers(reader) == [2]
        world.close_writers()
        reader.call("close", 0)
        assert world.checkpointed() == world.last.state
