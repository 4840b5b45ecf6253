"""What threads of a node wait for while its role is played, and that waiting costs nothing and ends."""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NoReturn

import pytest

from litefs.errors import HandoffRefusedError, LeaseUnavailableError, LockHeldError
from litefs.node import lease_watch, role_driver
from litefs.node.cluster_id import ClusterId
from litefs.node.roles import Role
from tests.support.fake_lease import FakeLease
from tests.unit.node.fake_duties import Make, eventually

SHORT_TTL_S = 0.4
GENEROUS_S = 20.0
LITTLE_CPU_S = 0.2
"""Far more than waiting costs, and far less than asking again and again does."""


@contextmanager
def spending_at_most(seconds: float) -> Iterator[None]:
    """Fails if this process spends more processor time within the block."""
    begun = time.process_time()
    yield
    spent = time.process_time() - begun
    assert spent < seconds


def test_a_replica_whose_primary_goes_as_it_begins_to_follow_stands(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make("ab")
    a, b = cluster.nodes
    a.start()
    eventually(lambda: a.accepts)
    ClusterId(b.directory).check(cluster.keeper.cluster_id)
    b.boot()

    def lose_the_primary() -> None:
        monkeypatch.undo()
        a.driver.abandon()
        cluster.keeper.end(a.memory[0])
        b.driver._inbox.see(None)  # as the watcher does
        b.close_commits()

    monkeypatch.setattr(b, "close_commits", lose_the_primary)  # called between seeing a primary and following it
    b.start()
    eventually(lambda: b.accepts)


def test_a_lease_is_not_freed_before_the_deadline_that_an_earlier_process_gave(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make("ab", ttl_s=2.0)
    a, b = cluster.start()
    a.driver.abandon()

    def hold_on() -> None:
        raise LockHeldError("the appliers do not end")

    monkeypatch.setattr(a, "begin_to_lead", hold_on)
    a.boot().start()
    eventually(lambda: a.driver.role is Role.PRIMARY)
    a.is_silent = True
    a.driver.note_silence(True)
    until = a.until
    eventually(lambda: b.accepts)
    assert time.monotonic() >= until


@pytest.mark.parametrize("is_taken", [True, False], ids=["the answer is lost", "the request is lost"])
def test_a_lease_that_is_handed_over_is_taken_though_the_keeper_fails_once(
    make: Make, monkeypatch: pytest.MonkeyPatch, is_taken: bool
) -> None:
    cluster = make("ab")
    a, b = cluster.start()
    eventually(a.driver._lease.candidates)

    def fail(lease_id: str) -> bool:
        monkeypatch.undo()
        if is_taken:
            FakeLease(cluster.keeper, b.identity, []).take_over(lease_id)
        raise LeaseUnavailableError("the keeper does not answer")

    monkeypatch.setattr(b.driver._lease, "take_over", fail)
    a.driver.hand_off(ord("b"))
    eventually(lambda: b.accepts)
    assert b.roles[-2:] == [Role.ACQUIRING, Role.PRIMARY]


def test_a_lease_that_was_acquired_without_an_answer_is_not_kept_by_a_node_that_must_not_lead(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make("ab")
    a, b = cluster.nodes
    lease = FakeLease(cluster.keeper, a.identity, a.memory)

    def acquire_and_hear_nothing() -> NoReturn:
        lease.acquire()
        a.driver.leave()
        raise LeaseUnavailableError("no answer")

    monkeypatch.setattr(a.driver._lease, "acquire", acquire_and_hear_nothing)
    monkeypatch.setattr(a.driver._lease, "publish", lambda _freshness: a.driver._lease._open())  # type: ignore[attr-defined]
    monkeypatch.setattr(lease, "_open", lambda: a.memory[0])
    a.start()
    eventually(lambda: Role.ACQUIRING in a.roles)
    b.start()
    eventually(lambda: b.accepts)


def test_an_outage_of_the_keeper_is_logged_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    cluster = make("a", ttl_s=SHORT_TTL_S)
    cluster.keeper.is_reachable = False
    (node,) = cluster.nodes
    node.start()
    eventually(lambda: node.driver.counters.unavailable > 1 and node.driver.counters.renewals > 1)
    assert [text for text in caplog.messages if "reached" in text] == [
        "the lease cannot be reached, trying again: the keeper does not answer"
    ]
    cluster.keeper.is_reachable = True
    eventually(lambda: "the lease can be reached again" in caplog.messages)


def test_a_lease_that_is_found_lost_late_does_not_cost_the_next_one(make: Make) -> None:
    a, b = make("ab").start()
    b.driver._inbox.lose("that of an earlier term")  # as the keeper does, when the driver has found out already
    a.driver.hand_off(ord("b"))
    eventually(lambda: b.accepts and a.following == "b")
    eventually(b.driver._lease.candidates)
    b.driver.hand_off(ord("a"))
    assert b.roles[b.roles.index(Role.PRIMARY) + 1] is Role.HANDING_OFF


def test_who_finds_the_lease_to_be_another_cluster_s_when_it_has_it_frees_it(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make("a")
    (a,) = cluster.nodes

    def offer_too_late(_text: str) -> str:
        cluster.keeper.cluster_id = "LFSC0000000000000001"
        return cluster.keeper.cluster_id

    monkeypatch.setattr(a.driver._lease, "offer_cluster_id", offer_too_late)
    a.start()
    eventually(lambda: Role.DEMOTING in a.roles and a.driver.role is Role.CANDIDATE)
    assert cluster.keeper.holder is None
    assert not a.accepts
    assert a.driver.counters.promotions == 0


def test_a_primary_whose_session_is_ended_notices_it_before_its_next_renewal(make: Make) -> None:
    cluster = make("a", ttl_s=10_000.0)
    (a,) = cluster.nodes
    a.start()
    eventually(lambda: a.accepts)
    cluster.keeper.end(a.memory[0])
    eventually(lambda: Role.DEMOTING in a.roles)


def test_a_node_does_not_follow_an_earlier_run_of_itself(make: Make) -> None:
    (a,) = make("a", ttl_s=SHORT_TTL_S).nodes
    a.start()
    eventually(lambda: a.accepts)
    a.driver.abandon()
    a.memory.clear()
    a.boot().start()
    eventually(lambda: Role.REPLICA in a.roles and a.driver.role is Role.PRIMARY)
    assert "follows a" not in a.log


def test_whoever_waits_for_another_node_to_take_the_lease_lets_other_threads_run(make: Make) -> None:
    a, b = make("ab").start()
    eventually(a.driver._lease.candidates)
    b.takes_handoffs = False
    with spending_at_most(LITTLE_CPU_S):
        a.driver.stop()
    assert a.driver.role is Role.STOPPED


def test_a_lease_that_was_taken_is_not_taken_away_again_by_a_primary_that_has_not_noticed(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(role_driver, "HANDOFF_TIMEOUT_S", 0.2)
    cluster = make("ab")
    a, b = cluster.start()
    monkeypatch.setattr(a.driver._inbox, "see", lambda _holder: None)  # what it watches by hangs
    a.driver.hand_off(ord("b"))
    eventually(lambda: a.following == "b")
    assert b.accepts
    assert b.driver.counters.demotions == 0


def test_a_target_that_takes_the_lease_at_the_last_moment_and_is_cut_off_is_the_only_primary(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(role_driver, "HANDOFF_TIMEOUT_S", 0.1)
    cluster = make("abc")
    a, b, c = cluster.start()
    b.takes_handoffs = False
    withdraw = a.driver._lease.withdraw

    def cut_off(*_: object) -> NoReturn:
        raise LeaseUnavailableError("no route")

    def take_first(lease_id: str) -> bool:
        b.driver.take_handed(lease_id)
        eventually(lambda: b.accepts)
        for request in ("renew", "watch", "holder"):
            monkeypatch.setattr(b.driver._lease, request, cut_off)
        return withdraw(lease_id)

    monkeypatch.setattr(a.driver._lease, "withdraw", take_first)
    a.driver.hand_off(ord("b"))
    eventually(lambda: a.following == c.following == "b")
    assert cluster.primary() is b  # fails if there are two
    assert a.driver.counters.handoffs == 1


def test_a_lease_that_a_third_node_took_meanwhile_was_not_handed_over(make: Make) -> None:
    cluster = make("abc")
    a, b, c = cluster.start()
    b.takes_handoffs = False
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(a.driver.hand_off, ord("b"))
        eventually(lambda: a.driver.role is Role.HANDING_OFF and not a.memory)
        with cluster.keeper.changed:
            cluster.keeper.end(cluster.keeper.holder.term)  # type: ignore[union-attr]
            FakeLease(cluster.keeper, c.identity, c.memory).acquire()
        with pytest.raises(HandoffRefusedError, match="did not take the lease over"):
            outcome.result(GENEROUS_S)
    eventually(lambda: a.following == "c")


def test_who_has_just_become_primary_can_hand_the_lease_on_though_its_watcher_is_behind(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make("abc")
    a, b, _ = cluster.start()
    see = b.driver._inbox.see
    monkeypatch.setattr(b.driver._inbox, "see", lambda _holder: None)
    a.driver.hand_off(ord("b"))
    eventually(lambda: b.accepts and ord("c") in b.followers())
    see(None)
    monkeypatch.undo()
    b.driver.hand_off(ord("c"))
    eventually(lambda: cluster.nodes[2].accepts)


@pytest.mark.parametrize(("failing", "then"), [("hand_off", Role.PRIMARY), ("withdraw", Role.DEMOTING)])
def test_a_primary_that_hands_over_and_cannot_reach_the_keeper_leads_on_if_it_has_not_given_the_lease_away(
    make: Make, monkeypatch: pytest.MonkeyPatch, failing: str, then: Role
) -> None:
    monkeypatch.setattr(role_driver, "HANDOFF_TIMEOUT_S", 0.1)
    a, b = make("ab").start()
    b.takes_handoffs = False

    def fail(*_: object) -> NoReturn:
        raise LeaseUnavailableError("no route")

    monkeypatch.setattr(a.driver._lease, failing, fail)
    with pytest.raises(HandoffRefusedError, match="no route"):
        a.driver.hand_off(ord("b"))
    eventually(lambda: a.roles[-1] is not Role.HANDING_OFF)
    assert a.roles[a.roles.index(Role.HANDING_OFF) + 1] is then


def test_who_ends_while_it_hands_over_has_not_handed_over(make: Make) -> None:
    a, b = make("ab").start()
    b.takes_handoffs = False
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(a.driver.hand_off, ord("b"))
        eventually(lambda: a.driver.role is Role.HANDING_OFF and not a.memory)
        a.driver.abandon()
        with pytest.raises(HandoffRefusedError, match="the node ends"):
            outcome.result(GENEROUS_S)


def test_a_handoff_that_fails_in_a_way_that_nobody_thought_of_leaves_the_primary_as_it_was(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = make("ab").start()

    def fail() -> NoReturn:
        raise OSError("read-only file system")

    monkeypatch.setattr(a.driver._lease, "hand_off", fail)
    with pytest.raises(HandoffRefusedError, match="the lease was lost"):
        a.driver.hand_off(ord("b"))
    monkeypatch.undo()
    eventually(lambda: a.accepts)
    a.driver.hand_off(ord("b"))
    eventually(lambda: b.accepts)


def test_a_lease_that_is_handed_to_a_node_that_ends_is_free_at_once(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(role_driver, "HANDOFF_TIMEOUT_S", 2 * GENEROUS_S)
    a, b = make("ab").start()
    take_handed = b.driver.take_handed

    def end_first(lease_id: str) -> None:
        b.driver._inbox.is_stopping = True
        take_handed(lease_id)

    monkeypatch.setattr(b.driver, "take_handed", end_first)
    with ThreadPoolExecutor(1) as pool, pytest.raises(HandoffRefusedError, match="did not take the lease over"):
        pool.submit(a.driver.hand_off, ord("b")).result(GENEROUS_S)
    eventually(lambda: a.accepts)


def test_a_new_process_does_not_keep_the_lease_of_a_filesystem_process_that_hangs(make: Make) -> None:
    cluster = make("ab", ttl_s=2.0)
    a, b = cluster.start()
    a.driver.abandon()
    cluster.keeper.is_reachable = False
    a.boot().note_silence(True)
    a.is_silent = True
    a.driver.start()
    eventually(lambda: a.driver.counters.unavailable)
    cluster.keeper.is_reachable = True
    until = a.until
    eventually(lambda: b.accepts)
    assert time.monotonic() >= until


def test_whoever_asked_for_a_handoff_to_anybody_is_told_who_got_it_when_the_node_ends(make: Make) -> None:
    cluster = make("ab")
    a, b = cluster.start()
    eventually(a.driver._lease.candidates)
    b.following = None  # a candidate that follows only when commits have ended
    a.log.clear()
    with ThreadPoolExecutor(2) as pool:
        outcome = pool.submit(a.driver.hand_off_to_freshest, GENEROUS_S)
        eventually(lambda: a.driver._inbox.asked is not None)
        stopped = pool.submit(a.driver.stop)
        eventually(lambda: "closed" in a.log)
        b.following = "a"
        stopped.result(GENEROUS_S)
        assert outcome.result(GENEROUS_S) == ord("b")


def test_a_lease_that_is_handed_to_its_holder_does_not_keep_it_busy(make: Make) -> None:
    (a,) = make("a", ttl_s=SHORT_TTL_S).start()
    renewals = a.driver.counters.renewals
    with spending_at_most(LITTLE_CPU_S):
        a.driver.take_handed("late")
        eventually(lambda: a.driver.counters.renewals > renewals + 9)
    assert a.accepts


def test_a_lease_is_renewed_at_once_for_the_keeper_may_take_no_new_connection_later(make: Make) -> None:
    (a,) = make("a", ttl_s=1000.0).nodes  # the second renewal is due in a minute
    a.start()
    eventually(lambda: a.accepts)
    eventually(lambda: a.driver.counters.renewals)


def test_a_keeper_that_answers_slowly_is_asked_again_the_sooner(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    ttl_s, slow_s = 2.0, 0.35
    (a,) = make("a", ttl_s=ttl_s).nodes
    pauses: list[float] = []
    sleep, renew = a.driver._inbox.sleep, a.driver._lease.renew

    def note_pause(pause_s: float, unless: Callable[[], bool] = lambda: False) -> None:
        pauses.append(pause_s)
        sleep(pause_s, unless)

    def renew_slowly() -> None:
        time.sleep(slow_s)
        renew()

    monkeypatch.setattr(a.driver._inbox, "sleep", note_pause)
    monkeypatch.setattr(a.driver._lease, "renew", renew_slowly)
    a.start()
    eventually(lambda: len(pauses) > 2)
    often, retry_s = ttl_s / lease_watch.RENEWALS_PER_TTL, ttl_s / lease_watch.RETRIES_PER_TTL
    assert pauses[0] == often
    assert all(retry_s <= pause_s <= often - slow_s for pause_s in pauses[1:])
    assert not a.driver.counters.demotions


def test_whoever_waits_for_a_handoff_is_told_that_the_process_ends(make: Make) -> None:
    a, b = make("ab").start()
    eventually(a.driver._lease.candidates)
    b.following = None
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(a.driver.hand_off_to_freshest, GENEROUS_S)
        eventually(lambda: a.driver._inbox.asked is not None)
        a.driver.abandon()
        with pytest.raises(HandoffRefusedError, match="the node ends"):
            outcome.result(GENEROUS_S / 2)


def test_a_primary_that_was_told_to_leave_waits_for_no_successor_when_it_ends(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(role_driver, "LEAVE_TIMEOUT_S", 2 * GENEROUS_S)
    cluster = make("ab")
    a, b = cluster.start()
    eventually(a.driver._lease.candidates)
    b.following = None  # a candidate that might follow yet
    a.driver.leave()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(a.driver.stop).result(GENEROUS_S)
    eventually(lambda: b.accepts)


def test_a_node_ends_at_once_though_its_filesystem_process_hangs(make: Make) -> None:
    (a,) = make("a").nodes
    a.is_silent = True
    a.start()
    eventually(lambda: a.driver.role is Role.CANDIDATE)
    with spending_at_most(LITTLE_CPU_S):
        a.driver.stop()
    assert a.driver.role is Role.STOPPED
