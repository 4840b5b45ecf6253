"""Plays a node's role: does what the role asks for until something happens, then looks up the next one.

Strategy: one thread per thing that can block. The *driver* plays the role, the *watcher* waits for another holder of
the lease, the *keeper* renews. Watcher and keeper only note what they saw; the driver alone decides, by the table in
`roles.py`. What a role means for mount and replication is behind `role_duties.Duties`.

Guarantees: commits are allowed by `CommitPermit` only. The filesystem process refuses by itself what comes after the
deadline, also if this process stands still; and if it is the one that stands still, the lease is freed no sooner.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import isfinite

from litefs.errors import (
    HandoffRefusedError,
    LeaseLostError,
    LeaseUnavailableError,
    LinkClosedError,
    LinkSilentError,
)
from litefs.lease.lease import Holder, Lease
from litefs.node.cluster_id import ClusterId
from litefs.node.commit_permit import CommitPermit
from litefs.node.election import SETTLE_S, YIELD_MAX_S, is_fresher_candidate
from litefs.node.eligibility import DAMAGED, LEAVES, SILENT, Eligibility
from litefs.node.handing_over import HandingOver
from litefs.node.lease_watch import AbandonedError, Inbox, LeaseWatch, RoleCounters
from litefs.node.role_duties import Candidacy, Duties
from litefs.node.roles import Event, Role, next_role

CATCH_UP_S = 5.0
"""An application that holds a lock for longer than this keeps its node from becoming primary."""

HANDOFF_TIMEOUT_S = 5.0
"""LiteFS's: to send the rest of the images, and for the other node to take the lease over."""

LEAVE_TIMEOUT_S = 2.0
"""The same for a node that ends, within the grace period of whoever ends it."""

RETRY_S = 0.1
"""Between attempts at a lease that is free and cannot be had yet."""

PUBLISH_PER_TTL = 4

_log = logging.getLogger("litefs.node")


class RoleDriver:
    """The role of one node, from start to stop."""

    def __init__(
        self,
        lease: Lease,
        duties: Duties,
        cluster: ClusterId,
        candidacy: Candidacy,
        on_role: Callable[[Role], None] = lambda _role: None,
    ) -> None:
        """Args: on_role: called on the driver's thread when the role has changed."""
        self._lease = lease
        self._duties = duties
        self._cluster = cluster
        self._candidacy = candidacy
        self._on_role = on_role
        self.counters = RoleCounters()
        self._inbox = Inbox()
        self._permit = CommitPermit(lease, duties)
        self._watch = LeaseWatch(lease, self._inbox, self.counters, self._permit.extend, candidacy.retry_s)
        self._handing_over = HandingOver(lease, duties, self._inbox, candidacy.identity)
        self._retry_s = max(candidacy.retry_s, RETRY_S)
        self._has_led = False
        self._eligibility = Eligibility(lease, cluster)
        self._vacant_since: float | None = None
        self._published = -1
        self._said = ""
        self.role = Role.STARTING
        self._actions: Mapping[Role, Callable[[], Event]] = {
            Role.STARTING: self._start_out,
            Role.REPLICA: self._replicate,
            Role.CANDIDATE: self._stand,
            Role.ACQUIRING: self._acquire,
            Role.PRIMARY: self._lead,
            Role.HANDING_OFF: self._hand_off,
            Role.DEMOTING: self._step_down,
        }
        self._thread = threading.Thread(target=self._run, name="role", daemon=True)

    # ---- for other threads ----

    def start(self) -> None:
        """Begins, on threads of its own."""
        self._thread.start()
        self._watch.start()

    def stop(self) -> None:
        """Gives the lease to another node, or frees it, and ends. Bounded by about `LEAVE_TIMEOUT_S` twice."""
        self._inbox.stop()
        self._thread.join(2 * LEAVE_TIMEOUT_S + self._candidacy.retry_s)

    def abandon(self) -> None:
        """Ends without letting go of the lease: the next process of this node takes it up."""
        self._inbox.abandon()

    def join(self) -> None:
        """Waits until its threads have ended, after `abandon`. A question that is open may last for some seconds."""
        if self._thread.ident is not None:
            self._thread.join()
        self._watch.join()

    @property
    def holder(self) -> Holder | None:
        """Who holds the lease, as last seen; None if nobody does."""
        return self._inbox.holder

    @property
    def is_primary(self) -> bool:
        """This node accepts commits now."""
        return self.role is Role.PRIMARY and time.monotonic() < self._lease.primary_until

    @property
    def shown_role(self) -> Role:
        """What the node calls itself: who connects because it says that it is primary can commit."""
        is_early = self.role is Role.PRIMARY and not self._permit.is_open
        return Role.ACQUIRING if is_early else self.role

    @property
    def remaining_s(self) -> float:
        """How long commits go on without another renewal, in seconds; 0 on a replica."""
        return max(self._lease.primary_until - time.monotonic(), 0.0) if self.role is Role.PRIMARY else 0.0

    def hand_off(self, node_id: int) -> None:
        """Hands the lease to a replica that is connected, and waits until that one has taken it.

        Raises:
            HandoffRefusedError: it could not be done; this node may still be primary.
        """
        if self.role is not Role.PRIMARY:
            raise HandoffRefusedError("cannot handoff: node is not currently primary")
        if node_id not in self._duties.followers():
            raise HandoffRefusedError("cannot handoff: target node is not currently connected")
        self._await_handoff(node_id, HANDOFF_TIMEOUT_S)

    def hand_off_to_freshest(self, timeout_s: float) -> int | None:
        """Hands the lease to the candidate that has most of those that follow, and waits until it has taken it.

        Commits go on until there is one. It is waited for if there are candidates that do not follow yet.

        Returns:
            The new primary's id; None if this node is not the primary, or nobody can take the lease.

        Raises:
            HandoffRefusedError: it could not be done; this node may still be primary.
        """
        return self._await_handoff(None, timeout_s) if self.role is Role.PRIMARY else None

    def _await_handoff(self, node_id: int | None, timeout_s: float) -> int | None:
        asked = self._inbox.ask_for_handoff(node_id, timeout_s)
        if asked is None:
            raise HandoffRefusedError("cannot handoff: another handoff is under way")
        if not asked.done.wait(timeout_s + 2 * HANDOFF_TIMEOUT_S):
            raise HandoffRefusedError("cannot handoff: it takes too long")
        if asked.reason:
            raise HandoffRefusedError(f"cannot handoff: {asked.reason}")
        return asked.node_id

    def leave(self) -> None:
        """Is no candidate any more. A primary stays primary until it can be replaced, in its next process too."""
        self._inbox.hinder(LEAVES)

    def note_silence(self, is_silent: bool) -> None:
        """Takes note of whether the filesystem process hangs. A primary gives its lease up, if it has a bound."""
        self._inbox.hinder(SILENT, is_so=is_silent)

    @property
    def hindrance(self) -> str:
        """Why this node must not become primary though it is configured to, in words; "" if nothing hinders it."""
        return ", ".join(sorted(self._inbox.hindrances))

    @property
    def may_lead(self) -> bool:
        """This node may become primary."""
        return self._candidacy.may_lead and not self._inbox.hindrances

    def take_handed(self, lease_id: str) -> None:
        """Takes note that the primary hands over the lease."""
        self._inbox.hand(lease_id)

    # ---- the driver ----

    def _run(self) -> None:
        with suppress(AbandonedError, LinkClosedError):  # the node ends; the next process takes the lease up
            self._play()
        self._inbox.finish_asked("the node ends")
        self._inbox.abandon()

    def _play(self) -> None:
        event: Event | None
        while self.role is not Role.STOPPED:
            try:
                event = self._actions[self.role]()
            except (AbandonedError, LinkClosedError):
                raise
            except LeaseLostError as error:
                _log.error("the lease is lost: %s", error)
                event = Event.LEASE_LOST
            except LinkSilentError:
                event = Event.LEASE_LOST if self.role is Role.HANDING_OFF else self._pause()
            except LeaseUnavailableError as error:
                self._watch.note_unavailable(error)
                event = self._pause()
            except Exception:  # noqa: BLE001 - without this thread the node would keep its role for ever
                _log.exception("%s", self.role.value)
                event = Event.LEASE_LOST if self.role is Role.HANDING_OFF else self._pause()
            if event is not None:
                self._enter(next_role(self.role, event), event)

    def _pause(self) -> Event | None:
        """Waits before the role is tried again. Where the process is to end, what it has of the lease runs out."""
        if self._inbox.is_stopping:
            return Event.STOP
        self._inbox.pause(self._retry_s)
        return None

    def _enter(self, role: Role, event: Event) -> None:
        before, self.role = self.role, role
        if role is before:
            return
        self._said = ""
        _log.info("%s -> %s: %s", before.value, role.value, event.value)
        self.counters.role_changes += 1
        self.counters.demotions += role is Role.DEMOTING
        self._on_role(role)

    def _say(self, level: int, message: str) -> None:
        """Logs a message unless it is the one that was logged last in this role."""
        if message != self._said:
            self._said = message
            _log.log(level, "%s", message)

    # ---- the roles ----

    def _start_out(self) -> Event:
        if self._inbox.is_stopping:
            return Event.STOP
        self._note_damage()
        is_damaged = DAMAGED in self._inbox.hindrances
        if is_damaged:
            self._permit.take_back()  # before the lease is taken up: where this fails, nobody is to renew it
        if self._candidacy.may_lead and self._lease.resume() and not is_damaged:
            return Event.RESUMED
        if self._inbox.hindrances:
            self._lease.release()
        return self._seen()

    def _replicate(self) -> Event:
        self._permit.take_back()
        self._vacant_since = None
        holder = self._inbox.holder
        if holder is None:  # it went since it was seen
            return Event.NO_PRIMARY
        is_self = holder.advertise_url == self._candidacy.identity.advertise_url
        if is_self:
            self._say(logging.WARNING, "an earlier run of this node holds the lease: waiting until it expires")
        self._duties.follow(None if is_self else holder)
        while True:
            must_follow = self._note_damage()
            hindrances = self._inbox.hindrances
            self._update_candidacy()
            is_settled = self._lease.is_published == self.may_lead and not must_follow
            self._inbox.wait(
                lambda hindrances=hindrances: (  # type: ignore[misc]
                    self._inbox.holder != holder or self._inbox.hindrances != hindrances
                ),
                self._lease.ttl_s / PUBLISH_PER_TTL if is_settled else self._retry_s,
            )
            if self._inbox.is_stopping:
                return self._leave()
            if self._inbox.handed:
                return Event.HANDED
            if self._inbox.holder != holder:
                return Event.NO_PRIMARY if self._inbox.holder is None else Event.PRIMARY_SEEN

    def _note_damage(self) -> bool:
        """Takes note of whether this node lost something and has not caught up since, and returns that."""
        must_follow = self._duties.must_follow()
        if isfinite(self._lease.ttl_s):  # else it is not this node's to say who leads
            self._inbox.hinder(DAMAGED, is_so=must_follow)
        return must_follow

    def _leave(self) -> Event:
        """Ends the candidacy of a replica, so that nobody waits for it, nor for it to take what it was handed."""
        self._decline(self._inbox.handed)
        return Event.STOP

    def _update_candidacy(self) -> None:
        if self.may_lead:
            self._publish()
        elif self._lease.is_published:
            self._lease.release()

    def _publish(self) -> None:
        freshness = self._duties.freshness()
        if freshness != self._published or not self._lease.is_published:
            self._lease.publish(freshness)
            self._published = freshness

    def _stand(self) -> Event:
        self._permit.take_back()
        self._duties.follow(None)
        if self._vacant_since is None:
            self._vacant_since = time.monotonic()
        if self._inbox.is_stopping or self._inbox.handed:
            return self._seen()
        if not self._may_stand():
            self._inbox.wait(lambda: self._inbox.holder is not None, self._retry_s)
            return self._seen()
        self._published = -1  # an entry may have gone with its session
        self._publish()
        if self._inbox.wait(lambda: self._inbox.holder is not None, SETTLE_S):
            return self._seen()
        node_id = self._candidacy.identity.node_id
        if (
            is_fresher_candidate(self._lease.candidates(), node_id, self._published)
            and time.monotonic() < self._vacant_since + YIELD_MAX_S
        ):
            self._say(logging.INFO, "another candidate is fresher: it goes first")
            self._inbox.wait(lambda: self._inbox.holder is not None, RETRY_S)
            return self._seen()
        return Event.ELECTED

    def _seen(self) -> Event:
        if self._inbox.is_stopping:
            return self._leave()
        if self._inbox.handed:
            return Event.HANDED
        self._inbox.holder = holder = self._lease.holder()
        return Event.NO_PRIMARY if holder is None else Event.PRIMARY_SEEN

    def _may_stand(self) -> bool:
        """Whether this node may take the lease; if not, for now or at all, the log says why."""
        if not self.may_lead:
            self._update_candidacy()
            if self._inbox.hindrances:
                self._say(logging.WARNING, f"nobody is primary, and this node must not be: {self.hindrance}")
            return False
        assert self._vacant_since is not None
        objection = self._eligibility.objection(self._vacant_since, has_led=self._has_led)
        if objection is None:
            return True
        self.counters.other_cluster += objection.is_other_cluster and not self._said
        self._say(objection.level, objection.text)
        return False

    def _acquire(self) -> Event:
        if self._inbox.is_stopping:
            return self._leave()
        with self._inbox.taking_handed() as handed:
            if not self.may_lead:
                self._say(logging.WARNING, f"this node does not become primary: {self.hindrance}")
                self._decline(handed)
                return Event.REFUSED
            self._duties.stop_receiving()
            behind = self._duties.catch_up(CATCH_UP_S)
            if behind:
                self._say(logging.WARNING, f"this node cannot become primary: it cannot apply what it has: {behind}")
                return Event.REFUSED
            is_ours = self._lease.take_over(handed) if handed else self._lease.acquire()
        if not is_ours:
            self._inbox.wait(lambda: self._inbox.holder is not None, RETRY_S)
            return Event.REFUSED
        return Event.ACQUIRED

    def _decline(self, handed: str) -> None:
        """Frees what a node that must not lead was handed, or has acquired without hearing of it."""
        if handed:
            self._lease.decline(handed)
        self._lease.release()

    @property
    def _is_stuck(self) -> bool:
        return SILENT in self._inbox.hindrances and isfinite(self._lease.ttl_s)

    def _lead(self) -> Event:
        if not self._permit.is_given and not self._is_stuck:
            self._take_the_lead()
        if not self._permit.is_open and not self._is_stuck:
            self._permit.confirm()
        while True:
            self._inbox.handed = ""  # what was handed late is nothing to a holder, and would end every wait at once
            if self._is_stuck:
                _log.error("the lease is given up: %s", SILENT)
                self.counters.silent += 1
                return Event.LEASE_LOST
            timeout_s = self._lease.primary_until - time.monotonic()
            if timeout_s <= 0.0:
                self._say(logging.ERROR, "the lease could not be renewed in time")
                self.counters.unconfirmed += 1
                return Event.LEASE_LOST
            if self._inbox.asked is None:
                self._inbox.wait(
                    lambda: bool(self._inbox.lost) or self._is_stuck or self._inbox.asked is not None, timeout_s
                )
            if self._inbox.lost:
                _log.error("the lease is lost: %s", self._inbox.lost)
                return Event.LEASE_LOST
            if self._inbox.is_stopping:
                return Event.STOP
            if self._inbox.asked is not None and self._handing_over.has_target(self._inbox.asked):
                return Event.HANDOFF_ASKED

    def _take_the_lead(self) -> None:
        self._inbox.lost = ""
        self._duties.begin_to_lead()
        if not self._eligibility.is_cluster_known or not self._cluster.text:
            self._cluster.make()
            theirs = self._lease.offer_cluster_id(self._cluster.text)
            if theirs != self._cluster.text:
                self.counters.other_cluster += 1
                self._lease.release()
                raise LeaseLostError(
                    f"the lease is that of cluster {theirs}, this node belongs to {self._cluster.text}"
                )
            self._eligibility.is_cluster_known = True
        self._permit.give()
        self._has_led = True
        self._vacant_since = None
        self.counters.promotions += 1
        self._inbox.see(self._lease.holder())

    def _hand_off(self) -> Event:
        asked = self._inbox.asked
        is_leaving = self._inbox.is_stopping
        target = asked.node_id if asked is not None else None
        self._permit.take_back()
        if is_leaving and target is None:
            # Whoever was told to leave has waited for one already, and a pod's last seconds are few.
            target = self._handing_over.await_successor(0.0 if LEAVES in self._inbox.hindrances else LEAVE_TIMEOUT_S)
        if target is None:
            assert is_leaving, "a handoff that was asked for has a target"
            self._inbox.finish_asked("the node ends")
            self._lease.release()
            return Event.STOP
        deadline = time.monotonic() + (LEAVE_TIMEOUT_S if is_leaving else HANDOFF_TIMEOUT_S)
        if asked is not None:
            asked.node_id = target
            deadline = deadline if is_leaving else min(deadline, asked.deadline)
        event = Event.LEASE_LOST
        try:
            reason = self._handing_over.give(target, deadline)
        except HandoffRefusedError as error:
            reason, event = str(error), Event.STOP if is_leaving else Event.HANDOFF_FAILED
        except LeaseUnavailableError as error:
            reason = str(error)
            if not is_leaving:
                self._watch.note_unavailable(error)
                event = Event.HANDOFF_FAILED if self._lease.term else Event.LEASE_LOST
        except LeaseLostError as error:
            reason = str(error)
        self._inbox.finish_asked(reason)
        if reason:
            _log.warning("the lease was not handed over: %s", reason)
            return event
        self.counters.handoffs += 1
        return Event.STOP if is_leaving else Event.HANDED_OFF

    def _free(self) -> None:
        """Frees the lease of a node whose commits cannot be refused, when the last one that it may accept is past."""
        while self._is_stuck and self._lease.term and not self._inbox.is_stopping:
            left_s = self._permit.until - time.monotonic()
            if left_s <= 0.0:
                self._lease.release()
                _log.warning("the lease is free: the filesystem process still does not answer")
                return
            self._inbox.pause(min(left_s, RETRY_S))

    def _step_down(self) -> Event:
        self._inbox.finish_asked("the lease was lost")
        try:
            self._permit.take_back()
        except LinkSilentError:
            if self._inbox.is_stopping:
                return Event.STOP  # the lease runs out by itself
            self._free()
            raise
        if self._inbox.is_stopping:
            return self._leave()
        self._inbox.lost = ""
        self._inbox.holder = holder = self._lease.holder()
        if holder is None:
            return Event.NO_PRIMARY
        if holder.term == self._lease.term:
            if time.monotonic() < self._lease.primary_until:
                return Event.RESUMED  # it was confirmed late, and nobody else had it meanwhile
            raise LeaseUnavailableError("the lease is ours, and not confirmed yet")
        return Event.PRIMARY_SEEN
