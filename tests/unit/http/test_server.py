"""What a peer may do to the server, byte by byte, and what it may not."""

import contextlib
import socket
import time
from pathlib import Path

import pytest

from litefs.http import bodies, responses, server
from litefs.http.followers import FOLLOWERS_MAX
from litefs.http.listener import PEER_TIMEOUT_MS, listen
from litefs.http.server import HEAD_BYTES_MAX
from tests.unit.http.fake_node import FakeNode
from tests.unit.http.serving import Served
from tests.unit.node.fake_duties import eventually

STREAM_HEAD = b"POST /stream HTTP/1.1\r\nHost: x\r\n"


def _exchange(served: Served, data: bytes) -> bytes:
    """Sends `data` and returns everything until the server closes."""
    with served.connect() as connection:
        connection.sendall(data)
        return _rest(connection)


def _rest(connection: socket.socket) -> bytes:
    received = bytearray()
    try:
        while data := connection.recv(1 << 16):
            received += data
    except ConnectionResetError:
        pass
    return bytes(received)


GARBAGE = [
    b"\0" * 100,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # a TLS hello
    b"PRI * HTTP/2.0\r\n\r\nXM\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET /info HTTP/9.9\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
    STREAM_HEAD + b"Content-Length: -1\r\n\r\n",
    STREAM_HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n",
    STREAM_HEAD + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\n\0\0\0\0",
    STREAM_HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    STREAM_HEAD + b"Transfer-Encoding: chunked\r\n\r\nnot a length\r\n",
    STREAM_HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n",
]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_is_refused_and_the_connection_closed(calm: Served, garbage: bytes) -> None:
    answer = _exchange(calm, garbage)
    assert not answer or answer.startswith(b"HTTP/1.1 4"), answer
    assert calm.request("GET", "/healthz").status == 200


def test_a_head_without_end_is_cut_off(calm: Served) -> None:
    answer = _exchange(calm, b"GET /info HTTP/1.1\r\n" + b"X-Filler: " + b"x" * (HEAD_BYTES_MAX + (1 << 20)))
    assert not answer or answer.startswith(b"HTTP/1.1 431")


def test_endless_header_lines_are_cut_off(calm: Served) -> None:
    answer = _exchange(calm, b"GET /info HTTP/1.1\r\n" + b"A: b\r\n" * 400_000)
    assert not answer or answer.startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize("sent", [b"", b"GET /info HTTP/1.1\r\nHos", b"\r\n"])
def test_a_connection_that_sends_no_head_is_closed(calm: Served, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(server, "HEAD_DEADLINE_S", 0.05)
    assert _exchange(calm, sent) == b""


def test_half_a_head_on_a_kept_connection_is_closed(calm: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_DEADLINE_S", 0.05)
    with calm.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(1 << 16).endswith(b"ok\n")
        connection.sendall(b"GET /hea")
        assert _rest(connection) == b""


def test_a_body_that_comes_after_the_answer_does_not_keep_the_connection(
    calm: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "UNREAD_BODY_S", 0.05)
    with calm.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
        assert connection.recv(1 << 16).endswith(b"ok\n")
        connection.sendall(b"1")
        assert _rest(connection) == b""


def test_a_body_that_was_not_read_is_no_obstacle_to_the_next_request(calm: Served) -> None:
    with calm.connect() as connection:
        for _ in range(2):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n")
            assert connection.recv(1 << 16).endswith(b"ok\n")
            connection.sendall(b"12")


def test_a_request_may_come_before_the_answer_to_the_one_before(calm: Served) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
    assert _exchange(calm, request + b"\r\n" + request + b"Connection: close\r\n\r\n").count(b"200 OK") == 2


def test_requests_that_wait_for_no_answer_end_the_connection(calm: Served) -> None:
    with calm.connect() as connection:
        connection.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n" + b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
        _rest(connection)
    assert calm.request("GET", "/healthz").status == 200


def test_a_reader_that_asks_for_more_before_it_goes_leaves_nothing(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.recv(1 << 16)
        eventually(lambda: b"\nlitefs_subscriber_count 1.0" in served.request("GET", "/metrics").body)
        connection.sendall(b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n")
    eventually(lambda: b"\nlitefs_subscriber_count 0.0" in served.request("GET", "/metrics").body)


def test_stray_bytes_behind_a_request_do_not_end_its_stream(
    node: FakeNode, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_DEADLINE_S", 0.05)
    with served.connect() as connection:
        connection.sendall(STREAM_HEAD + b"Content-Length: 4\r\n\r\n\0\0\0\0")
        received, began = connection.recv(1 << 16), time.monotonic()
        connection.sendall(b"\r\n")
        while received.count(b"\0\0\0\x07\0\0\1") < 2:  # two heartbeats, a second apart
            data = connection.recv(1 << 16)
            assert data
            received += data
    assert time.monotonic() > began + 0.5


def test_a_body_that_stalls_is_refused(calm: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "RECEIVE_DEADLINE_S", 0.05)
    answer = _exchange(calm, STREAM_HEAD + b"Connection: close\r\nContent-Length: 100\r\n\r\n\0\0\0")
    assert answer.startswith(b"HTTP/1.1 408")


def _begin_import(connection: socket.socket) -> None:
    header = bytes.fromhex("53514c69746520666f726d6174203300 1000 0101 00402020 00000001 00000009").ljust(92, b"\0")
    header += bytes.fromhex("00000001 00000000")
    assert len(header) == 100
    connection.sendall(
        b"POST /import?name=a.db HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 36864\r\n\r\n" + header
    )


def test_an_import_that_stalls_leaves_nothing_behind(
    tmp_path: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "RECEIVE_DEADLINE_S", 0.5)
    with served.connect() as connection:
        _begin_import(connection)
        eventually(lambda: list(tmp_path.rglob("incoming-*")))
        assert _rest(connection).startswith(b"HTTP/1.1 408")
    assert not list(tmp_path.rglob("incoming-*"))


def test_an_import_that_drips_is_given_up(tmp_path: Path, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "RECEIVE_DEADLINE_S", 0.5)
    with served.connect() as connection:
        _begin_import(connection)
        connection.settimeout(0.02)
        received = b""
        for _ in range(5_000):
            connection.sendall(b"\0")
            with contextlib.suppress(TimeoutError):
                received = connection.recv(4096)
                break
    assert received.startswith(b"HTTP/1.1 408")
    assert not list(tmp_path.rglob("incoming-*"))


def test_an_import_may_take_long_if_it_goes_on(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "RECEIVE_DEADLINE_S", 2.0)
    monkeypatch.setattr(bodies, "RECEIVE_BYTES_MIN", 512)
    with served.connect() as connection:
        _begin_import(connection)
        began = time.monotonic()
        left = 36864 - 100
        while left and time.monotonic() < began + 2.5:
            connection.sendall(bytes(100))
            left -= 100
            time.sleep(0.02)
        connection.sendall(bytes(left))
        assert _rest(connection).startswith(b"HTTP/1.1 200")


def test_a_follower_that_reads_nothing_is_dropped_and_its_snapshot_closed(
    node: FakeNode, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "SEND_DEADLINE_S", 0.1)
    node.create("big.db", page_size=65536)
    node.commit("big.db", *range(1, 300))
    with served.connect() as connection:
        began = time.monotonic()
        connection.sendall(STREAM_HEAD + b"Content-Length: 4\r\n\r\n\0\0\0\0")
        while served.request("GET", "/status").body.find(b'"followers":[]') < 0 or not node.snapshot_n:
            pass
        assert time.monotonic() < began + 5
        assert not node.open_snapshots
        received = _rest(connection)
    assert len(received) < len(node.all["big.db"].content)
    assert not received.endswith(b"0\r\n\r\n")


def test_connections_beyond_the_limit_are_reset(calm: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 4)
    kept = [calm.connect() for _ in range(4)]
    try:
        with calm.connect() as refused:
            assert _rest(refused) == b""
        kept[0].sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert kept[0].recv(1 << 16).startswith(b"HTTP/1.1 200")
    finally:
        for connection in kept:
            connection.close()


def test_followers_beyond_the_limit_are_refused(calm: Served) -> None:
    connections = [calm.connect() for _ in range(FOLLOWERS_MAX)]
    try:
        for connection in connections:
            connection.sendall(STREAM_HEAD + b"Content-Length: 4\r\n\r\n\0\0\0\0")
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
        assert calm.request("POST", "/stream", bytes(4)).status == 503
    finally:
        for connection in connections:
            connection.close()
    while calm.request("GET", "/status").body.find(b'"followers":[]') < 0:
        pass


def test_listens_on_every_address_of_both_families() -> None:
    with listen("", 0) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass


def test_an_address_in_use_is_an_error() -> None:
    with listen("127.0.0.1", 0) as listener, pytest.raises(OSError, match="in use"):
        listen("127.0.0.1", listener.getsockname()[1])


def test_connections_give_up_on_a_peer_that_is_gone(calm: Served) -> None:
    with listen("127.0.0.1", 0) as listener:
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == PEER_TIMEOUT_MS
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
