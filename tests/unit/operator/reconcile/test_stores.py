import asyncio
import copy
import itertools
import json
import threading
from collections.abc import Iterator
from typing import Any, cast

from litefs_operator.builders.services import disruption_budget, services
from litefs_operator.crd import ClusterSpec
from litefs_operator.metrics import Metrics
from litefs_operator.reconcile.stores import Stores
from tests.unit.operator.reconcile.seen import CLUSTER
from tests.unit.operator.reconcile.test_observed import POD

Manifest = dict[str, Any]


class Server:
    """An API server that lists once, and whose watches wait for what a test sends."""

    def __init__(self, listed: dict[str, list[Manifest]]) -> None:
        self.listed = listed
        self.selectors: dict[str, str] = {}
        self.sent: dict[str, list[Manifest]] = {}
        self.news = threading.Condition()

    def pages(self, path: str, **query: Any) -> Iterator[tuple[str, list[Manifest]]]:
        self.selectors[path] = query.get("labelSelector", "")
        yield "1", self.listed.get(path, [])

    def watch(self, path: str, _version: str, **_query: Any) -> Iterator[Manifest]:
        while True:
            with self.news:
                self.news.wait_for(lambda: self.sent.get(path))
                yield self.sent[path].pop(0)

    def send(self, path: str, kind: str, manifest: Manifest) -> None:
        with self.news:
            self.sent.setdefault(path, []).append({"type": kind, "object": manifest})
            self.news.notify_all()


def versioned(manifest: Manifest, **labels: str) -> Manifest:
    changed = copy.deepcopy(manifest)
    changed["metadata"]["resourceVersion"] = "2"
    changed["metadata"].setdefault("labels", {}).update(labels)
    return changed


def run(server: Server, namespaces: tuple[str, ...], talk: Any) -> None:
    async def main() -> None:
        told: asyncio.Queue[Any] = asyncio.Queue()
        stores = Stores(cast("Any", server), namespaces, Metrics(), told.put_nowait, told.put_nowait)
        async with asyncio.timeout(20):
            for _ in itertools.count():
                if stores.is_listed():
                    break
                await asyncio.sleep(0.001)  # the lists come from threads
            await talk(stores, told)

    asyncio.run(main())


def listed(space: str = "") -> dict[str, list[Manifest]]:
    prefix = f"/namespaces/{space}" if space else ""
    budget = disruption_budget(CLUSTER, member_n=3)
    assert budget is not None
    return {
        f"/api/v1{prefix}/pods": [versioned(POD)],
        f"/api/v1{prefix}/services": [
            versioned(entry) for entry in services(CLUSTER, ClusterSpec(), primary_node="AB")
        ],
        f"/apis/policy/v1{prefix}/poddisruptionbudgets": [versioned(budget)],
    }


def test_everything_is_found_by_its_cluster() -> None:
    async def talk(stores: Stores, _told: Any) -> None:
        assert [member.name for member in stores.members(("web", "blog"))] == ["blog-0"]
        assert sorted(stores.services(("web", "blog"))) == ["blog-nodes", "blog-r", "blog-ro", "blog-rw"]
        assert [budget.name for budget in stores.budgets("web")] == ["blog"]
        assert stores.members(("web", "shop")) == ()

    run(Server(listed()), (), talk)


def test_a_new_pod_must_agree_with_its_cluster_and_with_its_controller() -> None:
    def pod(name: str, cluster: str, controller: str) -> Manifest:
        made = versioned(POD, **{"litefs.io/cluster": cluster})
        made["metadata"] |= {"name": name, "ownerReferences": [{"kind": "X", "uid": controller, "controller": True}]}
        config = {"lease": {"consul": {"url": "u", "key": name}}}
        made["metadata"]["annotations"]["litefs.io/config"] = json.dumps(config)
        return made

    async def talk(stores: Stores, _told: Any) -> None:
        assert sorted(stores.leases(("web", "new"), "s")) == ["a", "b", "d"]
        assert sorted(stores.leases(("web", "new"), "t")) == ["c", "d"]
        assert sorted(stores.leases(("web", "new"), "")) == ["d"]
        assert stores.leases(("shop", "new"), "s") == {}
        assert stores.leases(("web", "new"), "")["d"] == stores.members(("web", "new"))[0].lease != ""

    pods = [pod("a", "old", "s"), pod("b", "old", "s"), pod("c", "another", "t"), pod("d", "new", "v")]
    run(Server({**listed(), "/api/v1/pods": pods}), (), talk)


def test_only_pods_and_services_of_clusters_are_sent_by_the_api_server() -> None:
    async def talk(_stores: Stores, _told: Any) -> None:
        pass

    server = Server(listed())
    run(server, (), talk)
    assert server.selectors == {
        "/api/v1/pods": "litefs.io/cluster",
        "/api/v1/services": "app.kubernetes.io/managed-by=litefs-operator,litefs.io/cluster",
        "/apis/policy/v1/poddisruptionbudgets": "",
    }


def test_single_namespaces_are_watched_one_by_one() -> None:
    async def talk(stores: Stores, _told: Any) -> None:
        assert len(stores.members(("web", "blog"))) == 1

    server = Server(listed("web"))
    run(server, ("web", "shop"), talk)
    assert len(server.selectors) == 6


def test_a_pod_that_moves_to_another_cluster_is_told_to_both() -> None:
    async def talk(stores: Stores, told: "asyncio.Queue[Any]") -> None:
        while not told.empty():
            told.get_nowait()
        server.send("/api/v1/pods", "MODIFIED", versioned(POD, **{"litefs.io/cluster": "shop"}))
        assert {await told.get(), await told.get()} == {("web", "blog"), ("web", "shop")}
        assert stores.members(("web", "blog")) == ()
        assert [member.name for member in stores.members(("web", "shop"))] == ["blog-0"]

    server = Server(listed())
    run(server, (), talk)


def test_what_is_deleted_is_gone_and_told() -> None:
    async def talk(stores: Stores, told: "asyncio.Queue[Any]") -> None:
        while not told.empty():
            told.get_nowait()
        server.send("/apis/policy/v1/poddisruptionbudgets", "DELETED", server_budget)
        assert await told.get() == "web"
        assert stores.budgets("web") == ()

    found = listed()
    server_budget = found["/apis/policy/v1/poddisruptionbudgets"][0]
    server = Server(found)
    run(server, (), talk)
