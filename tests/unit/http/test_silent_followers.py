"""Followers whose process hangs while their kernel acknowledges everything: noticed by their signs of life."""

import socket
import time
from collections.abc import Callable

import pytest
from h2.events import DataReceived

from litefs.http import replication
from litefs.node import signs_of_life
from litefs.node.signs_of_life import SIGN, SignsOfLife
from tests.unit.http.fake_node import FakeNode
from tests.unit.http.http2_client import Http2Client
from tests.unit.http.serving import Served

TICK_S = 0.05
GIVE_UP_S = 30.0


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication, "HEARTBEAT_S", TICK_S)
    monkeypatch.setattr(signs_of_life, "SIGN_EVERY_S", TICK_S)


def calls(served: Served) -> socket.socket:
    """Returns the connection of a follower that is caught up: there is nothing to follow."""
    connection = served.connect()
    connection.sendall(b"POST /stream HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n\0\0\0\0")
    await_true(lambda: follower_n(served) == 1)
    return connection


def follower_n(served: Served) -> int:
    return served.request("GET", "/status").body.count(b'"address"')


def await_true(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + GIVE_UP_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def drops(served: Served) -> bytes:
    lines = served.request("GET", "/metrics").body.splitlines()
    return next(line.rpartition(b" ")[2] for line in lines if line.startswith(b"litefs_follower_silent_count"))


def test_a_follower_that_gives_signs_and_then_none_is_dropped(served: Served) -> None:
    with calls(served) as connection:
        connection.sendall(SIGN)
        await_true(lambda: follower_n(served) == 0)
        assert drops(served) == b"1.0"
        await_true(lambda: not _reads(connection))


def test_a_follower_that_never_gave_one_is_let_be(node: FakeNode, served: Served) -> None:
    with calls(served) as connection:
        heartbeats = 0
        while heartbeats < 3 * replication.SIGNS_MISSED_MAX:
            assert _reads(connection), "it was dropped"
            heartbeats += 1
        assert follower_n(served) == 1


def test_a_follower_that_goes_on_giving_them_is_let_be_and_they_are_no_request(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replication, "HEARTBEAT_S", 6 * TICK_S)  # the thread that gives them may be late for a second
    with calls(served) as connection:
        with SignsOfLife(connection):
            heartbeats = 0
            while heartbeats <= replication.SIGNS_MISSED_MAX + 1:
                assert _reads(connection), "it was dropped"
                heartbeats += 1
            assert follower_n(served) == 1
        await_true(lambda: follower_n(served) == 0)
    assert drops(served) == b"1.0"


def test_a_follower_of_http2_that_answers_pings_and_then_none_is_dropped(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Go LiteFS gives no other sign; its HTTP library answers for as long as the process runs."""
    monkeypatch.setattr(replication, "HEARTBEAT_S", 6 * TICK_S)
    client = Http2Client(served)
    client.begin("POST", "/stream", bytes(4))
    until = time.monotonic() + 2 * replication.SIGNS_MISSED_MAX * replication.HEARTBEAT_S
    while time.monotonic() < until:
        assert client.receive(), "it was dropped"
    assert follower_n(served) == 1
    await_true(lambda: follower_n(served) == 0)
    assert drops(served) == b"1.0"
    client.close()


def test_a_follower_of_http2_that_gives_no_window_is_dropped(
    node: FakeNode, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel takes all that a window allows, and nobody reads it."""
    monkeypatch.setattr(replication, "HEARTBEAT_S", GIVE_UP_S)  # pings find out nothing
    monkeypatch.setattr(replication, "LIVE_DEAD_AFTER_S", 10 * TICK_S)
    client = Http2Client(served)
    client.begin("POST", "/stream", bytes(4))
    while not any(isinstance(event, DataReceived) for event in client.events):  # Ready: it is live
        client.receive(credit=False)
    node.create("db", page_size=65536)
    for _ in range(3):
        node.commit("db", 1)
    await_true(lambda: follower_n(served) == 0)
    client.close()


def test_signs_end_with_the_connection() -> None:
    ours, theirs = socket.socketpair()
    with ours, SignsOfLife(ours) as signs:
        assert theirs.recv(100).startswith(SIGN)
        theirs.close()
        await_true(lambda: not signs._thread.is_alive())


def test_a_primary_that_reads_none_holds_nobody_up() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    while _sends(ours, bytes(4096)):
        pass
    ours.setblocking(True)
    with ours, theirs, SignsOfLife(ours) as signs:
        assert signs._thread.is_alive()


def test_who_looks_late_has_missed_one_sign_and_not_many() -> None:
    """A primary that stood still finds signs of one moment only, and much time gone."""
    count = 1
    counter = replication.SignCounter(lambda: count)
    assert not counter.find_none()
    looks = 0
    while not counter.find_none():
        counter._due_at = 0.0  # as if a long time had passed
        looks += 1
    assert looks == replication.SIGNS_MISSED_MAX


def _sends(connection: socket.socket, data: bytes) -> bool:
    try:
        return connection.send(data) > 0
    except BlockingIOError:
        return False


def _reads(connection: socket.socket) -> bytes:
    try:
        return connection.recv(4096)
    except ConnectionResetError:
        return b""
