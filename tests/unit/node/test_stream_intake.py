"""A stream that does not get on: who drips an image is given up, who is slow or idle is not."""

from pathlib import Path
from typing import cast

import pytest

from litefs.errors import PeerError
from litefs.formats.ltx import LtxHeader
from litefs.formats.ltx_encoder import encode_image
from litefs.formats.position import ZERO_POS, Checksum, Pos, Txid
from litefs.formats.stream import HeartbeatFrame, LtxFrame, encode_chunks, encode_frame
from litefs.node.replicas import Replicas
from litefs.node.stream_intake import DRIP_BYTES, DRIP_S, StreamIntake

PAGE_SIZE = 4096


class NoDatabases:
    """What an intake asks of replicas before an image is whole."""

    @staticmethod
    def position(_name: str) -> Pos:
        return ZERO_POS


@pytest.fixture
def intake(tmp_path: Path) -> StreamIntake:
    return StreamIntake(tmp_path, cast("Replicas", NoDatabases()), lambda _event: False, lambda _ms: None)


def image_frame(page_n: int = 200) -> bytes:
    header = LtxHeader(
        page_size=PAGE_SIZE,
        commit=page_n,
        min_txid=Txid(1),
        max_txid=Txid(1),
        timestamp_ms=1,
        pre_apply=Checksum(0),
    )
    pages = [(pgno, bytes(PAGE_SIZE)) for pgno in range(1, page_n + 1)]
    return encode_frame(LtxFrame(name="db")) + encode_chunks(encode_image(header, pages, 1 << 63))


def drip(intake: StreamIntake, data: bytes, piece: int, pause_s: float) -> float:
    """Feeds data in pieces with pauses between them. Returns how long that took."""
    for at in range(0, len(data), piece):
        intake.feed(data[at : at + piece])
        intake.note_wait(pause_s)
    return len(data) / piece * pause_s


@pytest.mark.parametrize("begun", [10, 21, 3000], ids=["frame", "header", "pages"])
def test_who_drips_is_given_up(intake: StreamIntake, begun: int) -> None:
    data = image_frame()
    intake.feed(data[:begun])
    with pytest.raises(PeerError, match="in the middle of"):
        drip(intake, data[begun:], 1, DRIP_S / 8)
    intake.abort()


def test_it_is_given_up_while_other_streams_of_the_connection_get_on(intake: StreamIntake) -> None:
    intake.feed(image_frame()[:3000])
    for _ in range(int(DRIP_S)):
        intake.note_wait(1.0)
    with pytest.raises(PeerError, match="3000 bytes in"):
        intake.note_wait(1.0)
    intake.abort()


def test_who_is_slow_is_waited_for(intake: StreamIntake) -> None:
    assert drip(intake, image_frame()[:-20], DRIP_BYTES // 4, DRIP_S / 5) > 3 * DRIP_S
    intake.abort()


def test_who_has_nothing_to_say_is_waited_for(intake: StreamIntake) -> None:
    heartbeat = encode_frame(HeartbeatFrame(timestamp_ms=1))
    for _ in range(50):
        intake.feed(heartbeat)
        intake.note_wait(1.0)
    for _ in range(50):
        intake.note_wait(DRIP_S)
