import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration

from litefs_operator.errors import (
    ConflictError,
    ExpiredError,
    KubeError,
    KubeUnavailableError,
    NamespaceEndingError,
    NotFoundError,
)
from litefs_operator.kube import PAGE_OBJECTS, KubeApi, object_path
from tests.unit.operator.http_server import Answer, Request, Response, http_server

PODS = object_path("v1", "pods", "web")


@contextlib.contextmanager
def api(answer: Answer) -> Iterator[KubeApi]:
    with http_server(answer) as url:
        configuration = Configuration()
        configuration.host = url
        configuration.retries = False
        configuration.api_key["BearerToken"] = "Bearer secret"
        client = ApiClient(configuration)
        yield KubeApi(client)
        client.rest_client.pool_manager.clear()


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (("v1", "pods"), "/api/v1/pods"),
        (("v1", "pods", "web"), "/api/v1/namespaces/web/pods"),
        (("v1", "pods", "web", "blog-0"), "/api/v1/namespaces/web/pods/blog-0"),
        (("v1", "pods", "web", "blog-0", "status"), "/api/v1/namespaces/web/pods/blog-0/status"),
        (("policy/v1", "poddisruptionbudgets", "web"), "/apis/policy/v1/namespaces/web/poddisruptionbudgets"),
        (("v1", "namespaces", "", "web"), "/api/v1/namespaces/web"),
    ],
)
def test_paths_are_those_of_the_api(arguments: tuple[str, ...], path: str) -> None:
    assert object_path(*arguments) == path


@pytest.mark.parametrize(
    ("call", "method", "content_type", "query"),
    [
        (lambda kube: kube.get(f"{PODS}/a"), "GET", None, {}),
        (lambda kube: kube.create(PODS, {"a": 1}), "POST", "application/json", {}),
        (lambda kube: kube.replace(f"{PODS}/a", {"a": 1}), "PUT", "application/json", {}),
        (lambda kube: kube.patch(f"{PODS}/a", {"a": 1}), "PATCH", "application/merge-patch+json", {}),
        (
            lambda kube: kube.apply(f"{PODS}/a", {"a": 1}, owner="me"),
            "PATCH",
            "application/apply-patch+yaml",
            {"fieldManager": "me", "force": "true"},
        ),
        (lambda kube: kube.delete(f"{PODS}/a"), "DELETE", None, {}),
    ],
)
def test_each_call_is_one_request(
    call: Callable[[KubeApi], Any], method: str, content_type: str | None, query: dict[str, str]
) -> None:
    seen: list[Request] = []

    def answer(request: Request) -> Response:
        seen.append(request)
        return Response(body={"kind": "Pod"})

    with api(answer) as kube:
        call(kube)
    (request,) = seen
    assert (request.method, request.query) == (method, query)
    assert request.headers["authorization"] == "Bearer secret"
    if content_type is not None:
        assert request.headers["Content-Type"] == content_type
        assert json.loads(request.body) == {"a": 1}


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, NotFoundError), (409, ConflictError), (410, ExpiredError), (403, KubeError), (500, KubeError)],
)
def test_a_refusal_says_what_the_api_server_said(status: int, kind: type[KubeError]) -> None:
    refusal = Response(status=status, body={"kind": "Status", "message": "because"})
    with api(lambda _request: refusal) as kube, pytest.raises(kind, match="because") as raised:
        kube.get(PODS)
    assert type(raised.value) is kind
    assert raised.value.status == status


@pytest.mark.parametrize("details", [None, {}, {"causes": None}, {"causes": [{"reason": "FieldValueInvalid"}]}])
def test_a_right_that_is_missing_is_not_taken_for_a_namespace_that_ends(details: Any) -> None:
    refusal = Response(status=403, body={"kind": "Status", "message": "because", "details": details})
    with api(lambda _request: refusal) as kube, pytest.raises(KubeError, match="because") as raised:
        kube.create(PODS, {})
    assert type(raised.value) is KubeError


def test_a_namespace_that_ends_is_told_apart() -> None:
    causes = [{"reason": "NamespaceTerminating", "message": "it ends", "field": "metadata.namespace"}]
    refusal = Response(status=403, body={"kind": "Status", "message": "because", "details": {"causes": causes}})
    with api(lambda _request: refusal) as kube, pytest.raises(NamespaceEndingError, match="because"):
        kube.create(PODS, {})


def test_a_refusal_in_other_words_than_json_is_a_refusal() -> None:
    refusal = Response(status=502, body=b"<html>bad gateway")
    with api(lambda _request: refusal) as kube, pytest.raises(KubeError, match="bad gateway"):
        kube.get(PODS)


def test_an_answer_that_is_no_json_counts_as_none() -> None:
    with api(lambda _request: Response(body=b"{")) as kube, pytest.raises(KubeUnavailableError):
        kube.get(PODS)


def test_an_api_server_that_is_not_there_is_unavailable() -> None:
    with api(lambda _request: Response(body={})) as kube:
        pass
    with pytest.raises(KubeUnavailableError):
        kube.get(PODS)


def test_deleting_what_is_gone_is_as_good() -> None:
    with api(lambda _request: Response(status=404, body={"message": "gone"})) as kube:
        kube.delete(f"{PODS}/a")


def test_a_list_is_read_page_by_page() -> None:
    pages = {
        "": {"metadata": {"resourceVersion": "7", "continue": "a b"}, "items": [{"n": 1}]},
        "a b": {"metadata": {"resourceVersion": "7"}, "items": [{"n": 2}]},
    }
    seen: list[dict[str, str]] = []

    def answer(request: Request) -> Response:
        seen.append(request.query)
        return Response(body=pages[request.query.get("continue", "")])

    with api(answer) as kube:
        found = list(kube.pages(PODS, labelSelector="litefs.io/cluster"))
    assert found == [("7", [{"n": 1}]), ("7", [{"n": 2}])]
    assert all(query["limit"] == str(PAGE_OBJECTS) for query in seen)
    assert all(query["labelSelector"] == "litefs.io/cluster" for query in seen)


def event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "object": fields}


def test_a_watch_yields_its_lines_however_they_are_cut() -> None:
    events = [event("ADDED", n=1), event("BOOKMARK", n=2), event("DELETED", name="ü")]
    text = b"".join(json.dumps(entry, ensure_ascii=False).encode() + b"\n" for entry in events)
    for size in (1, 7, len(text)):
        lines = [text[at : at + size] for at in range(0, len(text), size)]
        with api(lambda _request, lines=lines: Response(lines=lines)) as kube:  # type: ignore[misc]
            assert list(kube.watch(PODS, "5")) == events


def test_a_watch_goes_on_from_a_version() -> None:
    seen: list[dict[str, str]] = []

    def answer(request: Request) -> Response:
        seen.append(request.query)
        return Response(lines=[])

    with api(answer) as kube:
        assert list(kube.watch(PODS, "5", labelSelector="x")) == []
    assert seen[0]["resourceVersion"] == "5"
    assert seen[0]["watch"] == "true"
    assert seen[0]["allowWatchBookmarks"] == "true"
    assert seen[0]["labelSelector"] == "x"


def test_a_watch_that_fell_too_far_behind_says_so() -> None:
    error = Response(lines=[event("ERROR", code=410, message="too old")])
    with api(lambda _request: error) as kube, pytest.raises(ExpiredError, match="too old"):
        list(kube.watch(PODS, "5"))


@pytest.mark.parametrize("lines", [[b"{\n"], [b"[]\n"], [event("ADDED", n=1)]])
def test_a_watch_that_breaks_is_an_outage(lines: list[Any]) -> None:
    with api(lambda _request: Response(lines=lines, is_cut=True)) as kube, pytest.raises(KubeUnavailableError):
        list(kube.watch(PODS, "5"))
