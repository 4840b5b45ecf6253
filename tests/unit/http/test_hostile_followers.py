"""What a follower may claim, send and fail to read, without cost to the primary."""

import random
import socket
import struct
import time
from collections.abc import Callable

import pytest

from litefs.formats.position import Pos
from litefs.formats.stream import DropDbFrame, HeartbeatFrame, StreamDecoder, encode_position_map
from litefs.http import bodies, responses
from litefs.http.api import POSITION_MAP_BYTES_MAX
from tests.support.memory import memory_growth_of
from tests.unit.http.fake_node import FakeNode
from tests.unit.http.serving import Served, pos

HEAD = b"POST /stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
MEMORY_PER_FOLLOWER_MAX = 8 << 20
"""A snapshot has two blocks under way, and the sockets' buffers are the kernel's."""


def ask(served: Served, body: bytes) -> int:
    """Returns the status of a request for a stream, which is then left."""
    with served.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        received = b""
        while b"\r\n" not in received and (data := connection.recv(4096)):
            received += data
    return int(received.split()[1])


def await_true(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def followers_of(served: Served) -> bytes:
    return served.request("GET", "/status").body.partition(b'"followers":')[2]


VALID = encode_position_map({"a.db": pos(3, 1 << 63 | 5), "b.db": pos(2**64 - 1, 2**64 - 1), "c": pos(0, 0)})


def test_no_cut_and_no_flipped_bit_of_a_position_map_is_more_than_refused(node: FakeNode, served: Served) -> None:
    node.create("a.db")
    node.commit("a.db", 1)
    chance = random.Random(3)
    cut = [VALID[:size] for size in range(0, len(VALID), 5)]
    flipped = [VALID[:at] + bytes([VALID[at] ^ 1 << chance.randrange(8)]) + VALID[at + 1 :] for at in range(len(VALID))]
    statuses = [ask(served, body) for body in [VALID, *cut, *flipped, VALID + b"\0"]]
    assert statuses[0] == 200
    assert set(statuses) == {200, 400}
    assert statuses[1 : 1 + len(cut)] == [400] * len(cut)
    await_true(lambda: followers_of(served).startswith(b"[]"))


@pytest.mark.parametrize(
    "body",
    [
        b"\xff" * 4,
        struct.pack(">I", 0xFFFFFFFF) + VALID[4:],
        struct.pack(">II", 1, 0xFFFFFFFF) + b"a" * 1000,
        struct.pack(">II", 1, 256) + b"a" * 256 + bytes(16),
        struct.pack(">II", 1, 0) + bytes(16),
        struct.pack(">II", 1, 4) + b"../x" + bytes(16),
        struct.pack(">II", 1, 5) + b"a-wal" + bytes(16),
        struct.pack(">II", 1, 2) + b"\xff\xfe" + bytes(16),
        struct.pack(">I", 2) + 2 * (struct.pack(">I", 1) + b"a" + bytes(16)),
        b"\0" * 3,
        random.Random(1).randbytes(1 << 20),
    ],
    ids=["garbage", "count", "length", "long", "empty", "path", "side file", "not UTF-8", "twice", "short", "noise"],
)
def test_a_garbled_position_map_is_refused_and_costs_nothing(calm: Served, body: bytes) -> None:
    with memory_growth_of(8 << 20):
        assert ask(calm, body) == 400


def test_a_body_larger_than_any_position_map_is_cut_off(calm: Served) -> None:
    """Without a length, so that it shows only as it comes."""
    block = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    with memory_growth_of(3 * POSITION_MAP_BYTES_MAX), calm.connect() as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        try:
            for _ in range(8 * POSITION_MAP_BYTES_MAX // len(block)):
                connection.sendall(block)
            received = connection.recv(4096)
        except (ConnectionResetError, BrokenPipeError):
            received = b""
    assert not received or received.startswith(b"HTTP/1.1 413")
    assert calm.request("GET", "/healthz").status == 200


def test_a_body_that_drips_is_given_up(calm: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "WHOLE_BODY_DEADLINE_S", 0.3)
    with calm.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n")
        connection.settimeout(0.02)
        received = b""
        while not received:
            connection.sendall(b"\0")
            try:
                received = connection.recv(4096)
            except TimeoutError:
                continue
    assert received.startswith(b"HTTP/1.1 408")


def test_a_follower_that_knows_thousands_of_databases_that_we_do_not_is_told_so(node: FakeNode, served: Served) -> None:
    node.create("a.db")
    node.commit("a.db", 1)
    unknown = {f"{n:08x}": pos(1, 1 << 63) for n in range(10_000)}
    assert len(encode_position_map(unknown)) < POSITION_MAP_BYTES_MAX
    with served.follow(unknown) as stream:
        dropped = 0
        while isinstance(frame := stream.next(), DropDbFrame | HeartbeatFrame):
            dropped += isinstance(frame, DropDbFrame)
            if dropped % 2_000 == 1:
                assert served.request("GET", "/healthz").status == 200
            if dropped == len(unknown):
                break
    assert dropped == len(unknown)


def test_thousands_of_unknown_databases_are_told_in_few_writes(node: FakeNode, served: Served) -> None:
    node.create("a.db")
    node.commit("a.db", 1)
    unknown = {f"{n:08x}": pos(1, 1 << 63) for n in range(10_000)}
    decoder, dropped, parts = StreamDecoder(), 0, 0
    with served.follow(unknown) as stream:
        while dropped < len(unknown):
            data = stream.response.read1(1 << 20)
            parts += 1
            dropped += sum(isinstance(frame, DropDbFrame) for frame in decoder.feed(data))
    assert parts < 100


@pytest.mark.parametrize("caller", ["", "zz", "0" * 5000, "<script>", '"} {', "é", "-1"])
def test_a_follower_may_call_itself_anything(node: FakeNode, served: Served, caller: str) -> None:
    with served.follow(node_id=caller) as stream:
        assert stream.until_ready() == []
        assert served.request("GET", "/status").status == 200
        assert served.request("GET", "/metrics").status == 200


@pytest.mark.parametrize("names", ["../x", ",,,", "a.db%00", "%ff", "a" * 5000])
def test_a_filter_that_names_no_database_gets_none(node: FakeNode, served: Served, names: str) -> None:
    node.create("a.db")
    node.commit("a.db", 1)
    with served.follow(query=f"?filter={names}") as stream:
        assert stream.until_ready() == []


def deaf(served: Served) -> socket.socket:
    """Returns the connection of a follower that asks for everything and reads nothing."""
    connection = served.connect()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.sendall(b"POST /stream HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n\0\0\0\0")
    return connection


def test_followers_that_never_read_cost_little_and_hold_nobody_up(
    node: FakeNode, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "SEND_DEADLINE_S", 3.0)
    node.create("big.db", page_size=65536)
    node.commit("big.db", *range(1, 300))  # 19 MB, more than the sockets' buffers
    node.create("live.db", page_size=4096)
    here: dict[str, Pos] = {"big.db": node.all["big.db"].pos, "live.db": node.commit("live.db", 1, 2, 3)}
    follower_n = 4
    with memory_growth_of(follower_n * MEMORY_PER_FOLLOWER_MAX), served.follow(here) as stream:
        stream.until_ready()
        connections = [deaf(served) for _ in range(follower_n)]
        try:
            await_true(lambda: node.snapshot_n >= follower_n)
            for _ in range(300):
                here["live.db"] = node.commit("live.db", 1, 2, 3)
                assert stream.image().pos == here["live.db"], "one that reads gets each commit at once"
            await_true(lambda: followers_of(served).count(b'"node_id"') == 1 and not node.open_snapshots)
        finally:
            for connection in connections:
                connection.close()


def test_a_follower_that_stops_reading_behind_its_snapshot_is_dropped(
    node: FakeNode, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "SEND_DEADLINE_S", 0.5)
    node.create("live.db", page_size=65536)
    here = node.commit("live.db", 1)
    body = encode_position_map({"live.db": here})
    with served.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(b"POST /stream HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await_true(lambda: b'"ready":true' in followers_of(served).replace(b" ", b""))
        with memory_growth_of(MEMORY_PER_FOLLOWER_MAX):
            deadline = time.monotonic() + 60
            while not followers_of(served).startswith(b"[]"):
                node.commit("live.db", *range(1, 9))
                assert time.monotonic() < deadline


@pytest.mark.parametrize("read_bytes", [0, 1000, 1 << 20])
def test_followers_that_die_in_the_middle_of_a_snapshot_leave_nothing(
    node: FakeNode, served: Served, read_bytes: int
) -> None:
    node.create("big.db", page_size=65536)
    node.commit("big.db", *range(1, 300))
    for _ in range(5):
        with served.connect() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(b"POST /stream HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n\0\0\0\0")
            received = 0
            while received < read_bytes:
                received += len(connection.recv(1 << 16))
    await_true(lambda: followers_of(served).startswith(b"[]") and not node.open_snapshots)
    with served.follow() as stream:
        assert [image.pos for image in stream.until_ready()] == [node.all["big.db"].pos]
