"""The token between nodes: who gets in, who does not, and what is logged of it."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from litefs.formats.stream import encode_position_map
from litefs.http.access import REASON_CHARS_MAX, REFUSALS_MAX, RefusalLog
from litefs.http.replication import StreamSettings
from tests.unit.http.fake_node import FakeNode
from tests.unit.http.http2_client import Http2Client
from tests.unit.http.serving import Served

TOKEN = "correct-horse-battery"
RIGHT = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings = StreamSettings(compress=True, snapshot_timeout_s=10.0)
    service = Served(FakeNode(tmp_path_factory.mktemp("guarded")), settings, token=TOKEN)
    yield service
    service.stop()


@pytest.mark.parametrize(
    "request_line",
    [
        "GET /info", "GET /status", "GET /metrics", "GET /events", "GET /export?name=a.db", "POST /import?name=a.db",
        "POST /stream", "POST /promote", "POST /handoff?nodeID=1", "POST /halt", "POST /tx", "GET /", "GET /healthz/x",
        "GET //healthz", "GET /healthz%2f",
    ],
)  # fmt: skip
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}])
def test_nothing_but_health_is_open(guarded: Served, request_line: str, headers: dict[str, str]) -> None:
    method, path = request_line.split()
    answer = guarded.request(method, path, headers=headers)
    assert answer.status == 401
    assert answer.body == (b"wrong token\n" if headers else b"token required\n")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "litefs-cluster-id" not in answer.headers


@pytest.mark.parametrize("almost", [TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "\xff" * len(TOKEN), " " + TOKEN])
def test_a_token_must_be_right_to_the_byte(guarded: Served, almost: str) -> None:
    assert guarded.request("GET", "/info", headers={"Authorization": f"Bearer {almost}"}).status == 401


def test_health_needs_no_token(guarded: Served) -> None:
    assert guarded.request("GET", "/healthz").status == 200
    assert guarded.request("GET", "/readyz").status == 200


def test_metrics_need_no_token_where_they_are_for_everybody(tmp_path: Path) -> None:
    settings = StreamSettings(compress=True, snapshot_timeout_s=10.0)
    service = Served(FakeNode(tmp_path), settings, token=TOKEN, open_metrics=True)
    try:
        assert b"litefs_is_primary" in service.request("GET", "/metrics").body
        assert service.request("GET", "/status").status == 401
    finally:
        service.stop()


def test_the_token_lets_in_by_both_protocols(guarded: Served) -> None:
    assert guarded.request("GET", "/info", headers=RIGHT).status == 200
    client = Http2Client(guarded)
    assert client.request("GET", "/info").status == 401
    assert client.request("GET", "/info", headers={"authorization": f"Bearer {TOKEN}"}).status == 200
    client.close()


def test_a_node_of_another_cluster_is_refused(calm: Served) -> None:
    body = encode_position_map({})
    answer = calm.request("POST", "/stream", body, {"Litefs-Cluster-Id": "LFSC0000000000000001"})
    assert answer.status == 409
    assert b"LFSC0123456789ABCDEF, the caller to LFSC0000000000000001" in answer.body


def test_a_refusal_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    refusals = RefusalLog()
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            refusals.note("10.0.0.1", "GET /info: token required")
        refusals.note("10.0.0.2", "GET /info: token required")
    assert [record.getMessage() for record in caplog.records] == [
        "refused 10.0.0.1: GET /info: token required",
        "refused 10.0.0.2: GET /info: token required",
    ]


def test_a_refusal_of_a_long_path_is_short(guarded: Served, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert guarded.request("GET", "/" + "a" * 50_000).status == 401
    assert [len(text) < 2 * REASON_CHARS_MAX for text in caplog.messages if text.startswith("refused")] == [True]


def test_the_memory_of_refusals_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    refusals = RefusalLog()
    with caplog.at_level(logging.INFO):
        for number in [*range(REFUSALS_MAX + 1), 0]:
            refusals.note(f"peer {number}", "no")
    assert len(caplog.records) == REFUSALS_MAX + 2, "the first was forgotten, and is said again"
