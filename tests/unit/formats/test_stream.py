import random
from pathlib import Path
from typing import Any

import pytest

from litefs.errors import FormatError
from litefs.formats.ltx_decoder import LtxDecoder, decode_image
from litefs.formats.position import Checksum, Pos, Txid
from litefs.formats.stream import (
    CHUNK_SIZE,
    CHUNK_TERMINATOR,
    DropDbFrame,
    EndFrame,
    Event,
    Frame,
    HandoffFrame,
    HeartbeatFrame,
    HwmFrame,
    LtxChunk,
    LtxEnd,
    LtxFrame,
    ReadyFrame,
    StreamDecoder,
    decode_position_map,
    encode_chunks,
    encode_frame,
    encode_position_map,
)
from tests.support.memory import memory_growth_of
from tests.unit.formats import golden
from tests.unit.formats.golden import flipped_bits, pieces

FRAMES: list[tuple[Frame, str]] = [
    (LtxFrame(name="a.db"), "00000001 0000000000000000 00000004 612e6462"),
    (LtxFrame(name="ä", size=2**64 - 1), "00000001 ffffffffffffffff 00000002 c3a4"),
    (ReadyFrame(), "00000002"),
    (EndFrame(), "00000003"),
    (DropDbFrame(name="a.db"), "00000004 00000004 612e6462"),
    (HandoffFrame(lease_id="x/1"), "00000005 00000003 782f31"),
    (HandoffFrame(lease_id=""), "00000005 00000000"),
    (HwmFrame(name="a.db", txid=Txid(2**64 - 1)), "00000006 ffffffffffffffff 00000004 612e6462"),
    (HeartbeatFrame(timestamp_ms=1795220527085), "00000007 000001a1fb7b57ed"),
    (HeartbeatFrame(timestamp_ms=-1), "00000007 ffffffffffffffff"),
    (DropDbFrame(name="n" * 247), "00000004 000000f7" + "6e" * 247),
]
TYPES = {LtxFrame: 1, ReadyFrame: 2, EndFrame: 3, DropDbFrame: 4, HandoffFrame: 5, HwmFrame: 6, HeartbeatFrame: 7}
GOLDEN = sorted(path.parent.name for path in (golden.ROOT / "stream").glob("*/frames.json"))


def joined(events: list[Event]) -> list[Event]:
    """Joins the pieces of each image, for how an image was cut is not part of what was said."""
    out: list[Event] = []
    for event in events:
        if isinstance(event, LtxChunk) and out and isinstance(out[-1], LtxChunk):
            out[-1] = LtxChunk(data=out[-1].data + event.data)
        else:
            out.append(event)
    return out


def decode(data: bytes, size: int | None = None) -> list[Event]:
    decoder, events = StreamDecoder(), []
    for piece in pieces(data, size or len(data) or 1):
        events += decoder.feed(piece)
    decoder.finish()
    return joined(events)


# ---- frames ----


@pytest.mark.parametrize(("frame", "text"), FRAMES, ids=lambda value: type(value).__name__)
def test_frame_both_ways(frame: Frame, text: str) -> None:
    data = bytes.fromhex(text)
    assert encode_frame(frame) == data
    tail = CHUNK_TERMINATOR if isinstance(frame, LtxFrame) else b""
    end: list[Event] = [LtxEnd()] if isinstance(frame, LtxFrame) else []
    assert decode(data + tail) == decode(data + tail, 1) == [frame, *end]


@pytest.mark.parametrize(("frame", "text"), FRAMES, ids=lambda value: type(value).__name__)
def test_every_truncation_of_a_frame_is_no_clean_end(frame: Frame, text: str) -> None:
    data = bytes.fromhex(text)
    for size in range(1, len(data) + isinstance(frame, LtxFrame)):
        decoder = StreamDecoder()
        assert decoder.feed(data[:size]) == ([frame] if size == len(data) else [])
        with pytest.raises(FormatError):
            decoder.finish()
    StreamDecoder().finish()


def test_frames_one_after_another() -> None:
    image = random.Random(1).randbytes(100_000)
    data = b""
    expected: list[Event] = []
    for frame, _ in FRAMES:
        data += encode_frame(frame)
        expected.append(frame)
        if isinstance(frame, LtxFrame):
            data += encode_chunks(image) + CHUNK_TERMINATOR
            expected += [LtxChunk(data=image), LtxEnd()]
    for size in (None, 1000, 7):
        assert decode(data, size) == expected


@pytest.mark.parametrize("frame_type", [0, 8, 9, 0x73747265, 2**32 - 1])
def test_an_unknown_type_is_refused(frame_type: int) -> None:
    with pytest.raises(FormatError):
        StreamDecoder().feed(frame_type.to_bytes(4, "big"))


@pytest.mark.parametrize(("frame", "text"), FRAMES, ids=lambda value: type(value).__name__)
def test_every_flipped_bit_is_another_frame_or_refused(frame: Frame, text: str) -> None:
    for bit, data in flipped_bits(bytes.fromhex(text)):
        decoder = StreamDecoder()
        try:
            events = decoder.feed(data)
        except FormatError:
            continue
        assert events[:1] != [frame], bit


BAD_NAMES = [b"", b".", b"..", b"a/b", b"/", b"a\0b", b"\xff\xfe", b"n" * 248, b"n" * 70000, b"a-wal"]


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: repr(name[:8]))
@pytest.mark.parametrize("head", ["00000001 0000000000000000", "00000004", "00000006 0000000000000001"])
def test_a_name_that_is_no_file_name_is_refused(name: bytes, head: str) -> None:
    data = bytes.fromhex(head) + len(name).to_bytes(4, "big") + name
    with pytest.raises(FormatError):
        StreamDecoder().feed(data)
    with pytest.raises(FormatError):
        decode(data, 1)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "n" * 248, "ä" * 124, "a-wal"])
def test_a_name_that_is_no_file_name_is_not_sent(name: str) -> None:
    for frame in (LtxFrame(name=name), DropDbFrame(name=name), HwmFrame(name=name, txid=Txid(1))):
        with pytest.raises(FormatError):
            encode_frame(frame)
    with pytest.raises(FormatError):
        encode_position_map({name: Pos(txid=Txid(1), checksum=Checksum(1))})


def test_a_huge_length_is_refused_before_anything_is_kept_for_it() -> None:
    for head in ("00000001 0000000000000000 ffffffff", "00000004 80000000", "00000005 00000100"):
        with pytest.raises(FormatError):
            StreamDecoder().feed(bytes.fromhex(head))


# ---- chunks ----


@pytest.mark.parametrize("size", [0, 1, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 3 * CHUNK_SIZE, 200_000])
def test_chunks_both_ways(size: int) -> None:
    image = random.Random(size).randbytes(size)
    data = encode_frame(LtxFrame(name="a")) + encode_chunks(memoryview(image)) + CHUNK_TERMINATOR
    chunks: list[Event] = [LtxChunk(data=image)] if image else []
    for piece_size in (None, 1 if size < 70_000 else 501, 4096):
        assert decode(data, piece_size) == [LtxFrame(name="a"), *chunks, LtxEnd()]
    assert len(data) == 17 + size + 2 * -(-size // CHUNK_SIZE) + 2


def test_chunks_are_passed_on_as_they_arrive() -> None:
    decoder = StreamDecoder()
    decoder.feed(encode_frame(LtxFrame(name="a")))
    assert decoder.feed(b"\xff") == []
    assert decoder.feed(b"\xff") == []
    assert decoder.feed(b"abc") == [LtxChunk(data=b"abc")]
    assert decoder.feed(b"") == []
    assert decoder.feed(bytes(65532)) == [LtxChunk(data=bytes(65532))]
    assert decoder.feed(b"\0\1x\0\0") == [LtxChunk(data=b"x"), LtxEnd()]
    decoder.finish()


def test_an_image_that_is_cut_off_is_no_clean_end() -> None:
    data = encode_frame(LtxFrame(name="a")) + encode_chunks(b"image") + CHUNK_TERMINATOR
    for size in range(1, len(data)):
        decoder = StreamDecoder()
        decoder.feed(data[:size])
        with pytest.raises(FormatError):
            decoder.finish()


def test_an_image_passes_through_in_bounded_memory() -> None:
    decoder = StreamDecoder()
    decoder.feed(encode_frame(LtxFrame(name="a")))
    chunks = encode_chunks(bytes(4 * CHUNK_SIZE))
    with memory_growth_of(4 * len(chunks)):
        for _ in range(200):
            decoder.feed(chunks)


# ---- position map ----

POSITIONS = {
    "b.db": Pos(txid=Txid(2), checksum=Checksum(2**63)),
    "a.db": Pos(txid=Txid(2**64 - 1), checksum=Checksum(2**64 - 1)),
    "ä": Pos(txid=Txid(0), checksum=Checksum(0)),
}


def test_position_map_both_ways_and_sorted() -> None:
    data = encode_position_map(POSITIONS)
    assert decode_position_map(data) == POSITIONS
    assert list(decode_position_map(data)) == ["a.db", "b.db", "ä"]
    assert encode_position_map({}) == bytes(4)
    assert decode_position_map(bytes(4)) == {}


def test_position_map_refuses_every_truncation_and_a_tail() -> None:
    data = encode_position_map(POSITIONS)
    for size in range(len(data)):
        with pytest.raises(FormatError):
            decode_position_map(data[:size])
    with pytest.raises(FormatError):
        decode_position_map(data + b"\0")


def test_every_flipped_bit_of_a_position_map_is_another_map_or_refused() -> None:
    for bit, data in flipped_bits(encode_position_map(POSITIONS)):
        try:
            decoded = decode_position_map(data)
        except FormatError:
            continue
        assert decoded != POSITIONS, bit


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: repr(name[:8]))
def test_position_map_refuses_a_name_that_is_no_file_name(name: bytes) -> None:
    with pytest.raises(FormatError):
        decode_position_map(bytes.fromhex("00000001") + len(name).to_bytes(4, "big") + name + bytes(16))


def test_position_map_refuses_a_name_twice_and_a_huge_count() -> None:
    entry = encode_position_map({"a": POSITIONS["a.db"]})[4:]
    with pytest.raises(FormatError):
        decode_position_map(bytes.fromhex("00000002") + entry * 2)
    with pytest.raises(FormatError):
        decode_position_map(bytes.fromhex("ffffffff") + entry)


# ---- golden: streams of the Go version ----


def check_events(events: list[Event], listed: list[dict[str, Any]]) -> None:
    """Compares events with the frames that are listed for them."""
    queue = joined(events)
    for entry in listed:
        frame = queue.pop(0)
        assert TYPES[type(frame)] == entry["code"]
        match frame:
            case LtxFrame(name=name, size=size):
                assert (name, size) == (entry["name"], entry["size_field"])
                chunk = queue.pop(0)
                assert isinstance(chunk, LtxChunk)
                assert golden.sha256(chunk.data) == entry["ltx_sha256"]
                assert queue.pop(0) == LtxEnd()
                header, _, trailer = decode_image(chunk.data)
                assert f"{trailer.post_apply:016x}" == entry["post_apply"]
                assert header.commit == entry["ltx_header"]["commit"]
            case HwmFrame(name=name, txid=txid):
                assert (name, txid) == (entry["name"], entry["txid"])
            case DropDbFrame(name=name):
                assert name == entry["name"]
            case HandoffFrame(lease_id=lease_id):
                assert lease_id == entry["lease_id"]
            case HeartbeatFrame(timestamp_ms=timestamp_ms):
                assert timestamp_ms == entry["timestamp"]
    assert queue == []


@pytest.mark.parametrize("name", [name for name in GOLDEN if name != "error-midstream"])
def test_parses_the_streams_of_the_go_server(name: str) -> None:
    listed, data = golden.load(f"stream/{name}/frames.json"), golden.read(f"stream/{name}/response.bin")
    for size in (None, 1 if len(data) < 20_000 else 997):
        check_events(decode(data, size), listed["frames"])


@pytest.mark.parametrize("name", [name for name in GOLDEN if name != "error-midstream"])
def test_encodes_the_frames_of_the_go_server(name: str) -> None:
    data = golden.read(f"stream/{name}/response.bin")
    for entry in golden.load(f"stream/{name}/frames.json")["frames"]:
        raw = data[entry["offset"] : entry["offset"] + entry["length"]]
        frame = StreamDecoder().feed(raw)[0]
        assert not isinstance(frame, LtxChunk | LtxEnd)
        encoded = encode_frame(frame)
        assert raw.startswith(encoded)
        assert isinstance(frame, LtxFrame) or raw == encoded


@pytest.mark.parametrize("name", GOLDEN)
def test_position_maps_of_the_go_replica_both_ways(name: str) -> None:
    data = golden.read(f"stream/{name}/request.bin")
    assert encode_position_map(decode_position_map(data)) == data


def test_an_error_text_inside_an_image_ends_in_an_unclean_stream() -> None:
    decoder, image = StreamDecoder(), LtxDecoder()
    events = decoder.feed(golden.read("stream/error-midstream/response.bin"))
    assert events[0] == LtxFrame(name="alpha.db")
    assert isinstance(events[1], LtxChunk)
    image.feed(events[1].data)
    assert image.header is not None
    assert not any(isinstance(event, LtxEnd | EndFrame) for event in events)
    with pytest.raises(FormatError):
        decoder.finish()


def real_replica_bodies() -> list[Any]:
    exchange = golden.load("stream/real-replica/exchange.json")
    streams = [stream for connection in exchange["connections"] for stream in connection["streams"]]
    return [
        pytest.param(stream, id=Path(stream["response_body"]["path"]).stem)
        for stream in streams
        if dict(stream["request_headers"])[":path"].startswith("/stream") and "response_body" in stream
    ]


@pytest.mark.parametrize("stream", real_replica_bodies())
def test_parses_what_a_go_replica_was_sent(stream: dict[str, Any]) -> None:
    decoder = StreamDecoder()
    check_events(decoder.feed(golden.read(stream["response_body"]["path"])), stream["frames"])
    request = golden.read(stream["request_body"]["path"])
    assert encode_position_map(decode_position_map(request)) == request


def test_decodes_the_transaction_that_a_go_replica_forwarded() -> None:
    header, pages, _ = decode_image(golden.read("stream/real-replica/conn0-stream7-request.bin"))
    assert f"{header.node_id:016X}" == golden.load("stream/real-replica/exchange.json")["steps"]["replica_node"]
    assert pages
