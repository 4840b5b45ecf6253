"""The node process as the supervisor sees it: started, ready, ended."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from litefs.link import messages as m
from litefs.link.channel import MessageDecoder, encode
from litefs.link.settings import SETTINGS_VARIABLE, NodeSettings
from tests.unit.node.fake_duties import eventually

SIDECAR = Path(__file__).parents[3] / "sidecar"
TIMEOUT_S = 30.0
"""Only a hang takes that long."""


class NodeUnderTest:
    """The process, the filesystem's end of its link (answered on a thread), the supervisor's end of its control."""

    def __init__(self, directory: Path, *, port: int = 0) -> None:
        for name in ("data", "mnt", "data/spool"):
            (directory / name).mkdir()
        self.spooled = directory / "data/spool/of-one-that-died.ltx"
        self.spooled.touch()
        (directory / "data" / "id").write_text("0123456789ABCDEF\n")
        self.link, self._their_link = socket.socketpair()
        self.control, their_control = socket.socketpair()
        self.control.settimeout(TIMEOUT_S)
        settings = NodeSettings(
            link_fd=self._their_link.fileno(),
            control_fd=their_control.fileno(),
            data_dir=str(directory / "data"),
            mount_dir=str(directory / "mnt"),
            http_host="127.0.0.1",
            http_port=port,
            primary=True,
            hostname="here",
        )
        environment = os.environ | {
            SETTINGS_VARIABLE: msgspec.json.encode(settings).decode(),
            "PYTHONPATH": str(SIDECAR),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "litefs.cli.node_process"],
            env=environment,
            stderr=subprocess.PIPE,
            pass_fds=(settings.link_fd, settings.control_fd),
        )
        their_control.close()
        self.heard: list[m.NodeMessage] = []
        self.goes_on = threading.Event()
        """The filesystem process reads while it is set."""
        self.goes_on.set()
        self._log = b""
        self._answering = threading.Thread(target=self._answer)
        self._answering.start()

    def _answer(self) -> None:
        decoder: MessageDecoder[m.NodeMessage] = MessageDecoder(m.NodeMessage)
        with contextlib.suppress(OSError):
            while data := self.link.recv(1 << 16):
                for message in decoder.feed(data):
                    self._take(message)
                self.goes_on.wait()

    def _take(self, message: m.NodeMessage) -> None:
        self.heard.append(message)
        if isinstance(message, m.Hello):
            self.link.sendall(encode(m.Welcome(databases=[])))
        elif isinstance(message, m.AskCounters):
            self.link.sendall(encode(m.Counters(refused_n={}, commit_latencies={})))

    def wait_ready(self) -> None:
        """Returns when the process has said that it is ready."""
        said = self.control.recv(4096)
        assert said == b'{"type":"node-ready"}\n', said or self.end()

    def ask(self, path: str, method: str = "GET") -> bytes:
        """Returns the body of the answer to a request."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port(), timeout=TIMEOUT_S)
        try:
            connection.request(method, path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def fill_link(self) -> None:
        """Makes the other process stop reading, and leaves no room for anything on the way to it."""
        self.goes_on.clear()
        with contextlib.suppress(BlockingIOError):
            while True:
                self._their_link.send(encode(m.Ping()), socket.MSG_DONTWAIT)

    def connect(self) -> socket.socket:
        """Returns a connection to the API."""
        return socket.create_connection(("127.0.0.1", self._port()), timeout=TIMEOUT_S)

    def listen(self) -> socket.socket:
        """Returns a connection on which events come."""
        reader = self.connect()
        reader.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        while b"init" not in received:
            data = reader.recv(1 << 16)
            assert data, received
            received += data
        return reader

    def _port(self) -> int:
        """Reads it from the log."""
        assert self.process.stderr is not None
        while not (match := re.search(rb"http://127\.0\.0\.1:(\d+)", self._log)):
            line = self.process.stderr.readline()
            assert line, self._log.decode()
            self._log += line
        return int(match[1])

    def said(self, kind: type[m.NodeMessage]) -> list[m.NodeMessage]:
        """Returns what the filesystem process has heard of one kind."""
        return [message for message in self.heard if isinstance(message, kind)]

    def end(self) -> tuple[int, str]:
        """Waits for the end of the process. Returns its exit code and its log."""
        _, log = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, (self._log + log).decode()

    def close(self) -> None:
        self.goes_on.set()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        for end in (self._their_link, self.link, self.control):
            end.close()
        self._answering.join(TIMEOUT_S)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeUnderTest]:
    process = NodeUnderTest(tmp_path)
    yield process
    process.close()


def test_says_that_it_is_ready_and_serves(node: NodeUnderTest) -> None:
    node.wait_ready()
    assert json.loads(node.ask("/info"))["isPrimary"] is True
    assert isinstance(node.heard[0], m.Hello)
    assert node.heard[0].pid == node.process.pid


def test_removes_the_image_that_a_process_was_killed_in(node: NodeUnderTest) -> None:
    node.wait_ready()
    assert not node.spooled.exists()


def test_passes_on_that_it_was_told_to_leave(node: NodeUnderTest) -> None:
    node.wait_ready()
    node.ask("/handoff?nodeID=freshest&timeout=1&leave=true", "POST")
    assert node.control.recv(4096) == b'{"type":"leaving"}\n'
    assert not json.loads(node.ask("/status"))["candidate"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_in_good_order_on_a_signal(node: NodeUnderTest, number: signal.Signals) -> None:
    node.wait_ready()
    node.process.send_signal(number)
    code, log = node.end()
    assert code == 0
    assert "Traceback" not in log


def test_ends_when_the_supervisor_is_gone(node: NodeUnderTest) -> None:
    node.wait_ready()
    node.control.close()
    assert node.end()[0] == 0


def test_ends_with_a_failure_when_the_filesystem_process_is_gone(node: NodeUnderTest) -> None:
    node.wait_ready()
    node.link.shutdown(socket.SHUT_RDWR)
    code, log = node.end()
    assert code == 1
    assert "Traceback" not in log


def test_a_port_that_is_taken_is_said_by_name(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = NodeUnderTest(tmp_path, port=taken.getsockname()[1])
        try:
            code, log = process.end()
        finally:
            process.close()
    assert code == 1
    assert "http.addr" in log
    assert "in use" in log


def test_answers_while_the_filesystem_process_hangs_and_tells_it_afterwards(node: NodeUnderTest) -> None:
    node.wait_ready()
    node.ask("/healthz")
    node.fill_link()
    with node.listen():
        assert node.ask("/healthz") == b"ok\n"
        node.goes_on.set()
        eventually(lambda: node.said(m.SetListening)[-1:] == [m.SetListening(True)])
    eventually(lambda: node.said(m.SetListening)[-1] == m.SetListening(False))


def test_ends_in_good_order_with_a_follower(node: NodeUnderTest) -> None:
    node.wait_ready()
    with node.connect() as follower:
        follower.sendall(b"POST /stream HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n\0\0\0\0")
        received = follower.recv(1 << 16)
        node.process.terminate()
        while data := follower.recv(1 << 16):
            received += data
    assert received.endswith(b"4\r\n\0\0\0\3\r\n0\r\n\r\n")
    assert node.end()[0] == 0
