"""A generator on worker threads, and its end in every case."""

import asyncio
import threading
from collections.abc import Coroutine, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from litefs.http.pump import pump

T = TypeVar("T")


class Counter:
    """A generator's source that knows whether two threads are in it, and whether it was closed."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.made = 0
        self.is_closed = False
        self.threads: set[str] = set()
        self.inside = threading.Lock()
        self.go_on = threading.Event()
        self.go_on.set()
        self.entered = threading.Event()

    def items(self) -> Generator[int, None, None]:
        try:
            for i in range(self.n):
                assert self.inside.acquire(blocking=False)
                self.threads.add(threading.current_thread().name)
                self.entered.set()
                assert self.go_on.wait(10)
                self.made += 1
                self.inside.release()
                yield i
        finally:
            self.is_closed = True


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2, thread_name_prefix="worker") as pool:
        yield pool


def run(main: Coroutine[None, None, T]) -> T:
    return asyncio.run(asyncio.wait_for(main, 10))


def test_hands_over_every_item_in_order_made_on_worker_threads(executor: ThreadPoolExecutor) -> None:
    source, taken = Counter(100), []

    async def take(item: int) -> None:
        taken.append(item)

    run(pump(executor, source.items(), take))
    assert taken == list(range(100))
    assert all(name.startswith("worker") for name in source.threads)
    assert source.is_closed


def test_makes_at_most_one_item_ahead_of_the_consumer(executor: ThreadPoolExecutor) -> None:
    source, ahead = Counter(50), []

    async def take(item: int) -> None:
        await asyncio.sleep(0.001)
        ahead.append(source.made - item - 1)

    run(pump(executor, source.items(), take))
    assert max(ahead) <= 1


def test_closes_the_generator_when_the_consumer_fails(executor: ThreadPoolExecutor) -> None:
    source = Counter(100)

    async def take(item: int) -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        run(pump(executor, source.items(), take))
    assert source.is_closed
    assert source.made <= 2


def test_passes_on_what_the_generator_raises(executor: ThreadPoolExecutor) -> None:
    def items() -> Generator[int, None, None]:
        yield 1
        raise OSError("disk")

    async def take(item: int) -> None:
        pass

    with pytest.raises(OSError, match="disk"):
        run(pump(executor, items(), take))


def test_waits_for_the_running_step_before_it_closes_the_generator(executor: ThreadPoolExecutor) -> None:
    source = Counter(100)
    source.go_on.clear()

    async def take(item: int) -> None:
        pass

    async def main() -> None:
        task = asyncio.create_task(pump(executor, source.items(), take))
        await asyncio.get_running_loop().run_in_executor(None, source.entered.wait)
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not source.is_closed
        assert not task.done()
        source.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert source.is_closed

    run(main())
