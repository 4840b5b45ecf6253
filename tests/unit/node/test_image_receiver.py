"""One image from a peer that may send anything."""

import resource
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import lz4.frame
import pytest

from litefs.errors import FormatError, LiteFSError, PositionMismatchError
from litefs.formats.checksum import CHECKSUM_FLAG, crc64, database_checksum, page_checksums
from litefs.formats.ltx import FLAG_LZ4, LtxHeader, LtxTrailer
from litefs.formats.ltx_encoder import encode_image
from litefs.formats.position import ZERO_POS, Checksum, Pos, Txid
from litefs.node.image_receiver import MEMORY_BYTES, SMALL_SNAPSHOT_PAGES, ImageReceiver
from tests.support.memory import memory_growth_of

HERE = Pos(txid=Txid(6), checksum=Checksum(CHECKSUM_FLAG | 99))
PAGE_SIZE = 512
NEXT = LtxHeader(
    page_size=PAGE_SIZE,
    commit=9,
    min_txid=Txid(7),
    max_txid=Txid(7),
    timestamp_ms=1_700_000_000_000,
    pre_apply=HERE.checksum,
)
SNAPSHOT = replace(NEXT, min_txid=Txid(1), pre_apply=Checksum(0))
MEMORY_MAX = 64 << 20
"""One step of LZ4 returns 16 MiB, which exist up to three times: as a block, as pages, and joined for the disk."""


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    for name in ("dbs", "spool"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def memory() -> Iterator[None]:
    """Fails if Python held more than `MEMORY_MAX` at any time."""
    with memory_growth_of(MEMORY_MAX):
        yield


def transaction(page_n: int = 3, *, header: LtxHeader = NEXT, seed: int = 1) -> bytes:
    pages = [(pgno, bytes([seed, pgno & 255]) * (header.page_size // 2)) for pgno in range(1, page_n + 1)]
    return encode_image(header, pages, CHECKSUM_FLAG | 100)


def snapshot(page_n: int, *, flags: int = 0, page_size: int = PAGE_SIZE) -> bytes:
    content = b"".join(bytes([7, pgno & 255]) * (page_size // 2) for pgno in range(1, page_n + 1))
    header = replace(SNAPSHOT, page_size=page_size, commit=page_n, max_txid=Txid(9), flags=flags)
    pages = [(at // page_size + 1, content[at : at + page_size]) for at in range(0, len(content), page_size)]
    return encode_image(header, pages, database_checksum(page_checksums(content, page_size, 1)) | CHECKSUM_FLAG)


def receive(receiver: ImageReceiver, data: bytes, piece: int = 1 << 20) -> None:
    for at in range(0, len(data), piece):
        receiver.feed(data[at : at + piece])
    receiver.end()
    if receiver.is_replacement:
        receiver.finish()


def files(data_dir: Path) -> list[str]:
    return sorted(str(path.relative_to(data_dir)) for path in data_dir.rglob("*") if path.is_file())


@pytest.mark.parametrize("piece", [1, 7, 99, 100, 101, 1 << 20])
def test_a_transaction_is_kept_in_memory_whatever_pieces_it_comes_in(data_dir: Path, piece: int) -> None:
    data = transaction()
    receiver = ImageReceiver("db", data_dir, HERE)
    receive(receiver, data, piece)
    image = receiver.image()
    assert image is not None
    assert (receiver.encoded(), receiver.post_apply, receiver.size) == (data, CHECKSUM_FLAG | 100, len(data))
    assert [pgno for pgno, _ in image.pages()] == [1, 2, 3]
    assert files(data_dir) == []


@pytest.mark.parametrize("piece", [1, 7, 99, 100, 101, 1 << 20])
@pytest.mark.parametrize("flags", [0, FLAG_LZ4])
def test_a_snapshot_goes_to_the_incoming_files_whatever_pieces_it_comes_in(
    data_dir: Path, piece: int, flags: int
) -> None:
    receiver = ImageReceiver("db", data_dir, HERE)
    receive(receiver, snapshot(5, flags=flags), piece)
    assert receiver.is_replacement
    sizes = sorted(path.stat().st_size for path in (data_dir / "dbs" / "db").iterdir())
    assert sizes == [5 * 8, 5 * PAGE_SIZE], "page checksums and pages"


def test_a_small_database_that_is_new_here_comes_as_a_transaction(data_dir: Path) -> None:
    small, large = (ImageReceiver("db", data_dir, ZERO_POS) for _ in range(2))
    receive(small, snapshot(SMALL_SNAPSHOT_PAGES))
    receive(large, snapshot(SMALL_SNAPSHOT_PAGES + 1))
    assert (small.is_replacement, large.is_replacement) == (False, True)


@pytest.mark.parametrize(
    "header",
    [
        replace(NEXT, min_txid=Txid(8), max_txid=Txid(8)),
        replace(NEXT, min_txid=Txid(6)),
        replace(NEXT, max_txid=Txid(2**64 - 1), min_txid=Txid(2**64 - 1)),
        replace(NEXT, pre_apply=Checksum(HERE.checksum ^ 1)),
    ],
    ids=["gap", "again", "far ahead", "another checksum"],
)
def test_an_image_that_does_not_follow_is_refused_with_its_header(data_dir: Path, header: LtxHeader) -> None:
    with pytest.raises(PositionMismatchError):
        ImageReceiver("db", data_dir, HERE).feed(header.encode())
    with pytest.raises(PositionMismatchError):
        ImageReceiver("db", data_dir, ZERO_POS).feed(header.encode())


def test_a_large_image_is_spooled_whole(data_dir: Path) -> None:
    page_n = 2 * MEMORY_BYTES // 4096
    data = transaction(page_n, header=replace(NEXT, page_size=4096, commit=page_n))
    receiver = ImageReceiver("db", data_dir, HERE)
    receive(receiver, data, 10_007)
    assert receiver.spool_path is not None
    assert receiver.spool_path.read_bytes() == data
    assert receiver.image() is None, "its pages are read from the log"
    receiver.discard_spool()
    assert files(data_dir) == []


def test_a_spool_that_the_disk_takes_half_of_is_no_image(data_dir: Path) -> None:
    page_n = 2 * MEMORY_BYTES // 4096
    data = transaction(page_n, header=replace(NEXT, page_size=4096, commit=page_n))
    receiver = ImageReceiver("db", data_dir, HERE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(data) - 10, hard))  # the last write is cut short, without an error
    try:
        with pytest.raises(OSError, match="too large"):
            receive(receiver, data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    receiver.abort()
    assert files(data_dir) == []


@pytest.mark.parametrize("make", [transaction, lambda: snapshot(3)], ids=["transaction", "snapshot"])
def test_no_cut_and_no_flipped_bit_is_taken_for_an_image(data_dir: Path, make: Callable[[], bytes]) -> None:
    data = make()
    changed = [data[:size] for size in range(0, len(data), 11)]
    changed += [
        data[:at] + bytes([data[at] ^ 1 << (at & 7)]) + data[at + 1 :]
        for at in range(len(data))
        if not 80 <= at < 100  # 20 bytes of the header are reserved, but in the file checksum
    ]
    changed += [data + b"\0", data[:85] + b"\1" + data[86:], b"", bytes(1000)]
    for bad in changed:
        receiver = ImageReceiver("db", data_dir, HERE)
        with pytest.raises(LiteFSError):
            receive(receiver, bad)
        receiver.abort()
        assert files(data_dir) == []


def test_a_snapshot_whose_pages_give_another_checksum_is_refused(data_dir: Path) -> None:
    header = replace(SNAPSHOT, commit=1)
    body = header.encode() + b"\0\0\0\1" + bytes(PAGE_SIZE) + bytes(4)
    trailer = LtxTrailer(post_apply=Checksum(CHECKSUM_FLAG | 5), file_checksum=Checksum(0))
    checksum = CHECKSUM_FLAG | crc64(body + trailer.encode()[:8])
    data = body + replace(trailer, file_checksum=Checksum(checksum)).encode()
    receiver = ImageReceiver("db", data_dir, HERE)
    with pytest.raises(FormatError, match="post-apply"):
        receive(receiver, data)
    receiver.abort()
    assert files(data_dir) == []


def bomb(header: LtxHeader, page_n: int) -> bytes:
    """Returns the header, and the LZ4 frame of `page_n` pages that are alike: it expands about 250 times."""
    frame = lz4.frame.LZ4FrameCompressor(block_size=lz4.frame.BLOCKSIZE_MAX4MB)
    parts = [header.encode(), frame.begin()]
    page = bytes(header.page_size)
    parts += [frame.compress(pgno.to_bytes(4, "big") + page) for pgno in range(1, page_n + 1)]
    return b"".join((*parts, frame.compress(bytes(4)), frame.flush()))


@pytest.mark.parametrize("header", [NEXT, SNAPSHOT], ids=["transaction", "snapshot"])
@pytest.mark.parametrize("page_size", [512, 65536])
def test_an_image_that_expands_250_times_costs_no_memory(
    data_dir: Path, header: LtxHeader, page_size: int, memory: None
) -> None:
    page_n = (32 << 20 if page_size == 512 else 128 << 20) // page_size
    data = bomb(replace(header, flags=FLAG_LZ4, page_size=page_size, commit=page_n), page_n)
    assert len(data) < (4 << 20)
    receiver = ImageReceiver("db", data_dir, HERE)
    receiver.feed(data)
    with pytest.raises(FormatError):
        receiver.end()
    receiver.abort()
    assert files(data_dir) == []


def test_a_header_that_announces_two_tebibytes_costs_nothing(data_dir: Path, memory: None) -> None:
    for header in (NEXT, SNAPSHOT):
        huge = replace(header, page_size=65536, commit=2**32 - 1)
        receiver = ImageReceiver("db", data_dir, HERE)
        with pytest.raises(FormatError):
            receive(receiver, huge.encode() + bytes(4))
        receiver.abort()
    assert files(data_dir) == []
