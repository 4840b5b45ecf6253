import random
import struct
import typing

import msgspec
import pytest

from litefs.errors import FormatError
from litefs.link import messages as m
from litefs.link.channel import MESSAGE_BYTES_MAX, MessageDecoder, encode

INFO = m.DatabaseInfo(
    name="a.db",
    txid=(1 << 64) - 1,
    checksum=1 << 63,
    logged_txid=3,
    page_size=65536,
    page_n=4,
    is_wal=True,
    timestamp_ms=5,
)
NODE_MESSAGES: list[m.NodeMessage] = [
    m.Hello(4711),
    m.SetRole(12345.678),
    m.SetRole(float("inf")),
    m.SetPrimary("node-1"),
    m.SetPrimary(""),
    m.SetLag(-1),
    m.SetListening(True),
    m.Ping(),
    m.Seen("ä.db"),
    m.Applied("ä.db", 1 << 63),
    m.AppendImages("a.db", [bytes(range(256)), b"x"]),
    m.AppendSpooledImage("a.db", "/spool/1"),
    m.OpenSnapshot("a.db"),
    m.CloseSnapshot(7),
    m.AskCounters(),
    m.KeepLogs({"a.db": [1, 1 << 63]}),
    m.PrepareReplacement(name="a.db", txid=9, checksum=1 << 63, page_size=512, page_n=1, timestamp_ms=2, incoming="i"),
    m.RefuseOpens(),
]
FILESYSTEM_MESSAGES: list[m.FilesystemMessage] = [
    m.Welcome([INFO, INFO]),
    m.Welcome([]),
    m.Appended("a.db", 9),
    m.Counters(refused_n={"disk": 2}, commit_latencies={"a.db": ([1, 0, 2], 0.25)}),
    m.SnapshotOpened(
        snapshot_id=1,
        name="a.db",
        txid=2,
        checksum=3,
        page_size=4,
        page_n=5,
        timestamp_ms=6,
        base_txid=7,
        base_path="/b",
        aside_path="/a",
        aside_map_path="/m",
    ),
    m.ReplacementReady("a.db", ".new"),
    m.OpensRefused(["a.db-shm"]),
    m.Rejected("a.db", "reason", 1, 2),
    m.Committed(INFO),
    m.ShmCreated("a.db"),
    m.NotReached("a.db", 7),
    m.Pong(0.25),
]


def node_decoder() -> MessageDecoder[m.NodeMessage]:
    return MessageDecoder(m.NodeMessage)


def test_the_case_lists_hold_every_message() -> None:
    assert {type(each) for each in NODE_MESSAGES} == set(typing.get_args(m.NodeMessage))
    assert {type(each) for each in FILESYSTEM_MESSAGES} == set(typing.get_args(m.FilesystemMessage))


@pytest.mark.parametrize(
    ("union", "messages"), [(m.NodeMessage, NODE_MESSAGES), (m.FilesystemMessage, FILESYSTEM_MESSAGES)]
)
def test_messages_survive_whole_byte_by_byte_and_in_any_pieces(union: object, messages: list[msgspec.Struct]) -> None:
    stream = b"".join(map(encode, messages))
    chance = random.Random(1)
    cuts = sorted(chance.sample(range(1, len(stream)), 40))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    for feeds in ([stream], [bytes([byte]) for byte in stream], pieces):
        decoder: MessageDecoder[msgspec.Struct] = MessageDecoder(union)
        assert [message for feed in feeds for message in decoder.feed(feed)] == messages


@pytest.mark.parametrize("message", NODE_MESSAGES, ids=lambda message: type(message).__name__)
def test_a_truncated_message_waits_for_its_rest(message: m.NodeMessage) -> None:
    frame = encode(message)
    for cut in range(len(frame)):
        decoder = node_decoder()
        assert decoder.feed(frame[:cut]) == []
        assert decoder.feed(frame[cut:]) == [message]


@pytest.mark.parametrize("message", NODE_MESSAGES, ids=lambda message: type(message).__name__)
def test_a_flipped_bit_gives_another_message_of_the_union_a_format_error_or_a_wait(message: m.NodeMessage) -> None:
    """The link has no checksum: it is memory of one machine. But nothing may raise anything else."""
    frame = encode(message)
    for bit in range(8 * len(frame)):
        damaged = bytearray(frame)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            found = node_decoder().feed(bytes(damaged))
        except FormatError:
            continue
        assert all(isinstance(each, m.NodeMessage) for each in found)


def test_a_message_of_the_other_direction_is_refused() -> None:
    with pytest.raises(FormatError, match="link message"):
        node_decoder().feed(encode(m.Appended("a.db", 1)))


def test_a_length_above_the_bound_is_refused_before_anything_is_buffered() -> None:
    with pytest.raises(FormatError, match="at most"):
        node_decoder().feed(struct.pack(">I", MESSAGE_BYTES_MAX + 1))


def test_a_message_at_the_bound_is_taken() -> None:
    overhead = len(encode(m.AppendImages("a.db", [b"x" * 70_000]))) - 70_000 - 4
    frame = encode(m.AppendImages("a.db", [bytes(MESSAGE_BYTES_MAX - overhead)]))
    assert len(frame) == MESSAGE_BYTES_MAX + 4
    (message,) = node_decoder().feed(frame)
    assert isinstance(message, m.AppendImages)


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x00", b"garbage", bytes(100)])
def test_garbage_is_a_format_error(body: bytes) -> None:
    with pytest.raises(FormatError):
        node_decoder().feed(struct.pack(">I", len(body)) + body)
