"""The lease in Consul: one key, locked by a session that is renewed.

    <key>                   {"hostname", "advertise-url"} of the holder, locked by its session; empty when released
    <key>/clusterid         the cluster's id, written once
    <key>/nodes/<node id>   {"hostname", "advertise-url", "freshness"} of a candidate, locked by its session

The first two are LiteFS's, so that its nodes and ours can share a lease. Strategy: a candidate has one session, which
locks its entry under `nodes/` while it is a replica and the lease while it is primary. So both vanish with the node,
and getting the lease takes no new session. The session's id is kept in a file: a process that is started again takes
it up, and with it the lease.

Guarantees: `primary_until` counts from the moment at which the renewal was sent. Consul never ends a session before
its TTL has passed since it was renewed; it may take twice as long (the leader's timers).

Assumes: Consul keeps what it has confirmed. A Consul that was emptied is noticed by the cluster's id, which is gone
(`node/role_driver.py` waits then).

Source: LiteFS 0.5.14, consul/consul.go; Consul 1.22, /v1/session and /v1/kv.
"""

import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from litefs.errors import LeaseLostError, LeaseUnavailableError
from litefs.lease.consul_client import ConsulAddress, ConsulClient, Entry
from litefs.lease.lease import MARGIN_FRACTION, Candidate, Holder, Identity

NO_INDEX_PAUSE_S = 1.0
"""A proxy that strips X-Consul-Index turns waiting into asking again and again."""

REQUESTS_PER_TTL = 4
"""A request may take this part of the TTL, so that a renewal can be tried again before the lease runs out."""

_SESSION_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""What Consul makes. It becomes part of a path, and comes from a file that a crash may have left, and from peers."""

_log = logging.getLogger("litefs.lease")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsulTerms:
    """What the configuration says of the lease.

    Attributes:
        address: of Consul.
        key: of the lease, without the address's prefix.
        ttl_s: of the session.
        lock_delay_s: how long Consul refuses everybody after a holder whose session ended without a release.
    """

    address: ConsulAddress
    key: str
    ttl_s: float
    lock_delay_s: float


class ConsulLease:
    """One candidate's side of the lease. `watch` and `renew` have a thread each, as `Lease` says."""

    def __init__(
        self, terms: ConsulTerms, identity: Identity, memory: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Args: memory: the file that the session's id is kept in; clock: monotonic seconds."""
        self._terms = terms
        self._memory = memory
        self._clock = clock
        timeout_s = terms.ttl_s / REQUESTS_PER_TTL
        self._asking = ConsulClient(terms.address, timeout_s)
        self._renewing = ConsulClient(terms.address, timeout_s)
        self._watching = ConsulClient(terms.address, timeout_s)
        self._key = "/".join(part for part in (terms.address.prefix, terms.key.strip("/")) if part)
        self._entry_key = f"{self._key}/nodes/{identity.node_id:016X}"
        self._fields = {"hostname": identity.hostname, "advertise-url": identity.advertise_url}
        self._value = json.dumps(self._fields, separators=(",", ":"), ensure_ascii=False).encode()
        self._lock = threading.Lock()
        """Guards what follows, never a request."""
        self._changing = threading.Lock()
        """Held while a lost key is locked again, so that no release comes in between."""
        self._session = ""
        self._is_held = False
        self._until = 0.0
        self._has_entry = False
        self._watched: tuple[int, Holder | None] = (0, None)
        self._seen_term = ""
        """The session that held the key when it was looked at last, by whichever thread, and was held."""

    @property
    def ttl_s(self) -> float:
        """The session's TTL."""
        return self._terms.ttl_s

    @property
    def primary_until(self) -> float:
        """Counted from when the last confirmed renewal was sent; 0 while another node holds the lease, or nobody."""
        return self._until

    @property
    def term(self) -> str:
        """The session, while it has the key."""
        with self._lock:
            return self._session if self._is_held else ""

    @property
    def is_published(self) -> bool:
        """This session has locked the entry, and is not known to be gone."""
        return self._has_entry

    # ---- who holds it ----

    def holder(self) -> Holder | None:
        """Returns who holds the lease."""
        return self._holder_of(self._asking.get(self._key))

    def was_taken_away(self) -> bool:
        """Whether the key was deleted under a session that lives.

        A holder that releases the lease leaves the key there, with no value; one that vanishes takes its session with
        it, and one of LiteFS 0.5 does both at once.
        """
        term = self._seen_term
        if not term or term == self._session or self._asking.get(self._key) is not None:
            return False
        return self._asking.has_session(term)

    def watch(self, timeout_s: float) -> Holder | None:
        """Returns who holds the lease, waiting in Consul for a change."""
        index, last = self._watched
        begun = self._clock()
        while True:
            left_s = max(timeout_s - (self._clock() - begun), 0.0)
            new_index, entry = self._watching.wait_for(self._key, index, left_s)
            holder = self._holder_of(entry)
            # An index that went backwards belongs to another Consul, or to one that was restored.
            index = new_index if new_index >= index else 0
            self._watched = (index, holder)
            if holder != last or left_s == 0.0:
                return holder
            if not new_index:
                time.sleep(min(NO_INDEX_PAUSE_S, left_s))

    def _holder_of(self, entry: Entry | None) -> Holder | None:
        if entry is None or not entry.session:
            return None  # nobody wrote it, or it was released: a value without a session is no lease
        try:
            fields = json.loads(entry.value)
            hostname, url = str(fields["hostname"]), str(fields["advertise-url"])
            parts = urlsplit(url)
            url = url if parts.hostname and parts.port != 0 else ""  # else a replica would look on its own machine
        except (ValueError, TypeError, KeyError):
            hostname = url = ""
        self._seen_term = entry.session
        return Holder(hostname=hostname, advertise_url=url, term=entry.session)

    # ---- getting it ----

    def resume(self) -> bool:
        """Takes up the session in the file, and the lease if that session still holds it."""
        try:
            session = self._memory.read_text(errors="replace").strip()
        except FileNotFoundError:
            return False
        if not _SESSION_ID.fullmatch(session):
            return False
        entry = self._asking.get(self._key)
        if entry is not None and entry.session == session:
            # With another value it is the session that we gave away, and the file one that a power cut brought back.
            return entry.value == self._value and self._lock_key(session, cas=entry.index)
        if self._asking.renew_session(session):
            with self._lock:
                self._session = session
        return False

    def acquire(self) -> bool:
        """Tries once to lock the key with this node's session."""
        session = self._open_session()
        if not self._lock_key(session, acquire=session):
            return False
        with suppress(LeaseUnavailableError):  # then it stays, at most as long as the session
            self._delete_entry()  # a primary is no candidate
        return True

    def take_over(self, lease_id: str) -> bool:
        """Goes on with the session of the node that handed the lease over, instead of its own."""
        if not _SESSION_ID.fullmatch(lease_id):
            return False
        before = self._session
        entry = self._asking.get(self._key)
        # Whoever gave it away may withdraw it at any moment. Both change the key as they saw it: one of them does.
        if entry is None or entry.session != lease_id or not self._lock_key(lease_id, cas=entry.index):
            return False
        if before and before != lease_id:
            self._forget_session(before)
        return True

    def _lock_key(self, session: str, **params: str | int) -> bool:
        sent = self._clock()
        try:
            is_alive = self._asking.renew_session(session)
            is_locked = is_alive and self._asking.put(self._key, self._value, **params)
        except LeaseLostError:
            is_alive = is_locked = False
        if not is_alive:
            self._forget(session)
        if not is_locked:
            return False
        self._confirm(session, sent)
        self._remember(session)
        return True

    def _confirm(self, session: str, sent: float) -> None:
        with self._lock:
            self._session = session
            self._is_held = True
            self._until = sent + self._terms.ttl_s * (1.0 - MARGIN_FRACTION)

    def _open_session(self) -> str:
        """Returns this node's session, making one if it has none."""
        if self._session:
            return self._session
        body: dict[str, object] = {
            "Name": "litefs",
            "Behavior": "delete",
            "TTL": f"{self._terms.ttl_s:.3f}s",
            "LockDelay": f"{self._terms.lock_delay_s:.3f}s",
            "NodeChecks": [],  # alive is who renews, whatever Consul thinks of the agent's host
        }
        if self._terms.address.prefix:
            body["Node"] = f"{self._terms.address.prefix}/litefs"
            self._asking.register_node(str(body["Node"]))
        session = self._asking.create_session(body)
        with self._lock:
            self._session = session
        self._has_entry = False
        self._remember(session)
        return session

    def _remember(self, session: str) -> None:
        # Crash: without the file, or with an older one, the next process gets a session of its own, and the lease
        # of this one has to run out. So nothing is synced, and a full disk keeps nobody from leading.
        temporary = self._memory.with_name(self._memory.name + ".tmp")
        try:
            temporary.write_text(session + "\n")
            os.replace(temporary, self._memory)
        except OSError as error:
            _log.warning("the session of the lease is not kept: %s", error)

    # ---- keeping it ----

    def renew(self) -> None:
        """Renews the session and checks that it still has the key."""
        with self._lock:
            session, was_held = self._session, self._is_held
        if not session:
            return
        sent = self._clock()
        if not self._renewing.renew_session(session):
            self._lose(session, was_held, "the session expired")
            return
        if was_held:
            self._check_key(session, sent)

    def _check_key(self, session: str, sent: float) -> None:
        entry = self._renewing.get(self._key)
        if entry is None or not entry.session:
            entry = self._lock_again(session)
        if entry is None:
            return
        if entry.session != session:
            self._lose(session, True, "the key is held by a stranger")
            return
        with self._lock:
            if self._is_held and self._session == session:
                self._until = sent + self._terms.ttl_s * (1.0 - MARGIN_FRACTION)

    def _lock_again(self, session: str) -> Entry | None:
        """Locks a key that somebody deleted or released. Returns it as it is now; None if it is ours no more.

        Raises:
            LeaseUnavailableError: it cannot be locked now, and nobody else has it.
        """
        with self._changing:
            if not self._is_held or self._session != session:
                return None  # it was this process that released it
            _log.warning("the key %s of the lease was deleted or released: locking it again", self._key)
            try:
                self._renewing.put(self._key, self._value, acquire=session)
            except LeaseLostError:  # it ended since it was renewed, and that is why the key was gone
                self._lose(session, True, "the session expired")
                return None
        entry = self._renewing.get(self._key)
        if entry is None or not entry.session:
            raise LeaseUnavailableError(f"the key {self._key} cannot be locked again")
        return entry

    def _lose(self, session: str, was_held: bool, reason: str) -> None:
        if self._forget(session) and was_held:
            raise LeaseLostError(reason)

    def _forget(self, session: str) -> bool:
        """A session is gone, and with it the lease: the next one must not be taken for a holder's.

        Returns:
            False if it was handed over or taken over meanwhile.
        """
        with self._lock:
            if self._session != session:
                return False
            self._session = ""
            self._has_entry = False
            self._is_held = False
            self._until = 0.0
            return True

    # ---- letting go ----

    def hand_off(self) -> str:
        """Gives the session away, with a whole TTL before it."""
        with self._lock:
            session, is_held = self._session, self._is_held
        if not is_held:
            raise LeaseLostError("this node is not the primary")
        if not self._asking.renew_session(session):
            self._lose(session, True, "the session expired")
        self._delete_entry()  # locked by the session, which is another node's from now on
        self._memory.unlink(missing_ok=True)
        with self._changing, self._lock:
            self._session = ""
            self._is_held = False
            self._until = 0.0
        return session

    def withdraw(self, lease_id: str) -> bool:
        """Deletes the key if it is as this node left it, then ends the session that was given away.

        Never the session first: whoever has taken the lease over and is cut off from Consul since accepts commits until
        its deadline, and another node might lock the key before.
        """
        while (entry := self._asking.get(self._key)) is not None and entry.session == lease_id:
            if entry.value != self._value:
                return False
            if self._asking.delete(self._key, cas=entry.index):
                break
        self._forget_session(lease_id)
        return True

    def decline(self, lease_id: str) -> None:
        """Unlocks the key, and ends the session."""
        if _SESSION_ID.fullmatch(lease_id):
            self._asking.put(self._key, b"", release=lease_id)
            self._forget_session(lease_id)

    def release(self) -> None:
        """Unlocks the key, so that no lock-delay follows, and ends the session."""
        with self._changing, self._lock:
            session, is_held = self._session, self._is_held
            self._session = ""
            self._is_held = False
            self._until = 0.0
        self._memory.unlink(missing_ok=True)
        if not session:
            return
        if is_held:
            self._asking.put(self._key, b"", release=session)
        self._forget_session(session)

    def _forget_session(self, session: str) -> None:
        try:
            self._delete_entry()  # else Consul's lock-delay keeps this node from publishing again
            self._asking.destroy_session(session)
        except LeaseUnavailableError as error:
            _log.debug("session %s: %s; it expires by itself", session, error)

    def _delete_entry(self) -> None:
        if self._has_entry:
            self._asking.delete(self._entry_key)
            self._has_entry = False

    # ---- the election ----

    def publish(self, freshness: int) -> None:
        """Writes this candidate's entry."""
        value = json.dumps({**self._fields, "freshness": freshness}, separators=(",", ":"), ensure_ascii=False)
        for _ in range(2):
            session = self._open_session()
            try:
                self._has_entry = self._asking.put(self._entry_key, value.encode(), acquire=session)
            except LeaseLostError:  # it expired since it was renewed last: once more with a new one
                self._forget(session)
            else:
                return

    def candidates(self) -> list[Candidate]:
        """Returns the entries that living sessions have locked."""
        found = []
        for entry in self._asking.list(f"{self._key}/nodes/"):
            try:
                node_id = int(entry.key.rpartition("/")[2], 16)
                freshness = int(json.loads(entry.value)["freshness"])
            except (ValueError, TypeError, KeyError):
                continue  # not written by a node
            if entry.session:
                found.append(Candidate(node_id=node_id, freshness=freshness))
        return found

    # ---- the cluster's id ----

    def cluster_id(self) -> str:
        """Returns the id as it stands beside the lease."""
        entry = self._asking.get(f"{self._key}/clusterid")
        return entry.value.decode("ascii", "replace").strip() if entry is not None else ""

    def offer_cluster_id(self, text: str) -> str:
        """Writes the id if there is none."""
        self._asking.put(f"{self._key}/clusterid", text.encode(), cas=0)
        return self.cluster_id()
