"""A replica's work ends before anybody else's begins."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from litefs.errors import LockHeldError
from litefs.formats.checksum import page_checksum
from litefs.formats.ltx import LtxHeader
from litefs.formats.ltx_encoder import encode_image
from litefs.formats.position import Checksum, Txid
from litefs.formats.stream import CHUNK_TERMINATOR, LtxFrame, encode_chunks, encode_frame
from litefs.lease.lease import Holder
from litefs.link import messages as m
from litefs.link.channel import MessageDecoder, encode
from litefs.link.settings import NodeSettings
from litefs.node import following as following_module
from litefs.node.caller import Caller
from litefs.node.cluster_id import ClusterId
from litefs.node.follower import RECONNECT_DELAY_S_MIN
from litefs.node.following import Following
from litefs.node.link_client import LinkClient
from litefs.node.shm_guard import ShmGuard
from tests.support.dripping_peer import dripping_peer


@contextmanager
def _replica(directory: Path) -> Iterator[tuple[Following, socket.socket]]:
    """A replica that knows no pause, and the filesystem process's end of its link."""
    settings = NodeSettings(
        link_fd=-1,
        control_fd=-1,
        data_dir=str(directory),
        mount_dir=str(directory),
        http_host="",
        http_port=0,
        primary=False,
        reconnect_delay_s=0.0,
    )
    ours, theirs = socket.socketpair()
    theirs.settimeout(20.0)
    with ours, theirs:
        link = LinkClient(ours, lambda _event: None, lambda: None)
        link.start()
        following = Following(settings, link, ShmGuard(str(directory)), lambda _lease_id: None)
        following.begin({})
        yield following, theirs
        assert following.let_go()


def _caller(directory: Path) -> Caller:
    return Caller(node_id=1, cluster=ClusterId(directory))


def _holder(port: int) -> Holder:
    return Holder(hostname="p", advertise_url=f"http://127.0.0.1:{port}", term="t")


def test_the_stream_has_not_ended_while_an_image_of_it_is_on_its_way_into_a_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a node could become primary, and have an image behind what its applications see: none could commit."""
    monkeypatch.setattr(following_module, "STOP_TIMEOUT_S", 0.05)
    first = b"HTTP/1.1 200 OK\r\n\r\n" + _an_image()
    with _replica(tmp_path) as (following, filesystem), dripping_peer(first, b"") as port:
        following.receive_from(_holder(port), _caller(tmp_path))
        _await_images(filesystem)
        with pytest.raises(LockHeldError, match="does not end"):
            following.stop_receiving()
        filesystem.sendall(encode(m.Appended("db", 1)))
        monkeypatch.undo()
        following.stop_receiving()
        assert following.state is None


def test_a_primary_that_refuses_is_not_asked_without_a_pause(tmp_path: Path) -> None:
    begun = time.monotonic()
    with _replica(tmp_path) as (following, _), socket.create_server(("127.0.0.1", 0)) as primary:
        primary.settimeout(20.0)
        following.receive_from(_holder(primary.getsockname()[1]), _caller(tmp_path))
        for _ in range(10):
            primary.accept()[0].close()
        following.stop_receiving()
    assert time.monotonic() - begun > 10 * RECONNECT_DELAY_S_MIN / 2


def _an_image() -> bytes:
    page = bytes(4096)
    header = LtxHeader(
        page_size=4096, commit=1, min_txid=Txid(1), max_txid=Txid(1), timestamp_ms=1, pre_apply=Checksum(0)
    )
    image = encode_image(header, [(1, page)], page_checksum(1, page))
    return encode_frame(LtxFrame(name="db")) + encode_chunks(image) + CHUNK_TERMINATOR


def _await_images(filesystem: socket.socket) -> None:
    decoder: MessageDecoder[m.NodeMessage] = MessageDecoder(m.NodeMessage)
    for _ in range(100):
        if any(isinstance(message, m.AppendImages) for message in decoder.feed(filesystem.recv(1 << 16))):
            return
    raise AssertionError("no image arrives")
