"""What a follower is sent, decided by its position."""

import http.client
import shutil
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from litefs.formats.checksum import EMPTY_DATABASE_CHECKSUM
from litefs.formats.stream import DropDbFrame, HeartbeatFrame
from litefs.http.log_images import BLOCK_BYTES
from litefs.link.messages import Answer, AskCounters, OpenSnapshot, SnapshotOpened
from tests.unit.http.fake_node import NODE_ID, FakeNode
from tests.unit.http.serving import Image, Served, pos


@pytest.fixture(autouse=True, params=[False, True], ids=["plain", "channels"])
def _form(request: pytest.FixtureRequest, served: Served) -> None:
    """What goes over the wire is the same with and without channels."""
    served.offers_channels = request.param


def test_sends_ready_and_a_heartbeat_when_there_is_no_database(served: Served) -> None:
    with served.follow() as stream:
        assert stream.until_ready() == []
        assert isinstance(stream.next(), HeartbeatFrame)


def test_sends_a_snapshot_to_a_follower_without_the_database(node: FakeNode, served: Served) -> None:
    node.create("a.db")
    node.commit("a.db", 1, 2)
    node.commit("a.db", 2)
    with served.follow() as stream:
        (image,) = stream.until_ready()
    assert (image.name, image.header.min_txid, image.header.max_txid) == ("a.db", 1, 2)
    assert image.header.node_id == NODE_ID
    assert image.pages == node.all["a.db"].pages
    assert image.pos == node.all["a.db"].pos


def test_sends_the_images_of_the_log_verbatim_to_a_follower_that_is_behind(node: FakeNode, served: Served) -> None:
    database = node.create("a.db")
    behind = node.commit("a.db", 1)
    images = []
    for pgno in (2, 3):
        image, _ = database.image({pgno: bytes(512)})
        images.append(image)
        node._append(database, image, database.image({pgno: bytes(512)})[1])
        database.pages[pgno] = bytes(512)
    node.publish("a.db")
    with served.follow({"a.db": behind}) as stream:
        assert [image.data for image in stream.until_ready()] == images
    assert node.snapshot_n == 0


def test_sends_nothing_to_a_follower_that_is_up_to_date(node: FakeNode, served: Served) -> None:
    node.create("a.db")
    with served.follow({"a.db": node.commit("a.db", 1)}) as stream:
        assert stream.until_ready() == []


def test_sends_a_snapshot_when_the_checksum_differs_at_the_same_txid(node: FakeNode, served: Served) -> None:
    node.create("a.db")
    here = node.commit("a.db", 1)
    with served.follow({"a.db": pos(here.txid, here.checksum ^ 1)}) as stream:
        (image,) = stream.until_ready()
    assert (image.header.min_txid, image.pos) == (1, here)


def test_sends_a_snapshot_when_the_follower_is_ahead(node: FakeNode, served: Served) -> None:
    node.create("a.db")
    here = node.commit("a.db", 1)
    with served.follow({"a.db": pos(here.txid + 5, here.checksum)}) as stream:
        (image,) = stream.until_ready()
    assert (image.header.min_txid, image.pos) == (1, here)


def test_sends_a_snapshot_when_the_next_image_follows_another_state(node: FakeNode, served: Served) -> None:
    node.create("a.db")
    first = node.commit("a.db", 1)
    node.commit("a.db", 1)
    with served.follow({"a.db": pos(first.txid, first.checksum ^ 2)}) as stream:
        (image,) = stream.until_ready()
    assert (image.header.min_txid, image.header.max_txid) == (1, 2)


def test_sends_a_snapshot_when_the_log_does_not_reach_back_so_far(node: FakeNode, served: Served) -> None:
    database = node.create("a.db", segment_bytes=4096)
    first = node.commit("a.db", 1)
    for _ in range(20):
        node.commit("a.db", 1)
    fds, txid = database.log.unsynced()
    database.log.sync_descriptors(fds)
    database.log.synced(fds, txid)
    doomed = database.log.forget(5, float("inf"))
    assert doomed
    database.log.remove(doomed)
    with served.follow({"a.db": first}) as stream:
        (image,) = stream.until_ready()
    assert (image.header.min_txid, image.pos) == (1, database.pos)


def test_sends_a_snapshot_instead_of_an_image_that_rotted_on_disk(node: FakeNode, served: Served) -> None:
    database = node.create("a.db")
    first = node.commit("a.db", 1)
    node.commit("a.db", 1)
    (segment,) = (database.directory / "log").glob("*.ltxlog")
    data = bytearray(segment.read_bytes())
    data[data.rindex(b"LTX1") + 160] ^= 1  # within the pages of the second image
    segment.write_bytes(data)
    with served.follow({"a.db": first}) as stream:
        (image,) = stream.until_ready()
    assert (image.header.min_txid, image.pos) == (1, database.pos)


def test_sends_a_commit_at_once(node: FakeNode, served: Served) -> None:
    node.create("a.db")
    with served.follow({"a.db": node.commit("a.db", 1)}) as stream:
        stream.until_ready()
        for _ in range(3):
            here = node.commit("a.db", 1)
            assert stream.image().pos == here
    assert node.snapshot_n == 0


def test_sends_every_image_when_the_feed_skipped_positions(node: FakeNode, served: Served) -> None:
    node.create("a.db")
    with served.follow({"a.db": node.commit("a.db", 1)}) as stream:
        stream.until_ready()
        node.commit("a.db", 1, publish=False)
        node.commit("a.db", 1, publish=False)
        node.commit("a.db", 1)
        assert [stream.image().header.min_txid for _ in range(3)] == [2, 3, 4]


def test_never_sends_an_image_that_is_not_committed(node: FakeNode, served: Served) -> None:
    node.create("a.db")
    behind = node.commit("a.db", 1)
    here = node.commit("a.db", 1)
    node.prepare("a.db", 1)
    with served.follow({"a.db": behind}) as stream:
        assert [image.pos for image in stream.until_ready()] == [here]
        node.publish("a.db")
        assert isinstance(stream.next(), HeartbeatFrame)


def test_sends_a_database_that_is_created_later(node: FakeNode, served: Served) -> None:
    with served.follow() as stream:
        stream.until_ready()
        node.create("late.db")
        here = node.commit("late.db", 1)
        image = stream.image()
    assert (image.name, image.pos) == ("late.db", here)


def test_sends_a_drop_as_its_image_to_a_follower_that_has_the_database(node: FakeNode, served: Served) -> None:
    node.create("a.db")
    with served.follow({"a.db": node.commit("a.db", 1)}) as stream:
        stream.until_ready()
        node.drop("a.db")
        image = stream.image()
    assert (image.header.commit, image.header.min_txid, image.pages) == (0, 2, {})


def test_sends_a_dropped_database_as_a_snapshot_without_pages(node: FakeNode, served: Served) -> None:
    node.create("a.db")
    node.commit("a.db", 1)
    node.drop("a.db")
    with served.follow() as stream:
        (image,) = stream.until_ready()
    assert (image.header.min_txid, image.header.max_txid, image.header.commit) == (1, 2, 0)
    assert image.post_apply == EMPTY_DATABASE_CHECKSUM


def test_names_a_database_that_only_the_follower_has(served: Served) -> None:
    with served.follow({"gone.db": pos(3, 1 << 63)}) as stream:
        assert stream.next() == DropDbFrame(name="gone.db")
        assert stream.until_ready() == []


def test_sends_nothing_of_a_database_that_was_never_written(node: FakeNode, served: Served) -> None:
    node.create("empty.db")
    node.publish("empty.db")
    with served.follow({"empty.db": pos(4, 1 << 63)}) as stream:
        assert stream.until_ready() == []


def test_sends_only_the_databases_of_the_filter(node: FakeNode, served: Served) -> None:
    for name in ("a.db", "b.db", "c.db"):
        node.create(name)
        node.commit(name, 1)
    with served.follow(query="?filter=a.db,c.db") as stream:
        assert {image.name for image in stream.until_ready()} == {"a.db", "c.db"}
        node.commit("b.db", 1)
        node.commit("a.db", 1)
        assert stream.image().name == "a.db"


def test_sends_an_image_larger_than_a_block_whole(node: FakeNode, served: Served) -> None:
    database = node.create("a.db", page_size=65536)
    first = node.commit("a.db", *range(1, 12))
    assert len(database.content) > 2 * BLOCK_BYTES
    node.commit("a.db", *range(1, 12))
    with served.follow({"a.db": first}) as stream:
        (image,) = stream.until_ready()
        assert image.pages == database.pages
        node.commit("a.db", *range(1, 12))
        assert stream.image().pages == database.pages
    assert node.snapshot_n == 0


def test_many_small_images_arrive_in_order(node: FakeNode, served: Served) -> None:
    node.create("a.db")
    first = node.commit("a.db", 1)
    for _ in range(1500):  # more than a block
        node.commit("a.db", 1, publish=False)
    node.publish("a.db")
    with served.follow({"a.db": first}) as stream:
        assert [image.header.min_txid for image in stream.until_ready()] == list(range(2, 1502))
    assert node.snapshot_n == 0


def test_ends_in_good_order_when_the_node_stops(node: FakeNode, served: Served) -> None:
    node.create("a.db")
    with served.follow({"a.db": node.commit("a.db", 1)}) as stream:
        stream.until_ready()
        last = node.commit("a.db", 1)
        served.stop()
        assert [image.pos for image in stream.until_end()] == [last]


def test_closes_the_snapshot_when_the_follower_leaves_half_way(node: FakeNode, served: Served) -> None:
    node.create("big.db", page_size=65536)
    node.commit("big.db", *range(1, 300))  # 19 MB, more than the sockets' buffers
    with served.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(b"POST /stream HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n\0\0\0\0")
        received = 0
        while received < 1 << 20:
            received += len(connection.recv(1 << 16))
    while node.open_snapshots:
        assert served.request("GET", "/healthz").status == 200
    assert node.snapshot_n == 1


def test_cuts_the_stream_without_end_when_a_snapshot_cannot_be_finished(node: FakeNode, served: Served) -> None:
    database = node.create("a.db")
    node.commit("a.db", 1, 2)
    database.checksum ^= 1  # the pages do not add up to the position any more
    with served.follow() as stream, pytest.raises((ConnectionError, http.client.IncompleteRead)):
        stream.until_ready()
    assert not node.open_snapshots


def _take_snapshots_away(node: FakeNode, monkeypatch: pytest.MonkeyPatch, then: Callable[[], object]) -> None:
    """Removes what the next snapshot is to be read from before anybody has opened it, and calls `then`."""
    call = node.call

    def call_once(message: OpenSnapshot | AskCounters) -> Answer:
        answer = call(message)
        if isinstance(answer, SnapshotOpened):
            monkeypatch.setattr(node, "call", call)
            shutil.rmtree(Path(answer.base_path).parent)
            then()
        return answer

    monkeypatch.setattr(node, "call", call_once)


def test_a_replacement_between_the_steps_of_a_snapshot_does_not_end_the_stream(
    node: FakeNode, served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    database = node.create("a.db")
    node.commit("a.db", 1, 2)
    _take_snapshots_away(node, monkeypatch, lambda: node.commit("a.db", 2))
    with served.follow() as stream:
        (image,) = stream.until_ready()
    assert (image.pos, image.pages) == (database.pos, database.pages)
    assert not node.open_snapshots
    assert not [record for record in caplog.records if record.levelname != "INFO"]


def test_a_snapshot_whose_files_are_missing_ends_the_stream_with_one_line(
    node: FakeNode, served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    node.create("a.db")
    node.commit("a.db", 1, 2)
    _take_snapshots_away(node, monkeypatch, lambda: None)
    with served.follow() as stream, pytest.raises((ConnectionError, http.client.IncompleteRead)):
        stream.until_ready()
    (record,) = [record for record in caplog.records if record.levelname != "INFO"]
    assert "a.db was replaced while its snapshot was opened" in record.getMessage()
    assert not record.exc_info


def test_an_export_of_a_database_that_is_being_replaced_is_to_be_tried_again(
    node: FakeNode, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.create("a.db")
    node.commit("a.db", 1, 2)
    _take_snapshots_away(node, monkeypatch, lambda: None)
    assert served.request("GET", "/export?name=a.db").status == 409
    assert served.request("GET", "/export?name=a.db").status == 200


def test_a_follower_catches_up_with_a_database_that_is_written_all_the_time(node: FakeNode, served: Served) -> None:
    database = node.create("a.db", page_size=4096)
    node.commit("a.db", *range(1, 50))
    state: dict[int, bytes] = {}
    with served.follow() as stream:
        for _ in range(200):
            node.commit("a.db", 1)
        while True:
            image = stream.next()
            if not isinstance(image, Image):
                continue
            state |= image.pages
            if image.pos == database.pos:
                break
    assert state == database.pages


def test_followers_that_stand_together_get_the_same_images_and_go_on_by_themselves(
    node: FakeNode, served: Served
) -> None:
    for name in ("a.db", "b.db"):
        node.create(name, segment_bytes=1 << 16)
        node.commit(name, 1)
    with ExitStack() as stack:
        streams = [stack.enter_context(served.follow(node_id=f"{number:016X}")) for number in range(4)]
        for stream in streams:
            stream.until_ready()
        for txid in range(2, 60):
            committed = {name: node.commit(name, 1, txid, 3) for name in ("a.db", "b.db")}
            for stream in streams:
                images = [stream.image() for _ in committed]
                assert {image.name: image.pos for image in images} == committed
                assert all(set(image.pages) == {1, txid, 3} for image in images)
            if txid == 30:
                late = stack.enter_context(served.follow({"a.db": committed["a.db"]}))
                late.until_ready()
                streams.append(late)


def test_a_follower_that_is_behind_the_others_gets_what_it_lacks(node: FakeNode, served: Served) -> None:
    node.create("a.db")
    node.commit("a.db", 1)
    with served.follow(node_id="1") as first, served.follow(node_id="2") as second:
        first.until_ready()
        second.until_ready()
        for txid in range(2, 20):
            node.commit("a.db", txid, publish=txid % 3 == 0)
        for stream in (first, second):
            assert [stream.image().header.max_txid for _ in range(2, 19)] == list(range(2, 19))
