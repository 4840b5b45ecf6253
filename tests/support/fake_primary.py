"""A primary that tests write themselves: it answers `POST /stream` with whatever bytes a script yields.

Strategy: a thread per connection reads the request and writes what the script of the moment makes of the positions in
it. A new script ends the connections of the one before. `Author` makes the honest images of a real SQLite database,
which scripts send as they are, or spoil.
"""

import socket
import sqlite3
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from litefs.formats.checksum import CHECKSUM_FLAG, database_checksum, page_checksums
from litefs.formats.ltx import FLAG_LZ4, LtxHeader
from litefs.formats.ltx_encoder import encode_image
from litefs.formats.position import ZERO_POS, Checksum, Pos, Txid
from litefs.formats.stream import (
    CHUNK_TERMINATOR,
    HeartbeatFrame,
    LtxFrame,
    ReadyFrame,
    decode_position_map,
    encode_chunks,
    encode_frame,
)

CLUSTER_ID = "LFSC0123456789ABCDEF"
HEAD = f"HTTP/1.1 200 OK\r\nLitefs-Cluster-Id: {CLUSTER_ID}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
PAGE_SIZE = 1024
TIMESTAMP_MS = 1_700_000_000_000

Positions = Mapping[str, Pos]
Script = Callable[[Positions], Iterable[bytes]]
"""Yields the bytes of a whole answer; where it ends, the connection does."""


def chunk(data: bytes) -> bytes:
    """Returns a chunk of HTTP/1.1."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def frame_of(image: bytes, name: str = "db") -> bytes:
    """Returns an image as the stream carries it."""
    return encode_frame(LtxFrame(name=name)) + encode_chunks(image) + CHUNK_TERMINATOR


def named_frame(name: bytes) -> bytes:
    """Returns the head of an LTX frame for a name that the encoder would refuse."""
    return struct.pack(">IQI", 1, 0, len(name)) + name


def checksum_of(state: bytes) -> Checksum:
    """Returns the checksum of a whole database file."""
    return Checksum(database_checksum(page_checksums(state, PAGE_SIZE, 1)) | CHECKSUM_FLAG)


class FakePrimary:
    """Listens on loopback.

    Attributes:
        port: where.
        asked: positions of each request since the script began, newest last.
    """

    def __init__(self, script: Script) -> None:
        """Listens."""
        self._lock = threading.Lock()
        self._script = script
        self._open: set[socket.socket] = set()
        self.asked: list[Positions] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def play(self, script: Script) -> None:
        """Answers by another script from now on."""
        with self._lock:
            self._script = script
            self.asked = []
            connections, self._open = self._open, set()
        for connection in connections:
            _hang_up(connection)

    def close(self) -> None:
        """Hangs up."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.play(lambda positions: ())

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            script, asked = self._script, self.asked
            self._open.add(connection)
        try:
            positions = _read_request(connection)
            asked.append(positions)
            for data in script(positions):
                connection.sendall(data)
        except OSError:
            pass  # the replica hung up, as it should on most of what it gets here
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it is gone already


def _read_request(connection: socket.socket) -> Positions:
    """Returns the positions that a replica tells; none if it does not speak HTTP/1.1."""
    data = b""
    while b"\r\n\r\n" not in data and not data.startswith(b"PRI "):
        more = connection.recv(65536)
        if not more:
            return {}
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    while lengths and len(body) < lengths[0]:
        body += connection.recv(65536)
    return decode_position_map(body) if lengths else {}


class Author:
    """A database in rollback mode and its history, as a primary's log has it."""

    def __init__(self, path: Path) -> None:
        """Makes the database, at transaction 1."""
        self._path = path
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        self._connection.execute("PRAGMA synchronous = OFF")
        self.states: list[bytes] = [b""]
        self.positions: list[Pos] = [ZERO_POS]
        self.n = 0
        self._changed = threading.Condition()
        self.commit("CREATE TABLE t (n INTEGER, body BLOB); INSERT INTO t VALUES (0, zeroblob(400000))")

    def close(self) -> None:
        """Closes the database."""
        self._connection.close()

    def commit(self, text: str = "") -> Pos:
        """Commits statements, or just the next number. Returns the position after it."""
        self.n += 1
        self._connection.executescript(f"BEGIN; {text}; UPDATE t SET n = {self.n}; COMMIT")
        state = self._path.read_bytes()
        with self._changed:
            self.states.append(state)
            self.positions.append(Pos(txid=Txid(len(self.positions)), checksum=checksum_of(state)))
            self._changed.notify_all()
        return self.position

    @property
    def position(self) -> Pos:
        """The newest position."""
        return self.positions[-1]

    def header(self, after: Pos, **fields: int) -> LtxHeader:
        """Returns the header of the image that follows a position; of a snapshot for `ZERO_POS`."""
        is_snapshot = after == ZERO_POS
        values: dict[str, int] = {
            "page_size": PAGE_SIZE,
            "commit": len(self.states[-1]) // PAGE_SIZE,
            "min_txid": after.txid + 1,
            "max_txid": self.position.txid if is_snapshot else after.txid + 1,
            "timestamp_ms": TIMESTAMP_MS,
            "pre_apply": after.checksum,
        }
        return LtxHeader(**(values | fields))  # type: ignore[arg-type]  # NewTypes of int

    def snapshot(self, *, post_apply: int = 0, flags: int = FLAG_LZ4) -> bytes:
        """Returns the newest state as an image."""
        pages = _pages(b"", self.states[-1])
        return encode_image(self.header(ZERO_POS, flags=flags), pages, post_apply or self.position.checksum)

    def image(self, txid: int) -> bytes:
        """Returns the image of one transaction."""
        before, after = self.states[txid - 1 : txid + 1]
        header = self.header(self.positions[txid - 1], commit=len(after) // PAGE_SIZE)
        return encode_image(header, _pages(before, after), self.positions[txid].checksum)

    def frames_after(self, position: Pos) -> bytes:
        """Returns what takes a follower from a position to the newest one."""
        if position in self.positions[1:]:
            return b"".join(frame_of(self.image(txid)) for txid in range(position.txid + 1, len(self.positions)))
        return frame_of(self.snapshot())

    def honestly(self, positions: Positions) -> Iterator[bytes]:
        """The script of a primary that behaves. It never ends."""
        yield HEAD
        position = positions.get("db", ZERO_POS)
        while True:
            frames = self.frames_after(position) if position != self.position else b""
            position = self.position
            alive = encode_frame(ReadyFrame()) + encode_frame(HeartbeatFrame(timestamp_ms=TIMESTAMP_MS))
            yield chunk(frames + alive)
            with self._changed:
                self._changed.wait_for(lambda known=position: known != self.position, timeout=1.0)  # type: ignore[misc]


def _pages(before: bytes, after: bytes) -> list[tuple[int, bytes]]:
    return [
        (at // PAGE_SIZE + 1, after[at : at + PAGE_SIZE])
        for at in range(0, len(after), PAGE_SIZE)
        if after[at : at + PAGE_SIZE] != before[at : at + PAGE_SIZE]
    ]
