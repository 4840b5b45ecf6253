"""What is said to the filesystem process by threads that must not wait for it: the event loop of the HTTP API.

Strategy: a thread of its own sends it, when there is room for it, in pieces for which there is room then. A filesystem
process that hangs makes that thread wait and nobody else.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress

from litefs.errors import LinkClosedError
from litefs.link.messages import CloseSnapshot, KeepLogs, SetListening
from litefs.node.link_client import LinkClient

Note = SetListening | KeepLogs | CloseSnapshot

ROOM_CHECK_S = 0.05
"""How often it looks whether there is room where there was none."""

PIECE_DATABASES = 64
"""With the longest names and all replicas behind in each, 54 KB. A socket of Linux that has room has 150 KB."""


class Outbox:
    """Notes on their way, in their order. Of those that take the place of one another only the last is kept."""

    def __init__(self, link: LinkClient) -> None:
        """Args: link: to the filesystem process."""
        self._link = link
        self._changed = threading.Condition()
        self._notes: dict[object, Note] = {}

    def start(self) -> None:
        """Begins."""
        threading.Thread(target=self._send, name="outbox", daemon=True).start()

    def put(self, note: Note) -> None:
        """Has a note sent. Waits for nothing; what a link that is closed would have taken goes with it."""
        key = note.snapshot_id if isinstance(note, CloseSnapshot) else type(note)
        with self._changed:
            self._notes[key] = note
            self._changed.notify()

    def _send(self) -> None:
        with suppress(LinkClosedError):
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._notes)
                    note = self._notes.pop(next(iter(self._notes)))
                for piece in _pieces(note):
                    self._offer(piece)

    def _offer(self, piece: Note) -> None:
        while not self._link.offer(piece):
            time.sleep(ROOM_CHECK_S)


def _pieces(note: Note) -> Iterator[Note]:
    if not isinstance(note, KeepLogs):
        yield note
        return
    names = list(note.needed)
    while len(names) > PIECE_DATABASES:
        yield KeepLogs({name: note.needed[name] for name in names[:PIECE_DATABASES]}, is_last=False)
        del names[:PIECE_DATABASES]
    yield KeepLogs({name: note.needed[name] for name in names})
