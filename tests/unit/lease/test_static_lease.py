import pytest

from litefs.errors import HandoffRefusedError, LeaseLostError
from litefs.lease.static_lease import FOREVER, StaticLease
from tests.unit.lease.worlds import identity_of

PRIMARY = StaticLease(identity_of("a"), is_own=True)
REPLICA = StaticLease(identity_of("a"), is_own=False)


def test_the_named_node_holds_it_for_ever() -> None:
    holder = PRIMARY.holder()
    assert holder is not None
    assert (holder.hostname, holder.term) == ("a", PRIMARY.term)
    assert PRIMARY.resume()
    assert PRIMARY.acquire()
    assert PRIMARY.primary_until == FOREVER
    PRIMARY.renew()
    PRIMARY.release()
    assert PRIMARY.primary_until == FOREVER


def test_another_node_never_gets_it() -> None:
    assert REPLICA.holder() == PRIMARY.holder()
    assert not REPLICA.resume()
    assert not REPLICA.acquire()
    assert not REPLICA.take_over("static")
    assert (REPLICA.primary_until, REPLICA.term) == (0.0, "")


def test_it_cannot_be_handed_off() -> None:
    with pytest.raises(HandoffRefusedError, match="static"):
        PRIMARY.hand_off()
    with pytest.raises(LeaseLostError):
        REPLICA.hand_off()


def test_there_is_no_election() -> None:
    PRIMARY.publish(1)
    assert PRIMARY.candidates() == []
    assert (PRIMARY.cluster_id(), PRIMARY.offer_cluster_id("x")) == ("", "x")


def test_watching_it_waits() -> None:
    assert REPLICA.watch(0.001) == PRIMARY.holder()
