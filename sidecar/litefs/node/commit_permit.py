"""The permission to commit that the role driver gives the filesystem process, and takes back.

Guarantees: it is extended under a lock that taking it back takes too, so a renewal that is confirmed late never gives
it again.
"""

import threading
import time

from litefs.lease.lease import Lease
from litefs.node.role_duties import Duties


class CommitPermit:
    """Given for as long as the lease is ours for certain, again with each renewal."""

    def __init__(self, lease: Lease, duties: Duties) -> None:
        """Neither given nor taken back: commits go on as far as an earlier process of this node had promised."""
        self._lease = lease
        self._duties = duties
        self._lock = threading.Lock()
        self._is_taken_back = False
        self.is_given = False
        self.is_open = False
        """It is given, and the filesystem process has taken note: who begins now can commit."""
        self.until = time.monotonic() + lease.ttl_s  # an earlier process promised less
        """No commit is accepted after that time, in monotonic seconds, whatever becomes of this process."""

    def give(self) -> None:
        """Allows commits."""
        with self._lock:
            self.is_given, self._is_taken_back = True, False
            self._tell()

    def confirm(self) -> None:
        """Waits until what was given counts.

        Raises:
            LinkSilentError: the filesystem process hangs.
        """
        self._duties.await_open()
        with self._lock:
            self.is_open = self.is_given

    def extend(self) -> None:
        """Passes a confirmed renewal on, if commits are allowed. From any thread."""
        with self._lock:
            if self.is_given:
                self._tell()

    def take_back(self) -> None:
        """Refuses commits; nothing if they are refused already. When this returns, positions stand still.

        Raises:
            LinkSilentError: the filesystem process hangs. Nothing is extended any more.
        """
        with self._lock:
            self.is_given = self.is_open = False
        if not self._is_taken_back:
            self._duties.close_commits()
            self._is_taken_back = True

    def _tell(self) -> None:
        self.until = self._lease.primary_until
        self._duties.open_commits(self.until)
