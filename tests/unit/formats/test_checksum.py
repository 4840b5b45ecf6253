from collections.abc import Callable
from functools import lru_cache

import pytest

from litefs.formats.checksum import (
    CHECKSUM_FLAG,
    EMPTY_DATABASE_CHECKSUM,
    crc64,
    database_checksum,
    lock_pgno,
    page_checksum,
    page_checksums,
)
from tests.unit.formats import golden

VECTORS = golden.load("checksum/vectors.json")
FILLS: dict[str, Callable[[int], int]] = {
    "zero": lambda i: 0,
    "ones": lambda i: 1,
    "count": lambda i: i & 255,
    "mix": lambda i: (i * i * 31 + (i >> 8)) & 255,
}


@lru_cache
def page(fill: str, page_size: int) -> bytes:
    return bytes(FILLS[fill](i) for i in range(page_size))


@pytest.mark.parametrize("vector", VECTORS["crc64_go_iso"], ids=lambda vector: repr(vector["text"]))
def test_crc64_is_that_of_go(vector: dict[str, str]) -> None:
    data, expected = vector["text"].encode(), int(vector["crc64"], 16)
    assert crc64(data) == expected
    assert crc64(bytearray(data)) == crc64(memoryview(data)) == expected


def test_crc64_continues_from_a_previous_one() -> None:
    for cut in range(10):
        assert crc64(b"123456789"[cut:], crc64(b"123456789"[:cut])) == 0xB90956C775A41001


def test_crc64_equals_the_bitwise_definition() -> None:
    data, crc = bytes(range(256)), 2**64 - 1
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xD800000000000000 if crc & 1 else 0)
    assert crc64(data) == crc ^ (2**64 - 1)


def test_page_checksums_are_those_of_go() -> None:
    assert len(VECTORS["pages"]) > 80
    for vector in VECTORS["pages"]:
        data = page(vector["fill"], vector["page_size"])
        assert page_checksum(vector["pgno"], data) == int(vector["page_checksum"], 16), vector
        if vector["pgno"] != lock_pgno(vector["page_size"]):
            assert page_checksums(data, vector["page_size"], vector["pgno"]) == [int(vector["page_checksum"], 16)]


def test_page_checksum_that_the_go_tests_state() -> None:
    assert page_checksum(1, b"\x01" * 512) == 0xE4E4AAA102377EEE


def test_database_checksums_are_those_of_go() -> None:
    for vector in VECTORS["databases"]:
        if vector["fills"]:
            data = b"".join(page(fill, vector["page_size"]) for fill in vector["fills"])
            checksum = database_checksum(page_checksums(data, vector["page_size"], 1))
            assert checksum == int(vector["db_checksum"], 16), vector


def test_a_database_without_pages_has_a_checksum() -> None:
    assert database_checksum([]) == EMPTY_DATABASE_CHECKSUM == CHECKSUM_FLAG


@pytest.mark.parametrize("vector", VECTORS["lock_page"], ids=lambda vector: str(vector["page_size"]))
def test_lock_page_is_where_the_lock_bytes_are(vector: dict[str, int]) -> None:
    assert lock_pgno(vector["page_size"]) == vector["lock_pgno"]


@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_lock_page_counts_as_nothing(before: int) -> None:
    data = b"".join(page(fill, 512) for fill in ("mix", "ones", "count"))
    lock = lock_pgno(512)
    sums = page_checksums(data, 512, lock - before)
    for index, checksum in enumerate(sums):
        pgno = lock - before + index
        assert checksum == (0 if pgno == lock else page_checksum(pgno, data[512 * index : 512 * index + 512]))
    assert (0 in sums) == (before < 3)


def test_takes_any_buffer_and_an_empty_one() -> None:
    data = page("mix", 1024)
    assert page_checksums(bytearray(data), 512, 1) == page_checksums(memoryview(data), 512, 1)
    assert page_checksums(b"", 512, 1) == []


def test_database_checksum_is_incremental() -> None:
    data = bytearray(b"".join(page(fill, 512) for fill in ("mix", "ones", "count")))
    before = database_checksum(page_checksums(data, 512, 1))
    old = page_checksum(2, data[512:1024])
    data[512:1024] = page("zero", 512)
    assert database_checksum(page_checksums(data, 512, 1)) == CHECKSUM_FLAG | (
        before ^ old ^ page_checksum(2, data[512:1024])
    )
