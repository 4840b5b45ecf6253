import gzip
import sqlite3
import struct
import sys
from pathlib import Path

import pytest

from litefs.errors import ChecksumError, FormatError, NeedMoreData
from litefs.formats.wal import FRAME_HEADER_SIZE, WAL_HEADER_SIZE, FrameHeader, WalHeader, wal_checksum
from litefs.formats.wal_index import (
    BACKFILL_ATTEMPTED_OFFSET,
    BACKFILL_OFFSET,
    HASH_OFFSET,
    INDEX_HEADER_SIZE,
    LOCK_CHECKPOINT,
    LOCK_DMS,
    LOCK_READ0,
    LOCK_WRITE,
    READ_MARK_N,
    READ_MARKS_OFFSET,
    REGION0_FRAME_N,
    REGION_FRAME_N,
    REGION_SIZE,
    WalIndexHeader,
    frame_region,
    hash_slot,
    region_first_frame,
    region_frame_n,
)
from tests.support.wal_index_search import frames_of, pgno_offset, slot_offsets
from tests.unit.formats import golden
from tests.unit.formats.golden import flipped_bits

CASES = {name: case for name, case in golden.load("sqlite/manifest.json")["cases"].items() if "shm" in case}

# SQLite wrote them on a little-endian machine, and the wal-index is in the machine's order.
golden_order = pytest.mark.skipif(sys.byteorder != "little", reason="the golden wal-indexes are little-endian")

HEADERS = [
    WalIndexHeader(
        change=3,
        big_endian=False,
        page_size=512,
        mx_frame=7,
        page_n=4,
        frame_checksum=(1, 2**32 - 1),
        salts=b"saltsalt",
    ),
    WalIndexHeader(
        change=2**32 - 1,
        big_endian=True,
        page_size=65536,
        mx_frame=0,
        page_n=2**32 - 1,
        frame_checksum=(0, 0),
        salts=bytes(8),
    ),
]


def shm(name: str) -> bytes:
    return gzip.decompress(golden.read(f"sqlite/{name}/db-shm.gz"))


@pytest.mark.parametrize("header", HEADERS)
def test_header_both_ways(header: WalIndexHeader) -> None:
    data = header.encode()
    assert len(data) == INDEX_HEADER_SIZE
    assert WalIndexHeader.decode(memoryview(data + b"tail")) == header


@pytest.mark.parametrize("page_size", [1 << n for n in range(9, 17)])
def test_header_holds_every_page_size(page_size: int) -> None:
    header = WalIndexHeader(
        change=1, big_endian=False, page_size=page_size, mx_frame=1, page_n=1, frame_checksum=(1, 1), salts=bytes(8)
    )
    assert WalIndexHeader.decode(header.encode()).page_size == page_size


def test_header_refuses_every_truncation_and_flipped_bit() -> None:
    data = HEADERS[0].encode()
    for size in range(INDEX_HEADER_SIZE):
        with pytest.raises(NeedMoreData):
            WalIndexHeader.decode(data[:size])
    for _, damaged in flipped_bits(data):
        with pytest.raises(FormatError):
            WalIndexHeader.decode(damaged)


def test_header_says_why_it_is_refused() -> None:
    with pytest.raises(FormatError, match="not initialised"):
        WalIndexHeader.decode(bytes(INDEX_HEADER_SIZE))
    torn = HEADERS[0].encode()[:20] + HEADERS[1].encode()[20:]
    with pytest.raises(ChecksumError):
        WalIndexHeader.decode(torn)
    body = struct.pack("=I", 3007001) + HEADERS[0].encode()[4:40]
    other = body + struct.pack("=2I", *wal_checksum(body, big_endian=sys.byteorder == "big"))
    with pytest.raises(FormatError, match="version"):
        WalIndexHeader.decode(other)


def test_frames_lie_in_regions() -> None:
    assert frame_region(1) == (0, 1)
    assert frame_region(4062) == (0, 4062)
    assert frame_region(4063) == (1, 1)
    assert frame_region(4062 + 4096) == (1, 4096)
    assert frame_region(4062 + 4096 + 1) == (2, 1)
    for region in range(4):
        first, count = region_first_frame(region), region_frame_n(region)
        assert frame_region(first) == (region, 1)
        assert frame_region(first + count - 1) == (region, count)
        assert first + count == region_first_frame(region + 1)


def test_page_numbers_and_hash_slots_fill_a_region_without_overlap() -> None:
    assert pgno_offset(0, 1) == 136
    assert pgno_offset(0, REGION0_FRAME_N) + 4 == HASH_OFFSET
    assert pgno_offset(1, 1) == REGION_SIZE
    assert pgno_offset(1, REGION_FRAME_N) + 4 == REGION_SIZE + HASH_OFFSET == slot_offsets(1)[0]
    assert slot_offsets(0).stop == REGION_SIZE


def test_lock_bytes_and_marks_lie_where_sqlite_has_them() -> None:
    assert (BACKFILL_OFFSET, READ_MARKS_OFFSET, READ_MARKS_OFFSET + 4 * READ_MARK_N) == (96, 100, LOCK_WRITE)
    assert (LOCK_WRITE, LOCK_CHECKPOINT, LOCK_READ0, LOCK_DMS) == (120, 121, 123, 128)


def test_hash_is_that_of_sqlite() -> None:
    assert [hash_slot(pgno) for pgno in (1, 2, 22, 8192, 8193)] == [383, 766, 234, 0, 383]


@golden_order
@pytest.mark.parametrize("name", sorted(CASES))
def test_reads_the_wal_index_that_sqlite_left(name: str) -> None:
    index, expected = shm(name), CASES[name]["shm"]
    first, second = index[:INDEX_HEADER_SIZE], index[INDEX_HEADER_SIZE : 2 * INDEX_HEADER_SIZE]
    assert first == second
    header = WalIndexHeader.decode(first)
    assert header.encode() == first
    assert header.change == expected["iChange"]
    assert header.big_endian == bool(expected["bigEndCksum"])
    assert header.page_size == expected["szPage"]
    assert header.mx_frame == expected["mxFrame"]
    assert header.page_n == expected["nPage"]
    assert header.frame_checksum == (expected["aFrameCksum0"], expected["aFrameCksum1"])
    if "nBackfill" in expected:
        assert struct.unpack_from("=I", index, BACKFILL_OFFSET)[0] == expected["nBackfill"]
        marks = struct.unpack_from(f"={READ_MARK_N}I", index, READ_MARKS_OFFSET)
        assert [f"{mark:08x}" for mark in marks] == expected["aReadMark"]
        attempted = struct.unpack_from("=I", index, BACKFILL_ATTEMPTED_OFFSET)[0]
        assert attempted == expected["nBackfillAttempted"]
    assert index[LOCK_WRITE : LOCK_READ0 + READ_MARK_N] == bytes(8)


@golden_order
@pytest.mark.parametrize("name", sorted(CASES))
def test_the_wal_index_agrees_with_its_wal(name: str) -> None:
    index, wal = shm(name), golden.read(f"sqlite/{name}/db-wal")
    header = WalIndexHeader.decode(index)
    if not wal:
        assert header.mx_frame == 0
        return
    assert header.salts == wal[16:24]
    size = FRAME_HEADER_SIZE + WalHeader.decode(wal).page_size
    last: dict[int, int] = {}
    for frame in range(1, header.mx_frame + 1):
        decoded = FrameHeader.decode(wal[WAL_HEADER_SIZE + (frame - 1) * size :])
        last[decoded.pgno] = frame
        assert struct.unpack_from("=I", index, pgno_offset(*frame_region(frame)))[0] == decoded.pgno
        if frame == header.mx_frame:
            assert header.frame_checksum == decoded.checksum
            assert header.page_n == decoded.commit
    for pgno in range(1, 12):
        assert frames_of(index, pgno, header.mx_frame)[-1:] == ([last[pgno]] if pgno in last else [])


def test_finds_pages_in_an_index_of_several_regions_as_sqlite_left_it(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "db", isolation_level=None)
    connection.execute("PRAGMA page_size=512")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute("CREATE TABLE t(x)")
    for _ in range(3):
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO t VALUES(zeroblob(?))", [(400,)] * 3000)
        connection.execute("COMMIT")
    index, wal = (tmp_path / "db-shm").read_bytes(), (tmp_path / "db-wal").read_bytes()
    connection.close()
    header = WalIndexHeader.decode(index)
    assert frame_region(header.mx_frame)[0] >= 2
    last = {
        FrameHeader.decode(wal[WAL_HEADER_SIZE + (frame - 1) * 536 :][:FRAME_HEADER_SIZE]).pgno: frame
        for frame in range(1, header.mx_frame + 1)
    }
    assert len(last) == header.page_n
    assert all(frames_of(index, pgno, header.mx_frame)[-1] == frame for pgno, frame in last.items())
    assert frames_of(index, header.page_n + 1, header.mx_frame) == []
