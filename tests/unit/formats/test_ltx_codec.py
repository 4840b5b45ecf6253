import contextlib
from collections.abc import Sequence
from dataclasses import replace

import lz4.frame
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from litefs.errors import ChecksumError, FormatError, LiteFSError, NeedMoreData
from litefs.formats.checksum import CHECKSUM_FLAG, EMPTY_DATABASE_CHECKSUM, crc64
from litefs.formats.ltx import FLAG_LZ4, HEADER_SIZE, TRAILER_SIZE, LtxHeader
from litefs.formats.ltx_decoder import LtxDecoder, decode_image
from litefs.formats.ltx_encoder import LtxEncoder, encode_image
from litefs.formats.position import Txid
from tests.support.memory import memory_growth_of
from tests.unit.formats.golden import flipped_bits, pieces
from tests.unit.formats.images import IMAGES, LOCK, SMALL, Image, named, page, snapshot_checksum, text_page

each_image = pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)
each_small_image = pytest.mark.parametrize("image", SMALL, ids=lambda image: image.name)


def encode_in_pieces(image: Image) -> bytes:
    encoder = LtxEncoder(image.header)
    parts = [encoder.header_bytes()]
    parts += [encoder.page(pgno, data) for pgno, data in image.pages]
    parts.append(encoder.finish(image.post_apply))
    return b"".join(parts)


def decode_in_pieces(data: bytes, size: int) -> tuple[LtxDecoder, list[tuple[int, bytes]]]:
    decoder, pages = LtxDecoder(), []
    for piece in pieces(data, size):
        pages += decoder.feed(piece)
    return decoder, pages


# ---- both ways ----


@each_image
def test_whole_image_both_ways(image: Image) -> None:
    data = image.encode()
    header, pages, trailer = decode_image(data)
    assert (header, pages, trailer.post_apply) == (image.header, image.pages, image.post_apply)


@each_image
def test_encoding_in_pieces_means_the_same(image: Image) -> None:
    data = encode_in_pieces(image)
    if not image.header.is_lz4:
        assert data == image.encode()
    assert decode_image(data) == decode_image(image.encode())


@each_image
@pytest.mark.parametrize("size", [1, 7, 100, 512, 4096])
def test_decodes_pieces_of_any_size(image: Image, size: int) -> None:
    if image.header.page_size == 65536 and size == 1:
        size = 13  # a byte at a time is for small images
    decoder, pages = decode_in_pieces(image.encode(), size)
    assert decoder.done
    assert decoder.header == image.header
    assert pages == image.pages
    assert decoder.trailer is not None
    assert decoder.trailer.post_apply == image.post_apply
    assert decoder.unused == b""


@each_image
def test_what_follows_an_image_is_left_alone(image: Image) -> None:
    for tail in (b"t", b"the next image", named("transaction").encode()):
        decoder = LtxDecoder()
        assert decoder.feed(image.encode() + tail) == image.pages
        assert decoder.done
        assert decoder.unused == tail
        with pytest.raises(FormatError):
            decode_image(image.encode() + tail)
    decoder, _ = decode_in_pieces(image.encode() + b"tail", 11)
    assert decoder.done
    assert decoder.unused == b"tail"


def test_pages_come_out_as_soon_as_they_are_complete() -> None:
    image = named("transaction")
    data, decoder = image.encode(), LtxDecoder()
    assert decoder.feed(data[:HEADER_SIZE]) == []
    assert decoder.header == image.header
    assert decoder.feed(data[HEADER_SIZE : HEADER_SIZE + 515]) == []
    assert decoder.feed(data[HEADER_SIZE + 515 : HEADER_SIZE + 516]) == image.pages[:1]
    assert not decoder.done
    assert decoder.unused == b""
    assert decoder.feed(data[HEADER_SIZE + 516 :]) == image.pages[1:]
    assert decoder.done


@settings(max_examples=30, deadline=None)
@given(
    flags=st.sampled_from([0, FLAG_LZ4]),
    pgnos=st.sets(st.integers(1, 400), max_size=200),
    seed=st.integers(0, 2**32),
    size=st.integers(1, 70000),
)
def test_any_pages_come_back(flags: int, pgnos: set[int], seed: int, size: int) -> None:
    pages = [(pgno, page(seed + pgno, 1024) if pgno % 3 else text_page(pgno, 1024)) for pgno in sorted(pgnos)]
    header = replace(named("transaction").header, flags=flags, page_size=1024, commit=400)
    image = Image(name="any", header=header, pages=pages, post_apply=CHECKSUM_FLAG | seed)
    for data in (image.encode(), encode_in_pieces(image)):
        decoder, decoded = decode_in_pieces(data, size)
        assert decoder.done
        assert decoded == pages


# ---- runs of pages, as they lie in a database file ----


@pytest.mark.parametrize("flags", [0, FLAG_LZ4])
def test_runs_of_pages_are_the_pages(flags: int) -> None:
    pages = [(pgno, page(pgno)) for pgno in range(1, 41)]
    database = b"".join(data for _, data in pages)
    header = replace(named("snapshot").header, flags=flags, commit=40)
    for run_n in (1, 3, 40):
        encoder = LtxEncoder(header)
        parts = [encoder.header_bytes(), encoder.pages(1, b"")]
        for index, run in enumerate(pieces(database, 512 * run_n)):
            parts.append(encoder.pages(1 + index * run_n, memoryview(run)))
        parts.append(encoder.finish(snapshot_checksum(pages)))
        assert decode_image(b"".join(parts))[1] == pages


@pytest.mark.parametrize("start", [LOCK - 2, LOCK - 1, LOCK, LOCK + 1])
@pytest.mark.parametrize("page_n", [1, 2, 3, 4])
def test_runs_of_pages_leave_the_lock_page_out(start: int, page_n: int) -> None:
    pages = [(pgno, page(pgno)) for pgno in range(start, start + page_n)]
    encoder = LtxEncoder(named("around-lock-page").header)
    data = encoder.header_bytes() + encoder.pages(start, b"".join(data for _, data in pages))
    data += encoder.finish(CHECKSUM_FLAG)
    assert decode_image(data)[1] == [(pgno, data) for pgno, data in pages if pgno != LOCK]


def test_runs_of_pages_are_checked_as_single_ones_are() -> None:
    encoder = LtxEncoder(named("transaction").header)
    encoder.pages(3, bytes(1024))
    for first_pgno, data in [(4, bytes(512)), (5, bytes(511)), (9, bytes(1024)), (2, bytes(1024))]:
        with pytest.raises(FormatError):
            encoder.pages(first_pgno, data)
    encoder.pages(5, bytes(5 * 512))


def test_a_snapshot_passes_over_the_lock_page_and_over_no_other() -> None:
    # 64 KiB pages: the lock page is 16385, the lowest there is.
    lock = 16385
    header = replace(named("snapshot").header, page_size=65536, commit=lock + 1, flags=FLAG_LZ4)
    encoder = LtxEncoder(header)
    run = bytes(65536 * 64)
    for first_pgno in range(1, lock, 64):
        encoder.pages(first_pgno, run)
    with pytest.raises(FormatError):
        encoder.finish(CHECKSUM_FLAG)
    with pytest.raises(FormatError):
        encoder.page(lock, run[:65536])
    encoder.page(lock + 1, run[:65536])
    encoder.finish(CHECKSUM_FLAG)


# ---- what is refused, by both sides ----

BAD_PAGES: list[tuple[str, str, list[tuple[int, bytes]]]] = [
    ("descending", "transaction", [(2, bytes(512)), (1, bytes(512))]),
    ("twice", "transaction", [(2, bytes(512)), (2, bytes(512))]),
    ("beyond commit", "transaction", [(10, bytes(512))]),
    ("lock page", "around-lock-page", [(LOCK, bytes(512))]),
    ("page after a drop", "drop", [(1, bytes(512))]),
    ("snapshot with a gap", "snapshot", [(1, bytes(512)), (3, bytes(512))]),
    ("snapshot not from page 1", "snapshot", [(2, bytes(512)), (3, bytes(512))]),
    ("snapshot without its last page", "snapshot", [(1, bytes(512)), (2, bytes(512))]),
    ("snapshot without pages", "snapshot", []),
]


def encode_without_checks(header: LtxHeader, pages: Sequence[tuple[int, bytes]], post_apply: int) -> bytes:
    """Encodes what the encoders refuse: as a transaction large enough for anything, then with the header put back."""
    block = b"".join(pgno.to_bytes(4, "big") + data for pgno, data in pages) + bytes(4)
    return reseal(header, block, post_apply)


def reseal(header: LtxHeader, block: bytes, post_apply: int) -> bytes:
    """Builds an image from its parts, with the file checksum it ought to have."""
    post = post_apply.to_bytes(8, "big")
    file_checksum = CHECKSUM_FLAG | crc64(header.encode() + block + post)
    body = lz4.frame.compress(block, content_checksum=True, store_size=False) if header.is_lz4 else block
    return header.encode() + body + post + file_checksum.to_bytes(8, "big")


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)
def test_the_unchecked_encoder_of_these_tests_is_right(image: Image) -> None:
    data = encode_without_checks(image.header, image.pages, image.post_apply)
    assert decode_image(data)[1] == image.pages


@pytest.mark.parametrize("flags", [0, FLAG_LZ4])
@pytest.mark.parametrize(("what", "name", "pages"), BAD_PAGES, ids=[case[0] for case in BAD_PAGES])
def test_bad_pages_are_refused_by_encoders_and_decoder(
    flags: int, what: str, name: str, pages: list[tuple[int, bytes]]
) -> None:
    header = replace(named(name).header, flags=flags)
    image = Image(name=what, header=header, pages=pages, post_apply=snapshot_checksum(pages))
    with pytest.raises(FormatError):
        image.encode()
    with pytest.raises(FormatError):
        encode_in_pieces(image)
    data = encode_without_checks(header, pages, image.post_apply)
    with pytest.raises(FormatError):
        decode_image(data)
    with pytest.raises(FormatError):
        decode_in_pieces(data, 1)


@pytest.mark.parametrize("size", [0, 511, 513, 1024])
def test_encoders_refuse_a_page_of_another_size(size: int) -> None:
    header = named("transaction").header
    with pytest.raises(FormatError):
        encode_image(header, [(1, bytes(size))], CHECKSUM_FLAG)
    with pytest.raises(FormatError):
        LtxEncoder(header).page(1, bytes(size))


def test_encoders_refuse_page_zero() -> None:
    header = named("transaction").header
    with pytest.raises(FormatError):
        encode_image(header, [(0, bytes(512))], CHECKSUM_FLAG)
    with pytest.raises(FormatError):
        LtxEncoder(header).page(0, bytes(512))


@pytest.mark.parametrize(("name", "post_apply"), [("transaction", 0), ("transaction", 5), ("drop", CHECKSUM_FLAG | 5)])
def test_bad_post_apply_checksum_is_refused_by_encoders_and_decoder(name: str, post_apply: int) -> None:
    image = replace(named(name), post_apply=post_apply)
    with pytest.raises(FormatError):
        image.encode()
    with pytest.raises(FormatError):
        encode_in_pieces(image)
    with pytest.raises(FormatError):
        decode_image(encode_without_checks(image.header, image.pages, post_apply))


@pytest.mark.parametrize("name", ["snapshot", "snapshot-lz4"])
def test_a_snapshot_whose_checksum_is_not_that_of_its_pages_is_refused(name: str) -> None:
    image = replace(named(name), post_apply=named(name).post_apply ^ 1)
    with pytest.raises(ChecksumError):
        decode_image(image.encode())


# ---- damage ----


@each_image
def test_every_truncation_asks_for_more(image: Image) -> None:
    data = image.encode()
    step = 1 if len(data) < 4096 else 997
    for size in range(0, len(data), step):
        with pytest.raises(NeedMoreData):
            decode_image(data[:size])


@each_small_image
def test_every_flipped_bit_is_noticed(image: Image) -> None:
    expected = decode_image(image.encode())
    for bit, data in flipped_bits(image.encode()):
        try:
            decoded = decode_image(data)
        except (FormatError, NeedMoreData):
            continue
        # The same content can be written as LZ4 in two ways: an offset may point to an equal byte elsewhere.
        assert image.header.is_lz4, f"bit {bit}"
        assert decoded == expected, f"bit {bit}"


@each_small_image
def test_a_damaged_image_raises_nothing_but_our_own_errors_in_pieces_either(image: Image) -> None:
    for _, data in flipped_bits(image.encode()[:300]):
        try:
            decode_in_pieces(data + image.encode()[300:], 64)
        except LiteFSError:
            continue


@pytest.mark.parametrize("start", range(0, 1600, 16))
@pytest.mark.parametrize("name", ["transaction", "transaction-lz4"])
def test_zeroed_out_and_doubled_regions_are_noticed(name: str, start: int) -> None:
    data = named(name).encode()
    zeroed = data[:start] + bytes(16) + data[start + 16 :]
    doubled = data[: start + 16] + data[start:]
    for damaged in (zeroed[: len(data)], doubled[: len(data)]):
        if damaged == data:  # the region was zero, or lies behind the end
            continue
        with pytest.raises((FormatError, NeedMoreData)):
            decode_image(damaged)


def lz4_image(block: bytes, **options: object) -> bytes:
    """Returns an image whose page block is `block`, compressed as `options` say; its trailer is not reached."""
    header = replace(named("transaction-lz4").header, commit=2**32 - 1)
    frame: bytes = lz4.frame.compress(block, **options)
    return header.encode() + frame + bytes(TRAILER_SIZE)


def test_bytes_behind_the_end_mark_of_a_compressed_block_are_refused() -> None:
    for extra in (1, 4, 600):
        with pytest.raises(FormatError):
            LtxDecoder().feed(lz4_image(bytes(4 + extra)))


def test_a_compressed_block_without_an_end_mark_is_refused() -> None:
    for block in (b"", b"\0\0\0", b"\0\0\0\1", b"\0\0\0\1" + bytes(512)):
        with pytest.raises(FormatError):
            LtxDecoder().feed(lz4_image(block))


def test_a_wrong_content_checksum_is_a_checksum_error() -> None:
    image = bytearray(named("transaction-lz4").encode())
    image[-TRAILER_SIZE - 1] ^= 1
    with pytest.raises(ChecksumError):
        decode_image(image)


@pytest.mark.parametrize(
    "options",
    [
        {"store_size": True},
        {"block_linked": True},
        {"block_checksum": True},
        {"content_checksum": False},
        {"block_size": lz4.frame.BLOCKSIZE_MAX4MB},
        {"compression_level": 9},
    ],
    ids=str,
)
def test_frames_of_other_lz4_writers_are_read(options: dict[str, object]) -> None:
    header = named("transaction-lz4").header
    for pages in (named("transaction-lz4").pages, []):
        plain = encode_image(replace(header, flags=0), pages, CHECKSUM_FLAG)
        block = plain[HEADER_SIZE:-TRAILER_SIZE]
        trailer = encode_image(header, pages, CHECKSUM_FLAG)[-TRAILER_SIZE:]
        data = header.encode() + lz4.frame.compress(block, **options) + trailer
        assert decode_image(data)[1] == pages


@pytest.mark.parametrize("frame_start", ["00000000", "50 2a 4d 18", "04 22 4d 18 24", "04 22 4d 18 65"])
def test_what_is_no_plain_lz4_frame_is_refused(frame_start: str) -> None:
    data = bytearray(named("transaction-lz4").encode())
    start = bytes.fromhex(frame_start)
    data[HEADER_SIZE : HEADER_SIZE + len(start)] = start
    with pytest.raises((FormatError, NeedMoreData)):
        decode_image(data)


def test_our_lz4_frame_begins_as_that_of_go() -> None:
    for image in IMAGES:
        if image.header.is_lz4:
            for data in (image.encode(), encode_in_pieces(image)):
                assert data[HEADER_SIZE : HEADER_SIZE + 7].hex() == "04224d186440a7"


# ---- bounds ----


def feed_in_pieces(data: bytes, piece_size: int) -> None:
    decoder = LtxDecoder()
    with contextlib.suppress(FormatError):
        for piece in pieces(data, piece_size):
            decoder.feed(piece)


def test_a_decompression_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = lz4_image(bytes(64 << 20))
    assert len(bomb) < 300_000
    with memory_growth_of(4 << 20):
        feed_in_pieces(bomb, 4096)


def test_a_decoder_keeps_less_than_a_page_between_pieces() -> None:
    header = replace(named("transaction").header, page_size=65536, commit=1000)
    image = encode_image(header, [(pgno, bytes(65536)) for pgno in range(1, 101)], CHECKSUM_FLAG)
    with memory_growth_of(1 << 20):
        feed_in_pieces(image, 4096)


def test_an_encoder_keeps_nothing() -> None:
    encoder = LtxEncoder(replace(named("transaction-lz4").header, commit=100_000))
    run = bytes(512 * 128)
    with memory_growth_of(2 << 20):
        for first_pgno in range(1, 20_000, 128):
            encoder.pages(first_pgno, run)


def test_a_snapshot_of_a_dropped_database_is_empty() -> None:
    image = named("dropped-snapshot")
    assert image.header.min_txid == Txid(1)
    assert decode_image(image.encode())[1:] == ([], decode_image(image.encode())[2])
    assert decode_image(image.encode())[2].post_apply == EMPTY_DATABASE_CHECKSUM
