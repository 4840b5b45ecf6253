"""The two threads that look after the lease, and the notes that they leave for the driver of the role."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from litefs.errors import LeaseLostError, LeaseUnavailableError
from litefs.lease.lease import Holder, Lease

WATCH_S = 10.0
"""One question to whoever keeps the lease stays open for so long."""

RENEWALS_PER_TTL = 4
RETRIES_PER_TTL = 20
"""How often the lease is renewed, from start to start, and how soon it is tried again after a failure."""

KEEPER_WAKE_MAX_S = 60.0

_log = logging.getLogger("litefs.node")


@dataclass(slots=True)
class RoleCounters:
    """What happened to role and lease since the process started; for the metrics.

    Attributes:
        role_changes: of any kind.
        promotions, demotions, handoffs: of this node; a handoff is one given away.
        renewals: confirmed.
        unavailable: requests that whoever keeps the lease did not answer.
        expired: leases that were gone when they were to be renewed, or held by a stranger.
        unconfirmed: leases that could not be renewed in time, so that commits stopped.
        other_cluster: times that the lease was found to be another cluster's.
        silent: leases that were given up because the filesystem process hung.
    """

    role_changes: int = 0
    promotions: int = 0
    demotions: int = 0
    handoffs: int = 0
    renewals: int = 0
    unavailable: int = 0
    expired: int = 0
    unconfirmed: int = 0
    other_cluster: int = 0
    silent: int = 0


@dataclass(slots=True)
class Ask:
    """A handoff that somebody waits for.

    Attributes:
        node_id: who is to get the lease; None: the freshest candidate, until one is found.
        deadline: when whoever asked waits no longer, in monotonic seconds.
        reason: why it failed; "" if it succeeded, or if nobody was there to get the lease.
    """

    node_id: int | None
    deadline: float
    done: threading.Event = field(default_factory=threading.Event)
    reason: str = ""

    def finish(self, reason: str) -> None:
        """Tells whoever waits."""
        self.reason = reason
        self.done.set()


class AbandonedError(Exception):
    """The process ends as it is: whoever waits is to stop doing whatever it does."""


class Inbox:
    """What other threads have noticed, for the driver, which alone takes it out."""

    def __init__(self) -> None:
        """Begins empty."""
        self._changed = threading.Condition()
        self.holder: Holder | None = None
        self.lost = ""
        self.handed = ""
        self.asked: Ask | None = None
        self.hindrances: frozenset[str] = frozenset()
        self.is_stopping = False
        self.is_abandoned = False

    def wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Waits for `condition`, a handed lease, or an orderly end. Returns whether it was the condition.

        Raises:
            AbandonedError: the process ends as it is.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self.is_stopping or self.is_abandoned or bool(self.handed) or condition(),
                min(timeout_s, threading.TIMEOUT_MAX),
            )
            self._check()
            return condition()

    def pause(self, timeout_s: float) -> None:
        """Waits, unless the process is to end.

        Raises:
            AbandonedError: it ends as it is.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.is_stopping or self.is_abandoned, timeout_s)
            self._check()

    def await_taking(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """Waits for `condition`, also while the process is to end in good order.

        Raises:
            AbandonedError: it ends as it is.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.is_abandoned or condition(), timeout_s)
            self._check()

    def _check(self) -> None:
        if self.is_abandoned:
            raise AbandonedError

    def sleep(self, timeout_s: float, unless: Callable[[], bool] = lambda: False) -> None:
        """Waits, also while the process is to end in good order, until `unless` holds."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_abandoned or unless(), timeout_s)

    def see(self, holder: Holder | None) -> None:
        """Notes who holds the lease."""
        with self._changed:
            self.holder = holder
            self._changed.notify_all()

    def lose(self, reason: str) -> None:
        """Notes that the lease is lost."""
        with self._changed:
            self.lost = reason
            self._changed.notify_all()

    def hand(self, lease_id: str) -> None:
        """Notes that the lease is being handed to this node."""
        with self._changed:
            self.handed = lease_id
            self._changed.notify_all()

    @contextmanager
    def taking_handed(self) -> Iterator[str]:
        """Takes out what the lease is handed to this node by, "" if it is not, and keeps it where nobody answers.

        Then it may be this node's by now, though another one's session holds it as far as this node knows.
        """
        handed, self.handed = self.handed, ""
        try:
            yield handed
        except LeaseUnavailableError:
            self.handed = self.handed or handed
            raise

    def ask_for_handoff(self, node_id: int | None, timeout_s: float) -> Ask | None:
        """Notes that somebody wants the lease to go to a node. Returns what to wait for; None if another one waits."""
        with self._changed:
            if self.asked is not None:
                return None
            self.asked = ask = Ask(node_id, time.monotonic() + timeout_s)
            self._changed.notify_all()
        return ask

    def finish_asked(self, reason: str) -> None:
        """Tells whoever wants a handoff, if anybody does, what became of it."""
        with self._changed:
            asked, self.asked = self.asked, None
        if asked is not None:
            asked.finish(reason)

    def hinder(self, reason: str, *, is_so: bool = True) -> None:
        """Notes that there is a reason for this node not to be primary, or that it is gone."""
        with self._changed:
            self.hindrances = self.hindrances | {reason} if is_so else self.hindrances - {reason}
            self._changed.notify_all()

    def stop(self) -> None:
        """Notes that the process is to end in good order."""
        with self._changed:
            self.is_stopping = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """Notes that the process ends as it is."""
        with self._changed:
            self.is_abandoned = True
            self._changed.notify_all()


class LeaseWatch:
    """Watcher and keeper of one lease."""

    def __init__(
        self,
        lease: Lease,
        inbox: Inbox,
        counters: RoleCounters,
        on_renewed: Callable[[], None],
        retry_s: float,
    ) -> None:
        """Args: on_renewed: called after each confirmed renewal; retry_s: pause of the watcher after a failure."""
        self._lease = lease
        self._inbox = inbox
        self._counters = counters
        self._on_renewed = on_renewed
        self._retry_s = max(retry_s, 0.1)
        self._is_unavailable = False
        self._renewing = threading.Lock()
        self._kept = ""
        """The lease's term when the keeper renewed it last."""
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for name, target in (("lease-watcher", self._watch), ("lease-keeper", self._keep))
        ]

    def start(self) -> None:
        """Starts both threads; they end with the inbox."""
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Waits until both have ended, after the inbox. A question that is open may last for `WATCH_S`."""
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def note_unavailable(self, error: LeaseUnavailableError) -> None:
        """Counts a failure, and logs the first of an outage."""
        self._counters.unavailable += 1
        if not self._is_unavailable:
            self._is_unavailable = True
            _log.error("the lease cannot be reached, trying again: %s", error)

    def _note_available(self) -> None:
        if self._is_unavailable:
            self._is_unavailable = False
            _log.info("the lease can be reached again")

    def _is_ending(self) -> bool:
        return self._inbox.is_abandoned

    def _watch(self) -> None:
        while not self._is_ending():
            try:
                holder = self._lease.watch(WATCH_S)
            except LeaseUnavailableError as error:
                self.note_unavailable(error)
                self._inbox.sleep(self._retry_s)
                continue
            except Exception:  # noqa: BLE001 - without this thread nobody would notice another primary
                _log.exception("watching the lease")
                self._inbox.sleep(self._retry_s)
                continue
            if self._is_ending():
                return  # the next process of this node looks after the lease, if any
            self._note_available()
            self._inbox.see(holder)
            if self._lease.term and (holder is None or holder.term != self._lease.term):
                self._renew()  # somebody touched the key: find out at once whether it is still ours

    def _keep(self) -> None:
        ttl_s = self._lease.ttl_s
        pause_s = min(ttl_s / RENEWALS_PER_TTL, KEEPER_WAKE_MAX_S)
        while True:
            # The first renewal makes the connection of all others, and just now whoever keeps the lease takes it.
            self._inbox.sleep(pause_s, unless=self._is_won)
            if self._is_ending():
                return
            begun, self._kept = time.monotonic(), self._lease.term
            pause_s = ttl_s / RETRIES_PER_TTL
            if self._renew():  # what it took counts: the lease lasts from when it was sent
                pause_s = max(begun + ttl_s / RENEWALS_PER_TTL - time.monotonic(), pause_s)
            pause_s = min(pause_s, KEEPER_WAKE_MAX_S)

    def _is_won(self) -> bool:
        """The lease is this node's, and was not when it was renewed last."""
        holder = self._inbox.holder
        return holder is not None and holder.term == self._lease.term != self._kept

    def _renew(self) -> bool:
        """Renews once. Returns whether there was an answer."""
        try:
            with self._renewing:
                self._lease.renew()
        except LeaseLostError as error:
            self._counters.expired += 1
            self._inbox.lose(str(error))
            return True
        except LeaseUnavailableError as error:
            self.note_unavailable(error)
            return False
        except Exception:  # noqa: BLE001 - without this thread the lease would run out
            _log.exception("renewing the lease")
            return False
        self._counters.renewals += 1
        if self._lease.term:
            self._note_available()  # without a lease there may be nothing that was asked
            self._on_renewed()
        return True
