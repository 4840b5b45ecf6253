"""A scrape goes on beside the event loop, which goes on changing what it looks at."""

import asyncio
from collections.abc import Callable

from litefs.formats.position import Pos
from litefs.http.feed import CommitFeed
from litefs.http.followers import Follower, Followers
from litefs.http.metrics import Metrics
from litefs.link.messages import DatabaseInfo
from tests.unit.http.fake_node import FakeNode


class _Positions(dict[str, Pos]):
    """Those of a follower; when one is looked up, the event loop has its turn."""

    def __init__(self, turn: Callable[[], None]) -> None:
        super().__init__()
        self._turn = turn

    def __contains__(self, name: object) -> bool:
        self._turn()
        return super().__contains__(name)


def test_databases_come_and_followers_go_during_a_scrape(node: FakeNode) -> None:
    async def scrape() -> str:
        feed, followers = CommitFeed(node), Followers()

        def come_and_go() -> None:
            feed.publish(_database(f"new-{len(feed.positions)}"))
            followers.connected.clear()

        feed.publish(_database("a"))
        feed.publish(_database("b"))
        followers.connected += [Follower("1", "x", _Positions(come_and_go)), Follower("2", "y", {})]
        return Metrics(node, feed, followers).exposition().decode()

    assert 'litefs_follower_behind_txn_count{address="y",node="2"} 2.0\n' in asyncio.run(scrape())


def _database(name: str) -> DatabaseInfo:
    return DatabaseInfo(name=name, txid=1, checksum=1 << 63, logged_txid=1, page_size=512, page_n=1, is_wal=False)
