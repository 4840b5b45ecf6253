"""What the operator's watch makes of a gap in its history: a real API server, and an etcd that has forgotten it."""

import asyncio
import json
import threading
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from e2e.api_server import ApiServer, running_api_server
from e2e.kubectl import READY_TIMEOUT_S
from e2e.target import Target
from e2e.tools import find_tools
from litefs_operator import kube as kube_module
from litefs_operator.errors import ExpiredError
from litefs_operator.kube import KubeApi, Manifest, object_path
from litefs_operator.object_watch import ObjectWatch, Source

SERVICES = object_path("v1", "services", "default")


class Gap:
    """A connection whose watches do not begin while it is shut, and that keeps what the API server has forgotten."""

    def __init__(self, kube: KubeApi) -> None:
        self._kube = kube
        self._is_open = threading.Event()
        self._waits = threading.Event()
        self.refusals: list[ExpiredError] = []
        self.pages = kube.pages

    def watch(self, path: str, version: str, **query: str | int) -> Iterator[Manifest]:
        self._waits.set()
        self._is_open.wait()
        try:
            yield from self._kube.watch(path, version, **query)
        except ExpiredError as error:
            self.refusals.append(error)
            raise

    def open(self) -> None:
        self._is_open.set()

    def shut(self) -> None:
        """Returns when no watch is under way."""
        self._is_open.clear()
        self._waits.clear()
        assert self._waits.wait(READY_TIMEOUT_S)


@pytest.fixture(scope="module")
def server(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    if not target.is_own:
        pytest.skip("needs programs that are built for a cluster of our own")
    # Its cache would remember for longer than the test takes.
    with running_api_server(tmp_path_factory.mktemp("api-server"), find_tools(), "--watch-cache=false") as server:
        yield server


def service(name: str) -> Manifest:
    spec = {"clusterIP": "None", "ports": [{"port": 80}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def forget_before(server: ApiServer, version: str) -> None:
    """Compacts the history of etcd."""
    body = json.dumps({"revision": version, "physical": True}).encode()
    request = urllib.request.Request(f"{server.etcd_url}/v3/kv/compaction", data=body, method="POST")
    with urllib.request.urlopen(request, timeout=READY_TIMEOUT_S) as answer:
        assert answer.status == 200


def test_what_was_deleted_in_a_forgotten_gap_is_told(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_module, "WATCH_S", 1)  # so that the watch before the gap ends soon
    kube = KubeApi.connect(str(server.kubeconfig))
    gap = Gap(kube)
    gap.open()
    told: list[tuple[str | None, str | None]] = []

    async def run() -> None:
        changed = asyncio.Event()

        def tell(before: str | None, now: str | None) -> None:
            told.append((before, now))
            changed.set()

        async def until(holds: Callable[[], bool]) -> None:
            async with asyncio.timeout(READY_TIMEOUT_S):
                while not holds():
                    await changed.wait()
                    changed.clear()

        def name_of(manifest: Manifest) -> str:
            return str(manifest["metadata"]["name"])

        kube.create(SERVICES, service("goes"))
        watch = ObjectWatch(gap, Source(what="services", paths=(SERVICES,)), name_of, tell)  # type: ignore[arg-type]
        kube.create(SERVICES, service("stays"))
        await until(lambda: {(None, "goes"), (None, "stays")} <= set(told))
        await asyncio.to_thread(gap.shut)
        kube.delete(f"{SERVICES}/goes")
        created = kube.create(SERVICES, service("comes"))
        forget_before(server, created["metadata"]["resourceVersion"])
        gap.open()
        await until(lambda: {("goes", None), (None, "comes")} <= set(told))
        assert {name for _, name in watch.objects} >= {"stays", "comes"}
        kube.delete(f"{SERVICES}/comes")
        await until(lambda: ("comes", None) in told)
        await asyncio.to_thread(gap.shut)

    asyncio.run(run())
    assert [refusal.status for refusal in gap.refusals] == [410]
    assert (None, "stays") in told
    assert ("stays", None) not in told
