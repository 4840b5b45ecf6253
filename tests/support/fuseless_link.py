"""A node process that consists of a socket: the link to a filesystem without a mount, spoken to by a test."""

import os
import socket
from pathlib import Path

from litefs.filesystem.link_server import LinkServer
from litefs.link import messages as m
from litefs.link.channel import MessageDecoder, encode
from litefs.storage.disk import Buffer, Disk
from tests.support.fuseless_mount import FuselessMount

NODE_PID = os.getpid()


class TurnableDisk(Disk):
    """A plain disk until it is told to fail at a label."""

    def __init__(self) -> None:
        self.failing = ""
        self.error: Exception = OSError(5, "injected")

    def write(self, label: str, fd: int, data: Buffer, offset: int) -> None:
        if label == self.failing:
            raise self.error
        super().write(label, fd, data, offset)


class Link:
    """A node process that consists of a socket."""

    def __init__(self, path: Path, *, primary: bool = True) -> None:
        self.disk = TurnableDisk()
        self.mount = FuselessMount(path, primary=primary, disk=self.disk)
        self.role_changes = 0
        self.server = LinkServer(self.mount.operations, self.role_changed)
        self.mount.store.on_accept = self.server.committed
        self.mount.loop.spawn(self.server.serve(), "link")
        self.attach()

    def role_changed(self) -> None:
        self.role_changes += 1

    def attach(self) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(10)
        self._decoder: MessageDecoder[m.FilesystemMessage] = MessageDecoder(m.FilesystemMessage)
        self.server.attach(theirs)

    def send(self, *messages: m.NodeMessage) -> None:
        """Sends messages and lets the filesystem take them in."""
        for message in messages:
            self.socket.sendall(encode(message))
        self.settle()

    def settle(self) -> None:
        """Runs the loop until requests, offloaded calls and delayed sends have come to an end."""

        async def idle() -> None:
            quiet = 0
            while quiet < 5:
                await self.mount.loop.sleep(0.001)
                busy = self.server._requests or self.server._outgoing or self.mount.loop._pending_jobs
                quiet = 0 if busy else quiet + 1

        self.mount.do(idle())

    def received(self) -> list[m.FilesystemMessage]:
        """Returns what has arrived so far."""
        self.socket.setblocking(False)
        messages: list[m.FilesystemMessage] = []
        try:
            while data := self.socket.recv(1 << 20):
                messages += self._decoder.feed(data)
        except BlockingIOError:
            pass
        return messages

    def ask(self, *messages: m.NodeMessage) -> list[m.FilesystemMessage]:
        self.send(*messages)
        return self.received()

    def is_closed(self) -> bool:
        """The other side has hung up."""
        self.settle()
        self.socket.settimeout(10)
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def greet(self) -> m.Welcome:
        (welcome,) = self.ask(m.Hello(NODE_PID))
        assert isinstance(welcome, m.Welcome)
        return welcome

    def close(self) -> None:
        self.server.detach()
        self.socket.close()
        self.mount.close()


def new_state(link: Link) -> m.PrepareReplacement:
    """A replacement of `a.db`, whose incoming file is there."""
    directory = link.mount.store.directory("a.db")
    directory.mkdir(exist_ok=True)
    (directory / "incoming-1").touch()
    return m.PrepareReplacement(
        name="a.db", txid=9, checksum=1, page_size=512, page_n=3, timestamp_ms=4, incoming="incoming-1"
    )


async def pause(link: Link, seconds: float = 0.001) -> None:
    """Lets the loop run for a while."""
    await link.mount.loop.sleep(seconds)
