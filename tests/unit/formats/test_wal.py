import sqlite3
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from litefs.errors import ChecksumError, FormatError, NeedMoreData
from litefs.formats.wal import (
    FRAME_HEADER_SIZE,
    WAL_HEADER_SIZE,
    WAL_MAGIC,
    FrameHeader,
    WalFrame,
    WalHeader,
    read_frames,
    wal_checksum,
)
from tests.support.wal_frames import encode_frame_header
from tests.unit.formats import golden
from tests.unit.formats.golden import flipped_bits

MANIFEST = golden.load("sqlite/manifest.json")
CASES = {name: case for name, case in MANIFEST["cases"].items() if "wal" in case}

HEADERS = [
    WalHeader(big_endian=False, page_size=512, checkpoint_seq=0, salt1=1, salt2=2),
    WalHeader(big_endian=True, page_size=4096, checkpoint_seq=7, salt1=2**32 - 1, salt2=0),
    WalHeader(big_endian=False, page_size=65536, checkpoint_seq=2**32 - 1, salt1=0, salt2=2**32 - 1),
]


def plain_checksum(data: bytes, s0: int, s1: int, big_endian: bool) -> tuple[int, int]:
    """The definition, word by word."""
    words = struct.unpack(f"{'>' if big_endian else '<'}{len(data) // 4}I", data)
    for i in range(0, len(words), 2):
        s0 = (s0 + words[i] + s1) % 2**32
        s1 = (s1 + words[i + 1] + s0) % 2**32
    return s0, s1


def frames(wal: bytes) -> list[WalFrame]:
    try:
        header = WalHeader.decode(wal)
    except (FormatError, NeedMoreData):
        return []  # as SQLite, which ignores such a file
    return list(read_frames(lambda offset, size: wal[offset : offset + size], header))


def make_wal(header: WalHeader, *pages: tuple[int, int]) -> bytes:
    """Makes a WAL of (pgno, commit) frames."""
    wal, checksum = header.encode(), header.checksum
    for pgno, commit in pages:
        page = struct.pack(">I", pgno + 256 * len(wal)) * (header.page_size // 4)
        head, checksum = encode_frame_header(header, checksum, pgno, commit, page)
        wal += head + page
    return wal


# ---- the checksum ----


@settings(max_examples=60, deadline=None)
@given(
    data=st.one_of(
        st.binary(max_size=80),
        st.sampled_from([512, 1024, 4096, 520, 4104, 1536]).flatmap(
            lambda size: st.binary(min_size=size, max_size=size)
        ),
    ),
    s0=st.integers(0, 2**32 - 1),
    s1=st.integers(0, 2**32 - 1),
    big_endian=st.booleans(),
)
def test_checksum_is_that_of_the_definition(data: bytes, s0: int, s1: int, big_endian: bool) -> None:
    data = data[: len(data) // 8 * 8]
    assert wal_checksum(data, s0, s1, big_endian=big_endian) == plain_checksum(data, s0, s1, big_endian)


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("size", [0, 8, 64, 72, 128, 512, 4096, 65536])
def test_checksum_does_not_overflow_its_lanes(size: int, big_endian: bool) -> None:
    top = 2**32 - 1
    data = b"\xff" * size
    assert wal_checksum(data, top, top, big_endian=big_endian) == plain_checksum(data, top, top, big_endian)


@pytest.mark.parametrize("big_endian", [False, True])
def test_checksum_runs_on_and_takes_any_buffer(big_endian: bool) -> None:
    data = bytes(n * n % 251 for n in range(1024))
    whole = wal_checksum(data, 1, 2, big_endian=big_endian)
    for cut in range(0, 1025, 8):
        first = wal_checksum(memoryview(data)[:cut], 1, 2, big_endian=big_endian)
        assert wal_checksum(bytearray(data[cut:]), *first, big_endian=big_endian) == whole


def test_each_bit_of_a_page_counts() -> None:
    page = bytes(range(256)) * 2
    checksum = wal_checksum(page, big_endian=False)
    assert all(wal_checksum(damaged, big_endian=False) != checksum for _, damaged in flipped_bits(page))


# ---- headers ----


@pytest.mark.parametrize("header", HEADERS)
def test_header_both_ways(header: WalHeader) -> None:
    data = header.encode()
    assert len(data) == WAL_HEADER_SIZE
    assert WalHeader.decode(data + b"tail") == header
    assert header.checksum == struct.unpack(">2I", data[24:])
    assert struct.unpack(">I", data[:4])[0] == WAL_MAGIC + header.big_endian


@pytest.mark.parametrize("header", HEADERS)
def test_header_refuses_every_truncation_and_flipped_bit(header: WalHeader) -> None:
    data = header.encode()
    for size in range(WAL_HEADER_SIZE):
        with pytest.raises(NeedMoreData):
            WalHeader.decode(data[:size])
    for _, damaged in flipped_bits(data):
        with pytest.raises(FormatError):
            WalHeader.decode(damaged)


@pytest.mark.parametrize("page_size", [0, 1, 256, 513, 131072])
def test_header_refuses_a_page_size_that_sqlite_has_not(page_size: int) -> None:
    with pytest.raises(FormatError):
        replace(HEADERS[0], page_size=page_size)
    data = bytearray(HEADERS[0].encode())
    struct.pack_into(">I", data, 8, page_size)
    struct.pack_into(">2I", data, 24, *wal_checksum(data[:24], big_endian=False))
    with pytest.raises(FormatError):
        WalHeader.decode(data)


def test_header_says_that_a_magic_is_wrong() -> None:
    with pytest.raises(FormatError, match="magic"):
        WalHeader.decode(b"\0" + HEADERS[0].encode()[1:])


def test_header_of_another_version_is_told_from_a_damaged_one() -> None:
    data = bytearray(HEADERS[0].encode())
    struct.pack_into(">I", data, 4, 3007001)
    with pytest.raises(ChecksumError):
        WalHeader.decode(data)
    struct.pack_into(">2I", data, 24, *wal_checksum(data[:24], big_endian=False))
    with pytest.raises(FormatError, match="version"):
        WalHeader.decode(data)


def test_frame_header_both_ways() -> None:
    header, page = HEADERS[1], bytes(4096)
    data, checksum = encode_frame_header(header, header.checksum, 5, 9, page)
    assert len(data) == FRAME_HEADER_SIZE
    assert FrameHeader.decode(data + page) == FrameHeader(
        pgno=5, commit=9, salt1=header.salt1, salt2=header.salt2, checksum=checksum
    )
    for size in range(FRAME_HEADER_SIZE):
        with pytest.raises(NeedMoreData):
            FrameHeader.decode(data[:size])


# ---- reading a WAL ----


@pytest.mark.parametrize("header", HEADERS[:2])
def test_frames_both_ways(header: WalHeader) -> None:
    wal = make_wal(header, (1, 0), (2, 2), (1, 2), (3, 0))
    assert WalHeader.decode(wal) == header
    assert [(frame.frame, frame.pgno, frame.commit) for frame in frames(wal)] == [
        (1, 1, 0),
        (2, 2, 2),
        (3, 1, 2),
        (4, 3, 0),
    ]
    size = FRAME_HEADER_SIZE + header.page_size
    for index, frame in enumerate(frames(wal)):
        start = WAL_HEADER_SIZE + index * size
        assert frame.page == wal[start + FRAME_HEADER_SIZE : start + size]
        assert frame.checksum == FrameHeader.decode(wal[start:]).checksum


def test_a_wal_cut_anywhere_has_its_whole_frames() -> None:
    wal = make_wal(HEADERS[0], (1, 0), (2, 2))
    for size in range(len(wal) + 1):
        assert len(frames(wal[:size])) == max(0, (size - WAL_HEADER_SIZE) // (FRAME_HEADER_SIZE + 512))


def test_every_flipped_bit_ends_the_frames_there() -> None:
    wal = make_wal(HEADERS[0], (1, 0), (2, 2))
    for bit, damaged in flipped_bits(wal):
        at = bit // 8
        whole = 0 if at < WAL_HEADER_SIZE else (at - WAL_HEADER_SIZE) // (FRAME_HEADER_SIZE + 512)
        assert len(frames(damaged)) == whole, bit


def test_frames_end_where_the_salts_change() -> None:
    # The next generation has overwritten the first frame; the second is of the old one.
    old, new = HEADERS[0], replace(HEADERS[0], salt1=2, salt2=77)
    wal = make_wal(new, (1, 1)) + make_wal(old, (1, 1), (2, 2))[WAL_HEADER_SIZE + 536 :]
    assert [frame.pgno for frame in frames(wal)] == [1]


def test_frames_end_at_page_zero() -> None:
    assert frames(make_wal(HEADERS[0], (0, 0), (2, 2))) == []


# ---- golden: what SQLite makes of a WAL ----


def recover(database: bytes, wal: bytes) -> tuple[bytes, int]:
    """Returns the database after recovery, and the number of the last committed frame."""
    page_n, last = 0, 0
    committed: dict[int, bytes] = {}
    pending: dict[int, bytes] = {}
    for frame in frames(wal):
        pending[frame.pgno] = frame.page
        if frame.commit:
            committed |= pending
            pending, page_n, last = {}, frame.commit, frame.frame
    if not last:
        return database, 0
    size = WalHeader.decode(wal).page_size
    content = bytearray(database).ljust(page_n * size, b"\0")
    for pgno, page in committed.items():
        content[(pgno - 1) * size : pgno * size] = page
    return bytes(content[: page_n * size]), last


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"wal-bad-version"}))
def test_recovers_what_sqlite_recovers(name: str) -> None:
    says = CASES[name]["sqlite_says"]
    database, wal = golden.read(f"sqlite/{name}/db"), golden.read(f"sqlite/{name}/db-wal")
    content, last = recover(database, wal)
    assert golden.sha256(content) == says["db_after_recovery_sha256"]
    if "error" not in says:
        assert last == says["wal_frames_seen"]


def test_a_version_that_sqlite_refuses_is_refused() -> None:
    assert "unable to open" in CASES["wal-bad-version"]["sqlite_says"]["error"]
    with pytest.raises(FormatError, match="version"):
        WalHeader.decode(golden.read("sqlite/wal-bad-version/db-wal"))


@pytest.mark.parametrize("name", sorted(CASES))
def test_parses_headers_and_frames_as_listed(name: str) -> None:
    wal, listed = golden.read(f"sqlite/{name}/db-wal"), CASES[name]["wal"]
    header: dict[str, Any] | None = listed.get("header")
    if header is None:
        return
    if header["checksum_ok"] and header["version"] == 3007000 and int(header["magic"], 16) & ~1 == WAL_MAGIC:
        decoded = WalHeader.decode(wal)
        assert decoded.big_endian == (header["magic"] == "377f0683")
        assert [decoded.page_size, decoded.checkpoint_seq, decoded.salt1, decoded.salt2] == [
            header[key] for key in ("page_size", "checkpoint_seq", "salt1", "salt2")
        ]
        assert decoded.encode() == wal[:WAL_HEADER_SIZE]
        valid = [frame[:2] for frame in listed["frames"] if frame[3] and frame[4]]
        assert [[frame.pgno, frame.commit] for frame in frames(wal)] == valid
    else:
        with pytest.raises(FormatError):
            WalHeader.decode(wal)


@pytest.mark.parametrize("name", ["wal-little-endian", "wal-big-endian", "wal-shrink", "wal-4096"])
def test_encodes_the_frames_that_sqlite_wrote(name: str) -> None:
    wal = golden.read(f"sqlite/{name}/db-wal")
    header = WalHeader.decode(wal)
    encoded, checksum = header.encode(), header.checksum
    for frame in frames(wal):
        head, checksum = encode_frame_header(header, checksum, frame.pgno, frame.commit, frame.page)
        encoded += head + frame.page
    assert encoded == wal


# ---- SQLite reads what we write ----


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_sqlite_recovers_a_wal_that_we_wrote(tmp_path: Path, page_size: int, big_endian: bool) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    connection = sqlite3.connect(source, isolation_level=None)
    connection.execute(f"PRAGMA page_size={page_size}")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE t(x)")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    target.write_bytes(source.read_bytes())
    connection.executemany("INSERT INTO t VALUES(?)", [(f"row {n}" * 50,) for n in range(100)])
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    content = source.read_bytes()
    header = WalHeader(big_endian=big_endian, page_size=page_size, checkpoint_seq=3, salt1=11, salt2=12)
    wal, checksum, page_n = header.encode(), header.checksum, len(content) // page_size
    for pgno in range(1, page_n + 1):
        page = content[(pgno - 1) * page_size : pgno * page_size]
        head, checksum = encode_frame_header(header, checksum, pgno, page_n if pgno == page_n else 0, page)
        wal += head + page
    (tmp_path / "target-wal").write_bytes(wal)
    connection = sqlite3.connect(target, isolation_level=None)
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (100,)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    assert target.read_bytes() == content
