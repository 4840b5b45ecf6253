import asyncio
import itertools
from typing import Any, cast

from litefs_operator.known import Known, kept_of
from litefs_operator.metrics import Metrics
from tests.unit.operator.fake_kube import Manifest
from tests.unit.operator.reconcile.test_stores import Server

CLUSTERS = "/apis/litefs.io/v1alpha1/litefsclusters"
NAMESPACES = "/api/v1/namespaces"


def blog(uid: str) -> Manifest:
    return {"metadata": {"name": "blog", "namespace": "web", "uid": uid, "resourceVersion": "2"}, "spec": {}}


def run(server: Server, namespaces: tuple[str, ...], talk: Any) -> None:
    async def main() -> None:
        told: asyncio.Queue[Any] = asyncio.Queue()
        known = Known(cast("Any", server), namespaces, Metrics(), told.put_nowait)
        async with asyncio.timeout(20):
            for _ in itertools.count():
                if known.is_listed():
                    break
                await asyncio.sleep(0.001)  # the lists come from threads
            await talk(known, told)

    asyncio.run(main())


def test_a_cluster_is_known_as_long_as_it_is_there() -> None:
    async def talk(known: Known, told: "asyncio.Queue[Any]") -> None:
        assert await told.get() == ("web", "blog")
        assert known.clusters() == [("web", "blog")]
        server.send(CLUSTERS, "DELETED", blog("u-1"))
        assert await told.get() == ("web", "blog")
        assert (known.clusters(), known.cluster(("web", "blog"))) == ([], None)

    server = Server({CLUSTERS: [blog("u-1")]})
    run(server, (), talk)


def test_of_a_cluster_that_was_made_again_only_the_new_one_is_known() -> None:
    async def talk(known: Known, told: "asyncio.Queue[Any]") -> None:
        await told.get()
        server.send(CLUSTERS, "ADDED", blog("u-2"))
        await told.get()
        found = known.cluster(("web", "blog"))
        assert found is not None
        assert found["metadata"]["uid"] == "u-2"

    server = Server({CLUSTERS: [blog("u-1")]})
    run(server, (), talk)


def test_namespaces_are_known_by_their_labels() -> None:
    async def talk(known: Known, _told: Any) -> None:
        for _ in itertools.count():
            if known.namespace_labels("web") is not None:
                break
            await asyncio.sleep(0.001)
        assert known.namespace_labels("web") == {"team": "blue"}
        assert known.namespace_labels("other") is None

    metadata = {"name": "web", "labels": {"team": "blue"}, "resourceVersion": "1"}
    run(Server({NAMESPACES: [{"metadata": metadata}]}), (), talk)


def test_an_operator_of_single_namespaces_watches_only_what_is_in_them() -> None:
    async def talk(known: Known, _told: Any) -> None:
        assert known.namespace_labels("web") is None

    server = Server({})
    run(server, ("web", "shop"), talk)
    assert set(server.selectors) == {
        "/apis/litefs.io/v1alpha1/namespaces/web/litefsclusters",
        "/apis/litefs.io/v1alpha1/namespaces/shop/litefsclusters",
    }


def test_what_is_kept_of_a_cluster_is_what_is_read() -> None:
    metadata = {"name": "blog", "namespace": "web", "uid": "u", "generation": 2, "managedFields": ["much"]}
    kept = kept_of({"metadata": metadata, "spec": {"a": 1}, "status": {"b": 2}})
    assert kept["metadata"] == {"name": "blog", "namespace": "web", "uid": "u", "generation": 2}
    assert (kept["kind"], kept["spec"], kept["status"]) == ("LiteFSCluster", {"a": 1}, {"b": 2})
