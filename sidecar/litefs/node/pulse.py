"""Notices that the filesystem process hangs: it is there, and nothing comes from it any more, or its disk is stuck.

Strategy: a question in every beat, and a count of the beats without anything in between. Beats are counted, not
seconds: a machine that stood still as a whole has missed none.
"""

import logging
import threading
from collections.abc import Callable

from litefs.errors import LinkClosedError
from litefs.link import messages as m
from litefs.node.link_client import LinkClient

BEAT_S = 1.0

MISSED_MAX = 10
"""Its loop never waits for the disk, so this is far more than any load explains; less than a lease lasts, usually."""

SYNC_WAIT_MAX_S = 60.0
"""A sync of a log that takes longer means that the disk does not answer. It is that of one transaction or of some small
ones: a slow disk takes 20 s for a gigabyte."""

_log = logging.getLogger("litefs.node")


class Pulse:
    """Watches the filesystem process on a thread of its own."""

    def __init__(self, link: LinkClient, on_change: Callable[[bool], None]) -> None:
        """Args: on_change: told whether it is silent, when that has changed; on the thread of the pulse."""
        self._link = link
        self._on_change = on_change
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="pulse", daemon=True)
        self.is_silent = False
        """Nothing has come for `MISSED_MAX` beats, or its disk does not answer."""

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends, without waiting."""
        self._stopping.set()

    def join(self) -> None:
        """Waits until it has ended, for a beat at most."""
        if self._thread.ident is not None:
            self._thread.join(2 * BEAT_S)

    def _beat(self) -> None:
        heard_n, missed = self._link.received_n, 0
        while not self._stopping.is_set():
            try:
                self._link.offer(m.Ping())
            except LinkClosedError:
                return
            self._stopping.wait(BEAT_S)
            missed = missed + 1 if self._link.received_n == heard_n else 0
            heard_n = self._link.received_n
            if missed >= MISSED_MAX:
                self._note(f"the filesystem process does not answer for {MISSED_MAX * BEAT_S:.0f} s")
            elif self._link.sync_wait_s >= SYNC_WAIT_MAX_S:
                self._note(f"the disk does not answer: a sync of a log takes longer than {SYNC_WAIT_MAX_S:.0f} s")
            else:
                self._note("")

    def _note(self, trouble: str) -> None:
        is_silent = bool(trouble)
        if is_silent == self.is_silent:
            return
        self.is_silent = is_silent
        if is_silent:
            _log.error("%s", trouble)
        else:
            _log.warning("the filesystem process and its disk answer again")
        self._on_change(is_silent)
