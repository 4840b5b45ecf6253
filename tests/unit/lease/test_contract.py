"""What every lease that can move promises. Each test runs on the fake and on a real Consul."""

import threading
import time

import pytest

from litefs.errors import LeaseError, LeaseLostError, LeaseUnavailableError
from litefs.lease.lease import MARGIN_FRACTION, Candidate, Lease
from tests.unit.lease.worlds import World, identity_of

GIVE_UP_S = 60.0


def acquire_at_last(world: World, lease: Lease) -> float:
    """Tries until it succeeds. Returns the time at which it did."""
    begun = world.now()
    while True:
        lease.renew()
        if lease.acquire():
            return world.now()
        assert world.now() - begun < GIVE_UP_S, "the lease never came free"
        world.pass_time(lease.ttl_s / 20)


def test_nobody_holds_it_at_first(world: World) -> None:
    lease = world.node("a")
    assert lease.holder() is None
    assert not lease.resume()
    assert (lease.term, lease.primary_until) == ("", 0.0)


def test_who_acquires_it_holds_it_for_less_than_a_ttl(world: World) -> None:
    lease = world.node("a")
    before = world.now()
    assert lease.acquire()
    after = world.now()
    holder = lease.holder()
    assert holder is not None
    assert (holder.hostname, holder.advertise_url, holder.term) == ("a", "http://a:20202", lease.term)
    usable_s = lease.ttl_s * (1 - MARGIN_FRACTION)
    assert before < lease.primary_until <= after + usable_s


def test_one_holds_it_at_a_time(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    assert a.acquire()
    assert not b.acquire()
    assert (b.term, b.primary_until) == ("", 0.0)
    holder = b.holder()
    assert holder is not None
    assert holder.hostname == "a"


def test_acquiring_it_again_changes_nothing(world: World) -> None:
    lease = world.node("a")
    assert lease.acquire()
    term = lease.term
    assert lease.acquire()
    assert lease.term == term


def test_a_released_lease_is_free_at_once(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    assert a.acquire()
    a.release()
    assert (a.term, a.primary_until) == ("", 0.0)
    assert b.holder() is None
    assert b.acquire()


def test_a_renewal_moves_the_deadline(world: World) -> None:
    lease = world.node("a")
    assert lease.acquire()
    before = lease.primary_until
    world.pass_time(0.1)
    sent = world.now()
    lease.renew()
    assert lease.primary_until >= sent + lease.ttl_s * (1 - MARGIN_FRACTION) > before


def test_nobody_else_gets_it_before_the_deadline_of_one_who_went_silent(expiring_world: World) -> None:
    silent, other = expiring_world.node("a"), expiring_world.node("b")
    assert silent.acquire()
    assert acquire_at_last(expiring_world, other) >= silent.primary_until


def test_renewing_a_lost_lease_says_so_and_ends_it(expiring_world: World) -> None:
    lost, other = expiring_world.node("a"), expiring_world.node("b")
    assert lost.acquire()
    acquire_at_last(expiring_world, other)
    with pytest.raises(LeaseLostError):
        lost.renew()
    assert (lost.term, lost.primary_until) == ("", 0.0)
    lost.renew()  # it is a candidate again, and has nothing to lose
    assert not lost.acquire()


def test_a_handed_off_lease_is_taken_over_without_being_free_in_between(world: World) -> None:
    a, b, c = world.node("a"), world.node("b"), world.node("c")
    assert a.acquire()
    b.publish(1)
    lease_id = a.hand_off()
    assert (a.term, a.primary_until) == ("", 0.0)
    assert not c.acquire()
    assert b.take_over(lease_id)
    assert b.primary_until > world.now()
    holder = c.holder()
    assert holder is not None
    assert (holder.hostname, holder.term) == ("b", b.term)
    a.renew()
    b.renew()
    assert not a.acquire()
    b.release()
    assert a.acquire()


def test_a_lease_that_is_not_held_cannot_be_handed_off(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    with pytest.raises(LeaseLostError):
        a.hand_off()
    assert b.acquire()
    with pytest.raises(LeaseLostError):
        a.hand_off()


def test_a_withdrawn_lease_cannot_be_taken_over(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    assert a.acquire()
    lease_id = a.hand_off()
    assert a.withdraw(lease_id)
    assert b.holder() is None
    assert not b.was_taken_away()
    assert not b.take_over(lease_id)
    assert b.term == ""
    assert b.acquire()  # at once: nobody vanished


def test_a_lease_that_was_taken_over_cannot_be_withdrawn(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    assert a.acquire()
    lease_id = a.hand_off()
    assert b.take_over(lease_id)
    assert not a.withdraw(lease_id)
    b.renew()
    assert b.term == lease_id
    assert not a.acquire()


def test_a_lease_that_was_taken_over_and_freed_is_free_also_for_who_withdraws_it(world: World) -> None:
    a, b, c = world.node("a"), world.node("b"), world.node("c")
    assert a.acquire()
    lease_id = a.hand_off()
    assert b.take_over(lease_id)
    b.release()
    assert c.acquire()
    assert a.withdraw(lease_id)
    c.renew()
    assert c.term


def test_a_lease_that_is_declined_is_free_at_once_and_was_never_held(world: World) -> None:
    a, b, c = world.node("a"), world.node("b"), world.node("c")
    assert a.acquire()
    lease_id = a.hand_off()
    b.decline(lease_id)
    assert (b.term, b.primary_until) == ("", 0.0)
    assert not b.take_over(lease_id)
    assert c.acquire()
    b.decline(lease_id)  # as when the answer was lost
    assert a.withdraw(lease_id)
    c.renew()
    assert c.term


def test_a_new_process_takes_up_the_lease_of_the_one_before(world: World) -> None:
    first = world.node("a")
    assert first.acquire()
    second = world.node("a")
    assert second.resume()
    assert second.term == first.term
    assert second.primary_until > world.now()


def test_a_new_process_does_not_take_up_what_was_given_away_or_lost(expiring_world: World) -> None:
    a, b = expiring_world.node("a"), expiring_world.node("b")
    assert a.acquire()
    lease_id = a.hand_off()
    assert not expiring_world.node("a").resume()
    assert b.take_over(lease_id)
    assert not expiring_world.node("a").resume()
    b.release()
    assert not expiring_world.node("b").resume()
    assert a.acquire()
    acquire_at_last(expiring_world, b)
    assert not expiring_world.node("a").resume()


def test_watching_returns_when_the_holder_changes(world: World) -> None:
    a, watcher = world.node("a"), world.node("b")
    assert watcher.watch(0.0) is None
    seen: list[object] = []

    def watch() -> None:
        seen.append(watcher.watch(GIVE_UP_S))
        seen.append(watcher.watch(GIVE_UP_S))

    thread = threading.Thread(target=watch)
    thread.start()
    assert a.acquire()
    held = a.holder()
    while not seen:
        time.sleep(0.001)
    a.release()
    thread.join(GIVE_UP_S)
    assert seen == [held, None]


def test_watching_ends_when_nothing_changes(world: World) -> None:
    a, watcher = world.node("a"), world.node("b")
    assert a.acquire()
    held = watcher.watch(GIVE_UP_S)
    assert watcher.watch(0.05) == held


def test_candidates_are_those_who_published_and_live(expiring_world: World) -> None:
    a, b, gone = expiring_world.node("a"), expiring_world.node("b"), expiring_world.node("c")
    a.publish(5)
    b.publish(7)
    gone.publish(9)
    b.publish(8)
    assert sorted(a.candidates(), key=lambda candidate: candidate.node_id) == [
        Candidate(node_id=ord("a"), freshness=5),
        Candidate(node_id=ord("b"), freshness=8),
        Candidate(node_id=ord("c"), freshness=9),
    ]
    gone.release()
    assert {candidate.node_id for candidate in a.candidates()} == {ord("a"), ord("b")}
    begun = expiring_world.now()
    while len(a.candidates()) > 1:  # b went silent
        assert expiring_world.now() - begun < GIVE_UP_S
        expiring_world.pass_time(a.ttl_s / 10)
        a.renew()
    assert [candidate.node_id for candidate in a.candidates()] == [ord("a")]


def test_a_primary_is_no_candidate(world: World) -> None:
    lease = world.node("a")
    lease.publish(5)
    assert lease.acquire()
    assert lease.candidates() == []
    assert not lease.is_published


def test_who_gave_the_lease_away_and_who_took_it_can_publish_again_at_once(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    a.publish(5)
    b.publish(4)
    assert a.acquire()
    assert b.take_over(a.hand_off())
    assert (a.is_published, b.is_published) == (False, False)
    a.publish(6)
    assert a.is_published
    assert a.candidates() == [Candidate(node_id=ord("a"), freshness=6)]
    assert a.take_over(b.hand_off())
    b.publish(7)
    assert (a.is_published, b.is_published) == (False, True)
    assert a.candidates() == [Candidate(node_id=ord("b"), freshness=7)]


def test_who_ended_its_candidacy_can_publish_again_at_once(world: World) -> None:
    lease = world.node("a")
    lease.publish(5)
    lease.release()
    assert not lease.is_published
    lease.publish(6)
    assert lease.is_published


def test_a_candidate_that_was_away_too_long_publishes_anew(expiring_world: World) -> None:
    lease = expiring_world.node("a")
    lease.publish(1)
    begun = expiring_world.now()
    while expiring_world.node("b").candidates():
        assert expiring_world.now() - begun < GIVE_UP_S
        expiring_world.pass_time(lease.ttl_s / 10)
    lease.renew()
    assert not lease.is_published
    deadline = time.monotonic() + GIVE_UP_S
    while not lease.candidates():  # Consul refuses the key for the lock-delay
        assert time.monotonic() < deadline
        lease.publish(2)
    assert lease.candidates() == [Candidate(node_id=ord("a"), freshness=2)]


def test_a_holder_that_was_away_too_long_and_stands_again_holds_nothing(expiring_world: World) -> None:
    """Its candidacy has a session of its own, which is not to be renewed as if it were the lost one."""
    world = expiring_world
    lease = world.node("a")
    assert lease.acquire()
    world.pass_time(2.5 * lease.ttl_s)
    deadline = time.monotonic() + GIVE_UP_S
    while not lease.candidates():  # Consul refuses the key for the lock-delay
        assert time.monotonic() < deadline
        lease.publish(7)
    assert (lease.term, lease.primary_until) == ("", 0.0)
    lease.renew()
    assert lease.holder() is None
    assert lease.candidates() == [Candidate(node_id=ord("a"), freshness=7)]


def test_the_first_cluster_id_stands(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    assert a.cluster_id() == ""
    assert a.offer_cluster_id("LFSC0000000000000001") == "LFSC0000000000000001"
    assert b.offer_cluster_id("LFSC0000000000000002") == "LFSC0000000000000001"
    assert b.cluster_id() == "LFSC0000000000000001"


def test_a_keeper_that_does_not_answer_costs_a_bounded_time_and_moves_no_deadline(expiring_world: World) -> None:
    lease = expiring_world.node("a")
    assert lease.acquire()
    until = lease.primary_until
    expiring_world.cut()
    begun = time.monotonic()
    for request in (lease.renew, lease.holder, lease.candidates, lambda: lease.publish(1)):
        with pytest.raises(LeaseUnavailableError):
            request()
    assert time.monotonic() - begun < 4 * lease.ttl_s
    assert lease.primary_until == until
    expiring_world.mend()


def test_a_lease_that_was_not_confirmed_in_time_is_lost_or_confirmed_late(expiring_world: World) -> None:
    lease = expiring_world.node("a")
    assert lease.acquire()
    expiring_world.cut()
    expiring_world.pass_time(3 * lease.ttl_s)
    assert lease.primary_until < expiring_world.now()
    expiring_world.mend()
    try:
        lease.renew()
    except LeaseError:
        assert lease.term == ""
    else:
        assert lease.primary_until > expiring_world.now()


def test_a_stranger_who_holds_the_key_is_noticed_at_the_renewal(world: World) -> None:
    lease = world.node("a")
    assert lease.acquire()
    world.intrude()
    with pytest.raises(LeaseLostError, match="stranger"):
        lease.renew()
    holder = lease.holder()
    assert holder is not None
    assert (holder.hostname, holder.advertise_url) == ("", "")
    assert not lease.acquire()


def test_a_key_that_is_deleted_was_taken_away_from_a_holder_that_lives(world: World) -> None:
    holder, other, stranger = world.node("a"), world.node("b"), world.node("c")
    assert holder.acquire()
    assert other.holder() is not None
    world.delete_key()
    assert other.holder() is None
    assert other.was_taken_away()
    assert not holder.was_taken_away()  # it knows that by itself
    assert not stranger.was_taken_away()  # it never saw anybody hold it
    holder.renew()
    assert not other.was_taken_away()


def test_a_lease_that_was_released_or_ran_out_was_not_taken_away(expiring_world: World) -> None:
    holder, other = expiring_world.node("a"), expiring_world.node("b")
    assert holder.acquire()
    assert other.holder() is not None
    holder.release()
    assert not other.was_taken_away()
    deadline = time.monotonic() + GIVE_UP_S
    while not holder.acquire():
        assert time.monotonic() < deadline
    assert other.holder() is not None
    begun = expiring_world.now()
    while other.holder() is not None:
        assert expiring_world.now() - begun < GIVE_UP_S
        expiring_world.pass_time(holder.ttl_s / 10)
    assert not other.was_taken_away()


def test_a_key_that_somebody_deleted_is_locked_again(world: World) -> None:
    lease = world.node("a")
    assert lease.acquire()
    world.delete_key()
    assert lease.holder() is None
    lease.renew()
    holder = lease.holder()
    assert holder is not None
    assert (holder.term, holder.hostname) == (lease.term, identity_of("a").hostname)
