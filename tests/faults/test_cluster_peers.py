"""A primary that misbehaves: the replica drops it, shows and keeps nothing of it, and follows again when it behaves.

One replica for all of it, so that what a case leaves behind is met by the next.
"""

import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import lz4.frame
import pytest

from litefs.formats.checksum import CHECKSUM_FLAG
from litefs.formats.ltx import FLAG_LZ4
from litefs.formats.ltx_encoder import encode_image
from litefs.formats.position import ZERO_POS, Checksum, Pos, Txid
from litefs.formats.stream import (
    CHUNK_TERMINATOR,
    DropDbFrame,
    EndFrame,
    Frame,
    HeartbeatFrame,
    HwmFrame,
    LtxFrame,
    ReadyFrame,
    encode_chunks,
    encode_frame,
)
from litefs.formats.stream_channels import CHANNEL_MAX, LIVE_CHANNEL, VERSION, VERSION_HEADER, encode_piece
from tests.support.cluster import await_true
from tests.support.fake_primary import (
    CLUSTER_ID,
    HEAD,
    PAGE_SIZE,
    Author,
    FakePrimary,
    Positions,
    Script,
    checksum_of,
    chunk,
    frame_of,
    named_frame,
)
from tests.support.litefs_node import LitefsNode
from tests.support.sql_client import SqlProcess

MEMORY_GROWTH_MAX = 112 << 20
"""Of either process over all cases: 57 MB and 48 MB were measured, mostly what one step of LZ4 returns."""


class Peers:
    """A replica and the primary it follows."""

    def __init__(self, root: Path) -> None:
        """Starts both; the replica has followed."""
        self.root = root
        self.author = Author(root / "source.db")
        self.primary = FakePrimary(self.author.honestly)
        self.replica = LitefsNode(root / "replica", primary_port=self.primary.port, extra='  reconnect-delay: "20ms"\n')
        self.replica.start()
        self.await_state()
        self.pids = self.replica.pids()
        self.memory = {pid: _peak(pid) for pid in self.pids}
        self._reader = SqlProcess(free=self.replica.free)

    def close(self) -> None:
        """Ends both."""
        self._reader.close()
        self.replica.stop()
        self.primary.close()
        self.author.close()

    def misbehave(self, script: Script, *, times: int = 3) -> None:
        """Answers by a script until the replica has called again and again."""
        self.primary.play(script)
        await_true(lambda: len(self.primary.asked) >= times, "it tries again")

    def behave(self) -> None:
        """Commits once more, honestly, and waits until the replica shows it."""
        self.author.commit()
        self.primary.play(self.author.honestly)
        self.await_state()

    def await_state(self) -> None:
        """Waits until the replica is at the author's position."""
        position = str(self.author.position)
        await_true(lambda: self.replica.read("db-pos").strip() == position, f"the replica is at {position}")

    def shown(self) -> list[object]:
        """Returns what an application on the replica reads: the number, whether all is sound, and the position."""
        uri = f"file:{self.replica.mount_dir / 'db'}?mode=ro"
        self._reader.call("open", 0, uri, 5000)
        try:
            rows = self._reader.call("sql", 0, "SELECT n, (SELECT * FROM pragma_integrity_check) FROM t", [])
        finally:
            self._reader.call("close", 0)
        return [*rows[0], self.replica.read("db-pos").strip()]

    def tree(self) -> set[str]:
        """Returns every name below the test's directory, but for those in the mount and in the database's own."""
        own = self.replica.data_dir / "dbs" / "db"
        return {
            str(path.relative_to(self.root))
            for path in self.root.rglob("*")
            if not path.is_relative_to(self.replica.mount_dir) and not path.is_relative_to(own)
        }

    def check_memory(self) -> None:
        """Fails if a process of the replica held too much at any time since it started."""
        growth = {pid: _peak(pid) - before for pid, before in self.memory.items()}
        assert max(growth.values()) < MEMORY_GROWTH_MAX, growth


def _peak(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    peers = Peers(tmp_path_factory.mktemp("peers"))
    yield peers
    peers.close()


# ---- what a peer may send ----


def always(data: bytes) -> Script:
    return lambda positions: [data]


def streamed(make: Callable[[Author, Pos], Iterable[bytes]]) -> Callable[[Author], Script]:
    """Makes a script whose stream begins well and goes on with what `make` returns for the replica's position."""

    def script_of(author: Author) -> Script:
        def script(positions: Positions) -> Iterator[bytes]:
            yield HEAD
            for data in make(author, positions.get("db", ZERO_POS)):
                yield chunk(data)

        return script

    return script_of


def following(author: Author, position: Pos, *, post_apply: int = CHECKSUM_FLAG | 1, **fields: int) -> bytes:
    """Returns an image that follows a position and is sound by its own checksum; it empties page 2."""
    return encode_image(author.header(position, **fields), [(2, bytes(PAGE_SIZE))], post_apply)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def spoiled_header(author: Author, position: Pos, offset: int, value: int) -> bytes:
    image = bytearray(following(author, position) if position != ZERO_POS else author.snapshot())
    image[offset : offset + 4] = value.to_bytes(4, "big")
    return bytes(image)


def bomb(author: Author, position: Pos, page_n: int) -> Iterator[bytes]:
    """Yields an image of equal pages without an end: it expands 250 times."""
    yield encode_frame(LtxFrame(name="db"))
    header = author.header(position, page_size=PAGE_SIZE, commit=page_n + 1, flags=FLAG_LZ4)
    frame = lz4.frame.LZ4FrameCompressor(block_size=lz4.frame.BLOCKSIZE_MAX4MB)
    yield encode_chunks(header.encode() + frame.begin())
    page = bytes(PAGE_SIZE)
    for first in range(1, page_n + 1, 4096):
        pages = b"".join(pgno.to_bytes(4, "big") + page for pgno in range(first, min(first + 4096, page_n + 1)))
        if data := frame.compress(pages):
            yield encode_chunks(data)


def whole_bomb(author: Author, position: Pos) -> bytes:
    """Returns an image that is sound by its own checksum and has 40 MiB of pages that are not those of its state."""
    page, page_n = bytes(PAGE_SIZE), 40 << 10
    header = author.header(position, commit=page_n, flags=FLAG_LZ4)
    return encode_image(header, [(pgno, page) for pgno in range(1, page_n + 1)], position.checksum or CHECKSUM_FLAG | 3)


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


STREAMS: dict[str, Callable[[Author, Pos], Iterable[bytes]]] = {
    "nothing": lambda author, position: [],
    "an unknown frame": lambda author, position: [struct.pack(">I", 77)],
    "a huge name": lambda author, position: [struct.pack(">IQI", 1, 0, 0xFFFFFFFF)],
    "an image that is none": lambda author, position: [frame_of(b"x" * 200)],
    "an empty image": lambda author, position: [frame_of(b"")],
    "a Go server's error within an image": lambda author, position: [
        encode_frame(LtxFrame(name="db")) + encode_chunks(half(author.snapshot())) + b"stream error\n"
    ],
    "half an image": lambda author, position: [half(frame_of(following(author, position)))],
    "half a snapshot": lambda author, position: [half(frame_of(author.snapshot()))],
    "half a snapshot in tiny pieces": lambda author, position: (
        bytes([byte]) for byte in half(frame_of(author.snapshot()))[:400]
    ),
    "a chunk longer than the stream": lambda author, position: [encode_frame(LtxFrame(name="db")) + b"\xff\xffLTX1"],
    "bytes behind an image": lambda author, position: [frame_of(author.snapshot() + b"\0")],
    "a snapshot cut short": lambda author, position: [frame_of(author.snapshot()[:-20])],
    "a wrong file checksum": lambda author, position: [frame_of(flipped(following(author, position), 300))],
    "a snapshot with a wrong file checksum": lambda author, position: [
        frame_of(flipped(author.snapshot(flags=0), 5000))
    ],
    "a snapshot that is not the state that it says": lambda author, position: [
        frame_of(author.snapshot(post_apply=CHECKSUM_FLAG | 9))
    ],
    "an image behind a gap": lambda author, position: [
        frame_of(following(author, Pos(txid=Txid(position.txid + 1), checksum=author.position.checksum)))
    ],
    "an image of another history": lambda author, position: [
        frame_of(following(author, Pos(txid=Txid(99), checksum=author.position.checksum)))
    ],
    "a huge page size": lambda author, position: [frame_of(spoiled_header(author, position, 8, 1 << 31))],
    "another page size": lambda author, position: [
        frame_of(encode_image(author.header(author.position, page_size=512), [(1, bytes(512))], CHECKSUM_FLAG | 1))
    ],
    "a huge database": lambda author, position: [frame_of(spoiled_header(author, ZERO_POS, 12, 0xFFFFFFFF))],
    "a transaction that expands without end": lambda author, position: bomb(author, position, 256 << 10),
    "a snapshot that expands without end": lambda author, position: bomb(author, ZERO_POS, 256 << 10),
}
ANSWERS: dict[str, bytes] = {
    "no HTTP": b"\x00\xff" * 500,
    "an answer of HTTP/2": bytes.fromhex("000000040000000000"),
    "a server error": b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\n\r\nlease",
    "an error without end": b"HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"x" * 60000) * 20,
    "HTTP/2 wanted and not spoken": b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n",
    "a redirection": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/stream\r\nContent-Length: 0\r\n\r\n",
    "header lines without end": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 100_000,
    "a header line without end": b"HTTP/1.1 200 OK\r\nA: " + b"b" * 1_000_000,
    "a huge HTTP chunk": HEAD + b"ffffffffffff\r\n" + b"x" * 1000,
    "a negative HTTP chunk": HEAD + b"-5\r\n" + b"x" * 1000,
    "a chunk length that is none": HEAD + b"zz\r\n" + b"x" * 1000,
    "a chunk length without end": HEAD + b"1" * 1_000_000,
    "a body shorter than announced": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + encode_frame(ReadyFrame()),
}
NAMES = [
    b"",
    b".",
    b"..",
    b"../x",
    b"../../../x",
    b"/tmp/x",
    b"a/b",
    b"a\0b",
    b"db-wal",
    b"db-journal",
    b"db-shm",
    b"db-pos",
    b"db-lock",
    b"db-mj0123456A9",
    b".primary",
    b".lag",
    b".litefs-replacement-db",
    b"x" * 248,
    b"x" * 300,
    b"\xff\xfe",
    b"\xed\xa0\x80",  # half a surrogate pair
]


def on_channels(make: Callable[[Author], Iterable[tuple[int, bytes]]]) -> Callable[[Author], Script]:
    """Makes a script whose connection carries channels, with the pieces that `make` returns."""
    head = HEAD[:-2] + f"{VERSION_HEADER}: {VERSION}\r\n\r\n".encode()
    return lambda author: (
        lambda positions: [head + chunk(b"".join(encode_piece(channel, data) for channel, data in make(author)))]
    )


CHANNELS: dict[str, Callable[[Author], Iterable[tuple[int, bytes]]]] = {
    "a channel that is too high": lambda author: [(CHANNEL_MAX + 1, encode_frame(ReadyFrame()))],
    "half a snapshot on every channel": lambda author: [
        (channel, half(frame_of(author.snapshot(flags=0)))) for channel in range(CHANNEL_MAX + 1)
    ],
    "a snapshot in pieces, one of which is missing": lambda author: [
        (channel, frame_of(author.snapshot(flags=0))[at : at + 40])
        for at in range(0, 4000, 40)
        for channel in (3, 4)
        if (at, channel) != (2000, 3) and at < 3960
    ],
    "an end in the middle of an image": lambda author: [
        (5, half(frame_of(author.snapshot()))),
        (LIVE_CHANNEL, encode_frame(EndFrame())),
    ],
}
SCRIPTS: dict[str, Callable[[Author], Script]] = {
    **{name: on_channels(make) for name, make in CHANNELS.items()},
    "a piece longer than the connection": lambda author: always(
        HEAD[:-2] + f"{VERSION_HEADER}: {VERSION}\r\n\r\n".encode() + chunk(struct.pack(">II", 1, 0xFFFFFFFF) + b"x")
    ),
    **{name: streamed(make) for name, make in STREAMS.items()},
    **{name: lambda author, data=data: always(data) for name, data in ANSWERS.items()},  # type: ignore[misc]
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_primary_that_misbehaves_is_dropped_and_followed_again(peers: Peers, name: str) -> None:
    before, tree, logged = peers.shown(), peers.tree(), len(peers.replica.log_text())
    peers.misbehave(SCRIPTS[name](peers.author))
    assert peers.shown() == before
    peers.behave()
    assert peers.shown()[:2] == [peers.author.n, "ok"]
    assert peers.tree() == tree, "nothing stays behind"
    assert "Traceback" not in peers.replica.log_text()[logged:]
    assert peers.replica.pids() == peers.pids


def test_no_name_from_the_wire_leads_out_of_the_directory_of_databases(peers: Peers) -> None:
    before, tree = peers.shown(), peers.tree()
    for name in NAMES:
        data = named_frame(name) + encode_chunks(peers.author.snapshot()) + CHUNK_TERMINATOR
        peers.misbehave(always(HEAD + chunk(data)), times=2)
    assert peers.shown() == before
    assert peers.tree() == tree
    peers.behave()
    assert not list(peers.root.parent.glob("x*"))


def test_the_longest_name_that_is_allowed_is_served(peers: Peers) -> None:
    name = "é" + "x" * 245
    for _ in range(2):  # a new database, and one that is replaced
        peers.primary.play(always(HEAD + chunk(frame_of(peers.author.snapshot(), name))))
        position = str(peers.author.position)
        await_true(lambda position=position: peers.replica.read(f"{name}-pos").strip() == position, "it is there")  # type: ignore[misc]
        peers.author.commit()
    peers.behave()


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_an_image_whose_pages_are_not_its_state_is_never_shown(peers: Peers, large: bool) -> None:
    """It is sound by its own checksum, so it gets into the log; there it is found out when its pages are there."""
    before = peers.shown()

    def script(positions: Positions) -> Iterator[bytes]:
        yield HEAD
        position = positions.get("db", ZERO_POS)
        if position == peers.author.position:
            yield chunk(frame_of((whole_bomb if large else following)(peers.author, position)))
        yield from (chunk(encode_frame(HeartbeatFrame(timestamp_ms=1))) for _ in range(1 << 16))

    peers.primary.play(script)
    await_true(lambda: any("db" not in asked for asked in peers.primary.asked), "it asks for a snapshot")
    assert peers.shown() == before
    peers.behave()
    assert peers.shown()[:2] == [peers.author.n, "ok"]


@pytest.mark.parametrize("mode", [1, 2], ids=["rollback", "WAL"])
@pytest.mark.parametrize("pgnos", [[], [1, 3]], ids=["no pages", "pages as they are"])
def test_an_image_that_changes_nothing_but_claims_another_state_is_found_out_at_once(
    peers: Peers, mode: int, pgnos: list[int]
) -> None:
    name = f"claimed-{mode}-{len(pgnos)}"
    state = bytearray(peers.author.states[-1])
    state[18:20] = bytes([mode, mode])
    page_n = len(state) // PAGE_SIZE
    first = Pos(txid=Txid(1), checksum=checksum_of(bytes(state)))

    def image(after: Pos, numbers: Iterable[int], post_apply: int) -> bytes:
        content = [(pgno, bytes(state[(pgno - 1) * PAGE_SIZE : pgno * PAGE_SIZE])) for pgno in numbers]
        header = peers.author.header(after, commit=page_n, max_txid=after.txid + 1)
        return frame_of(encode_image(header, content, Checksum(post_apply)), name)

    def script(positions: Positions) -> Iterator[bytes]:
        yield HEAD
        if name not in positions:
            yield chunk(image(ZERO_POS, range(1, page_n + 1), first.checksum))
        if len(peers.primary.asked) == 1:
            yield chunk(image(first, pgnos, first.checksum ^ 1))
        yield from (chunk(encode_frame(HeartbeatFrame(timestamp_ms=1))) for _ in range(1 << 16))

    peers.primary.play(script)
    await_true(lambda: len(peers.primary.asked) > 1, "it asks again")
    assert name not in peers.primary.asked[1], "for a snapshot"
    await_true(lambda: peers.replica.read(f"{name}-pos").strip() == str(first), "it has the honest state")
    peers.behave()


def test_a_restart_with_such_an_image_in_the_log_gets_the_database_anew(peers: Peers) -> None:
    before = peers.shown()

    def script(positions: Positions) -> Iterator[bytes]:
        yield HEAD
        if positions.get("db") == peers.author.position:
            yield chunk(frame_of(following(peers.author, peers.author.position)))

    peers.misbehave(script, times=2)
    assert peers.shown() == before
    peers.check_memory()
    peers.replica.restart()
    peers.pids = peers.replica.pids()
    peers.memory = {pid: _peak(pid) for pid in peers.pids}
    peers.behave()
    assert peers.shown()[:2] == [peers.author.n, "ok"]


def test_a_primary_that_counts_to_the_end_is_left_behind(peers: Peers) -> None:
    """All is sound, but the last transaction that there can be: nothing follows it but another state."""

    def script(positions: Positions) -> Iterator[bytes]:
        yield HEAD
        position = positions.get("db", ZERO_POS)
        if position.txid < 2**64 - 1:
            header = peers.author.header(position, max_txid=2**64 - 1)
            yield chunk(frame_of(encode_image(header, [], position.checksum)))

    peers.primary.play(script)
    last = 2**64 - 1
    await_true(lambda: any(asked["db"].txid == last for asked in peers.primary.asked if "db" in asked), "it is there")
    peers.behave()
    assert peers.shown()[:2] == [peers.author.n, "ok"]


def test_strange_frames_that_are_allowed_do_no_harm(peers: Peers) -> None:
    frames = [HeartbeatFrame(timestamp_ms=time_ms) for time_ms in (0, -1, 2**63 - 1, -(2**63))]
    strange: list[Frame] = [ReadyFrame(), *frames, ReadyFrame(), DropDbFrame(name="db"), ReadyFrame()]
    data = b"".join(encode_frame(frame) for frame in strange)
    data += encode_frame(HwmFrame(name="db", txid=Txid(2**64 - 1)))
    before = peers.shown()
    for frame in frames:
        peers.misbehave(always(HEAD + chunk(data) + chunk(encode_frame(frame))), times=2)
        assert peers.replica.read(".lag") != ""
    assert peers.shown() == before
    peers.behave()
    assert peers.replica.pids() == peers.pids


@pytest.mark.parametrize("mode", [1, 2], ids=["rollback", "WAL"])
def test_images_that_change_nothing_are_followed(peers: Peers, mode: int) -> None:
    """Go LiteFS sends such: in WAL mode SQLite writes pages that are as they were."""
    first = bytearray(peers.author.states[-1])
    first[18:20] = bytes([mode, mode])
    states = [b"", *[bytes(first)] * 6, bytes(first[:-1]) + b"x"]
    sums = [ZERO_POS.checksum, *(checksum_of(state) for state in states[1:])]
    last = Pos(txid=Txid(len(states) - 1), checksum=sums[-1])
    pages = [[], [1], [1, 2, 3], [], [3], [len(first) // PAGE_SIZE]]

    def script(positions: Positions) -> Iterator[bytes]:
        images = [(Pos(txid=Txid(0), checksum=sums[0]), [*range(1, len(first) // PAGE_SIZE + 1)])]
        images += [(Pos(txid=Txid(txid), checksum=sums[txid]), pgnos) for txid, pgnos in enumerate(pages, 1)]
        stream = peers.author.honestly(positions)
        yield next(stream)
        for after, pgnos in images:
            state = states[after.txid + 1]
            content = [(pgno, state[(pgno - 1) * PAGE_SIZE : pgno * PAGE_SIZE]) for pgno in pgnos]
            header = peers.author.header(after, commit=len(state) // PAGE_SIZE, max_txid=after.txid + 1)
            yield chunk(frame_of(encode_image(header, content, sums[after.txid + 1]), f"same-{mode}"))
        yield from stream

    peers.primary.play(script)
    await_true(lambda: peers.replica.read(f"same-{mode}-pos").strip() == str(last), "the last position is shown")
    assert len(peers.primary.asked) == 1, "nothing had to be asked for again"
    peers.behave()


def test_the_primary_of_another_cluster_is_not_followed(peers: Peers) -> None:
    before = peers.shown()
    other = HEAD.replace(CLUSTER_ID.encode(), b"LFSCFEDCBA9876543210")
    peers.misbehave(lambda positions: [other + chunk(frame_of(peers.author.snapshot()))], times=1)
    await_true(lambda: "belongs to cluster LFSCFEDCBA9876543210" in peers.replica.log_text(), "the log says so")
    assert (peers.replica.data_dir / "clusterid").read_text() == CLUSTER_ID + "\n"
    assert peers.shown() == before
    peers.behave()


def test_a_primary_that_falls_silent_is_given_up(peers: Peers) -> None:
    over = threading.Event()

    def silence(positions: Positions) -> Iterator[bytes]:
        yield HEAD + chunk(frame_of(peers.author.snapshot())[:5000])
        over.wait()

    before = peers.shown()
    try:
        peers.misbehave(silence, times=2)
        assert peers.shown() == before
    finally:
        over.set()
    peers.behave()


def test_none_of_it_costs_memory(peers: Peers) -> None:
    """Behind all the others: what the processes held at most."""
    peers.check_memory()
    assert "Traceback" not in peers.replica.log_text()
