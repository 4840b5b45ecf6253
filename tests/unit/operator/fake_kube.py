"""The API server in memory, as far as the operator uses it: what `KubeApi` offers, on plain objects.

It counts versions, refuses stale ones, merges patches and keeps owners of applied conditions apart, as the real one.
`test_kube.py` holds the real client against the same answers over HTTP.
"""

import asyncio
import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from litefs_operator.errors import ConflictError, KubeUnavailableError, NamespaceEndingError, NotFoundError

Manifest = dict[str, Any]


class FakeKube:
    def __init__(self) -> None:
        self.objects: dict[str, Manifest] = {}
        self.requests: list[tuple[str, str]] = []
        self.is_down = False
        self.ending_namespace = ""
        """Is being deleted: nothing can be created in it."""
        self.changed: Callable[[], object] = lambda: None
        """Is called after every change, in the thread that made it."""
        self._versions = itertools.count(1)

    def put(self, path: str, manifest: Manifest) -> Manifest:
        """Sets an object without a request."""
        stored = copy.deepcopy(manifest)
        stored.setdefault("metadata", {})["resourceVersion"] = str(next(self._versions))
        self.objects[path] = stored
        self.changed()
        return copy.deepcopy(stored)

    def within(self, _answer_s: float) -> "FakeKube":
        return self

    def written(self) -> list[tuple[str, str]]:
        """The requests that were no reads."""
        return [request for request in self.requests if request[0] != "GET"]

    async def until_written(self, *texts: str) -> None:
        """Waits until a request that was no read named each of the texts in its path."""
        async with asyncio.timeout(20):
            for _ in itertools.count():
                if all(any(text in path for _, path in self.written()) for text in texts):
                    return
                await asyncio.sleep(0.001)  # requests come from threads

    def get(self, path: str, **_query: str | int) -> Manifest:
        self._note("GET", path)
        if path not in self.objects:
            raise NotFoundError(404, f"{path} not found")
        return copy.deepcopy(self.objects[path])

    def create(self, path: str, manifest: Manifest) -> Manifest:
        self._note("POST", path)
        name = f"{path}/{manifest['metadata']['name']}"
        if self.ending_namespace and f"/namespaces/{self.ending_namespace}/" in path:
            raise NamespaceEndingError(403, f"{self.ending_namespace} is being terminated")
        if name in self.objects:
            raise ConflictError(409, f"{name} already exists")
        stored = copy.deepcopy(manifest)
        stored["metadata"].setdefault("uid", f"uid of {name}")
        return self.put(name, stored)

    def replace(self, path: str, manifest: Manifest) -> Manifest:
        self._note("PUT", path)
        self._check_version(path, manifest)
        return self.put(path, manifest)

    def patch(self, path: str, patch: Manifest) -> Manifest:
        self._note("PATCH", path)
        self._check_version(path, patch)
        return self.put(path, merged(self.objects[path], patch))

    def apply(self, path: str, manifest: Manifest, *, owner: str) -> Manifest:
        self._note("APPLY", f"{path} by {owner}")
        target = path.removesuffix("/status")
        if target not in self.objects:
            raise NotFoundError(404, f"{target} not found")
        stored = copy.deepcopy(self.objects[target])
        status = {**(stored.get("status") or {}), **manifest["status"]}
        conditions = {entry["type"]: entry for entry in (stored.get("status") or {}).get("conditions") or []}
        conditions |= {entry["type"]: entry for entry in manifest["status"].get("conditions") or []}
        stored["status"] = {**status, "conditions": list(conditions.values())}
        return self.put(target, stored)

    def delete(self, path: str) -> None:
        self._note("DELETE", path)
        self.objects.pop(path, None)

    def pages(self, path: str, **_query: str | int) -> Iterator[tuple[str, list[Manifest]]]:
        self._note("GET", path)
        items = [copy.deepcopy(found) for name, found in self.objects.items() if name.rpartition("/")[0] == path]
        yield str(next(self._versions)), items

    def _note(self, method: str, path: str) -> None:
        if self.is_down:
            raise KubeUnavailableError(f"{method} {path}: no answer")
        self.requests.append((method, path))

    def _check_version(self, path: str, manifest: Manifest) -> None:
        if path not in self.objects:
            raise NotFoundError(404, f"{path} not found")
        version = (manifest.get("metadata") or {}).get("resourceVersion")
        if version is not None and version != self.objects[path]["metadata"]["resourceVersion"]:
            raise ConflictError(409, f"{path} was changed")


def merged(value: Manifest, patch: Manifest) -> Manifest:
    """A JSON merge patch (RFC 7386)."""
    result = copy.deepcopy(value)
    for key, change in patch.items():
        if change is None:
            result.pop(key, None)
        elif isinstance(change, dict):
            result[key] = merged(result[key] if isinstance(result.get(key), dict) else {}, change)
        else:
            result[key] = copy.deepcopy(change)
    return result
