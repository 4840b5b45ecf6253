"""A snapshot that has come whole, on its way to the place of its database, on a thread of its own.

Strategy: syncing a large state takes seconds, and the follower goes on with other databases meanwhile. Images of this
database that follow the snapshot wait here, in memory up to a bound and then by holding up the follower; they are
handed on in their order when the new state is in place. After a failure nothing follows: the stream is asked for anew.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from litefs.errors import LinkClosedError, LiteFSError
from litefs.formats.position import Pos
from litefs.node.image import Image

WAITING_BYTES = 8 << 20
"""Images and their pages of one database that wait in memory."""

TAKEOVERS_MAX = 4
"""At a time, over all databases: many small ones share the waiting for the disk."""

_log = logging.getLogger("litefs.node")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivedImage:
    """An image that came from the primary and was verified.

    Attributes:
        encoded: its bytes.
        image: its pages; None to have them read from the log.
        to: the position after it.
    """

    encoded: bytes
    image: Image | None
    to: Pos

    @property
    def size_bytes(self) -> int:
        """What it takes in memory."""
        return len(self.encoded) + (self.image.size_bytes if self.image is not None else 0)


class Takeover:
    """One database's way to a new state.

    Attributes:
        name: of the database.
        to: the position behind what came last.
        since_ms: when the state began to come, Unix milliseconds: readers are at least that old.
        error: why it failed; None while it goes on, and when it succeeded.
    """

    def __init__(
        self,
        name: str,
        to: Pos,
        since_ms: int,
        work: Callable[[], None],
        append: Callable[[Sequence[ArrivedImage]], None],
        on_end: Callable[["Takeover"], None],
    ) -> None:
        """Args: work: puts the state in place; append: takes images that follow it; on_end: called on the thread."""
        self.name = name
        self.to = to
        self.since_ms = since_ms
        self.error: BaseException | None = None
        self._work = work
        self._append = append
        self._on_end = on_end
        self._waiting: list[ArrivedImage] = []
        self._waiting_bytes = 0
        self._is_over = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"takeover-{name}", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def keep(self, arrived: Sequence[ArrivedImage]) -> bool:
        """Has images wait for the new state. Returns False where it is in place, and they may go on by themselves."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or self._waiting_bytes < WAITING_BYTES)
            if self._is_over:
                return False
            self._waiting.extend(arrived)
            self._waiting_bytes += sum(each.size_bytes for each in arrived)
            self.to = arrived[-1].to
            return True

    def join(self, timeout_s: float | None = None) -> bool:
        """Waits for the end. Returns whether it came."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._work()
            while arrived := self._next():
                self._append(arrived)
        except (LiteFSError, OSError) as error:
            self.error = error
            if not isinstance(error, LinkClosedError):
                _log.warning("%s: snapshot: %s", self.name, error)
        except Exception as error:  # noqa: BLE001 - whoever waits for this thread would wait for ever
            self.error = error
            _log.exception("%s: snapshot", self.name)
        self._end()
        self._on_end(self)

    def _next(self) -> list[ArrivedImage]:
        with self._changed:
            arrived, self._waiting = self._waiting, []
            self._waiting_bytes = 0
            self._is_over = not arrived
            self._changed.notify_all()
            return arrived

    def _end(self) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
