"""Noticing a filesystem process that hangs: over a real socket, whose other end does or does not answer."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from litefs.errors import LinkClosedError, LinkSilentError
from litefs.link import messages as m
from litefs.link.channel import MessageDecoder, encode
from litefs.node import pulse
from litefs.node.link_client import LinkClient
from tests.unit.node.fake_duties import eventually


class Other:
    """The other end. It answers pings for as long as it is awake."""

    def __init__(self) -> None:
        self.ours, self._socket = socket.socketpair()
        self.is_awake = True
        self.sync_wait_s = 0.0
        self.changes: list[bool] = []
        self.link = LinkClient(self.ours, lambda _event: None, lambda: None)
        self.link.start()
        self.pulse = pulse.Pulse(self.link, self.changes.append)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.pulse.stop()
        self.link.close()
        self._thread.join()
        self.pulse.join()
        self.ours.close()

    def _serve(self) -> None:
        decoder = MessageDecoder[m.NodeMessage](m.NodeMessage)
        with self._socket, contextlib.suppress(OSError):  # the test closed its end
            while data := self._socket.recv(4096):
                pings = [message for message in decoder.feed(data) if isinstance(message, m.Ping)]
                self._socket.sendall(encode(m.Pong(self.sync_wait_s)) * len(pings) if self.is_awake else b"")


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Iterator[Other]:
    monkeypatch.setattr(pulse, "BEAT_S", 0.02)
    made = Other()
    yield made
    made.close()


def test_who_answers_is_not_silent(other: Other) -> None:
    other.pulse.start()
    before = other.link.received_n
    eventually(lambda: other.link.received_n > before + 2 * pulse.MISSED_MAX)
    assert (other.pulse.is_silent, other.changes) == (False, [])


def test_who_does_not_answer_is_silent_until_it_answers_again(other: Other) -> None:
    other.is_awake = False
    other.pulse.start()
    eventually(lambda: other.pulse.is_silent)
    other.is_awake = True
    eventually(lambda: other.changes == [True, False])
    assert not other.pulse.is_silent


def test_a_disk_that_does_not_answer_counts_as_silence(other: Other) -> None:
    other.sync_wait_s = pulse.SYNC_WAIT_MAX_S / 2
    other.pulse.start()
    eventually(lambda: other.link.sync_wait_s > 0)
    assert not other.pulse.is_silent
    other.sync_wait_s = pulse.SYNC_WAIT_MAX_S
    eventually(lambda: other.pulse.is_silent)
    other.sync_wait_s = 0.0
    eventually(lambda: other.changes == [True, False])
    assert not other.pulse.is_silent


def test_a_question_without_an_answer_is_given_up(other: Other) -> None:
    other.is_awake = False
    other.pulse.start()
    with pytest.raises(LinkSilentError):
        other.link.call(m.AskCounters(), lambda: other.pulse.is_silent)


@pytest.fixture
def full_link() -> Iterator[LinkClient]:
    """A link that has no room, to somebody who reads nothing."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                ours.send(b"x" * 4096)
        ours.setblocking(True)
        yield LinkClient(ours, lambda _event: None, lambda: None)


@pytest.mark.usefixtures("other")
def test_a_full_socket_counts_as_silence_and_blocks_nobody(full_link: LinkClient) -> None:
    changes: list[bool] = []
    full = pulse.Pulse(full_link, changes.append)
    full.start()
    eventually(lambda: full.is_silent)
    full.stop()
    full.join()


@pytest.mark.usefixtures("other")
def test_a_question_that_there_is_no_room_for_is_given_up(full_link: LinkClient) -> None:
    with pytest.raises(LinkSilentError):
        full_link.call(m.AskCounters(), lambda: True)


@pytest.mark.usefixtures("other")
def test_a_question_behind_one_that_waits_for_room_is_given_up(full_link: LinkClient) -> None:
    def ask() -> None:
        with pytest.raises(LinkClosedError):
            full_link.call(m.AskCounters())

    sending = threading.Thread(target=ask, daemon=True)
    sending.start()
    eventually(full_link._sending.locked)
    with pytest.raises(LinkSilentError):
        full_link.call(m.AskCounters(), lambda: True)
    full_link.close()
    sending.join()


def test_a_link_that_is_closed_ends_it(other: Other) -> None:
    other.pulse.start()
    other.link.close()
    eventually(lambda: not other.pulse._thread.is_alive())
    with pytest.raises(LinkClosedError):
        other.link.offer(m.Ping())
    assert other.changes == []
