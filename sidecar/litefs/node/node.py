"""One node: its role, its databases as last heard of, and what follows or is followed.

It is an ordinary client of the mount. When the filesystem process dies it ends as well: what it knows is
about a mount that is no more. The supervisor starts both anew.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from litefs.errors import (
    CorruptStateError,
    HandoffRefusedError,
    LinkClosedError,
    LinkSilentError,
    NotCandidateError,
    NotPrimaryError,
)
from litefs.lease.lease import Identity, Lease
from litefs.lease.static_lease import StaticLease
from litefs.link import messages as m
from litefs.link.settings import NodeSettings
from litefs.node.caller import Caller
from litefs.node.cluster_id import ClusterId
from litefs.node.duties import NodeDuties
from litefs.node.following import Following
from litefs.node.handoff_request import request_handoff
from litefs.node.image_receiver import clear_spool
from litefs.node.lease_watch import RoleCounters
from litefs.node.link_client import Event, LinkClient
from litefs.node.local_replacement import LocalReplacement
from litefs.node.node_status import NodeStatus
from litefs.node.outbox import Outbox
from litefs.node.pulse import Pulse
from litefs.node.role_driver import RoleDriver
from litefs.node.role_duties import Candidacy
from litefs.node.roles import Role
from litefs.node.shm_guard import ShmGuard
from litefs.node.streams import NoStreams, Streams
from litefs.storage.disk import Disk
from litefs.storage.must_follow import MustFollow

_log = logging.getLogger("litefs.node")

SESSION_FILE = "consul-session"
"""In the data directory: what the next process of this node takes the lease up by."""

PROMOTED_CHECK_S = 0.002
PROMOTED_TIMEOUT_S = 5.0
"""Between having the lease and accepting commits the appliers let go, which takes milliseconds."""

PROMOTE_CHECK_S = 0.05
"""How often a node that is to become primary looks whether it has caught up."""


class Node:
    """Everything of the node process but the HTTP API, which is given this object."""

    def __init__(self, settings: NodeSettings) -> None:
        """Takes the link over; does nothing yet.

        Raises:
            CorruptStateError: a file of the data directory cannot be believed.
        """
        self._settings = settings
        self._data_dir = Path(settings.data_dir)
        self._may_lead = settings.candidate or settings.primary
        self._databases: dict[str, m.DatabaseInfo] = {}
        self._lock = threading.Lock()
        self._committed: Callable[[m.Committed], None] = lambda _event: None
        self._link_closed: Callable[[], None] = lambda: None
        self._leaving: Callable[[], None] = lambda: None
        self._link = LinkClient(socket.socket(fileno=settings.link_fd), self._take_event, self._take_link_end)
        self._outbox = Outbox(self._link)
        self._pulse = Pulse(self._link, self._take_silence)
        self._guard = ShmGuard(settings.mount_dir)
        self._cluster = ClusterId(self._data_dir)
        self._following = Following(settings, self._link, self._guard, self._take_handed)
        self._streams: Streams = NoStreams()
        self._driver: RoleDriver | None = None
        self._node_id = 0

    @property
    def data_dir(self) -> Path:
        """The data directory."""
        return self._data_dir

    def on_link_closed(self, callback: Callable[[], None]) -> None:
        """Has `callback` called, from another thread, when the filesystem process is gone."""
        self._link_closed = callback

    def on_leaving(self, callback: Callable[[], None]) -> None:
        """Has `callback` called when this node is told to leave."""
        self._leaving = callback

    def start(self) -> None:
        """Joins the filesystem process, and begins to play a role.

        Raises:
            LinkClosedError: the filesystem process is gone.
            CorruptStateError: it answers nonsense, or the data directory has no node id.
            ConfigError: the lease's URL is none.
        """
        clear_spool(self._data_dir)
        self._link.start()
        self._outbox.start()
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
        duties = NodeDuties(
            self._link,
            self._following,
            self._caller(),
            self.databases,
            self._note_positions,
            lambda: self._pulse.is_silent,
            MustFollow(Disk(), self._data_dir),
            lambda: self._streams,
        )
        settings = self._settings
        identity = Identity(node_id=self._node_id, hostname=settings.hostname, advertise_url=settings.advertise_url)
        candidacy = Candidacy(identity=identity, may_lead=self._may_lead, retry_s=settings.reconnect_delay_s)
        self._driver = RoleDriver(self._open_lease(identity), duties, self._cluster, candidacy, self._take_role)
        if settings.leaves:
            self._driver.leave()
        self._driver.start()
        self._pulse.start()
        if settings.promote:
            threading.Thread(target=self._promote_when_ready, name="promote", daemon=True).start()

    def _open_lease(self, identity: Identity) -> Lease:
        settings = self._settings
        if settings.consul is None:
            primary = identity if settings.primary else replace(identity, advertise_url=settings.primary_url)
            return StaticLease(primary, is_own=settings.primary)
        # Its packages cost memory, which a static lease need not pay.
        from litefs.lease.consul_client import ConsulAddress  # noqa: PLC0415
        from litefs.lease.consul_lease import ConsulLease, ConsulTerms  # noqa: PLC0415

        consul = settings.consul
        terms = ConsulTerms(
            address=ConsulAddress.parse(consul.url, os.environ),
            key=consul.key,
            ttl_s=consul.ttl_s,
            lock_delay_s=consul.lock_delay_s,
        )
        return ConsulLease(terms, identity, self._data_dir / SESSION_FILE)

    def step_down(self) -> None:
        """Prepares for the end of the mount: gives a lease that another node can have to the freshest replica or frees
        it, and makes the mount safe to detach. Bounded by a few seconds.
        """
        if self._settings.consul is not None:
            self._role_driver.stop()
        self._following.stop()
        try:
            answer = self.call(m.RefuseOpens())
        except (LinkClosedError, LinkSilentError) as error:
            _log.warning("the mount ends as it is: %s", error)
            return
        assert isinstance(answer, m.OpensRefused)
        self._guard.keep_pages(answer.shm_names)

    def stop(self) -> None:
        """Ends following and lets go of the mount. A lease that was not given up stays for the next process."""
        self._role_driver.abandon()
        self._pulse.stop()
        self._following.stop()
        self._link.close()

    # ---- the role ----

    @property
    def _role_driver(self) -> RoleDriver:
        assert self._driver is not None, "start() comes first"
        return self._driver

    def attach_streams(self, streams: Streams) -> None:
        """Makes the streams of the HTTP API known, which handoffs go through."""
        self._streams = streams

    def counters(self) -> RoleCounters:
        """Returns what happened to role and lease so far; the object goes on counting."""
        return self._role_driver.counters

    def handoff(self, node_id: int) -> None:
        """Hands the lease to a connected replica, and returns when that one has taken it.

        Raises:
            HandoffRefusedError: this node is not the primary, or the replica is not connected or did not take it.
        """
        self._role_driver.hand_off(node_id)

    def handoff_to_freshest(self, timeout_s: float) -> int | None:
        """Hands the lease to the candidate that has most, and returns when that one has taken it.

        Returns:
            The new primary's id; None if this node is not the primary, or nobody can take the lease.

        Raises:
            HandoffRefusedError: the candidate did not take it.
        """
        return self._role_driver.hand_off_to_freshest(timeout_s)

    def leave(self) -> None:
        """Is no candidate any more, until LiteFS is started again."""
        self._role_driver.leave()
        self._leaving()

    def promote(self) -> None:
        """Asks the primary to hand the lease to this node; returns when commits are accepted. Nothing on a primary.

        Raises:
            NotCandidateError: this node can never be primary.
            HandoffRefusedError: there is no primary, or it refused.
        """
        driver = self._role_driver
        if driver.is_primary:
            return
        if not self._may_lead:
            raise NotCandidateError("not eligible to become primary")
        if driver.hindrance:
            raise NotCandidateError(f"not eligible to become primary: {driver.hindrance}")
        holder = driver.holder
        if holder is None or not holder.advertise_url:
            raise HandoffRefusedError("no primary available")
        request_handoff(holder.advertise_url, self._caller())
        deadline = time.monotonic() + PROMOTED_TIMEOUT_S
        while driver.shown_role is not Role.PRIMARY:
            if time.monotonic() > deadline:
                raise HandoffRefusedError("this node was given the lease and did not become primary")
            time.sleep(PROMOTED_CHECK_S)

    def _caller(self) -> Caller:
        return Caller(node_id=self._node_id, cluster=self._cluster, token=self._settings.token)

    def _promote_when_ready(self) -> None:
        while not self.status().ready:
            time.sleep(PROMOTE_CHECK_S)
        try:
            self.promote()
        except (HandoffRefusedError, NotCandidateError, OSError) as error:
            _log.warning("lease.promote: %s", error)

    def _take_role(self, _role: Role) -> None:
        self._streams.role_changed()

    def _take_silence(self, is_silent: bool) -> None:
        self._role_driver.note_silence(is_silent)

    def _take_handed(self, lease_id: str) -> None:
        self._role_driver.take_handed(lease_id)

    def _note_positions(self, databases: Sequence[m.DatabaseInfo]) -> None:
        """Takes note of final positions. Streams hear of them before this node ceases to lead, and send the rest."""
        with self._lock:
            self._databases.update((info.name, info) for info in databases)
        for info in databases:
            self._committed(m.Committed(info))

    # ---- for the HTTP API ----

    def status(self) -> NodeStatus:
        """Returns where the node stands now."""
        driver = self._role_driver
        role, is_primary, holder = driver.shown_role, driver.is_primary, driver.holder
        follower = self._following.state
        is_ready, hostname, lag_ms = role is Role.PRIMARY and is_primary, "", 0 if is_primary else None
        if is_primary:
            hostname = self._settings.hostname
        elif follower is not None:
            is_ready = follower.is_ready
            hostname = holder.hostname if holder is not None and follower.is_connected else ""
            if follower.timestamp_ms >= 0:
                lag_ms = max(0, time.time_ns() // 1_000_000 - follower.timestamp_ms)
        obstacle = _obstacle(driver.hindrance, role, hostname) if not is_ready or self._pulse.is_silent else ""
        return NodeStatus(
            node_id=self._node_id,
            cluster_id=self._cluster.text,
            is_primary=is_primary,
            candidate=driver.may_lead,
            primary_hostname=hostname,
            ready=not obstacle,
            obstacle=obstacle,
            lag_ms=lag_ms,
            role=role.value,
            lease_remaining_s=driver.remaining_s,
            syncs_every_commit=self._settings.sync_every_commit,
        )

    def databases(self) -> Mapping[str, m.DatabaseInfo]:
        """Returns every database by name, as last heard of."""
        with self._lock:
            return dict(self._databases)

    def on_committed(self, callback: Callable[[m.Committed], None]) -> None:
        """Has `callback` called after each change of a position, on the link's thread or the role driver's."""
        self._committed = callback

    def set_listening(self, is_listening: bool) -> None:
        """Says whether somebody waits for commits; while nobody does, callbacks come some milliseconds late."""
        self._outbox.put(m.SetListening(is_listening))

    def call(self, message: m.OpenSnapshot | m.PrepareReplacement | m.AskCounters | m.RefuseOpens) -> m.Answer:
        """Asks the filesystem process and waits. Raises LinkClosedError if it is gone, LinkSilentError if it hangs."""
        if self._pulse.is_silent:
            raise LinkSilentError("the filesystem process does not answer")
        return self._link.call(message, lambda: self._pulse.is_silent)

    def send(self, message: m.CloseSnapshot | m.KeepLogs) -> None:
        """Tells the filesystem process something that has no answer, as soon as that takes it."""
        self._outbox.put(message)

    def open_replacement(self, name: str, page_size: int, page_n: int) -> LocalReplacement:
        """Begins to replace a database of this primary as a whole.

        Raises:
            NotPrimaryError: this node is a replica.
        """
        if not self._role_driver.is_primary:
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

    def _take_event(self, event: Event) -> m.Seen | None:
        if isinstance(event, m.NotReached):
            self._following.not_reached(event.name, event.txid)
            return None
        if isinstance(event, m.ShmCreated):
            self._guard.add(event.name)
            return None
        info = event.database
        with self._lock:
            self._databases[info.name] = info
        self._committed(event)
        return m.Seen(info.name)

    def _take_link_end(self) -> None:
        self._guard.zero_all()
        if self._driver is not None:  # else `start` finds it out by itself
            self._driver.abandon()
        self._following.stop()
        self._link_closed()


def _obstacle(hindrance: str, role: Role, primary: str) -> str:
    """Says why a node is not ready."""
    if hindrance:
        return hindrance
    if role is Role.ACQUIRING:
        return "becoming the primary"
    if not primary:
        return "no primary is known, or it cannot be reached"
    return f"catching up with {primary}"
