"""The only door to the API server: requests and watches as plain objects, with one kind of error.

Strategy: the transport, credentials and their renewal are those of the `kubernetes` client; its typed models are not
used, because they cost more than all else that the operator does with a pod. Every call blocks, and is made in a
thread.
"""

import json
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

import urllib3
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration
from kubernetes.client.exceptions import ApiException, OpenApiException
from kubernetes.config.config_exception import ConfigException
from kubernetes.config.incluster_config import load_incluster_config
from kubernetes.config.kube_config import load_kube_config

from litefs_operator.errors import (
    ConflictError,
    ExpiredError,
    KubeError,
    KubeUnavailableError,
    NamespaceEndingError,
    NotFoundError,
)

Manifest = dict[str, Any]

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 15.0
"""Longer than the admission plug-ins of a busy API server take; nothing waits for the operator meanwhile."""

WATCH_S = 60
"""How long one watch lasts. The next goes on where it ended, so a connection that died unnoticed costs a minute."""
WATCH_SLACK_S = 15.0

PAGE_OBJECTS = 200
"""Objects in a page of a list: 2 MB of pods as large as they come (10.7 kB, seen in November 2026)."""

CONNECTIONS = 16
"""Kept open: eight that act, one for each watch."""

MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

_KINDS = {
    HTTPStatus.NOT_FOUND: NotFoundError,
    HTTPStatus.CONFLICT: ConflictError,
    HTTPStatus.GONE: ExpiredError,
}
_NAMESPACE_ENDS = "NamespaceTerminating"
"""The cause of a 403, in the details of its answer: Kubernetes 1.34, core/v1."""


def object_path(api_version: str, plural: str, namespace: str = "", name: str = "", subresource: str = "") -> str:
    """Returns the path of an object, or of all objects of a kind.

    Args:
        api_version: "v1" or "GROUP/VERSION".
        namespace: "" for all, and for objects that have none.
    """
    parts = ["/apis" if "/" in api_version else "/api", api_version]
    if namespace:
        parts += ["namespaces", namespace]
    return "/".join([*parts, plural, *(part for part in (name, subresource) if part)])


class KubeApi:
    """A connection to the API server, for any number of threads."""

    def __init__(self, client: ApiClient, answer_s: float = ANSWER_TIMEOUT_S) -> None:
        """Args: client: holds address and credentials; answer_s: how long an answer may take."""
        self._client = client
        self._answer_s = answer_s

    def within(self, answer_s: float) -> "KubeApi":
        """Returns the same connection, for requests whose answers may take so long."""
        return KubeApi(self._client, answer_s)

    @classmethod
    def connect(cls, kubeconfig: str | None = None) -> "KubeApi":
        """Takes the pod's service account, or the kubeconfig of a person. Sends nothing.

        Args:
            kubeconfig: the file; by default the one that KUBECONFIG named when the process began.

        Raises:
            KubeUnavailableError: there is neither.
        """
        configuration = Configuration()
        try:
            load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        except ConfigException:
            try:
                load_kube_config(kubeconfig, client_configuration=configuration)  # type: ignore[no-untyped-call]
            except ConfigException as error:
                raise KubeUnavailableError(f"no service account, and no kubeconfig: {error}") from error
        configuration.connection_pool_maxsize = CONNECTIONS
        configuration.retries = False  # who asks knows better whether it is worth another time
        return cls(ApiClient(configuration))

    def get(self, path: str, **query: str | int) -> Manifest:
        """Returns an object, or a list of them."""
        return self._object("GET", path, query)

    def create(self, path: str, manifest: Manifest) -> Manifest:
        """Creates an object; `path` is that of its kind.

        Raises:
            ConflictError: there is one.
        """
        return self._object("POST", path, {}, manifest)

    def replace(self, path: str, manifest: Manifest) -> Manifest:
        """Replaces an object; its resourceVersion makes that a question.

        Raises:
            ConflictError: it was changed meanwhile.
        """
        return self._object("PUT", path, {}, manifest)

    def patch(self, path: str, patch: Manifest) -> Manifest:
        """Changes the fields of an object that `patch` names; null removes one. Lists are replaced as a whole."""
        return self._object("PATCH", path, {}, patch, MERGE_PATCH)

    def apply(self, path: str, manifest: Manifest, *, owner: str) -> Manifest:
        """Sets the fields in `manifest`, and removes those that `owner` set before and that are not in it."""
        return self._object("PATCH", path, {"fieldManager": owner, "force": "true"}, manifest, APPLY_PATCH)

    def delete(self, path: str) -> None:
        """Deletes an object. One that is gone already is as good."""
        try:
            self._object("DELETE", path, {})
        except NotFoundError:
            return

    def pages(self, path: str, **query: str | int) -> Iterator[tuple[str, list[Manifest]]]:
        """Yields the objects of a kind in pages, each with the resourceVersion of the list."""
        more = ""
        while True:
            page = self.get(path, limit=PAGE_OBJECTS, **({"continue": more} if more else {}), **query)
            metadata = page["metadata"]
            yield metadata["resourceVersion"], page.get("items") or []
            more = metadata.get("continue", "")
            if not more:
                return

    def watch(self, path: str, version: str, **query: str | int) -> Iterator[Manifest]:
        """Yields what happens to objects of a kind after `version`, for about a minute.

        Raises:
            ExpiredError: the API server does not remember as much.
        """
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": WATCH_S,
            **query,
        }
        response = self._send("GET", path, query, None, "", WATCH_S + WATCH_SLACK_S)
        try:
            for line in _lines(response):
                event: Manifest = json.loads(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise _refusal(int(status.get("code") or 0), status)
                yield event
        except (urllib3.exceptions.HTTPError, ValueError, KeyError, TypeError) as error:
            raise KubeUnavailableError(f"the watch of {path} broke: {error}") from error
        finally:
            response.close()

    def _object(
        self, method: str, path: str, query: Mapping[str, str | int], body: Manifest | None = None, kind: str = ""
    ) -> Manifest:
        response = self._send(method, path, query, body, kind, self._answer_s)
        try:
            answer: Manifest = json.loads(response.data)
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            raise KubeUnavailableError(f"{method} {path}: {error}") from error
        return answer

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int],
        body: Manifest | None,
        kind: str,
        timeout_s: float,
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": "application/json", "Content-Type": kind or "application/json"}
        try:
            request = self._client.param_serialize(
                method,
                path,
                query_params=list(query.items()),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
            )
            response: urllib3.BaseHTTPResponse = self._client.call_api(
                *request, _request_timeout=(CONNECT_TIMEOUT_S, timeout_s)
            ).response
        except (urllib3.exceptions.HTTPError, ApiException, OpenApiException, OSError) as error:
            raise KubeUnavailableError(f"{method} {path}: {error}") from error
        if response.status >= HTTPStatus.BAD_REQUEST:
            raise _refusal(response.status, _status_of(response))
        return response


def _refusal(code: int, status: Manifest) -> KubeError:
    """Returns the error for what the API server calls a Status."""
    causes = (status.get("details") or {}).get("causes") or []
    if any(cause.get("reason") == _NAMESPACE_ENDS for cause in causes):
        return NamespaceEndingError(code, str(status.get("message")))
    try:
        kind = _KINDS.get(HTTPStatus(code), KubeError)
    except ValueError:
        kind = KubeError
    return kind(code, str(status.get("message")))


def _status_of(response: urllib3.BaseHTTPResponse) -> Manifest:
    """Returns the Status in an answer; one of our own with the text, where a proxy answered instead."""
    try:
        text = response.data.decode(errors="replace")
    except urllib3.exceptions.HTTPError as error:
        return {"message": str(error)}
    try:
        status: Manifest = json.loads(text)
        return {**status, "message": status["message"]}
    except (ValueError, KeyError, TypeError):
        return {"message": text[:500]}


def _lines(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    rest = b""
    for chunk in response.stream(amt=None, decode_content=False):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from filter(None, lines)
