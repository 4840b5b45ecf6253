"""Roles as they are played: real threads over a fake keeper, nodes without mounts."""

import math
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from litefs.errors import HandoffRefusedError
from litefs.lease.lease import Holder
from litefs.node import eligibility, role_driver
from litefs.node.cluster_id import ClusterId
from litefs.node.roles import Role
from tests.unit.node.fake_duties import FakeCluster, FakeNode, Make, eventually

SHORT_TTL_S = 0.4
GENEROUS_S = 20.0


def test_the_first_node_leads_and_the_others_follow(make: Make) -> None:
    a, b, c = make("abc").start()
    assert [node.driver.role for node in (a, b, c)] == [Role.PRIMARY, Role.REPLICA, Role.REPLICA]
    assert (a.driver.is_primary, b.driver.is_primary) == (True, False)
    holder = b.driver.holder
    assert holder is not None
    assert holder.hostname == "a"
    assert 0 < a.driver.remaining_s <= 10
    assert b.driver.remaining_s == 0


def test_a_node_calls_itself_primary_when_commits_are_accepted_and_not_before(make: Make) -> None:
    (a,) = make("a").start()
    eventually(lambda: (a.driver.shown_role, a.role_when_open) == (Role.PRIMARY, Role.ACQUIRING))


def test_a_node_that_may_not_lead_waits_for_a_primary(make: Make) -> None:
    cluster = make("")
    follower = cluster.add("x", may_lead=False).start()
    eventually(lambda: follower.driver.role is Role.CANDIDATE)
    leader = cluster.add("a").start()
    eventually(lambda: follower.following == "a")
    leader.driver.stop()
    eventually(lambda: follower.driver.role is Role.CANDIDATE)
    assert cluster.keeper.holder is None


def test_a_handoff_loses_nothing_and_moves_the_lease(make: Make) -> None:
    a, b, _ = make("abc").start()
    a.has = 7
    a.driver.hand_off(ord("b"))
    eventually(lambda: b.accepts)
    assert b.has == 7
    assert not a.accepts
    eventually(lambda: a.following == "b")
    assert (a.driver.counters.handoffs, a.driver.counters.demotions, b.driver.counters.promotions) == (1, 1, 1)


def test_the_lease_goes_round(make: Make) -> None:
    cluster = make("abc")
    nodes = cluster.start()
    for turn in range(9):
        before, after = nodes[turn % 3], nodes[(turn + 1) % 3]
        eventually(lambda before=before, after=after: after.identity.node_id in before.followers())
        before.driver.hand_off(after.identity.node_id)
        eventually(lambda after=after: after.accepts)
    assert cluster.primary() is nodes[0]


def test_a_handoff_to_a_node_that_does_not_follow_is_refused_and_changes_nothing(make: Make) -> None:
    a, b = make("ab").start()
    a.log.clear()
    with pytest.raises(HandoffRefusedError, match="not currently connected"):
        a.driver.hand_off(ord("z"))
    with pytest.raises(HandoffRefusedError, match="not currently primary"):
        b.driver.hand_off(ord("a"))
    assert a.accepts
    assert "closed" not in a.log


def test_the_freshest_that_follows_is_given_the_lease_when_nobody_is_named(make: Make) -> None:
    a, b, c = make("abc").start()
    b.has, c.has = 5, 6
    eventually(lambda: len(a.driver._lease.candidates()) == 2)
    assert a.driver.hand_off_to_freshest(GENEROUS_S) == ord("c")
    eventually(lambda: c.accepts)
    assert not a.accepts
    assert b.driver.hand_off_to_freshest(GENEROUS_S) is None  # a replica has nothing to hand over


def test_a_primary_that_nobody_can_replace_stays_primary_and_refuses_no_commit(make: Make) -> None:
    cluster = make("a")
    (a,) = cluster.start()
    cluster.add("x", may_lead=False).start()
    a.log.clear()
    begun = time.monotonic()
    assert a.driver.hand_off_to_freshest(GENEROUS_S) is None
    assert time.monotonic() - begun < GENEROUS_S / 2
    assert a.accepts
    assert "closed" not in a.log


def test_a_candidate_that_does_not_follow_yet_is_waited_for_while_commits_go_on(make: Make) -> None:
    cluster = make("ab")
    a, b = cluster.start()
    eventually(a.driver._lease.candidates)
    b.following = None
    a.log.clear()
    assert a.driver.hand_off_to_freshest(0.2) is None
    assert a.accepts
    assert "closed" not in a.log
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(a.driver.hand_off_to_freshest, GENEROUS_S)
        eventually(lambda: a.driver._inbox.asked is not None)
        with pytest.raises(HandoffRefusedError, match="another handoff is under way"):
            a.driver.hand_off_to_freshest(GENEROUS_S)
        b.following = "a"
        assert outcome.result(GENEROUS_S) == ord("b")


def test_a_node_that_leaves_hands_over_and_never_leads_again(make: Make) -> None:
    cluster = make("ab")
    a, b = cluster.start()
    eventually(a.driver._lease.candidates)
    a.driver.leave()
    assert a.accepts
    assert a.driver.hand_off_to_freshest(GENEROUS_S) == ord("b")
    eventually(lambda: a.following == "b")
    b.driver.stop()
    eventually(lambda: a.driver.role is Role.CANDIDATE)
    assert not a.driver._lease.candidates()
    assert (a.driver.may_lead, a.driver.hindrance) == (False, eligibility.LEAVES)
    a.driver.abandon()
    a.boot().start()  # a new process is a candidate again
    eventually(lambda: a.accepts)


def test_a_primary_that_handed_over_is_a_candidate_again_though_nothing_was_committed(make: Make) -> None:
    a, b = make("ab").start()
    eventually(a.driver._lease.candidates)
    a.driver.hand_off(ord("b"))
    eventually(lambda: [candidate.node_id for candidate in b.driver._lease.candidates()] == [ord("a")])


def test_a_candidate_whose_session_expired_publishes_again_though_nothing_was_committed(make: Make) -> None:
    cluster = make("ab", ttl_s=SHORT_TTL_S)
    a, b = cluster.start()
    eventually(a.driver._lease.candidates)
    cluster.keeper.end(b.memory[0])
    eventually(a.driver._lease.candidates)


def test_a_replica_that_leaves_is_no_candidate_and_goes_on_following(make: Make) -> None:
    a, b = make("ab").start()
    eventually(a.driver._lease.candidates)
    b.driver.leave()
    eventually(lambda: not a.driver._lease.candidates())
    assert b.following == "a"
    assert a.driver.hand_off_to_freshest(GENEROUS_S) is None


def test_the_next_process_of_a_node_that_leaves_keeps_the_lease_that_it_has(make: Make) -> None:
    """It has it for want of a candidate."""
    (a,) = make("a").start()
    a.driver.leave()
    a.driver.abandon()
    a.boot().leave()
    a.driver.start()
    eventually(lambda: a.driver.is_primary)
    assert a.driver.hindrance == eligibility.LEAVES


def test_a_lease_that_is_handed_to_a_node_that_leaves_is_freed_at_once(make: Make) -> None:
    cluster = make("ab")
    a, b = cluster.start()
    b.driver.leave()
    with pytest.raises(HandoffRefusedError, match="did not take the lease over"):
        a.driver.hand_off(ord("b"))
    eventually(lambda: a.accepts)
    assert Role.PRIMARY not in b.roles
    assert a.driver.counters.handoffs == 0


def test_a_target_that_does_not_take_the_lease_loses_it_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(role_driver, "HANDOFF_TIMEOUT_S", 0.1)
    cluster = make("ab", ttl_s=10_000.0)
    a, b = cluster.start()
    b.takes_handoffs = False
    with pytest.raises(HandoffRefusedError, match="did not take the lease over"):
        a.driver.hand_off(ord("b"))
    eventually(lambda: cluster.primary() is not None)


def test_a_node_that_cannot_apply_what_it_has_does_not_lead(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(role_driver, "HANDOFF_TIMEOUT_S", 0.1)
    cluster = make("ab")
    a, b = cluster.start()
    b.stuck_on = "app.db"
    with pytest.raises(HandoffRefusedError, match="did not take the lease over"):
        a.driver.hand_off(ord("b"))
    eventually(lambda: a.accepts)
    assert Role.PRIMARY not in b.roles


def test_a_primary_that_ends_gives_the_lease_to_the_freshest(make: Make) -> None:
    a, b, c = make("abc").start()
    a.has, b.has, c.has = 9, 5, 6
    eventually(lambda: len(FakeCluster.primary(a.cluster).driver._lease.candidates()) == 2)  # type: ignore[union-attr]
    a.driver.stop()
    eventually(lambda: c.accepts)
    assert c.has == 9
    assert not a.accepts
    assert a.driver.role is Role.STOPPED


def test_a_primary_that_ends_alone_frees_the_lease(make: Make) -> None:
    cluster = make("a")
    (a,) = cluster.start()
    a.driver.stop()
    assert (a.driver.role, a.accepts, cluster.keeper.holder, cluster.keeper.sessions) == (Role.STOPPED, False, None, {})


def test_a_replica_that_ends_is_no_candidate_any_more(make: Make) -> None:
    cluster = make("ab")
    a, b = cluster.start()
    eventually(a.driver._lease.candidates)
    b.driver.stop()
    assert ord("b") not in {candidate.node_id for candidate in a.driver._lease.candidates()}


@pytest.mark.parametrize("freshest", ["b", "c"])
def test_the_freshest_candidate_succeeds_a_primary_that_vanished(make: Make, freshest: str) -> None:
    cluster = make("abc", ttl_s=SHORT_TTL_S)
    a, b, c = cluster.start()
    for node in (b, c):
        node.has = 5 + (node.name == freshest)
    a.driver.abandon()
    eventually(lambda: b.accepts or c.accepts)
    assert cluster.primary() is (b if freshest == "b" else c)


def test_a_stale_candidate_waits_for_a_fresher_one_but_not_for_ever(make: Make) -> None:
    cluster = make("abc", ttl_s=SHORT_TTL_S)
    a, b, c = cluster.start()
    b.has, c.has, c.stuck_on = 5, 9, "app.db"
    a.driver.abandon()
    eventually(lambda: b.accepts)


def test_a_new_process_of_the_primary_goes_on_without_refusing_a_commit(make: Make) -> None:
    a, _ = make("ab").start()
    a.driver.abandon()
    a.log.clear()
    a.boot().start()
    eventually(lambda: a.driver.role is Role.PRIMARY)
    assert a.accepts
    assert "closed" not in a.log


def test_a_new_process_whose_lease_is_gone_refuses_commits_at_once(make: Make) -> None:
    cluster = make("ab")
    a, b = cluster.start()
    a.driver.abandon()
    cluster.keeper.end(a.memory[0])
    eventually(lambda: b.accepts)
    assert a.accepts  # what the process before had promised, in the worst case of a Consul that forgot it
    a.boot().start()
    eventually(lambda: not a.accepts)
    eventually(lambda: a.following == "b")


def test_commits_end_before_the_lease_may_be_another_s(make: Make) -> None:
    cluster = make("ab", ttl_s=SHORT_TTL_S)
    a, _ = cluster.start()
    before = a.driver.counters.unavailable
    cluster.keeper.is_reachable = False
    cut = time.monotonic()
    eventually(lambda: not a.accepts)
    assert time.monotonic() - cut < 10 * SHORT_TTL_S
    eventually(lambda: a.driver.role is Role.DEMOTING and a.until == 0.0)
    assert a.driver.counters.unconfirmed == 1
    assert a.driver.counters.unavailable > before


def test_a_lease_that_is_confirmed_late_is_taken_up_again(make: Make) -> None:
    cluster = make("a", ttl_s=SHORT_TTL_S)
    (a,) = cluster.start()
    cluster.keeper.is_reachable = False
    eventually(lambda: a.driver.role is Role.DEMOTING)
    cluster.keeper.is_reachable = True
    eventually(lambda: a.accepts)


def test_a_primary_whose_session_expired_stands_again(make: Make) -> None:
    cluster = make("a")
    (a,) = cluster.start()
    cluster.keeper.end(a.memory[0])
    eventually(lambda: Role.DEMOTING in a.roles)
    eventually(lambda: a.accepts)
    assert a.driver.counters.expired == 1


def test_a_stranger_with_the_key_demotes_the_primary(make: Make) -> None:
    cluster = make("a")
    (a,) = cluster.start()
    cluster.keeper.give(Holder(hostname="", advertise_url="", term="stranger"))
    eventually(lambda: a.driver.role is Role.REPLICA)
    assert not a.accepts
    cluster.keeper.give(None)
    eventually(lambda: a.accepts)


def test_a_deleted_key_is_locked_again_by_the_primary(make: Make) -> None:
    a, _ = make("ab").start()
    a.cluster.keeper.give(None)
    eventually(lambda: a.cluster.keeper.holder is not None)
    assert a.cluster.primary() is a


def test_a_node_of_another_cluster_never_leads(make: Make, tmp_path: Path) -> None:
    cluster = make("a")
    cluster.keeper.cluster_id = "LFSC00000000000000AA"
    ClusterId(tmp_path / "a").check("LFSC00000000000000BB")
    node = cluster.nodes[0]
    node.boot().start()
    eventually(lambda: node.driver.counters.other_cluster)
    cluster.keeper.cluster_id = "LFSC00000000000000BB"
    eventually(lambda: node.accepts)


def test_a_node_without_the_cluster_s_data_waits_for_a_primary(make: Make) -> None:
    cluster = make("")
    cluster.keeper.cluster_id = "LFSC00000000000000AA"
    empty = cluster.add("x").start()
    full = cluster.add("y")
    ClusterId(full.directory).check("LFSC00000000000000AA")
    eventually(lambda: empty.driver.role is Role.CANDIDATE)
    full.boot().start()
    eventually(lambda: full.accepts)
    eventually(lambda: empty.following == "y")
    assert Role.ACQUIRING not in empty.roles


def test_nobody_takes_the_lease_of_an_emptied_keeper_before_the_old_primary_s_time_is_up(make: Make) -> None:
    cluster = make("ab", ttl_s=2.0)
    a, b = cluster.start()
    a.driver.abandon()  # it notices nothing any more, and its filesystem process goes by the deadline
    until = a.until
    cluster.keeper.empty()
    eventually(lambda: b.accepts)
    assert time.monotonic() >= until
    assert cluster.keeper.cluster_id == ClusterId(b.directory).text


def test_the_last_primary_need_not_wait_when_the_keeper_was_emptied(make: Make) -> None:
    cluster = make("a", ttl_s=60.0)
    (a,) = cluster.start()
    a.driver._watch._lease.watch(0.0)
    cluster.keeper.empty()
    eventually(lambda: Role.DEMOTING in a.roles)
    eventually(lambda: a.accepts)


def test_a_deleted_key_makes_nobody_primary_while_the_last_one_may_accept_commits(make: Make) -> None:
    cluster = make("ab", ttl_s=2.0)
    a, b = cluster.start()
    a.driver.abandon()  # it notices nothing any more, and its filesystem process goes by the deadline
    cluster.keeper.sessions[a.memory[0]].expires_at = math.inf
    cluster.keeper.give(None)
    until = a.until
    eventually(lambda: b.accepts)
    assert time.monotonic() >= until


def test_a_primary_whose_filesystem_process_hangs_frees_the_lease_after_its_deadline(make: Make) -> None:
    cluster = make("ab", ttl_s=2.0)
    a, b = cluster.start()
    a.is_silent = True
    a.driver.note_silence(True)
    eventually(lambda: Role.DEMOTING in a.roles)
    until = a.until  # it cannot be told any more
    eventually(lambda: b.accepts)
    assert time.monotonic() >= until
    assert (a.driver.counters.silent, a.driver.may_lead) == (1, False)
    assert a.driver.role is Role.DEMOTING
    a.is_silent = False
    a.driver.note_silence(False)
    eventually(lambda: a.following == "b")
    eventually(lambda: [candidate.node_id for candidate in b.driver._lease.candidates()] == [ord("a")])


def test_a_primary_that_answers_again_in_time_keeps_the_lease(make: Make) -> None:
    cluster = make("ab", ttl_s=30.0)
    a, b = cluster.start()
    a.is_silent = True
    a.driver.note_silence(True)
    eventually(lambda: Role.DEMOTING in a.roles)
    a.is_silent = False
    a.driver.note_silence(False)
    eventually(lambda: a.driver.role is Role.PRIMARY)
    assert a.accepts
    assert Role.PRIMARY not in b.roles


def test_a_filesystem_process_that_hangs_during_a_handoff_does_not_keep_the_lease(make: Make) -> None:
    cluster = make("ab", ttl_s=2.0)
    a, b = cluster.start()
    a.is_silent = True
    with pytest.raises(HandoffRefusedError, match="the lease was lost"):
        a.driver.hand_off(ord("b"))
    a.driver.note_silence(True)
    eventually(lambda: b.accepts)
    assert time.monotonic() >= a.until


def test_a_replica_whose_filesystem_process_hangs_is_no_candidate(make: Make) -> None:
    a, b = make("ab").start()
    eventually(a.driver._lease.candidates)
    b.driver.note_silence(True)
    eventually(lambda: not a.driver._lease.candidates())
    b.driver.note_silence(False)
    eventually(a.driver._lease.candidates)


def test_a_damaged_candidate_waits_for_a_primary_and_is_a_candidate_when_it_has_caught_up(make: Make) -> None:
    cluster = make("")
    cluster.keeper.cluster_id = "LFSC00000000000000AA"
    damaged, sound = cluster.add("x"), cluster.add("y")
    for node in (damaged, sound):
        ClusterId(node.directory).check("LFSC00000000000000AA")
    damaged.is_damaged = True
    damaged.boot().start()
    eventually(lambda: damaged.driver.role is Role.CANDIDATE)
    assert (damaged.driver.hindrance, damaged.driver.may_lead) == (eligibility.DAMAGED, False)
    sound.boot().start()
    eventually(lambda: sound.accepts)
    eventually(lambda: damaged.driver.may_lead)
    assert Role.ACQUIRING not in damaged.roles
    eventually(sound.driver._lease.candidates)
    sound.driver.stop()
    eventually(lambda: damaged.accepts)


def test_a_primary_that_comes_back_damaged_frees_its_lease(make: Make) -> None:
    cluster = make("ab")
    a, b = cluster.start()
    a.driver.abandon()
    a.until, a.is_damaged = 0.0, True
    a.boot().start()
    eventually(lambda: b.accepts)
    eventually(lambda: a.driver.may_lead)
    assert a.following == "b"


def test_two_nodes_never_accept_commits_at_once_whatever_happens(make: Make) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")  # shown when the test fails
    chance = random.Random(seed)
    cluster = make("abc", ttl_s=SHORT_TTL_S)
    cluster.start()
    keeper = cluster.keeper
    end = time.monotonic() + 6.0
    led: set[str] = set()
    while time.monotonic() < end:
        node: FakeNode = chance.choice(cluster.nodes)
        accident = chance.choice(["cut", "end", "hand off", "restart", "delete", "nothing"])
        if accident == "cut":
            keeper.is_reachable = False
            time.sleep(chance.uniform(0, 2) * SHORT_TTL_S)
            keeper.is_reachable = True
        elif accident == "end" and node.memory:
            # Consul never ends a session by itself before its time; an operator should not either.
            session = keeper.sessions.get(node.memory[0])
            if session is not None and not node.accepts:
                keeper.end(node.memory[0])
        elif accident == "hand off":
            try:
                node.driver.hand_off(chance.choice(cluster.nodes).identity.node_id)
            except HandoffRefusedError:
                continue
        elif accident == "delete":
            keeper.give(None)
        elif accident == "restart":
            node.driver.abandon()
            node.boot().start()
        else:
            time.sleep(chance.uniform(0, 0.2))
        for _ in range(20):
            primary = cluster.primary()  # fails if there are two
            if primary is not None:
                led.add(primary.name)
            time.sleep(0.001)
    eventually(lambda: cluster.primary() is not None)
    assert led
