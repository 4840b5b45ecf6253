"""One node: its role, its databases as last heard of, and what follows or is followed.

It is an ordinary client of the mount. When the filesystem process dies it ends as well: what it knows is
about a mount that is no more. The supervisor starts both anew.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from litefs.errors import CorruptStateError, LinkClosedError, NotPrimaryError
from litefs.link import messages as m
from litefs.link.settings import NodeSettings
from litefs.node.cluster_id import ClusterId
from litefs.node.follower import Follower
from litefs.node.link_client import Event, LinkClient
from litefs.node.local_replacement import LocalReplacement
from litefs.node.node_status import NodeStatus
from litefs.node.replicas import Replicas
from litefs.node.role import StaticRole
from litefs.node.shm_guard import ShmGuard

_log = logging.getLogger("litefs.node")

CommittedCallback = Callable[[m.Committed], None]


class Node:
    """Everything of the node process but the HTTP API, which is given this object."""

    def __init__(self, settings: NodeSettings) -> None:
        """Takes the link over; does nothing yet.

        Raises:
            CorruptStateError: a file of the data directory cannot be believed.
        """
        self._settings = settings
        self._data_dir = Path(settings.data_dir)
        self._role = StaticRole(settings)
        self._databases: dict[str, m.DatabaseInfo] = {}
        self._callbacks: list[CommittedCallback] = []
        self._lock = threading.Lock()
        self._link_closed: Callable[[], None] = lambda: None
        self._link = LinkClient(socket.socket(fileno=settings.link_fd), self._take_event, self._take_link_end)
        self._guard = ShmGuard(settings.mount_dir)
        self._cluster = ClusterId(self._data_dir)
        self._replicas: Replicas | None = None
        self._follower: Follower | None = None
        self._node_id = 0
        self._is_ready = False

    @property
    def data_dir(self) -> Path:
        """The data directory."""
        return self._data_dir

    def on_link_closed(self, callback: Callable[[], None]) -> None:
        """Has `callback` called, from another thread, when the filesystem process is gone."""
        self._link_closed = callback

    def start(self) -> None:
        """Joins the filesystem process, takes the role, and begins to follow if this is a replica.

        Raises:
            LinkClosedError: the filesystem process is gone.
            CorruptStateError: it answers nonsense, or the data directory has no node id.
        """
        self._link.start()
        self._guard.start()
        welcome = self._link.call(m.Hello(os.getpid()))
        if not isinstance(welcome, m.Welcome):
            raise CorruptStateError(f"unexpected answer to Hello: {welcome}")
        self._node_id = int((self._data_dir / "id").read_text(), 16)
        with self._lock:
            for info in welcome.databases:
                self._databases.setdefault(info.name, info)
        for info in welcome.databases:
            if info.is_wal:
                self._guard.add(info.name)
        self._link.send(m.SetRole(self._role.primary_until))
        if self._role.is_primary:
            self._cluster.make()
            self._is_ready = True
        else:
            self._begin_to_follow({info.name: info for info in welcome.databases})

    def _begin_to_follow(self, databases: Mapping[str, m.DatabaseInfo]) -> None:
        settings = self._settings
        self._replicas = Replicas(self._link, settings.mount_dir, self._data_dir, self._guard, self._ask_for_snapshots)
        self._replicas.start(databases)
        self._follower = Follower(
            settings.primary_url,
            settings.hostname,
            self._node_id,
            self._data_dir,
            settings.reconnect_delay_s,
            self._replicas,
            self._cluster.check,
        )
        self._follower.start()

    def _ask_for_snapshots(self) -> None:
        if self._follower is not None:
            self._follower.reconnect()

    def stop(self) -> None:
        """Ends following and lets go of the mount."""
        if self._follower is not None:
            self._follower.stop()
        if self._replicas is not None:
            self._replicas.stop()
        self._link.close()

    # ---- for the HTTP API ----

    def status(self) -> NodeStatus:
        """Returns where the node stands now."""
        follower = self._follower
        lag_ms: int | None = 0
        is_ready, hostname = self._is_ready, self._role.primary_hostname
        if follower is not None:
            state = follower.state
            is_ready = state.is_ready
            hostname = self._role.primary_hostname if state.is_connected else ""
            lag_ms = None if state.timestamp_ms < 0 else max(0, time.time_ns() // 1_000_000 - state.timestamp_ms)
        return NodeStatus(
            node_id=self._node_id,
            cluster_id=self._cluster.text,
            is_primary=self._role.is_primary,
            candidate=self._role.is_primary,
            primary_hostname=hostname,
            ready=is_ready,
            lag_ms=lag_ms,
        )

    def databases(self) -> Mapping[str, m.DatabaseInfo]:
        """Returns every database by name, as last heard of."""
        with self._lock:
            return dict(self._databases)

    def subscribe(self, callback: CommittedCallback) -> Callable[[], None]:
        """Has `callback` called after each change of a position, on the link's thread. Returns the way to end it."""
        with self._lock:
            self._callbacks = [*self._callbacks, callback]

        def unsubscribe() -> None:
            with self._lock:
                self._callbacks = [other for other in self._callbacks if other is not callback]

        return unsubscribe

    def call(self, message: m.OpenSnapshot | m.PrepareReplacement) -> m.Answer:
        """Asks the filesystem process and waits. Raises LinkClosedError if it is gone."""
        return self._link.call(message)

    def send(self, message: m.CloseSnapshot) -> None:
        """Tells the filesystem process something that has no answer. Raises LinkClosedError if it is gone."""
        self._link.send(message)

    def open_replacement(self, name: str, page_size: int, page_n: int) -> LocalReplacement:
        """Begins to replace a database of this primary as a whole.

        Raises:
            NotPrimaryError: this node is a replica.
        """
        if not self._role.is_primary:
            raise NotPrimaryError("lease expired")
        return LocalReplacement(
            name,
            page_size,
            page_n,
            mount_dir=self._settings.mount_dir,
            data_dir=self._data_dir,
            call=self.call,
            position=lambda: self.databases().get(name),
            guard=self._guard,
            now_ms=lambda: time.time_ns() // 1_000_000,
        )

    # ---- the link ----

    def _take_event(self, event: Event) -> None:
        if isinstance(event, m.ShmCreated):
            self._guard.add(event.name)
            return
        info = event.database
        with self._lock:
            self._databases[info.name] = info
            callbacks = self._callbacks
        try:
            self._link.send(m.Seen(info.name))
        except LinkClosedError:
            return
        for callback in callbacks:
            callback(event)

    def _take_link_end(self) -> None:
        self._guard.zero_all()
        if self._replicas is not None:
            self._replicas.stop()
        self._link_closed()
