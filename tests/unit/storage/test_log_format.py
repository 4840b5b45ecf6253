"""The bytes of the log."""

import pytest

from litefs.errors import FormatError
from litefs.storage.log_format import (
    RECORD_HEADER_SIZE,
    SEGMENT_HEADER_SIZE,
    STATE_OFFSET,
    RecordState,
    decode_record_header,
    decode_segment_header,
    encode_record_header,
    encode_segment_header,
    padded,
    segment_name,
    segment_txid,
)

BIG = (1 << 64) - 1
VALUES = (1234, 5, 7, 1 << 62, 1 << 63, 99, 4)


@pytest.mark.parametrize("state", RecordState)
@pytest.mark.parametrize("values", [VALUES, (0,) * 7, (BIG,) * 7])
def test_a_record_header_decodes_to_what_was_encoded(state: RecordState, values: tuple[int, ...]) -> None:
    data = encode_record_header(state, *values)
    assert len(data) == RECORD_HEADER_SIZE
    header = decode_record_header(data)
    assert header.state is state
    assert (header.length, header.min_txid, header.max_txid, header.group) == values[:4]
    assert (header.post_apply, header.segment_id, header.durable) == values[4:]


def test_a_record_header_is_the_documented_bytes() -> None:
    data = encode_record_header(RecordState.PREPARED, 1, 2, 3, 4, 5, 6, 7)
    fields = b"".join(value.to_bytes(8, "big") for value in range(1, 8))
    assert data[:64] == b"LRECP\0\0\0" + fields


@pytest.mark.parametrize("state", RecordState)
def test_every_flipped_bit_of_a_record_header_is_noticed(state: RecordState) -> None:
    data = encode_record_header(state, *VALUES)
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FormatError):
            decode_record_header(bytes(damaged))


def test_a_truncated_record_header_is_none() -> None:
    data = encode_record_header(RecordState.LIVE, *VALUES)
    for size in range(len(data)):
        with pytest.raises(FormatError):
            decode_record_header(data[:size])


def test_one_byte_changes_the_state_of_a_record() -> None:
    data = bytearray(encode_record_header(RecordState.PREPARED, *VALUES))
    for state in RecordState:
        data[STATE_OFFSET] = state
        assert decode_record_header(bytes(data)).state is state


def test_a_segment_header_decodes_and_every_flipped_bit_and_truncation_is_noticed() -> None:
    data = encode_segment_header(BIG)
    assert len(data) == SEGMENT_HEADER_SIZE
    assert decode_segment_header(data) == BIG
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FormatError):
            decode_segment_header(bytes(damaged))
    for size in range(len(data)):
        with pytest.raises(FormatError):
            decode_segment_header(data[:size])


@pytest.mark.parametrize(("length", "size"), [(0, 0), (1, 8), (8, 8), (9, 16)])
def test_images_are_padded_to_eight_bytes(length: int, size: int) -> None:
    assert padded(length) == size


@pytest.mark.parametrize("txid", [1, 255, BIG])
def test_a_segment_is_named_by_its_first_transaction(txid: int) -> None:
    assert segment_txid(segment_name(txid)) == txid


@pytest.mark.parametrize("name", ["spare-0", "1.ltxlog", "000000000000000g.ltxlog", "0000000000000001.ltx", ""])
def test_other_names_are_no_segments(name: str) -> None:
    assert segment_txid(name) is None
