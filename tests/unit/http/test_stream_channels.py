"""A snapshot on a channel of its own holds up nothing: commits of other databases and heartbeats overtake it."""

import http.client
import threading
import time
from collections.abc import Generator, Iterator

import pytest

from litefs.formats.stream import EndFrame, HeartbeatFrame, ReadyFrame
from litefs.http import replication
from litefs.http.log_images import Block
from litefs.http.snapshot_images import framed_snapshot
from litefs.http.stream_outlet import SNAPSHOTS_MAX
from tests.unit.http.fake_node import FakeNode
from tests.unit.http.serving import TIMEOUT_S, Image, Served


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Snapshots of databases called `big…` stop behind their first block until the gate opens."""
    opened = threading.Event()

    def gated(node: FakeNode, name: str, *, compress: bool) -> Generator[Block, None, None]:
        blocks = framed_snapshot(node, name, compress=compress)
        yield next(blocks)
        if name.startswith("big"):
            assert opened.wait(TIMEOUT_S)
        yield from blocks

    monkeypatch.setattr(replication, "framed_snapshot", gated)
    yield opened
    opened.set()


@pytest.fixture(autouse=True)
def _channels(served: Served) -> None:
    served.offers_channels = True


def test_commits_and_heartbeats_overtake_a_snapshot(node: FakeNode, served: Served, gate: threading.Event) -> None:
    began_ms = time.time_ns() // 1_000_000
    for name in ("big.db", "other.db"):
        node.create(name)
        node.commit(name, 1)
    with served.follow() as stream:
        assert stream.image().name == "other.db"  # the snapshot that is not held up
        live = node.commit("other.db", 1)
        arrived = stream.next_of()
        assert arrived is not None
        assert (arrived[0], isinstance(arrived[1], Image) and arrived[1].pos) == (0, live)
        heartbeat = stream.next()
        assert isinstance(heartbeat, HeartbeatFrame)
        assert began_ms <= heartbeat.timestamp_ms < time.time_ns() // 1_000_000 - 500, "as old as the snapshot"
        behind = node.commit("big.db", 1)
        gate.set()
        images = stream.until_ready()
        assert {image.name for image in images} == {"big.db"}
        assert images[0].header.min_txid == 1
        assert images[-1].pos == behind


def test_a_third_snapshot_waits_for_a_channel(node: FakeNode, served: Served, gate: threading.Event) -> None:
    names = [f"big{number}.db" for number in range(SNAPSHOTS_MAX + 2)]
    for name in names:
        node.create(name)
        node.commit(name, 1)
    with served.follow() as stream:
        while node.snapshot_n < SNAPSHOTS_MAX:
            time.sleep(0.01)
        assert isinstance(stream.next(), HeartbeatFrame)
        assert node.snapshot_n == SNAPSHOTS_MAX
        gate.set()
        assert sorted(image.name for image in stream.until_ready()) == names


def test_a_node_that_stops_ends_a_snapshot_without_end(node: FakeNode, served: Served, gate: threading.Event) -> None:
    node.create("big.db")
    node.commit("big.db", 1)
    with served.follow() as stream:
        while not node.open_snapshots:
            time.sleep(0.01)
        threading.Timer(0.2, gate.set).start()  # the disk is waited for, not given up
        served.stop()
        frames: list[object] = []
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            frames.extend(iter(stream.next, None))
        assert not [frame for frame in frames if isinstance(frame, EndFrame | ReadyFrame)]
    assert not node.open_snapshots


def test_a_follower_that_does_not_ask_for_channels_gets_none(node: FakeNode, served: Served) -> None:
    served.offers_channels = False
    with served.follow() as stream:
        assert not stream.has_channels
        stream.until_ready()
