"""`GET /status`: what it tells, and how it tells news to those who wait for some."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from litefs.http import status_waiters
from tests.unit.http.fake_node import FakeNode
from tests.unit.http.serving import TIMEOUT_S, Served


def test_status_tells_databases_and_followers(node: FakeNode, served: Served) -> None:
    node.create("a.db")
    first = node.commit("a.db", 1)
    with served.follow({"a.db": first}) as stream:
        stream.until_ready()
        document = json.loads(served.request("GET", "/status").body)
    (database,), (follower,) = document["databases"], document["followers"]
    assert (document["role"], document["ready"], document["lag_ms"]) == ("primary", True, 0)
    assert (database["name"], database["position"], database["page_n"]) == ("a.db", str(first), 1)
    assert (follower["node_id"], follower["ready"], follower["behind_n"]) == ("00000000000000AB", True, 0)
    assert follower["positions"] == {"a.db": str(first)}


def test_status_tells_which_commits_wait_for_the_disk(node: FakeNode, served: Served) -> None:
    assert json.loads(served.request("GET", "/status").body)["durability"] == "as-asked"
    node.standing = replace(node.standing, syncs_every_commit=True)
    assert json.loads(served.request("GET", "/status").body)["durability"] == "every-commit"


def standing(served: Served, query: str = "") -> str:
    answer = served.request("GET", f"/status{query}")
    assert answer.status == 200
    word: str = json.loads(answer.body)["standing"]
    return word


@pytest.fixture
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_waiters, "LOOK_S", 0.005)


@pytest.mark.usefixtures("_often")
@pytest.mark.parametrize(
    "news",
    [
        {"role": "demoting"},
        {"ready": False},
        {"candidate": False},
        {"primary_hostname": "other"},
        {"lease_remaining_s": 0.0},
        {"is_primary": False, "lag_ms": 10_001},
    ],
)
def test_who_waits_for_news_of_a_node_is_told_when_there_is_some(
    node: FakeNode, served: Served, news: dict[str, Any]
) -> None:
    known = standing(served)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(standing, served, f"?wait=60&unlike={known}")
        node.until_looked_at()
        assert not waiting.done()
        node.standing = replace(node.standing, **news)
        assert waiting.result(TIMEOUT_S) != known


def test_positions_lags_and_reasons_are_no_news(node: FakeNode, served: Served) -> None:
    node.standing = replace(node.standing, is_primary=False, lag_ms=9_000, ready=False, obstacle="catching up")
    known = standing(served)
    node.create("a.db")
    node.commit("a.db", 1)
    node.standing = replace(node.standing, lag_ms=1, obstacle="still catching up", lease_remaining_s=1.0)
    assert standing(served, f"?wait=0.3&unlike={known}") == known


@pytest.mark.usefixtures("_often")
def test_who_waits_is_answered_at_once_when_the_service_ends_or_too_many_wait(
    node: FakeNode, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_waiters, "WAITERS_MAX", 1)
    known = standing(served)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(standing, served, f"?wait=60&unlike={known}")
        node.until_looked_at()
        assert standing(served, f"?wait=60&unlike={known}") == known
        assert not waiting.done()
        served.stop()
        assert waiting.result(TIMEOUT_S) == known


@pytest.mark.parametrize("wait", ["", "0", "-1", "nan", "soon", "61"])
def test_a_wait_without_end_is_refused(served: Served, wait: str) -> None:
    answer = served.request("GET", f"/status?wait={wait}")
    assert (answer.status, answer.body) == (400, b"wait: expected seconds, at most 60\n")
