"""What is kept for replicas: those that are behind, those that went, and not for ever."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from litefs.formats.position import Checksum, Pos, Txid
from litefs.http import log_needs
from litefs.http.feed import CommitFeed
from litefs.http.followers import Follower
from litefs.http.log_needs import RECEIVED_AFTER_S, LogNeeds
from tests.unit.http.fake_node import FakeNode

REMEMBERED_S = 1000.0


class World:
    """A node with databases at transaction 9, and a clock that is set by hand."""

    def __init__(self, directory: Path, names: tuple[str, ...] = ("a.db", "b.db")) -> None:
        """Begins at 0 seconds, with nobody connected."""
        self.now_s = 0.0
        self.node = FakeNode(directory)
        for name in names:
            self.node.create(name)
            for _ in range(9):
                self.node.commit(name, 1)
        self.needs = LogNeeds(self.node, CommitFeed(self.node), REMEMBERED_S, lambda: self.now_s)

    def after(self, seconds: float) -> dict[str, list[int]]:
        """Lets time pass. Returns what was said last."""
        self.now_s += seconds
        self.needs.say()
        return self.node.needed[-1]


def follower(node_id: str = "00000000000000AB", **txids: int) -> Follower:
    return Follower(node_id, "address", {f"{name}.db": at(txid) for name, txid in txids.items()})


def at(txid: int) -> Pos:
    return Pos(txid=Txid(txid), checksum=Checksum(1 << 63))


def in_loop(work: Callable[[World], Awaitable[None]], directory: Path) -> None:
    async def main() -> None:
        world = World(directory)
        try:
            await work(world)
        finally:
            world.node.close()

    asyncio.run(main())


def test_it_is_said_at_once_what_a_follower_that_comes_needs(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        with world.needs.of(follower(a=3, b=9)), world.needs.of(follower("1", a=5, b=20)):
            assert world.node.needed[-1] == {"a.db": [3, 5]}
        assert world.node.needed[0] == {"a.db": [3]}

    in_loop(work, tmp_path)


def test_nothing_is_said_twice(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        with world.needs.of(follower(a=3)):
            for _ in range(3):
                world.after(1.0)
            assert len(world.node.needed) == 1

    in_loop(work, tmp_path)


def test_what_a_process_before_this_one_said_is_corrected(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        assert world.after(5.0) == {}
        assert world.node.needed == [{}]

    in_loop(work, tmp_path)


def test_what_was_sent_counts_when_it_was_received_for_sure(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        slow = follower(a=3)
        with world.needs.of(slow):
            slow.positions["a.db"] = at(7)
            assert world.after(RECEIVED_AFTER_S - 1) == {"a.db": [3]}
            assert world.after(1) == {"a.db": [3]}
            slow.positions["a.db"] = at(9)
            assert world.after(RECEIVED_AFTER_S) == {"a.db": [7]}
            assert world.after(RECEIVED_AFTER_S) == {}

    in_loop(work, tmp_path)


def test_who_got_a_snapshot_needs_what_comes_behind_it(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        new = follower()
        with world.needs.of(new):
            new.positions["a.db"] = at(6)
            assert world.after(1.0) == {"a.db": [6]}

    in_loop(work, tmp_path)


def test_who_went_is_remembered_for_a_while_even_if_it_had_everything(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        with world.needs.of(follower(a=9, b=4)):
            pass
        assert world.node.needed[-1] == {"a.db": [9], "b.db": [4]}
        assert world.after(REMEMBERED_S) == {"a.db": [9], "b.db": [4]}
        assert world.after(1.0) == {}

    in_loop(work, tmp_path)


def test_who_came_back_counts_once(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        with world.needs.of(follower(a=3)):
            with world.needs.of(follower(a=4)):  # the older connection is dead
                pass
            assert world.after(1.0) == {"a.db": [3]}
        assert world.after(1.0) == {"a.db": [3]}
        with world.needs.of(follower(a=8)):
            assert world.node.needed[-1] == {"a.db": [8]}

    in_loop(work, tmp_path)


def test_who_does_not_say_who_it_is_is_not_remembered(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        with world.needs.of(follower("", a=3)):
            assert world.node.needed[-1] == {"a.db": [3]}
        assert world.after(1.0) == {}

    in_loop(work, tmp_path)


def test_memory_is_bounded_whoever_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(world: World) -> None:
        for number in range(1000):
            with world.needs.of(follower(f"{number:016X}", a=1 + number % 8)):
                pass
        assert len(world.needs._away) == log_needs.AWAY_MAX
        monkeypatch.setattr(log_needs, "DATABASES_MAX", 1)
        with world.needs.of(follower("F" * 16, b=1)):
            assert list(world.node.needed[-1]) == ["a.db"], "the furthest behind"

    in_loop(work, tmp_path)
