import asyncio

from litefs_operator.reconcile.work_queue import WorkQueue


def test_an_item_that_is_put_twice_is_taken_once() -> None:
    async def run() -> list[str]:
        queue: WorkQueue[str] = WorkQueue()
        for item in ("a", "b", "a"):
            queue.put(item)
        return [await queue.get(), await queue.get()]

    assert asyncio.run(run()) == ["a", "b"]


def test_an_item_that_is_put_while_it_is_taken_waits_until_it_is_done() -> None:
    async def run() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.put("a")
        assert await queue.get() == "a"
        queue.put("a")
        queue.put("b")
        assert await queue.get() == "b"
        queue.done("a")
        assert await queue.get() == "a"

    asyncio.run(run())


def test_an_item_that_is_done_and_was_not_put_again_is_gone() -> None:
    async def run() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.put("a")
        await queue.get()
        queue.done("a")
        waiting = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        assert not waiting.done()
        queue.put("b")
        assert await waiting == "b"

    asyncio.run(run())


def test_several_workers_never_have_the_same_item() -> None:
    async def run() -> int:
        queue: WorkQueue[int] = WorkQueue()
        taken: set[int] = set()
        done = 0

        async def work() -> None:
            nonlocal done
            while True:
                item = await queue.get()
                assert item not in taken
                taken.add(item)
                await asyncio.sleep(0)
                taken.discard(item)
                queue.done(item)
                done += 1

        workers = [asyncio.create_task(work()) for _ in range(3)]
        for number in range(300):
            queue.put(number % 7)
            await asyncio.sleep(0)
        for worker in workers:
            assert not worker.done()
            worker.cancel()
        return done

    assert asyncio.run(run()) >= 7
