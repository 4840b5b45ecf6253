"""A snapshot on its way to its place: what follows it waits, in order and within bounds, and is not forgotten."""

import socket
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from litefs.errors import LiteFSError
from litefs.formats.position import Checksum, Pos, Txid
from litefs.link.messages import PrepareReplacement
from litefs.node.link_client import LinkClient
from litefs.node.replicas import Replicas
from litefs.node.shm_guard import ShmGuard
from litefs.node.takeover import WAITING_BYTES, ArrivedImage, Takeover

TIMEOUT_S = 20.0


def _itself(request: PrepareReplacement) -> PrepareReplacement:
    return request


def arrived(txid: int, size: int = 10) -> ArrivedImage:
    return ArrivedImage(encoded=bytes(size), image=None, to=Pos(txid=Txid(txid), checksum=Checksum(1 << 63)))


class World:
    """A takeover whose work ends when the test says so."""

    def __init__(self) -> None:
        """Begins it."""
        self.may_end = threading.Event()
        self.failure: Exception | None = None
        self.appended: list[int] = []
        self.ended: list[Takeover] = []
        self.takeover = Takeover("db", arrived(5).to, 1, self._work, self._append, self.ended.append)
        self.takeover.start()

    def _work(self) -> None:
        assert self.may_end.wait(TIMEOUT_S)
        if self.failure is not None:
            raise self.failure

    def _append(self, images: Sequence[ArrivedImage]) -> None:
        self.appended += [image.to.txid for image in images]

    def end(self) -> None:
        self.may_end.set()
        assert self.takeover.join(TIMEOUT_S)


def test_what_follows_waits_and_is_handed_on_in_order() -> None:
    world = World()
    assert world.takeover.keep([arrived(6), arrived(7)])
    assert world.takeover.keep([arrived(8)])
    assert world.takeover.to.txid == 8
    assert not world.takeover.join(0.01)
    assert (world.appended, world.ended) == ([], [])
    world.end()
    assert (world.appended, world.ended, world.takeover.error) == ([6, 7, 8], [world.takeover], None)
    assert not world.takeover.keep([arrived(9)]), "it goes on by itself"


def test_who_brings_more_than_memory_is_for_waits() -> None:
    world = World()
    assert world.takeover.keep([arrived(6, WAITING_BYTES)])
    kept: list[bool] = []
    bringer = threading.Thread(target=lambda: kept.append(world.takeover.keep([arrived(7)])))
    bringer.start()
    bringer.join(0.05)
    assert bringer.is_alive()
    world.end()
    bringer.join(TIMEOUT_S)
    assert len(kept) == 1
    assert world.appended == ([6, 7] if kept[0] else [6])


@pytest.mark.parametrize("failure", [OSError(28, "full"), LiteFSError("refused"), ValueError("unexpected")])
def test_nothing_follows_a_failure(failure: Exception) -> None:
    world = World()
    world.failure = failure
    assert world.takeover.keep([arrived(6)])
    world.end()
    assert (world.appended, world.ended, world.takeover.error) == ([], [world.takeover], failure)
    assert not world.takeover.keep([arrived(7)])


def test_a_failure_ends_the_waiting() -> None:
    world = World()
    world.failure = OSError(28, "full")
    assert world.takeover.keep([arrived(6, WAITING_BYTES)])
    kept: list[bool] = []
    bringer = threading.Thread(target=lambda: kept.append(world.takeover.keep([arrived(7)])))
    bringer.start()
    world.end()
    bringer.join(TIMEOUT_S)
    assert kept == [False]


def test_a_node_whose_snapshot_could_not_be_put_in_place_has_not_caught_up(tmp_path: Path) -> None:
    """Whoever lost a database waits for exactly that before it may lead again."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        link = LinkClient(ours, lambda _event: None, lambda: None)
        has_failed = threading.Event()
        replicas = Replicas(link, str(tmp_path), tmp_path, ShmGuard(str(tmp_path)), has_failed.set)

        def fail() -> PrepareReplacement:
            raise LiteFSError("the disk is full")

        replicas.take_over("db", arrived(5).to, 1, fail, lambda: None)
        assert has_failed.wait(TIMEOUT_S)
        assert replicas.settle(TIMEOUT_S) == ""
        assert replicas.is_taking_over
        assert replicas.positions() == {}  # told anew, and so the snapshot comes anew
        assert not replicas.is_taking_over


def test_the_lag_can_be_told_while_databases_come(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    theirs.close()  # so that no takeover gets further than to its applier
    with ours:
        link = LinkClient(ours, lambda _event: None, lambda: None)
        replicas = Replicas(link, str(tmp_path), tmp_path, ShmGuard(str(tmp_path)), lambda: None)

        def come() -> None:
            for number in range(200):
                request = PrepareReplacement(
                    name=f"db{number}", txid=5, checksum=0, page_size=512, page_n=1, timestamp_ms=1, incoming="x"
                )
                replicas.take_over(request.name, arrived(5).to, 1, partial(_itself, request), lambda: None)

        coming = threading.Thread(target=come)
        coming.start()
        while coming.is_alive():
            replicas.waiting_since_ms()
        replicas.stop()
        assert replicas.join(TIMEOUT_S)
