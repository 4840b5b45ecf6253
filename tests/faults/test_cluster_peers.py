"""A primary that misbehaves: the replica drops the connection, applies nothing, and tries again."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.cluster import await_true
from tests.support.litefs_node import LitefsNode

CLUSTER = "LFSC0123456789ABCDEF"
LTX_FRAME = struct.pack(">IQI", 1, 0, 2) + b"db"
HEADER = b"HTTP/1.1 200 OK\r\nLitefs-Cluster-Id: %s\r\nTransfer-Encoding: chunked\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class FakePrimary:
    """Answers every connection with the same bytes and counts them. `hangs`: it then says nothing, for ever."""

    def __init__(self, answer: bytes, *, hangs: bool = False) -> None:
        """Listens."""
        self._answer = answer
        self._hangs = hangs
        self.connection_n = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Hangs up."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            connection.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connection_n += 1
            connection.recv(65536)
            try:
                connection.sendall(self._answer)
            except OSError:
                pass  # the replica hung up on garbage, as it should
            if self._hangs:
                self._open.append(connection)
            else:
                connection.close()


@pytest.fixture
def followed(tmp_path: Path) -> Iterator[Callable[[FakePrimary], LitefsNode]]:
    """Starts a replica of a fake primary."""
    started: list[tuple[FakePrimary, LitefsNode]] = []

    def start(primary: FakePrimary) -> LitefsNode:
        node = LitefsNode(tmp_path / "replica", primary_port=primary.port, extra='  reconnect-delay: "20ms"\n')
        started.append((primary, node))
        node.start()
        return node

    yield start
    for primary, node in started:
        node.stop()
        primary.close()


HEAD = HEADER % CLUSTER.encode()
ANSWERS = {
    "no HTTP": b"\x00\xff" * 500,
    "a server error": b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\n\r\nlease",
    "an unknown frame": HEAD + _chunk(struct.pack(">I", 77)),
    "a name that is a path": HEAD + _chunk(struct.pack(">IQI", 1, 0, 6) + b"../../"),
    "a huge name": HEAD + _chunk(struct.pack(">IQI", 1, 0, 0xFFFFFFFF)),
    "an image that is none": HEAD + _chunk(LTX_FRAME + struct.pack(">H", 200) + b"x" * 200 + b"\0\0"),
    "an empty image": HEAD + _chunk(LTX_FRAME + b"\0\0"),
    "half an image": HEAD + _chunk(LTX_FRAME + struct.pack(">H", 100) + b"LTX1"),
    "a huge HTTP chunk": HEAD + b"ffffffffffff\r\n" + b"x" * 1000,
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_a_replica_drops_a_primary_that_talks_nonsense_and_tries_again(
    followed: Callable[[FakePrimary], LitefsNode], answer: bytes
) -> None:
    primary = FakePrimary(answer)
    node = followed(primary)
    await_true(lambda: primary.connection_n >= 3, "it tries again")
    assert node.is_alive
    assert list((node.data_dir / "dbs").glob("*/log/*")) == [], "nothing was taken"
    assert "Traceback" not in node.log_text()
    node.child_pid("litefs.cli.node_process")


def test_a_replica_that_belongs_to_another_cluster_takes_nothing(
    followed: Callable[[FakePrimary], LitefsNode], tmp_path: Path
) -> None:
    (tmp_path / "replica" / "data").mkdir(parents=True)
    (tmp_path / "replica" / "data" / "clusterid").write_text("LFSCFEDCBA9876543210\n")
    primary = FakePrimary(HEAD)
    node = followed(primary)
    await_true(lambda: "belongs to cluster" in node.log_text(), "the log names both clusters")
    await_true(lambda: primary.connection_n >= 2, "it tries again")
    assert (node.data_dir / "clusterid").read_text() == "LFSCFEDCBA9876543210\n"


def test_a_primary_that_falls_silent_is_given_up(followed: Callable[[FakePrimary], LitefsNode]) -> None:
    primary = FakePrimary(HEAD, hangs=True)
    followed(primary)
    await_true(lambda: primary.connection_n >= 2, "it tries again after ten seconds of silence")
