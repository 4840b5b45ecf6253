"""What counts in a WAL file: decided as SQLite decides, for every cut and every kind of damage."""

import os
import shutil
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from litefs.formats.wal import WAL_HEADER_SIZE, frame_offset, wal_checksum
from litefs.node.wal_scan import Committed, read_header, scan
from tests.unit.node.wal_world import WalWorld, apply, wal_world

PAGE_SIZE = 512


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[bytes, bytes]]:
    """A database, and a WAL with four transactions behind which lie frames of the WAL before."""
    with wal_world(tmp_path_factory.mktemp("scan"), PAGE_SIZE) as world:
        writer = world.writer()
        apply(writer, world.next(30))
        writer.checkpoint()
        for row in (1, 2, 3, 4):
            apply(writer, world.record(f"UPDATE t SET n = {row * 10}, body = zeroblob(900) WHERE id = {row}"))
        assert writer.mx_frame * (24 + PAGE_SIZE) + 32 < world.wal_path.stat().st_size
        yield world.path.read_bytes(), world.wal_path.read_bytes()


def scanned(path: Path) -> Committed | None:
    """Returns what is committed in the WAL of `path`; None if nothing is."""
    fd = os.open(f"{path}-wal", os.O_RDONLY)
    try:
        header = read_header(fd)
        found = scan(fd, header) if header is not None else None
    finally:
        os.close(fd)
    return found if found is not None and found.pgnos else None


def frames_by_sqlite(path: Path) -> int:
    """Returns how many frames SQLite finds."""
    connection = sqlite3.connect(path)
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        frame_n: int = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1]
    finally:
        connection.close()
    return max(frame_n, 0)


def place(directory: Path, database: bytes, wal: bytes) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    path = directory / "db"
    path.write_bytes(database)
    Path(f"{path}-wal").write_bytes(wal)
    return path


def assert_as_sqlite(directory: Path, database: bytes, wal: bytes) -> int:
    path = place(directory, database, wal)
    found = scanned(path)
    frame_n = len(found.pgnos) if found is not None else 0
    assert frame_n == frames_by_sqlite(path)
    return frame_n


def test_every_cut_counts_as_much_as_for_sqlite(tmp_path: Path, files: tuple[bytes, bytes]) -> None:
    database, wal = files
    end = WAL_HEADER_SIZE + 20 * (24 + PAGE_SIZE)
    boundaries = [frame_offset(frame, PAGE_SIZE) for frame in range(1, 20)]
    cuts = {cut for boundary in boundaries for cut in (boundary - 1, boundary, boundary + 24)}
    counts = {assert_as_sqlite(tmp_path / "d", database, wal[:cut]) for cut in sorted(cuts) if cut < end}
    assert len(counts) >= 4, "each transaction is whole at some cut, and none in between"


def test_every_damage_counts_as_much_as_for_sqlite(tmp_path: Path, files: tuple[bytes, bytes]) -> None:
    database, wal = files
    third = frame_offset(3, PAGE_SIZE)
    damaged = [*range(32 + 24), 32 + 24 + 100, *range(third, third + 24)]
    counts = set()
    for at in damaged:
        changed = wal[:at] + bytes([wal[at] ^ 1 << (at & 7)]) + wal[at + 1 :]
        counts.add(assert_as_sqlite(tmp_path / "d", database, changed))
    assert 0 in counts


@pytest.mark.parametrize("pgno", [0, 1])
def test_a_frame_counts_with_a_page_number_only(tmp_path: Path, files: tuple[bytes, bytes], pgno: int) -> None:
    """All else about the frame is as it should be."""
    database, wal = files
    found = scanned(place(tmp_path / "d", database, wal))
    assert found is not None
    start, page = struct.pack(">II", pgno, found.page_n), database[:PAGE_SIZE]
    checksum = wal_checksum(start + page, *found.checksum, big_endian=bool(wal[3] & 1))
    frame = start + wal[16:24] + struct.pack(">II", *checksum) + page
    at = frame_offset(len(found.pgnos) + 1, PAGE_SIZE)
    changed = wal[:at] + frame + wal[at + len(frame) :]
    assert assert_as_sqlite(tmp_path / "d", database, changed) == len(found.pgnos) + (pgno > 0)


def test_frames_of_the_wal_before_do_not_count(tmp_path: Path, files: tuple[bytes, bytes]) -> None:
    database, wal = files
    assert 4 <= assert_as_sqlite(tmp_path / "d", database, wal) < (len(wal) - 32) // (24 + PAGE_SIZE)


def test_a_scan_goes_on_from_any_commit(tmp_path: Path, files: tuple[bytes, bytes]) -> None:
    database, wal = files
    path = place(tmp_path / "d", database, wal)
    whole = scanned(path)
    assert whole is not None
    fd = os.open(f"{path}-wal", os.O_RDONLY)
    try:
        header = read_header(fd)
        assert header is not None
        for frame in range(1, len(whole.pgnos)):
            before = int.from_bytes(wal[(at := frame_offset(frame, PAGE_SIZE) + 16) : at + 4], "big")
            checksum = before, int.from_bytes(wal[at + 4 : at + 8], "big")
            rest = scan(fd, header, frame + 1, checksum)
            assert (rest.pgnos, rest.page_n, rest.checksum) == (whole.pgnos[frame:], whole.page_n, whole.checksum)
            assert scan(fd, header, frame + 1, (1, 2)).pgnos == []
    finally:
        os.close(fd)


def test_no_wal_is_no_header(world: WalWorld) -> None:
    world.wal_path.touch()
    assert scanned(world.path) is None
