from collections.abc import Iterator
from typing import Any

import pytest

from litefs_operator.consul import ConsulAddress, Holder
from litefs_operator.crd import ClusterSpec
from litefs_operator.lease_watch import ConsulState, ConsulView
from litefs_operator.metrics import Metrics
from litefs_operator.reconcile import leases as module
from litefs_operator.reconcile.leases import InstalledConsul, Leases
from litefs_operator.reconcile.observed import LeaseState
from litefs_operator.schema import parse

KEY = ("web", "blog")
INSTALLED = InstalledConsul(url="http://consul:8500", token="operator's", ca="/ca.crt")
BLOG_0 = Holder(hostname="blog-0", advertise_url="http://10.0.0.1:20202")


class FakeWatch:
    """A watch of Consul that a test speaks for."""

    made: "list[FakeWatch]"

    def __init__(self, address: ConsulAddress, prefix: str, changed: Any) -> None:
        self.address = address
        self.prefix = prefix
        self.view = ConsulView()
        self.heard_at = 0.0
        self.is_stopped = False
        self._changed = changed
        FakeWatch.made.append(self)

    def tell(self, view: ConsulView) -> None:
        before, self.view = self.view, view
        self._changed(self, before, view)

    def stop(self) -> None:
        self.is_stopped = True


@pytest.fixture(autouse=True)
def _fake_watches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    FakeWatch.made = []
    monkeypatch.setattr(module, "LeaseWatch", FakeWatch)
    yield
    FakeWatch.made = []


def spec(**consul: Any) -> ClusterSpec:
    return parse(ClusterSpec, {"lease": {"consul": consul}})


def make(installed: InstalledConsul = INSTALLED) -> tuple[Leases, list[tuple[str, str]]]:
    told: list[tuple[str, str]] = []
    return Leases(installed, Metrics(), told.append), told


def holding(**holders: Holder) -> ConsulView:
    return ConsulView(
        state=ConsulState.ANSWERED, holders={key.replace("__", "/"): holder for key, holder in holders.items()}
    )


def test_clusters_without_a_key_share_one_watch_with_the_operators_token() -> None:
    leases, _ = make()
    for name in ("blog", "shop"):
        assert leases.view(("web", name), spec()).state is LeaseState.UNKNOWN
    (watch,) = FakeWatch.made
    assert watch.prefix == "litefs/"
    assert (watch.address.token, watch.address.ca) == ("operator's", "/ca.crt")


def test_a_key_of_its_own_and_a_consul_of_its_own_are_watched_apart() -> None:
    leases, _ = make()
    leases.view(KEY, spec(key="apps/blog"))
    leases.view(("web", "shop"), spec(url="http://other:8500/apps"))
    own, other = FakeWatch.made
    assert own.prefix == "apps/blog"
    assert (other.prefix, other.address.base_url, other.address.token) == ("apps/litefs/", "http://other:8500", "")


def test_the_holder_is_that_of_the_clusters_key() -> None:
    leases, _ = make()
    leases.view(KEY, spec())
    FakeWatch.made[0].tell(holding(litefs__web__blog=BLOG_0))
    view = leases.view(KEY, spec())
    assert (view.state, view.holder) == (LeaseState.HELD, BLOG_0)
    assert leases.view(("web", "shop"), spec()).state is LeaseState.FREE


def test_only_who_is_concerned_is_told() -> None:
    leases, told = make()
    for name in ("blog", "shop"):
        leases.view(("web", name), spec())
    watch = FakeWatch.made[0]
    watch.tell(holding())
    assert sorted(told) == [("web", "blog"), ("web", "shop")]
    told.clear()
    watch.tell(holding(litefs__web__shop=BLOG_0))
    assert told == [("web", "shop")]
    told.clear()
    watch.tell(ConsulView(state=ConsulState.UNREACHABLE, message="gone"))
    assert sorted(told) == [("web", "blog"), ("web", "shop")]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (ConsulState.UNREACHABLE, LeaseState.UNREACHABLE),
        (ConsulState.DENIED, LeaseState.HIDDEN),
        (ConsulState.UNKNOWN, LeaseState.UNKNOWN),
    ],
)
def test_what_consul_does_not_say_is_not_free(state: ConsulState, expected: LeaseState) -> None:
    leases, _ = make()
    leases.view(KEY, spec())
    FakeWatch.made[0].tell(ConsulView(state=state, message="why"))
    view = leases.view(KEY, spec())
    assert (view.state, view.message) == (expected, "why")


@pytest.mark.parametrize("secret", ["tokenSecretRef", "caSecretRef"])
def test_a_consul_whose_secrets_the_operator_has_not_is_not_asked(secret: str) -> None:
    leases, _ = make()
    view = leases.view(KEY, spec(url="http://other:8500", **{secret: {"name": "s"}}))
    assert view.state is LeaseState.HIDDEN
    assert FakeWatch.made == []


def test_the_installations_own_consul_is_asked_although_the_pods_need_a_token() -> None:
    leases, _ = make()
    assert leases.view(KEY, spec(tokenSecretRef={"name": "s"})).state is LeaseState.UNKNOWN


def test_without_any_consul_the_lease_is_out_of_reach() -> None:
    leases, _ = make(InstalledConsul(url="", token="", ca=""))
    view = leases.view(KEY, spec())
    assert view.state is LeaseState.UNREACHABLE
    assert "spec.lease.consul.url" in view.message


def test_a_static_lease_asks_nobody() -> None:
    leases, _ = make()
    static = parse(ClusterSpec, {"lease": {"type": "static", "static": {"primary": "blog-0"}}})
    assert leases.view(KEY, static).state is LeaseState.STATIC
    assert FakeWatch.made == []


def test_a_watch_ends_with_its_last_cluster() -> None:
    leases, _ = make()
    leases.view(KEY, spec())
    leases.view(("web", "shop"), spec())
    leases.forget(KEY)
    assert [watch.is_stopped for watch in FakeWatch.made] == [False]
    leases.forget(("web", "shop"))
    assert [watch.is_stopped for watch in FakeWatch.made] == [True]
    leases.view(KEY, spec())
    assert len(FakeWatch.made) == 2


def test_a_cluster_that_moves_to_another_consul_leaves_no_watch_behind() -> None:
    leases, _ = make()
    leases.view(KEY, spec())
    leases.view(KEY, spec(url="http://other:8500"))
    assert [watch.is_stopped for watch in FakeWatch.made] == [True, False]


def test_all_watches_end_with_the_acting() -> None:
    leases, _ = make()
    leases.view(KEY, spec())
    leases.view(("web", "shop"), spec(url="http://other:8500"))
    leases.close()
    assert [watch.is_stopped for watch in FakeWatch.made] == [True, True]
