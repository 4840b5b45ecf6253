"""Commits on their way from the link's thread to subscribers."""

import asyncio
import threading
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path

from litefs.http.feed import CommitFeed
from tests.unit.http.fake_node import FakeNode


def run(main: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 10))


def _from_another_thread(node: FakeNode, name: str, commits: int) -> None:
    thread = threading.Thread(target=lambda: [node.commit(name, 1) for _ in range(commits)])
    thread.start()
    thread.join()


def test_a_subscriber_hears_of_every_database_at_first(node: FakeNode) -> None:
    node.create("a.db")
    node.create("b.db")

    async def main() -> None:
        assert CommitFeed(node).subscribe().take() == {"a.db", "b.db"}

    run(main())


def test_a_subscriber_misses_no_position_and_keeps_no_queue(node: FakeNode) -> None:
    node.create("a.db")

    async def main() -> None:
        feed = CommitFeed(node)
        subscription = feed.subscribe()
        subscription.take()
        _from_another_thread(node, "a.db", 100)
        while feed.positions["a.db"].txid < 100:
            await subscription.wait(10)
            assert subscription.take() == {"a.db"}
        assert feed.commit_n["a.db"] == 100

    run(main())


def test_waiting_ends_after_the_time_given(node: FakeNode) -> None:
    async def main() -> None:
        subscription = CommitFeed(node).subscribe()
        await subscription.wait(0.001)
        assert subscription.take() == set()

    run(main())


def test_closing_wakes_everybody_and_those_to_come(node: FakeNode) -> None:
    async def main() -> None:
        feed = CommitFeed(node)
        subscription = feed.subscribe()
        waiting = asyncio.create_task(subscription.wait(10))
        await asyncio.sleep(0)
        feed.close()
        await waiting
        assert subscription.closed
        assert feed.subscribe().closed

    run(main())


def test_who_has_unsubscribed_is_not_counted_and_hears_nothing(node: FakeNode) -> None:
    node.create("a.db")

    async def main() -> None:
        feed = CommitFeed(node)
        subscription = feed.subscribe()
        subscription.take()
        assert feed.subscriber_n == 1
        feed.unsubscribe(subscription)
        assert feed.subscriber_n == 0
        node.commit("a.db", 1)
        await asyncio.sleep(0)
        assert subscription.take() == set()

    run(main())


def test_the_node_knows_whether_somebody_listens(node: FakeNode) -> None:
    async def main() -> None:
        feed = CommitFeed(node)
        heard = [node.is_listening]
        first, second = feed.subscribe(), feed.subscribe()
        heard.append(node.is_listening)
        for subscription in (first, first):
            feed.unsubscribe(subscription)
            heard.append(node.is_listening)
        feed.unsubscribe(second)
        assert [*heard, node.is_listening] == [False, True, True, True, False]

    run(main())


def test_a_replica_s_transactions_are_not_commits_of_its_own(tmp_path: Path) -> None:
    node = FakeNode(tmp_path)
    node.standing = replace(node.standing, is_primary=False)
    node.create("a.db")

    async def main() -> None:
        feed = CommitFeed(node)
        node.commit("a.db", 1)
        await asyncio.sleep(0)
        assert feed.positions["a.db"].txid == 1
        assert feed.commit_n["a.db"] == 0

    run(main())
    node.close()


def test_news_behind_the_end_of_the_loop_is_dropped(node: FakeNode) -> None:
    node.create("a.db")

    async def main() -> None:
        CommitFeed(node)

    run(main())
    node.commit("a.db", 1)
