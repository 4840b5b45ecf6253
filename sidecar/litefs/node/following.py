"""A replica's work: taking a primary's images and applying them, begun and ended as the role changes.

Two things end separately. Receiving ends first, when this node is about to become primary or the primary changes; the
appliers go on until all that was received is applied, and let go of the databases only when the lease is ours.
"""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from litefs.errors import LockHeldError
from litefs.lease.lease import Holder
from litefs.link import messages as m
from litefs.link.settings import NodeSettings
from litefs.node.caller import Caller
from litefs.node.follower import Follower, FollowerState
from litefs.node.link_client import LinkClient
from litefs.node.replicas import Replicas
from litefs.node.shm_guard import ShmGuard

STOP_TIMEOUT_S = 5.0
"""A thread that applies or receives ends within milliseconds; one that waits for the disk may take longer."""


class Following:
    """What this node does as a replica. Used by the role driver's thread, but for `state` and what says otherwise."""

    def __init__(
        self,
        settings: NodeSettings,
        link: LinkClient,
        guard: ShmGuard,
        on_handed: Callable[[str], None],
    ) -> None:
        """Args: on_handed: called on the receiving thread with what the primary hands the lease over by."""
        self._settings = settings
        self._link = link
        self._guard = guard
        self._on_handed = on_handed
        self._replicas: Replicas | None = None
        self._follower: Follower | None = None
        self._holder: Holder | None = None
        self._lock = threading.Lock()
        self._is_stopped = False

    @property
    def state(self) -> FollowerState | None:
        """Of the stream; None while there is none."""
        follower = self._follower
        return follower.state if follower is not None else None

    def begin(self, databases: Mapping[str, m.DatabaseInfo]) -> None:
        """Takes the databases over as a replica does; nothing if it has them already."""
        with self._lock:
            if self._replicas is not None or self._is_stopped:
                return
            settings = self._settings
            self._replicas = Replicas(
                self._link, settings.mount_dir, Path(settings.data_dir), self._guard, self.reconnect
            )
            self._replicas.start(databases)

    def receive_from(self, holder: Holder, caller: Caller) -> None:
        """Follows a primary from now on; nothing if it does already. `begin` was called before.

        Args:
            holder: the primary.
            caller: this node.

        Raises:
            LockHeldError: the stream of another one does not end. Try again.
        """
        if self._follower is not None and self._holder == holder:
            return
        self.stop_receiving()
        self._holder = holder
        with self._lock:
            if self._is_stopped:
                return
            assert self._replicas is not None, "begin() comes first"
            self._follower = Follower(
                holder.advertise_url,
                holder.hostname,
                caller,
                Path(self._settings.data_dir),
                self._settings.reconnect_delay_s,
                self._replicas,
                self._on_handed,
            )
            self._follower.start()

    def reconnect(self) -> None:
        """Has the positions told anew. From any thread."""
        follower = self._follower
        if follower is not None:
            follower.reconnect()

    def not_reached(self, name: str, txid: int) -> None:
        """Takes note that what was applied is not the state of an image. From any thread."""
        replicas = self._replicas
        if replicas is not None:
            replicas.not_reached(name, txid)

    def stop_receiving(self) -> None:
        """Ends the stream; when this returns, nothing of it comes in any more.

        Raises:
            LockHeldError: something of it is still on its way into a log. Try again.
        """
        follower = self._follower
        if follower is not None:
            follower.stop()
            if not follower.join(STOP_TIMEOUT_S):
                raise LockHeldError("the stream does not end")
            self._follower = None
            self._link.send(m.SetPrimary(""))

    def catch_up(self, timeout_s: float) -> str:
        """Waits until all that was received is applied. Returns the databases that are not, "" if there are none."""
        return self._replicas.settle(timeout_s) if self._replicas is not None else ""

    def let_go(self) -> bool:
        """Ends the appliers. Returns whether every database is free for applications to write."""
        replicas = self._replicas
        if replicas is None:
            return True
        replicas.stop()
        if not replicas.join(STOP_TIMEOUT_S):
            return False
        with self._lock:
            self._replicas = None
        return True

    def stop(self) -> None:
        """Ends everything for good, without waiting. From any thread."""
        with self._lock:
            self._is_stopped = True
            follower, replicas = self._follower, self._replicas
        if follower is not None:
            follower.stop()
        if replicas is not None:
            replicas.stop()
