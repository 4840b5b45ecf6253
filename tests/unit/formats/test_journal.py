import random
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from litefs.errors import FormatError, NeedMoreData
from litefs.formats.checksum import lock_pgno
from litefs.formats.journal import (
    JOURNAL_HEADER_SIZE,
    JOURNAL_MAGIC,
    RECORD_N_UNKNOWN,
    JournalHeader,
    JournalReader,
    JournalWriter,
    is_active,
    record_checksum,
    super_journal_name,
)
from tests.unit.formats import golden
from tests.unit.formats.golden import flipped_bits

CASES = golden.load("sqlite/manifest.json")["cases"]
JOURNALS = {name: case for name, case in CASES.items() if name.startswith("journal-")}
SUPER_JOURNALS = {name: case for name, case in CASES.items() if name.startswith("super-journal-")}

HEADER = JournalHeader(record_n=3, nonce=4123363574, page_n=15, sector_size=512, page_size=1024)


def reader(journal: bytes) -> JournalReader:
    return JournalReader(lambda offset, size: journal[offset : offset + size], len(journal))


def super_name(journal: bytes) -> bytes | None:
    return super_journal_name(lambda offset, size: journal[offset : offset + size], len(journal))


def roll_back(database: bytes, journal: bytes) -> bytes:
    """Plays a hot journal back, whatever its super-journal."""
    opened = reader(journal)
    if opened.header is None:
        return database
    size, page_n = opened.header.page_size, opened.header.page_n
    content = bytearray(database[: page_n * size]).ljust(page_n * size, b"\0")
    for record in opened.records():
        content[(record.pgno - 1) * size : record.pgno * size] = record.page
    return bytes(content)


def page(seed: int, size: int = 512) -> bytes:
    return random.Random(seed).randbytes(size)


def make_journal(*pgnos: int, page_n: int = 9, page_size: int = 512, sector_size: int = 512) -> bytes:
    writer = JournalWriter(page_size=page_size, page_n=page_n, nonce=2**32 - 3, sector_size=sector_size)
    return writer.header(len(pgnos)) + b"".join(writer.record(pgno, page(pgno, page_size)) for pgno in pgnos)


# ---- header ----


@pytest.mark.parametrize("header", [HEADER, replace(HEADER, record_n=RECORD_N_UNKNOWN), replace(HEADER, page_n=0)])
def test_header_both_ways(header: JournalHeader) -> None:
    data = header.encode()
    assert len(data) == JOURNAL_HEADER_SIZE
    assert JournalHeader.decode(memoryview(data + b"tail")) == header


def test_header_asks_for_more_or_refuses() -> None:
    data = HEADER.encode()
    for size in range(JOURNAL_HEADER_SIZE):
        with pytest.raises(NeedMoreData):
            JournalHeader.decode(data[:size])
    for bit, damaged in flipped_bits(data):
        if bit < 8 * len(JOURNAL_MAGIC):
            with pytest.raises(FormatError):
                JournalHeader.decode(damaged)
        else:
            assert JournalHeader.decode(damaged) != HEADER


# ---- is the transaction still open? ----


@pytest.mark.parametrize(
    ("prefix", "active"),
    [
        (b"", False),
        (bytes(1), False),
        (bytes(27), False),
        (bytes(28), False),
        (bytes(28) + b"stale records of an older transaction", False),
        (HEADER.encode(), True),
        (HEADER.encode()[:1], True),
        (bytes(12) + HEADER.encode()[12:], True),
        (bytes(27) + b"\x01", True),
    ],
)
def test_a_journal_is_active_until_it_is_emptied_or_zeroed(prefix: bytes, active: bool) -> None:
    assert is_active(prefix) is is_active(memoryview(prefix)) is active


@pytest.mark.parametrize("name", sorted(JOURNALS))
def test_golden_journals_are_active_unless_ended(name: str) -> None:
    ended = {"journal-zeroed-header", "journal-persist-committed", "journal-truncate-committed", "journal-cut-at-0"}
    assert is_active(golden.read(f"sqlite/{name}/db-journal")[:28]) == (name not in ended)


# ---- records ----


@pytest.mark.parametrize("page_size", [512, 1024, 65536])
@pytest.mark.parametrize("sector_size", [32, 512, 4096, 65536])
def test_records_both_ways(page_size: int, sector_size: int) -> None:
    journal = make_journal(3, 1, 9, page_size=page_size, sector_size=sector_size)
    opened = reader(journal)
    assert opened.header is not None
    assert opened.header.record_n == 3
    assert [(record.pgno, record.page) for record in opened.records()] == [
        (pgno, page(pgno, page_size)) for pgno in (3, 1, 9)
    ]
    assert len(journal) == sector_size + 3 * (page_size + 8)


def test_record_checksum_sums_every_200th_byte_from_the_end() -> None:
    data = bytes(range(256)) * 4
    assert record_checksum(5, data) == 5 + data[824] + data[624] + data[424] + data[224] + data[24]
    assert record_checksum(5, data[:512]) == 5 + data[312] + data[112]
    assert record_checksum(2**32 - 1, data[:512]) == data[312] + data[112] - 1
    # 64 KiB pages end at byte 136, and byte 0 never counts.
    assert record_checksum(0, b"\1" + bytes(1599)) == 0


def test_a_journal_cut_anywhere_has_its_whole_records() -> None:
    journal = make_journal(1, 2, 3)
    for size in range(len(journal) + 1):
        assert len(list(reader(journal[:size]).records())) == max(0, (size - 512) // 520)
        assert (reader(journal[:size]).header is None) == (size < 512)


def test_every_flipped_bit_of_the_first_record_that_the_checksum_covers_ends_the_playback() -> None:
    journal = make_journal(1, 2)
    covered = {512 + 4 + 112, 512 + 4 + 312, *range(512 + 516, 512 + 520)}
    for bit, damaged in flipped_bits(journal[: 512 + 520]):
        pgnos = [record.pgno for record in reader(damaged + journal[1032:]).records()]
        if bit // 8 in covered:
            assert pgnos == []
        elif bit // 8 >= 516:
            assert pgnos == [1, 2]


@pytest.mark.parametrize(
    ("change", "pgnos"),
    [
        ({"record_n": 0}, []),
        ({"record_n": 1}, [1]),
        ({"record_n": 4}, [1, 2, 3]),
        ({"record_n": RECORD_N_UNKNOWN}, [1, 2, 3]),
        ({"page_n": 2}, [1, 2]),
        ({"page_size": 0}, None),
        ({"page_size": 256}, None),
        ({"page_size": 513}, None),
        ({"page_size": 131072}, None),
        ({"sector_size": 0}, None),
        ({"sector_size": 16}, None),
        ({"sector_size": 513}, None),
        ({"sector_size": 131072}, None),
        ({"nonce": 1}, []),
    ],
    ids=str,
)
def test_the_header_says_what_is_played_back(change: dict[str, int], pgnos: list[int] | None) -> None:
    journal = make_journal(1, 2, 3)
    header = JournalHeader.decode(journal)
    changed: dict[str, Any] = dict(change)
    opened = reader(replace(header, **changed).encode() + journal[28:])
    assert (opened.header is None) == (pgnos is None)
    assert [record.pgno for record in opened.records()] == (pgnos or [])


@pytest.mark.parametrize("bad_pgno", [0, lock_pgno(512)])
def test_playback_ends_at_page_zero_and_at_the_lock_page(bad_pgno: int) -> None:
    journal = bytearray(make_journal(1, 2, 3, page_n=2**32 - 1))
    journal[1032:1036] = bad_pgno.to_bytes(4, "big")
    assert [record.pgno for record in reader(bytes(journal)).records()] == [1]


def test_a_segment_that_is_not_complete_ends_the_playback() -> None:
    segment = make_journal(1, 2)
    segment += bytes(-len(segment) % 512)
    assert [record.pgno for record in reader(segment + make_journal(3)).records()] == [1, 2, 3]
    assert [record.pgno for record in reader(segment + make_journal(3)[:511]).records()] == [1, 2]
    assert [record.pgno for record in reader(segment + bytes(2000)).records()] == [1, 2]


def test_writer_refuses_what_sqlite_would_not_play_back() -> None:
    writer = JournalWriter(page_size=512, page_n=lock_pgno(512) + 1, nonce=1)
    for pgno, size in [(0, 512), (lock_pgno(512), 512), (lock_pgno(512) + 2, 512), (1, 511), (1, 1024)]:
        with pytest.raises(FormatError):
            writer.record(pgno, bytes(size))
    writer.record(lock_pgno(512) + 1, bytes(512))
    for page_size, sector_size in [(513, 512), (256, 512), (512, 0), (512, 131072)]:
        with pytest.raises(FormatError):
            JournalWriter(page_size=page_size, page_n=1, nonce=1, sector_size=sector_size)


# ---- super-journal ----


def with_super_journal(journal: bytes, name: bytes, **change: int) -> bytes:
    length, checksum = change.get("length", len(name)), change.get("checksum", sum(name) & 0xFFFFFFFF)
    trailer = length.to_bytes(4, "big") + checksum.to_bytes(4, "big") + JOURNAL_MAGIC
    return journal + lock_pgno(512).to_bytes(4, "big") + name + trailer


def test_super_journal_name_is_read_from_the_end() -> None:
    journal = make_journal(1)
    assert super_name(with_super_journal(journal, b"/mnt/a.db-mjE333F09B2")) == b"/mnt/a.db-mjE333F09B2"
    assert super_name(with_super_journal(b"", b"n")) == b"n"
    # Bytes above 127 are summed as negative numbers.
    name = b"/mnt/\x7f\x80\xff-mj"
    signed = sum(byte - 256 * (byte > 127) for byte in name) & 0xFFFFFFFF
    assert super_name(with_super_journal(journal, name, checksum=signed)) == name
    assert super_name(with_super_journal(journal, name)) is None


@pytest.mark.parametrize("change", [{"length": 0}, {"length": 2**32 - 1}, {"length": 20}, {"checksum": 5}], ids=str)
def test_a_super_journal_name_that_does_not_add_up_is_none(change: dict[str, int]) -> None:
    assert super_name(with_super_journal(make_journal(1), b"/mnt/a.db-mjE333F09B2", **change)) is None


def test_most_journals_name_no_super_journal() -> None:
    for journal in (b"", bytes(15), bytes(16), make_journal(1, 2), JOURNAL_MAGIC * 3):
        assert super_name(journal) is None
    assert super_name(with_super_journal(b"", b"n" * 513)) is None
    for size in range(60):
        assert super_name(with_super_journal(make_journal(1), b"/mnt/a.db-mjE333F09B2")[-size - 1 : -1]) is None


@pytest.mark.parametrize("name", sorted(SUPER_JOURNALS))
def test_golden_super_journal_names_decide_about_the_rollback(name: str) -> None:
    case = SUPER_JOURNALS[name]
    present = {Path(path).name for path in case["files"]}
    for database in ("a.db", "b.db"):
        content = golden.read(f"sqlite/{name}/{database}")
        journal = golden.read(f"sqlite/{name}/{database}-journal")
        super_journal = super_name(journal)
        assert super_journal is not None
        assert super_journal.decode() == case["journals"][f"{database}-journal"]["super_journal"]["name"]
        if Path(super_journal.decode()).name in present:
            content = roll_back(content, journal)
        assert golden.sha256(content) == case["sqlite_says"][f"{database} sha256 after recovery"]


# ---- golden: what SQLite makes of a journal ----


@pytest.mark.parametrize("name", sorted(JOURNALS))
def test_rolls_back_what_sqlite_rolls_back(name: str) -> None:
    case = JOURNALS[name]
    content = roll_back(golden.read(f"sqlite/{name}/db"), golden.read(f"sqlite/{name}/db-journal"))
    assert golden.sha256(content) == case["sqlite_says"]["db_after_recovery_sha256"]


@pytest.mark.parametrize("name", [name for name in sorted(JOURNALS) if name.startswith("journal-hot")])
def test_writes_the_records_that_sqlite_wrote(name: str) -> None:
    journal = golden.read(f"sqlite/{name}/db-journal")
    first = JournalHeader.decode(journal)
    writer = JournalWriter(
        page_size=first.page_size, page_n=first.page_n, nonce=first.nonce, sector_size=first.sector_size
    )
    records = list(reader(journal).records())
    # SQLite fills the rest of the header's sector with zeros or with what it had; the 28 bytes are the header.
    assert writer.header(first.record_n)[:28] == journal[:28]
    first_segment = records if first.record_n == RECORD_N_UNKNOWN else records[: first.record_n]
    encoded = b"".join(writer.record(record.pgno, record.page) for record in first_segment)
    assert encoded
    assert journal[first.sector_size :].startswith(encoded)


# ---- SQLite reads what we write ----


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
@pytest.mark.parametrize("is_synced", [True, False])
def test_sqlite_rolls_back_a_journal_that_we_wrote(tmp_path: Path, page_size: int, is_synced: bool) -> None:
    path = tmp_path / "db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA page_size={page_size}")
    connection.execute("CREATE TABLE t(x)")
    connection.executemany("INSERT INTO t VALUES(?)", [(f"old {n}" * 100,) for n in range(50)])
    before = path.read_bytes()
    connection.execute("UPDATE t SET x = replace(x, 'old', 'newer')")
    connection.execute("CREATE TABLE u AS SELECT * FROM t")
    connection.close()
    after = path.read_bytes()
    page_n = len(before) // page_size
    assert len(after) > len(before)
    writer = JournalWriter(page_size=page_size, page_n=page_n, nonce=12345)
    pages = [before[offset : offset + page_size] for offset in range(0, len(before), page_size)]
    journal = writer.header(page_n if is_synced else RECORD_N_UNKNOWN)
    journal += b"".join(writer.record(pgno, data) for pgno, data in enumerate(pages, 1))
    assert is_active(journal)
    (tmp_path / "db-journal").write_bytes(journal)
    connection = sqlite3.connect(path, isolation_level=None)
    assert connection.execute("SELECT count(*), min(substr(x, 1, 3)) FROM t").fetchone() == (50, "old")
    connection.close()
    assert path.read_bytes() == before
    assert not (tmp_path / "db-journal").exists()
