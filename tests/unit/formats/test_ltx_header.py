from dataclasses import replace
from typing import Any

import pytest

from litefs.errors import FormatError, NeedMoreData
from litefs.formats.checksum import CHECKSUM_FLAG, EMPTY_DATABASE_CHECKSUM
from litefs.formats.ltx import (
    FLAG_LZ4,
    HEADER_SIZE,
    TRAILER_SIZE,
    LtxHeader,
    LtxTrailer,
    check_post_apply,
    check_snapshot_page_n,
    image_name,
)
from litefs.formats.position import Checksum, NodeId, Pos, Txid
from tests.unit.formats.golden import flipped_bits

SNAPSHOT = LtxHeader(
    page_size=512,
    commit=2,
    min_txid=Txid(1),
    max_txid=Txid(4),
    timestamp_ms=0,
    pre_apply=Checksum(0),
)
FROM_WAL = LtxHeader(
    flags=FLAG_LZ4,
    page_size=4096,
    commit=7,
    min_txid=Txid(5),
    max_txid=Txid(6),
    timestamp_ms=1700000000123,
    pre_apply=Checksum(CHECKSUM_FLAG | 9),
    wal_offset=32,
    wal_size=4120,
    wal_salt1=1,
    wal_salt2=2,
    node_id=NodeId(3),
)
DROP = LtxHeader(
    page_size=65536,
    commit=0,
    min_txid=Txid(2),
    max_txid=Txid(2),
    timestamp_ms=-1,
    pre_apply=Checksum(CHECKSUM_FLAG),
)
EXTREME = LtxHeader(
    page_size=65536,
    commit=2**32 - 1,
    min_txid=Txid(2**64 - 1),
    max_txid=Txid(2**64 - 1),
    timestamp_ms=-(2**63),
    pre_apply=Checksum(2**64 - 1),
    wal_offset=2**63 - 1,
    wal_size=2**63 - 1,
    wal_salt1=2**32 - 1,
    wal_salt2=2**32 - 1,
    node_id=NodeId(2**64 - 1),
)
HEADERS = [SNAPSHOT, FROM_WAL, DROP, EXTREME]

# Field changes that break a rule; the second entry is what the field becomes on the wire.
BROKEN: list[tuple[LtxHeader, dict[str, Any]]] = [
    (FROM_WAL, {"flags": 2}),
    (FROM_WAL, {"flags": 3}),
    (FROM_WAL, {"flags": 1 << 31}),
    (FROM_WAL, {"page_size": 0}),
    (FROM_WAL, {"page_size": 256}),
    (FROM_WAL, {"page_size": 513}),
    (FROM_WAL, {"page_size": 131072}),
    (FROM_WAL, {"min_txid": 0}),
    (FROM_WAL, {"max_txid": 0}),
    (FROM_WAL, {"max_txid": 4}),
    (FROM_WAL, {"pre_apply": 0}),
    (FROM_WAL, {"pre_apply": 9}),
    (SNAPSHOT, {"pre_apply": CHECKSUM_FLAG}),
    (FROM_WAL, {"wal_size": 0}),
    (FROM_WAL, {"wal_offset": 0}),
    (FROM_WAL, {"wal_offset": 0, "wal_size": 0}),
    (FROM_WAL, {"wal_offset": 0, "wal_size": 0, "wal_salt1": 0}),
    (FROM_WAL, {"wal_offset": -1}),
    (FROM_WAL, {"wal_size": -1}),
]
OFFSETS = {
    "flags": (4, 4),
    "page_size": (8, 4),
    "min_txid": (16, 8),
    "max_txid": (24, 8),
    "pre_apply": (40, 8),
    "wal_offset": (48, 8),
    "wal_size": (56, 8),
    "wal_salt1": (64, 4),
}


@pytest.mark.parametrize("header", HEADERS)
def test_header_both_ways(header: LtxHeader) -> None:
    data = header.encode()
    assert len(data) == HEADER_SIZE
    assert data[80:] == bytes(20)
    assert LtxHeader.decode(data) == LtxHeader.decode(memoryview(data + b"tail")) == header


@pytest.mark.parametrize(("header", "change"), BROKEN, ids=lambda value: str(value) if isinstance(value, dict) else "")
def test_broken_rule_is_refused_when_building_and_when_decoding(header: LtxHeader, change: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        replace(header, **change)
    data = bytearray(header.encode())
    for field, value in change.items():
        offset, size = OFFSETS[field]
        data[offset : offset + size] = value.to_bytes(size, "big", signed=value < 0)
    with pytest.raises(FormatError):
        LtxHeader.decode(data)


@pytest.mark.parametrize(
    "change",
    [
        {"commit": 2**32},
        {"commit": -1},
        {"max_txid": 2**64},
        {"timestamp_ms": 2**63},
        {"wal_salt1": -1},
    ],
)
def test_refuses_to_encode_what_does_not_fit(change: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        replace(FROM_WAL, **change).encode()


@pytest.mark.parametrize("header", HEADERS)
def test_every_truncation_of_a_header_asks_for_more(header: LtxHeader) -> None:
    data = header.encode()
    for size in range(HEADER_SIZE):
        with pytest.raises(NeedMoreData):
            LtxHeader.decode(data[:size])


@pytest.mark.parametrize("size", [1, 3, 4, 50, HEADER_SIZE])
def test_wrong_magic_is_refused_at_the_first_byte(size: int) -> None:
    with pytest.raises(FormatError):
        LtxHeader.decode((b"X" + SNAPSHOT.encode()[1:])[:size])


def test_every_flipped_bit_of_a_header_shows() -> None:
    for bit, data in flipped_bits(FROM_WAL.encode()):
        try:
            header = LtxHeader.decode(data)
        except FormatError:
            continue
        # The reserved bytes are not validated; the file checksum covers them.
        assert (header == FROM_WAL) == (bit >= 640), bit


def test_positions_and_kinds() -> None:
    assert FROM_WAL.pre_apply_pos == Pos(txid=Txid(4), checksum=Checksum(CHECKSUM_FLAG | 9))
    assert SNAPSHOT.pre_apply_pos == Pos(txid=Txid(0), checksum=Checksum(0))
    assert SNAPSHOT.is_snapshot
    assert not SNAPSHOT.is_lz4
    assert FROM_WAL.is_lz4
    assert not FROM_WAL.is_snapshot


def test_trailer_both_ways_and_every_truncation() -> None:
    trailer = LtxTrailer(post_apply=Checksum(CHECKSUM_FLAG | 1), file_checksum=Checksum(2**64 - 1))
    data = trailer.encode()
    assert len(data) == TRAILER_SIZE
    assert LtxTrailer.decode(data + b"tail") == trailer
    for size in range(TRAILER_SIZE):
        with pytest.raises(NeedMoreData):
            LtxTrailer.decode(data[:size])


def test_post_apply_checksum_must_fit_the_header() -> None:
    check_post_apply(SNAPSHOT, CHECKSUM_FLAG | 5)
    check_post_apply(DROP, EMPTY_DATABASE_CHECKSUM)
    for header, post_apply in [(SNAPSHOT, 0), (SNAPSHOT, 5), (DROP, CHECKSUM_FLAG | 5)]:
        with pytest.raises(FormatError):
            check_post_apply(header, post_apply)


@pytest.mark.parametrize(("commit", "page_n"), [(0, 0), (16384, 16384), (16385, 16384), (16386, 16385)])
def test_a_snapshot_has_every_page_but_the_lock_page(commit: int, page_n: int) -> None:
    header = replace(SNAPSHOT, page_size=65536, commit=commit)
    check_snapshot_page_n(header, page_n)
    for wrong in (page_n - 1, page_n + 1):
        with pytest.raises(FormatError):
            check_snapshot_page_n(header, wrong)


def test_image_name_is_that_of_the_go_tools() -> None:
    assert image_name(1, 0x1A) == "0000000000000001-000000000000001a.ltx"
