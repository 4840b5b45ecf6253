import sqlite3
from pathlib import Path

import pytest

from litefs.errors import FormatError
from litefs.formats.sqlite_header import (
    DATABASE_HEADER_SIZE,
    PAGE_SIZES,
    SqliteHeader,
    is_wal_mode,
    page_n_of,
    page_size_of,
)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "db"


def make(database: Path, page_size: int, journal_mode: str) -> bytes:
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute(f"PRAGMA page_size={page_size}")
    connection.execute(f"PRAGMA journal_mode={journal_mode}")
    for n in range(3):
        connection.execute(f"CREATE TABLE t{n}(x)")
    connection.close()
    return database.read_bytes()


@pytest.mark.parametrize("page_size", sorted(PAGE_SIZES))
@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_reads_what_sqlite_writes(database: Path, page_size: int, journal_mode: str) -> None:
    data = make(database, page_size, journal_mode)
    header = SqliteHeader.parse(data)
    assert header.page_size == page_size_of(data) == page_size
    assert header.page_n == page_n_of(data) == len(data) // page_size == 4
    assert is_wal_mode(data) == (journal_mode == "wal")
    assert header.is_page_n_valid
    assert header.change_counter == header.version_valid_for > 0


def test_a_stale_page_n_is_told_from_a_valid_one(database: Path) -> None:
    data = bytearray(make(database, 512, "delete"))
    data[27] ^= 1
    assert not SqliteHeader.parse(data).is_page_n_valid
    assert not page_n_of(data)
    data[27] ^= 1
    data[28:32] = bytes(4)
    assert not SqliteHeader.parse(data).is_page_n_valid


def test_refuses_every_truncation(database: Path) -> None:
    data = make(database, 512, "delete")
    for size in range(DATABASE_HEADER_SIZE):
        with pytest.raises(FormatError):
            SqliteHeader.parse(data[:size])
    assert SqliteHeader.parse(data[:DATABASE_HEADER_SIZE]) == SqliteHeader.parse(memoryview(data))


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0, b"s"),
        (15, b"0"),
        (16, b"\x00\x00"),
        (16, b"\x01\x00"),
        (16, b"\x02\x01"),
        (16, b"\x00\x02"),
        (18, b"\x00"),
        (18, b"\x03"),
        (19, b"\x00"),
        (19, b"\x03"),
    ],
)
def test_refuses_what_sqlite_would_not_write(database: Path, offset: int, value: bytes) -> None:
    data = bytearray(make(database, 512, "delete"))
    data[offset : offset + len(value)] = value
    with pytest.raises(FormatError):
        SqliteHeader.parse(data)
