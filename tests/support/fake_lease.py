"""A keeper of leases that needs no network: the same contract as Consul's, on any clock.

A test moves time by hand, or lets it run. What a session has locked goes with it, as in Consul.
"""

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from litefs.errors import LeaseLostError, LeaseUnavailableError
from litefs.lease.lease import MARGIN_FRACTION, Candidate, Holder, Identity


class VirtualClock:
    """Monotonic seconds that pass when a test says so."""

    def __init__(self) -> None:
        """Begins somewhere else than at 0, as real ones do."""
        self.now = 1000.0

    def __call__(self) -> float:
        """Returns the time."""
        return self.now


@dataclass(slots=True)
class _Session:
    expires_at: float
    node_id: int
    freshness: int | None = None


@dataclass(slots=True)
class FakeKeeper:
    """What Consul is to `ConsulLease`.

    Attributes:
        clock: by which sessions expire.
        ttl_s: of sessions, which expire when it has passed twice, as Consul's may.
        is_reachable: requests are answered.
    """

    clock: Callable[[], float] = time.monotonic
    ttl_s: float = 10.0
    is_reachable: bool = True
    sessions: dict[str, _Session] = field(default_factory=dict)
    holder: Holder | None = None
    cluster_id: str = ""
    changed: threading.Condition = field(default_factory=threading.Condition)

    def close(self) -> None:
        """Answers nothing any more, questions that are open included."""
        with self.changed:
            self.is_reachable = False
            self.changed.notify_all()

    def ask(self) -> None:
        """Lets a request through, after what time has done."""
        if not self.is_reachable:
            raise LeaseUnavailableError("the keeper does not answer")
        with self.changed:
            for name in [name for name, session in self.sessions.items() if session.expires_at <= self.clock()]:
                self.end(name)

    def end(self, session: str) -> None:
        """Ends a session, and what it has locked."""
        with self.changed:
            self.sessions.pop(session, None)
            if self.holder is not None and self.holder.term == session:
                self.give(None)

    def is_held_by(self, session: str) -> bool:
        """Returns whether a session has the lease."""
        return self.holder is not None and self.holder.term == session

    def give(self, holder: Holder | None) -> None:
        """Makes somebody the holder."""
        with self.changed:
            self.holder = holder
            self.changed.notify_all()

    def empty(self) -> None:
        """Forgets everything, as a Consul that is set up anew."""
        self.sessions.clear()
        self.cluster_id = ""
        self.give(None)


class FakeLease:
    """One candidate's side. `memory` survives the process: a list of at most one session."""

    def __init__(self, keeper: FakeKeeper, identity: Identity, memory: list[str]) -> None:
        """Args: memory: what `resume` goes by."""
        self._keeper = keeper
        self._identity = identity
        self._memory = memory
        self._session = ""
        self._is_held = False
        self._until = 0.0
        self._watched: Holder | None = None
        self._seen_term = ""
        self._lock = threading.RLock()

    @property
    def ttl_s(self) -> float:
        return self._keeper.ttl_s

    @property
    def primary_until(self) -> float:
        return self._until

    @property
    def term(self) -> str:
        return self._session if self._is_held else ""

    @property
    def is_published(self) -> bool:
        session = self._keeper.sessions.get(self._session)
        return session is not None and session.freshness is not None

    def holder(self) -> Holder | None:
        self._keeper.ask()
        return self._see(self._keeper.holder)

    def _see(self, holder: Holder | None) -> Holder | None:
        self._seen_term = holder.term if holder is not None else self._seen_term
        return holder

    def was_taken_away(self) -> bool:
        self._keeper.ask()
        term = self._seen_term
        return self._keeper.holder is None and term != self._session and term in self._keeper.sessions

    def watch(self, timeout_s: float) -> Holder | None:
        deadline = time.monotonic() + timeout_s
        while True:
            self._keeper.ask()
            with self._keeper.changed:
                holder = self._keeper.holder
                if holder == self._watched and time.monotonic() < deadline:
                    self._keeper.changed.wait(min(deadline - time.monotonic(), 0.05))
                    continue
            self._watched = holder
            return self._see(holder)

    def resume(self) -> bool:
        self._keeper.ask()
        for session in self._memory:
            if session in self._keeper.sessions:
                self._session = session
                if self._keeper.holder is not None and self._keeper.holder.term == session:
                    return self._take(session)
        return False

    def acquire(self) -> bool:
        self._keeper.ask()
        holder = self._keeper.holder
        if holder is not None and holder.term != self._session:
            return False
        return self._take(self._open())

    def take_over(self, lease_id: str) -> bool:
        self._keeper.ask()
        if not self._keeper.is_held_by(lease_id):
            return False
        own = self._session
        if own and own != lease_id:
            self._keeper.end(own)
        return self._take(lease_id)

    def _take(self, session: str) -> bool:
        with self._lock:
            self._session = session
            self._memory[:] = [session]
            self._is_held = True
            self._keeper.sessions[session].freshness = None
            self._extend()
        self._keeper.give(self._as_holder(session))
        return True

    def _as_holder(self, session: str) -> Holder:
        identity = self._identity
        return Holder(hostname=identity.hostname, advertise_url=identity.advertise_url, term=session)

    def _open(self) -> str:
        with self._keeper.changed:
            if self._session not in self._keeper.sessions:
                self._forget()
                self._session = secrets.token_hex(8)
                self._memory[:] = [self._session]
                self._keeper.sessions[self._session] = _Session(expires_at=0.0, node_id=self._identity.node_id)
                self._extend_session()
            return self._session

    def _extend_session(self) -> None:
        self._keeper.sessions[self._session].expires_at = self._keeper.clock() + 2 * self.ttl_s

    def _extend(self) -> None:
        self._extend_session()
        self._until = self._keeper.clock() + self.ttl_s * (1 - MARGIN_FRACTION)

    def renew(self) -> None:
        if not self._session:
            return
        self._keeper.ask()
        with self._lock:
            was_held = self._is_held
            holder = self._keeper.holder
            if self._session not in self._keeper.sessions:
                self._forget()
                if was_held:
                    raise LeaseLostError("the session expired")
                return
            if was_held and holder is not None and holder.term != self._session:
                self._forget()
                raise LeaseLostError("the key is held by a stranger")
            if was_held:
                self._extend()
                if holder is None:
                    self._take(self._session)
            else:
                self._extend_session()

    def _forget(self) -> None:
        self._session, self._is_held, self._until = "", False, 0.0

    def hand_off(self) -> str:
        self._keeper.ask()
        with self._lock:
            if not self._is_held or self._session not in self._keeper.sessions:
                raise LeaseLostError("this node is not the primary")
            self._extend()
            session = self._session
            self._forget()
            self._memory.clear()
        return session

    def withdraw(self, lease_id: str) -> bool:
        self._keeper.ask()
        with self._keeper.changed:
            holder = self._keeper.holder
            if self._keeper.is_held_by(lease_id) and holder != self._as_holder(lease_id):
                return False
            self._keeper.end(lease_id)
        return True

    def decline(self, lease_id: str) -> None:
        self._keeper.ask()
        self._keeper.end(lease_id)

    def release(self) -> None:
        with self._lock:
            session = self._session
            self._forget()
            self._memory.clear()
        self._keeper.ask()
        self._keeper.end(session)

    def publish(self, freshness: int) -> None:
        self._keeper.ask()
        session = self._keeper.sessions[self._open()]
        session.node_id, session.freshness = self._identity.node_id, freshness

    def candidates(self) -> list[Candidate]:
        self._keeper.ask()
        with self._keeper.changed:
            sessions = list(self._keeper.sessions.values())
        return [
            Candidate(node_id=session.node_id, freshness=session.freshness)
            for session in sessions
            if session.freshness is not None
        ]

    def cluster_id(self) -> str:
        self._keeper.ask()
        return self._keeper.cluster_id

    def offer_cluster_id(self, text: str) -> str:
        self._keeper.ask()
        self._keeper.cluster_id = self._keeper.cluster_id or text
        return self._keeper.cluster_id
