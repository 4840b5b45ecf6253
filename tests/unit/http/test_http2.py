"""HTTP/2 with prior knowledge on the port of HTTP/1.1: the same answers, and what a peer may do to the server."""

import asyncio
import contextlib
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from fastapi import FastAPI
from h2.errors import ErrorCodes
from h2.events import DataReceived, ResponseReceived, StreamReset
from uvicorn.server import ServerState

from litefs.formats.stream import HeartbeatFrame, LtxFrame, ReadyFrame, StreamDecoder, encode_position_map
from litefs.http import server
from litefs.http.h2_connection import PREFACE, RESETS_MAX, STREAMS_MAX, Http2Connection
from tests.unit.http.fake_node import FakeNode
from tests.unit.http.http2_client import Http2Client
from tests.unit.http.serving import TIMEOUT_S, Served

PINGS_MAX = 100_000
"""Their answers are far more than a socket and a transport hold."""


@pytest.fixture
def client(served: Served) -> Iterator[Http2Client]:
    made = Http2Client(served)
    yield made
    made.close()


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/info"),
        ("GET", "/healthz"),
        ("GET", "/export"),
        ("GET", "/export?name=no.db"),
        ("POST", "/info"),
        ("GET", "/"),
        ("POST", "/promote"),
        ("POST", "/stream"),
        ("POST", "/import?name=a.db"),
    ],
)
def test_both_protocols_answer_alike(served: Served, client: Http2Client, method: str, path: str) -> None:
    theirs = served.request(method, path)
    ours = client.request(method, path)
    assert (ours.status, ours.body) == (theirs.status, theirs.body)
    for name in ("litefs-id", "litefs-cluster-id", "content-type"):
        assert ours.headers.get(name) == theirs.headers.get(name)


def test_a_head_request_gets_no_body(client: Http2Client) -> None:
    answer = client.request("HEAD", "/info")
    assert (answer.status, answer.body) == (405, b"")
    assert client.request("GET", "/healthz").status == 200


def test_a_database_goes_in_and_out_whole(client: Http2Client, tmp_path: Path) -> None:
    """3 MB: more than any window on the way."""
    path = tmp_path / "in.db"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE t (body BLOB)")
    database.executemany("INSERT INTO t VALUES (randomblob(3000))", [()] * 1000)
    database.commit()
    database.close()
    content = bytearray(path.read_bytes())
    assert client.request("POST", "/import?name=a.db", bytes(content)).status == 200
    exported = client.request("GET", "/export?name=a.db")
    content[24:28] = content[40:44] = bytes(4)  # an import zeroes them
    assert exported.body == content


def test_a_follower_is_served(node: FakeNode, client: Http2Client) -> None:
    node.create("a.db")
    node.commit("a.db", 1)
    client.begin("POST", "/stream", encode_position_map({}), {"Litefs-Id": "00000000000000AB"})
    decoder = StreamDecoder()
    kinds: list[type[object]] = []

    def read_until(kind: type[object]) -> None:
        while kind not in kinds:
            assert client.receive()
            for event in client.events:
                if isinstance(event, DataReceived):
                    kinds.extend(map(type, decoder.feed(event.data)))
            client.events.clear()

    read_until(HeartbeatFrame)
    assert kinds.index(LtxFrame) < kinds.index(ReadyFrame)
    kinds.clear()
    node.commit("a.db", 1)
    read_until(LtxFrame)


def test_many_requests_share_a_connection(client: Http2Client) -> None:
    streams = [client.begin("GET", "/info") for _ in range(STREAMS_MAX)]
    assert {client.answer(stream).status for stream in streams[-1:]} == {200}


def test_a_follower_that_credits_nothing_is_sent_one_window_and_dropped(
    node: FakeNode, served: Served, client: Http2Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("litefs.http.responses.SEND_DEADLINE_S", 0.2)
    node.create("big.db", page_size=65536)
    node.commit("big.db", *range(1, 200))
    client.begin("POST", "/stream", encode_position_map({}))
    received, resets = 0, list[object]()
    while not resets:
        assert client.receive(credit=False)
        received += sum(len(event.data) for event in client.events if isinstance(event, DataReceived))
        resets = [event.error_code for event in client.events if isinstance(event, StreamReset)]
        client.events.clear()
    assert resets == [ErrorCodes.INTERNAL_ERROR]
    assert 0 < received <= 65535  # RFC 9113: the initial window
    _until(lambda: b'"followers":[]' in served.request("GET", "/status").body and not node.open_snapshots)
    client.h2.increment_flow_control_window(received)
    assert client.request("GET", "/healthz").status == 200  # only the stream was dropped


def test_a_peer_that_goes_away_ends_its_request(node: FakeNode, served: Served, client: Http2Client) -> None:
    client.begin("POST", "/stream", encode_position_map({}))
    while not any(isinstance(event, ResponseReceived) for event in client.events):
        client.receive()
    assert b'"followers":[]' not in served.request("GET", "/status").body
    client.shutdown()
    _until(lambda: b'"followers":[]' in served.request("GET", "/status").body)


def test_a_reset_stream_ends_its_request(served: Served, client: Http2Client) -> None:
    stream = client.begin("POST", "/stream", encode_position_map({}))
    while not any(isinstance(event, ResponseReceived) for event in client.events):
        client.receive()
    client.h2.reset_stream(stream, ErrorCodes.CANCEL)
    client.flush()
    _until(lambda: b'"followers":[]' in served.request("GET", "/status").body)


def test_bodies_that_nobody_reads_do_not_use_the_connection_up(client: Http2Client) -> None:
    """Each is answered before it is read; together they are larger than the connection's window."""
    client.request("GET", "/healthz")
    for _ in range(4):
        stream = client.h2.get_next_available_stream_id()
        head = [(":method", "POST"), (":path", "/promote"), (":scheme", "http"), (":authority", "litefs")]
        client.h2.send_headers(stream, head)
        while client.h2.local_flow_control_window(stream) >= 16384:
            client.h2.send_data(stream, bytes(16384))
        client.flush()
        assert client.answer(stream).status == 200
    assert client.request("POST", "/import?name=a.db", bytes(2 << 20)).body.endswith(b"invalid database header\n")


def test_streams_opened_to_be_reset_end_the_connection(served: Served, client: Http2Client) -> None:
    for _ in range(RESETS_MAX + 1):
        client.h2.reset_stream(client.begin("GET", "/events"), ErrorCodes.CANCEL)
        client.flush()
    with contextlib.suppress(ConnectionError):  # reset, if the server has not read all of what it was sent meanwhile
        while client.receive():
            pass
    assert any(getattr(event, "error_code", None) == ErrorCodes.ENHANCE_YOUR_CALM for event in client.events)
    assert served.request("GET", "/healthz").status == 200


def test_a_peer_that_does_not_take_the_answers_to_its_pings_is_not_read_until_it_does() -> None:
    ping = bytes.fromhex("000008 06 00 00000000") + bytes(8)

    async def flood(ours: socket.socket, theirs: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        connection = Http2Connection(FastAPI(), ServerState(), head_deadline_s=60.0, keep_alive_s=60.0)
        transport, _ = await loop.connect_accepted_socket(lambda: connection, theirs)
        await loop.sock_sendall(ours, PREFACE + bytes.fromhex("000000 04 00 00000000"))
        sent_n = 0
        while transport.is_reading():
            assert sent_n < PINGS_MAX, "it reads on"
            await loop.sock_sendall(ours, ping * 100)
            sent_n += 100
        received = b""
        while received.count(ping[:4] + b"\1") < sent_n:
            received += await loop.sock_recv(ours, 1 << 16)
        assert transport.is_reading()

    async def run() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours:
            async with asyncio.timeout(TIMEOUT_S):
                await flood(ours, theirs)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(PREFACE + b"\0" * 9, id="a DATA frame on stream 0"),
        pytest.param(PREFACE + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", id="a frame of 16 MB"),
        pytest.param(PREFACE + bytes.fromhex("000004 01 05 00000001 ffffffff"), id="a head that is not HPACK"),
        pytest.param(PREFACE + b"GET / HTTP/1.1\r\n\r\n", id="HTTP/1.1 behind the preface"),
        pytest.param(PREFACE + bytes.fromhex("000000 04 00 00000000 000001 01 05 00000002 82"), id="an even stream"),
    ],
)
def test_garbage_ends_the_connection(calm: Served, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(server, "HEAD_DEADLINE_S", 0.2)  # some of it may be the beginning of a frame
    with calm.connect() as connection:
        connection.sendall(sent)
        received = b""
        while data := connection.recv(1 << 16):
            received += data
    assert b"\0\0\x08\x07\0" in received  # the head of a GOAWAY frame
    assert calm.request("GET", "/healthz").status == 200


@pytest.mark.parametrize("size", [3, 14, len(PREFACE)])
def test_a_preface_that_is_not_followed_by_a_request_is_closed(
    calm: Served, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(server, "HEAD_DEADLINE_S", 0.05)
    with calm.connect() as connection:
        connection.sendall(PREFACE[:size])
        while connection.recv(1 << 16):
            pass


def test_a_preface_may_come_byte_by_byte(calm: Served) -> None:
    client = Http2Client(calm, piecemeal=True)
    assert client.request("GET", "/healthz").status == 200
    client.close()


def test_a_connection_of_http_1_may_begin_like_a_preface(calm: Served) -> None:
    with calm.connect() as connection:
        for piece in (b"P", b"OST /promote HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"):
            connection.sendall(piece)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_an_idle_connection_is_closed_in_good_order(
    served: Served, client: Http2Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "KEEP_ALIVE_S", 0.05)
    fresh = Http2Client(served)
    try:
        assert fresh.request("GET", "/healthz").status == 200
        while fresh.receive():
            pass
        assert any(getattr(event, "error_code", None) == ErrorCodes.NO_ERROR for event in fresh.events)
    finally:
        fresh.close()


def test_the_service_ends_streams_in_good_order(served: Served, client: Http2Client) -> None:
    stream = client.begin("POST", "/stream", encode_position_map({}))
    while not any(isinstance(event, ResponseReceived) for event in client.events):
        client.receive()
    served.stop()
    assert client.answer(stream).body.endswith(b"\0\0\0\3")  # the End frame
