"""A lease on its way through the streams that are open."""

from litefs.formats.stream import EndFrame, HandoffFrame, HeartbeatFrame
from tests.unit.http.serving import TIMEOUT_S, Served

FRAMES_MAX = 5
"""Heartbeats come each second."""


def test_a_lease_goes_through_the_newest_stream_of_its_node(served: Served) -> None:
    """The older one may be dead already, without anybody having noticed."""
    with served.follow() as older, served.follow() as newer:
        for follow in (older, newer):
            follow.until_ready()
        assert served.streams[0].followers() == {0xAB: 0}
        assert served.streams[0].send_handoff(0xAB, "a-lease", {}, TIMEOUT_S)
        assert isinstance(older.next(), HeartbeatFrame)
        frames = [newer.next()]
        while isinstance(frames[-1], HeartbeatFrame) and len(frames) < FRAMES_MAX:
            frames.append(newer.next())
        assert frames[-1] == HandoffFrame(lease_id="a-lease")
        assert isinstance(newer.next(), EndFrame)


def test_a_lease_is_not_sent_to_a_node_that_does_not_follow(served: Served) -> None:
    with served.follow(node_id="00000000000000CD") as other:
        other.until_ready()
        assert not served.streams[0].send_handoff(0xAB, "a-lease", {}, TIMEOUT_S)
