"""Pieces of several streams on one connection."""

import pytest

from litefs.errors import FormatError
from litefs.formats.stream_channels import CHANNEL_MAX, ChannelDecoder, encode_piece

PIECES = [(0, b"live"), (2, b"snapshot " * 20), (0, b""), (0, b"x"), (CHANNEL_MAX, b"last"), (2, b"end")]
ENCODED = b"".join(encode_piece(channel, data) for channel, data in PIECES)


def _joined(found: list[tuple[int, bytes]]) -> dict[int, bytes]:
    joined: dict[int, bytes] = {}
    for channel, data in found:
        assert data, "nothing is not worth telling"
        joined[channel] = joined.get(channel, b"") + data
    return joined


EXPECTED = _joined([(channel, data) for channel, data in PIECES if data])


def test_a_piece_is_a_head_of_eight_bytes_and_its_bytes() -> None:
    assert encode_piece(1, b"ab") == bytes.fromhex("00000001 00000002") + b"ab"


@pytest.mark.parametrize("step", [1, 2, 7, 8, 9, 64, len(ENCODED)])
def test_channels_come_apart_however_the_bytes_arrive(step: int) -> None:
    decoder = ChannelDecoder()
    found = [item for start in range(0, len(ENCODED), step) for item in decoder.feed(ENCODED[start : start + step])]
    assert _joined(found) == EXPECTED
    decoder.finish()


def test_an_end_within_a_piece_is_noticed_everywhere() -> None:
    ends, offset = {0}, 0
    for _, data in PIECES:
        offset += 8 + len(data)
        ends.add(offset)
    for size in range(len(ENCODED)):
        decoder = ChannelDecoder()
        decoder.feed(ENCODED[:size])
        if size in ends:
            decoder.finish()
        else:
            with pytest.raises(FormatError, match="inside a piece"):
                decoder.finish()


def test_bytes_are_passed_on_as_they_come_whatever_length_is_announced() -> None:
    decoder = ChannelDecoder()
    head = bytes.fromhex("00000001 ffffffff")
    assert decoder.feed(head + b"abc") == [(1, b"abc")]
    assert decoder.feed(b"d" * 100_000) == [(1, b"d" * 100_000)]


def test_a_channel_beyond_the_highest_is_refused() -> None:
    with pytest.raises(FormatError, match="channel 16"):
        ChannelDecoder().feed(encode_piece(CHANNEL_MAX + 1, b""))
