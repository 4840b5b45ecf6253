import asyncio
import base64
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from litefs_operator import consul, lease_watch
from litefs_operator.consul import ConsulAddress, ConsulClient, Holder
from litefs_operator.errors import ConsulDeniedError, ConsulError
from litefs_operator.lease_watch import ConsulState, ConsulView, LeaseWatch
from tests.support.dripping_peer import HALF_A_HEAD, dripping_peer
from tests.unit.operator.http_server import Request, Response, http_server

Script = Callable[[Request], Response]
BLOG = Holder(hostname="blog-0", advertise_url="http://10.0.0.1:20202")


def entry(key: str, value: Any = None, session: str = "s") -> dict[str, Any]:
    fields = {"hostname": "blog-0", "advertise-url": "http://10.0.0.1:20202"} if value is None else value
    content = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    item = {"Key": key, "Value": base64.b64encode(content).decode()}
    return item | ({"Session": session} if session else {})


def answer(*entries: dict[str, Any], index: str = "7") -> Response:
    return Response(body=list(entries), headers={"X-Consul-Index": index})


def ask(script: Script, index: int = 0, token: str = "") -> tuple[int, dict[str, Holder]]:
    with http_server(script) as url:
        client = ConsulClient(ConsulAddress.parse(url, token=token))
        return client.holders("litefs/", index, 5.0)


# ---- one answer ----


@pytest.mark.parametrize(
    ("url", "base", "prefix", "token"),
    [
        ("http://consul", "http://consul:8500", "", "given"),
        ("https://consul", "https://consul:8501", "", "given"),
        ("http://consul:1234/my%20app/", "http://consul:1234", "my app", "given"),
        ("http://:t%2F1@consul", "http://consul:8500", "", "t/1"),
        ("http://[fd00::1]:80", "http://[fd00::1]:80", "", "given"),
    ],
)
def test_an_address_is_read_as_the_sidecars_read_it(url: str, base: str, prefix: str, token: str) -> None:
    address = ConsulAddress.parse(url, token="given")
    assert (address.base_url, address.prefix, address.token) == (base, prefix, token)


@pytest.mark.parametrize(
    "url", ["", "consul:8500", "ftp://consul", "http://", "http://consul:port", "http://[", "http://[fd00::1"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConsulError):
        ConsulAddress.parse(url)


def test_locked_keys_are_leases_and_candidates_are_not() -> None:
    entries = [
        entry("litefs/web/blog"),
        entry("litefs/web/blog/clusterid", b"LFSC0", session=""),
        entry("litefs/web/blog/nodes/00000000000000AB"),
        entry("litefs/web/free", session=""),
        entry("litefs/nodes/shop"),
    ]
    index, holders = ask(lambda _request: answer(*entries))
    assert index == 7
    assert holders == {"litefs/web/blog": BLOG, "litefs/nodes/shop": BLOG}


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b'{"hostname": "a"}', b"\xff"])
def test_a_lease_whose_value_cannot_be_read_is_held_by_somebody(value: bytes) -> None:
    assert ask(lambda _request: answer(entry("litefs/a/b", value)))[1]["litefs/a/b"].hostname == ""


def test_no_key_at_all_is_an_answer() -> None:
    response = Response(status=404, body=b"", headers={"X-Consul-Index": "3"})
    assert ask(lambda _request: response) == (3, {})


@pytest.mark.parametrize(
    ("token", "header"),
    [("t", {"X-Consul-Results-Filtered-By-ACLs": "true"}), ("", {"X-Consul-Default-ACL-Policy": "deny"})],
    ids=["token", "no token"],
)
def test_no_key_that_may_be_read_is_no_answer(token: str, header: dict[str, str]) -> None:
    def script(_request: Request) -> Response:
        return Response(status=404, body=b"", headers={"X-Consul-Index": "3", **header})

    with pytest.raises(ConsulDeniedError, match="nothing that the token may read"):
        ask(script, token=token)


def test_no_key_is_an_answer_to_a_token_from_which_nothing_was_kept() -> None:
    headers = {"X-Consul-Index": "3", "X-Consul-Default-ACL-Policy": "deny"}
    assert ask(lambda _request: Response(status=404, body=b"", headers=headers), token="t") == (3, {})


@pytest.mark.parametrize("index", ["", "x", "-1"])
def test_an_index_that_a_proxy_took_away_is_none(index: str) -> None:
    assert ask(lambda _request: answer(index=index))[0] == 0


def test_a_query_waits_in_consul_only_from_an_index_on() -> None:
    seen: list[Request] = []

    def script(request: Request) -> Response:
        seen.append(request)
        return answer()

    ask(script, 0, token="secret")
    ask(script, 9)
    assert seen[0].query == {"recurse": ""}
    assert seen[0].headers["X-Consul-Token"] == "secret"
    assert seen[1].query == {"recurse": "", "index": "9", "wait": "5s"}
    assert "X-Consul-Token" not in seen[1].headers


def test_variables_of_consul_do_not_override_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "127.0.0.1:1")
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "wrong")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    seen: list[Request] = []

    def script(request: Request) -> Response:
        seen.append(request)
        return answer()

    ask(script)
    assert "X-Consul-Token" not in seen[0].headers


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (Response(status=403, body=b"Permission denied"), ConsulDeniedError),
        (Response(status=500, body=b"No cluster leader"), ConsulError),
        (Response(body=b"{"), ConsulError),
        (Response(body=b'[{"Session": "s"}]'), ConsulError),
    ],
)
def test_what_consul_does_not_say_is_an_error(response: Response, kind: type[ConsulError]) -> None:
    with pytest.raises(ConsulError) as raised:
        ask(lambda _request: response)
    assert type(raised.value) is kind


@pytest.mark.parametrize(
    "first",
    [HALF_A_HEAD, b"HTTP/1.1 404 Not Found\r\nA: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"],
    ids=["head", "head that says no", "body"],
)
def test_an_answer_that_does_not_end_is_given_up(first: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consul, "REQUEST_S", 0.3)
    with dripping_peer(first) as port:
        client = ConsulClient(ConsulAddress.parse(f"http://127.0.0.1:{port}"))
        for _ in range(2):  # what was given up is not in the way of the next query
            with pytest.raises(ConsulError, match=r"no answer within 0\.3 s"):
                client.holders("litefs/", 0, 5.0)


# ---- the watch ----


def watch_views(script: Script, is_enough: Callable[[list[ConsulView]], bool]) -> list[ConsulView]:
    """Returns what a watch told until that was enough."""
    told: list[ConsulView] = []

    async def run() -> None:
        enough = asyncio.Event()

        def changed(_watch: LeaseWatch, _before: ConsulView, now: ConsulView) -> None:
            told.append(now)
            if is_enough(told):
                enough.set()

        with http_server(script) as url:
            watch = LeaseWatch(ConsulAddress.parse(url), "litefs/", changed)
            try:
                await asyncio.wait_for(enough.wait(), 20)
            finally:
                watch.stop()
                await asyncio.to_thread(watch.join)

    asyncio.run(run())
    return told


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RETRY_S", "DENIED_RETRY_S", "SPACING_S", "UNREACHABLE_S"):
        monkeypatch.setattr(lease_watch, name, 0.001)


def test_a_change_of_holders_is_told_and_the_same_answer_is_not() -> None:
    other = {"hostname": "blog-1", "advertise-url": "u"}
    answers = [answer(entry("litefs/a/b")), answer(entry("litefs/a/b")), answer(entry("litefs/a/b", other))]
    silence = threading.Event()

    def script(_request: Request) -> Response:
        if answers:
            return answers.pop(0)
        silence.wait(0.05)
        return answer(entry("litefs/a/b", other))

    told = watch_views(script, lambda views: len(views) == 2)
    assert [view.holders["litefs/a/b"].hostname for view in told] == ["blog-0", "blog-1"]


def test_an_index_that_goes_backwards_starts_anew() -> None:
    asked: list[str] = []
    indexes = ["7", "9", "2", "4"]

    def script(request: Request) -> Response:
        asked.append(request.query.get("index", ""))
        number = min(len(asked), len(indexes)) - 1
        return answer(entry("litefs/a/b", {"hostname": str(len(asked)), "advertise-url": ""}), index=indexes[number])

    watch_views(script, lambda views: len(views) == 4)
    assert asked[:4] == ["", "7", "9", ""]


def test_a_consul_without_a_leader_is_unreachable_and_comes_back() -> None:
    answers = [answer(), Response(status=500, body=b"No cluster leader"), answer(entry("litefs/a/b"))]

    def script(_request: Request) -> Response:
        return answers.pop(0) if len(answers) > 1 else answers[0]

    told = watch_views(script, lambda views: len(views) == 3)
    assert [view.state for view in told] == [ConsulState.ANSWERED, ConsulState.UNREACHABLE, ConsulState.ANSWERED]
    assert "No cluster leader" in told[1].message
    assert told[1].holders == {}


def test_a_consul_that_denies_access_is_not_unreachable() -> None:
    told = watch_views(lambda _request: Response(status=403, body=b"no"), lambda views: len(views) == 1)
    assert told[0].state is ConsulState.DENIED


def test_a_short_silence_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_watch, "UNREACHABLE_S", 60.0)
    answers = [answer(), *[Response(status=500, body=b"x")] * 5, answer(entry("litefs/a/b"))]

    def script(_request: Request) -> Response:
        return answers.pop(0) if len(answers) > 1 else answers[0]

    told = watch_views(script, lambda views: len(views) == 2)
    assert [view.state for view in told] == [ConsulState.ANSWERED, ConsulState.ANSWERED]
