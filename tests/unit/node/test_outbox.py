"""What is said to a filesystem process that may hang, over a real socket."""

import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from litefs.link import messages as m
from litefs.link.channel import MessageDecoder
from litefs.node.link_client import LinkClient
from litefs.node.outbox import Outbox
from tests.unit.node.fake_duties import eventually

TIMEOUT_S = 30.0


def test_a_filesystem_process_that_hangs_is_told_later_in_order_and_of_each_kind_the_last() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the kernel's least
        link = LinkClient(ours, lambda _event: None, lambda: None)
        while link.offer(m.Ping()):
            pass
        outbox = Outbox(link)
        outbox.start()
        for number in range(100):
            outbox.put(m.SetListening(number % 2 == 1))
        for snapshot_id in (1, 2):
            outbox.put(m.CloseSnapshot(snapshot_id))
        for txid in range(100):
            outbox.put(m.KeepLogs({"a.db": [txid]}))

        heard = _hear(theirs, lambda note: note == m.KeepLogs({"a.db": [99]}))
    of_listening = [note for note in heard if isinstance(note, m.SetListening)]
    assert len(of_listening) <= 2  # one may have been on its way already
    assert of_listening[-1] == m.SetListening(True)
    others = [note for note in heard if not isinstance(note, m.SetListening)]
    assert others == [m.CloseSnapshot(1), m.CloseSnapshot(2), m.KeepLogs({"a.db": [99]})]


def test_a_large_note_keeps_nobody_else_from_sending_while_the_filesystem_process_hangs() -> None:
    needed = {f"{number}.db": list(range(1 << 40, (1 << 40) + 8)) for number in range(4096)}
    ours, theirs = socket.socketpair()
    with ours, theirs, ThreadPoolExecutor(1) as pool:
        link = LinkClient(ours, lambda _event: None, lambda: None)
        outbox = Outbox(link)
        outbox.start()
        outbox.put(m.KeepLogs(needed))
        eventually(lambda: not link._poller.poll(0))
        sent = pool.submit(link.send, m.SetRole(1.0))  # as a renewal of the lease does
        try:
            sent.result(TIMEOUT_S)
        finally:
            heard = _hear(theirs, lambda note: isinstance(note, m.KeepLogs) and note.is_last)
    pieces = [note for note in heard if isinstance(note, m.KeepLogs)]
    assert {name: txids for piece in pieces for name, txids in piece.needed.items()} == needed
    assert [piece.is_last for piece in pieces] == [False] * (len(pieces) - 1) + [True]


def test_it_ends_with_the_link() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        link = LinkClient(ours, lambda _event: None, lambda: None)
        link.start()
        outbox = Outbox(link)
        before = set(threading.enumerate())
        outbox.start()
        (thread,) = set(threading.enumerate()) - before
        theirs.shutdown(socket.SHUT_RDWR)
        eventually(lambda: link._is_closed)
        outbox.put(m.SetListening(True))
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()


def _hear(link: socket.socket, is_last: Callable[[m.NodeMessage], bool]) -> list[m.NodeMessage]:
    """Returns what comes through the last one, but for the questions that filled the socket."""
    link.settimeout(TIMEOUT_S)
    decoder = MessageDecoder[m.NodeMessage](m.NodeMessage)
    heard: list[m.NodeMessage] = []
    while not any(map(is_last, heard)):
        heard += [message for message in decoder.feed(link.recv(4096)) if not isinstance(message, m.Ping)]
    return heard
