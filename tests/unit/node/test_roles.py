import pytest

from litefs.lease.lease import Candidate
from litefs.link.messages import DatabaseInfo
from litefs.node.election import freshness, is_fresher_candidate, successor
from litefs.node.roles import TRANSITIONS, Event, Role, next_role


def test_every_role_can_be_reached() -> None:
    reached = {Role.STARTING}
    while more := {to for (role, _), to in TRANSITIONS.items() if role in reached} - reached:
        reached |= more
    assert reached == set(Role)


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.STOPPED])
def test_every_role_can_be_left_and_leads_to_the_end(role: Role) -> None:
    assert {to for (of, _), to in TRANSITIONS.items() if of is role} - {role}
    steps = 0
    while role is not Role.STOPPED:
        role = next_role(role, Event.STOP)
        steps += 1
        assert steps <= 2


def test_nothing_leads_out_of_the_end() -> None:
    assert not [role for role, _ in TRANSITIONS if role is Role.STOPPED]


def test_a_node_becomes_primary_only_with_the_lease() -> None:
    leading = {event for (_, event), to in TRANSITIONS.items() if to is Role.PRIMARY}
    assert leading == {Event.RESUMED, Event.ACQUIRED, Event.HANDOFF_FAILED}


@pytest.mark.parametrize("event", list(Event))
def test_a_primary_is_never_a_replica_without_closing_commits_first(event: Event) -> None:
    assert TRANSITIONS.get((Role.PRIMARY, event)) in {None, Role.DEMOTING, Role.HANDING_OFF}


def test_what_cannot_happen_is_an_error() -> None:
    with pytest.raises(KeyError):
        next_role(Role.STOPPED, Event.ACQUIRED)


def database(txid: int, logged_txid: int) -> DatabaseInfo:
    return DatabaseInfo(name="x", txid=txid, checksum=0, logged_txid=logged_txid, page_size=512, page_n=1, is_wal=False)


def test_freshness_counts_what_is_in_the_log_and_not_applied_yet() -> None:
    assert freshness([database(5, 7), database(2, 2), database(0, 0)]) == 9


def test_only_others_that_have_more_are_fresher() -> None:
    def others(*pairs: tuple[int, int]) -> list[Candidate]:
        return [Candidate(node_id=node_id, freshness=has) for node_id, has in pairs]

    assert not is_fresher_candidate([], 1, 5)
    assert not is_fresher_candidate(others((1, 9), (2, 5)), 1, 5)
    assert is_fresher_candidate(others((1, 5), (2, 6)), 1, 5)


def test_the_successor_is_the_freshest_follower_that_may_lead() -> None:
    candidates = [Candidate(node_id=node_id, freshness=0) for node_id in (1, 2, 3)]
    assert successor(candidates, {}) is None
    assert successor([], {1: 5}) is None
    assert successor(candidates, {1: 5, 2: 6, 4: 9}) == 2
    assert successor(candidates, {1: 5, 2: 5}) == 2
