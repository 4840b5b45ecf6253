"""Peers that send a byte now and then: no wait for them is long, and all of them together have an end."""

import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from litefs.deadline import Deadline
from litefs.errors import HandoffRefusedError, PeerError
from litefs.node import handoff_request, stream_client
from litefs.node.caller import Caller
from litefs.node.cluster_id import ClusterId
from litefs.node.stream_client import StreamResponse, post_http1, post_http2
from tests.support.dripping_peer import HALF_A_HEAD, dripping_peer

BOUND_S = 0.3
WAIT_S = 20.0
"""For one byte, which comes much sooner."""

HTTP2_SETTINGS = bytes.fromhex("000000040000000000")
HTTP2_HEAD = bytes.fromhex("00000101040000000188")  # :status 200
HTTP2_PING = bytes.fromhex("000008060000000000") + bytes(8)

Post = Callable[[socket.socket, str, Mapping[str, str], bytes], StreamResponse]


@pytest.mark.parametrize(
    ("post", "first", "drop"),
    [
        (post_http1, HALF_A_HEAD, b"b"),
        (post_http1, b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (post_http2, HTTP2_SETTINGS, HTTP2_PING),
    ],
    ids=["half a head", "interim answers", "HTTP/2 without an answer"],
)
def test_a_primary_whose_answer_does_not_end_is_left(
    post: Post, first: bytes, drop: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_client, "HEAD_DEADLINE_S", BOUND_S)
    with (
        dripping_peer(first, drop) as port,
        socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as connection,
        pytest.raises(TimeoutError, match=r"no head of an answer within 0\.3 s"),
    ):
        post(connection, "x", {}, b"")


def test_a_primary_that_sends_pings_alone_is_left_as_one_that_sends_nothing() -> None:
    with (
        dripping_peer(HTTP2_SETTINGS + HTTP2_HEAD, HTTP2_PING) as port,
        socket.create_connection(("127.0.0.1", port), timeout=BOUND_S) as connection,
    ):
        response = post_http2(connection, "x", {}, b"")
        assert response.status == 200
        with pytest.raises(TimeoutError, match=r"nothing but control frames for 0\.3 s"):
            response.read()


@pytest.mark.parametrize(
    "first", [HALF_A_HEAD, b"HTTP/1.1 503 No\r\nContent-Length: 9999\r\n\r\n"], ids=["head", "reason"]
)
def test_a_primary_whose_agreement_does_not_end_has_not_agreed(
    first: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handoff_request, "TIMEOUT_S", BOUND_S)
    caller = Caller(node_id=1, cluster=ClusterId(tmp_path))
    with dripping_peer(first) as port, pytest.raises(HandoffRefusedError, match=r"no answer within 0\.3 s"):
        handoff_request.request_handoff(f"http://127.0.0.1:{port}", caller)


def test_what_ends_in_time_leaves_the_connection_as_it_is() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with Deadline(ours, WAIT_S, "answer"):
            theirs.sendall(b"1")
            assert ours.recv(1) == b"1"
        with pytest.raises(PeerError), Deadline(ours, WAIT_S, "answer"):
            raise PeerError("its own error")
        theirs.sendall(b"2")
        assert ours.recv(1) == b"2"
