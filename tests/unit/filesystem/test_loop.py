import errno
import os
import signal
import socket
import threading
import time
from typing import Any

import pyfuse3
import pytest

from litefs.filesystem.loop import OFFLOAD_THREADS_MAX, ClosedResourceError, Loop, Waiter
from litefs.storage.steps import Steps

PATIENCE_S = 20.0


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def trio(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What pyfuse3 sees after `install`."""
    monkeypatch.setattr(pyfuse3, "trio", None, raising=False)
    loop.install()
    return pyfuse3.trio  # type: ignore[attr-defined]


# ---- running ----


def test_run_returns_what_main_returns(loop: Loop) -> None:
    async def main() -> int:
        return 42

    assert loop.run(main()) == 42


def test_run_raises_what_main_raises(loop: Loop) -> None:
    async def main() -> None:
        raise KeyError("main")

    with pytest.raises(KeyError, match="main"):
        loop.run(main())


def test_an_exception_of_any_coroutine_ends_the_loop(loop: Loop) -> None:
    async def faulty() -> None:
        raise KeyError("faulty")

    async def main() -> None:
        loop.spawn(faulty(), "faulty")
        await Waiter(loop)

    with pytest.raises(KeyError, match="faulty"):
        loop.run(main())


# ---- waiters and timers ----


def test_a_waiter_that_is_done_does_not_suspend(loop: Loop) -> None:
    order: list[str] = []

    async def other() -> None:
        order.append("other")

    async def main() -> Any:
        loop.spawn(other(), "other")
        waiter = Waiter(loop)
        waiter.complete("result")
        result = await waiter
        order.append("main")
        return result

    assert loop.run(main()) == "result"
    assert order[0] == "main"


def test_a_waiter_resumes_with_its_error(loop: Loop) -> None:
    waiter = Waiter(loop)
    loop.call_later(0, lambda: waiter.complete(error=KeyError("late")))

    async def main() -> None:
        await waiter

    with pytest.raises(KeyError, match="late"):
        loop.run(main())


def test_timers_run_in_the_order_of_their_times_then_of_asking(loop: Loop) -> None:
    done: list[str] = []
    end = Waiter(loop)
    loop.call_later(0.002, lambda: done.append("last"))
    for name in ("a", "b", "c"):
        loop.call_later(0, lambda name=name: done.append(name))  # type: ignore[misc]
    loop.call_later(0.003, end.complete)

    async def main() -> None:
        await end

    loop.run(main())
    assert done == ["a", "b", "c", "last"]


def test_a_timer_is_not_early(loop: Loop) -> None:
    async def main() -> float:
        begun = time.monotonic()
        await loop.sleep(0.02)
        return time.monotonic() - begun

    assert loop.run(main()) >= 0.02


def test_who_yields_for_ever_starves_nobody(loop: Loop) -> None:
    """A large commit gives way every few pages: descriptors, timers and other coroutines all have their turn."""
    ours, theirs = socket.socketpair()
    turns = 0
    seen: set[str] = set()

    async def busy() -> None:
        nonlocal turns
        while True:
            turns += 1
            assert turns < 10_000, f"only {seen} had their turn"
            await loop.yield_now()

    async def other() -> None:
        await loop.yield_now()
        seen.add("coroutine")

    async def main() -> None:
        loop.spawn(busy(), "busy")
        loop.spawn(other(), "other")
        loop.watch(ours.fileno(), lambda: seen.add("descriptor"))
        loop.call_later(0, lambda: seen.add("timer"))
        theirs.send(b"x")
        while len(seen) < 3:
            await loop.yield_now()

    loop.run(main())
    ours.close()
    theirs.close()


def test_an_unwatched_descriptor_is_not_heard_of_again(loop: Loop) -> None:
    ours, theirs = socket.socketpair()
    calls: list[int] = []

    def heard() -> None:
        calls.append(1)
        loop.unwatch(ours.fileno())
        loop.unwatch(ours.fileno())

    async def main() -> None:
        loop.watch(ours.fileno(), heard)
        theirs.send(b"x")
        for _ in range(5):
            await loop.yield_now()

    loop.run(main())
    assert calls == [1]
    ours.close()
    theirs.close()


def test_a_signal_handler_ends_the_poll(loop: Loop) -> None:
    """`poll` goes on after a signal handler, with its old time-out: without a wake-up this would last a minute."""
    end = Waiter(loop)
    loop.call_later(60, lambda: None)
    old = signal.signal(signal.SIGUSR1, lambda number, frame: loop.call_from_signal(end.complete))

    async def main() -> None:
        sender.start()
        await end

    sender = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
    begun = time.monotonic()
    try:
        loop.run(main())
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert time.monotonic() - begun < PATIENCE_S


# ---- threads ----


def test_offload_returns_the_result_and_raises_the_error(loop: Loop) -> None:
    def fail() -> None:
        raise OSError(errno.ENOSPC, "full")

    async def main() -> int:
        with pytest.raises(OSError, match="full"):
            await loop.offload(fail)
        return await loop.offload(threading.get_ident)

    assert loop.run(main()) != threading.get_ident()


def test_others_run_while_a_thread_waits(loop: Loop) -> None:
    released = threading.Event()

    async def other() -> None:
        released.set()

    async def main() -> bool:
        waiting = loop.offload(lambda: released.wait(PATIENCE_S))
        loop.spawn(other(), "other")
        return await waiting

    assert loop.run(main())


@pytest.mark.parametrize("job_n", [2, OFFLOAD_THREADS_MAX])
def test_offloaded_calls_wait_side_by_side(loop: Loop, job_n: int) -> None:
    barrier = threading.Barrier(job_n)

    async def main() -> None:
        for waiting in [loop.offload(lambda: barrier.wait(PATIENCE_S)) for _ in range(job_n)]:
            await waiting

    loop.run(main())
    assert not barrier.broken


def test_more_calls_than_threads_all_come_to_an_end(loop: Loop) -> None:
    async def main() -> list[int]:
        waiting = [loop.offload(lambda i=i: i * i) for i in range(OFFLOAD_THREADS_MAX * 5)]  # type: ignore[misc]
        return [await each for each in waiting]

    assert loop.run(main()) == [i * i for i in range(OFFLOAD_THREADS_MAX * 5)]


# ---- steps ----


def test_drive_sends_results_and_throws_errors_into_the_steps(loop: Loop) -> None:
    def fail() -> None:
        raise OSError(errno.EIO, "broken")

    def steps() -> Steps[tuple[object, str]]:
        yield None
        first = yield lambda: "first"
        try:
            yield fail
        except OSError as error:
            return first, str(error.strerror)
        return first, "no error"

    assert loop.run(loop.drive(steps())) == ("first", "broken")


def test_drive_raises_what_leaves_the_steps(loop: Loop) -> None:
    def steps() -> Steps[None]:
        yield lambda: None
        raise KeyError("steps")

    with pytest.raises(KeyError, match="steps"):
        loop.run(loop.drive(steps()))


def test_drive_lets_others_run_at_every_step(loop: Loop) -> None:
    order: list[str] = []

    def steps() -> Steps[None]:
        for _ in range(3):
            order.append("steps")
            yield None

    async def other() -> None:
        for _ in range(3):
            order.append("other")
            await loop.yield_now()

    async def main() -> None:
        loop.spawn(other(), "other")
        await loop.drive(steps())

    loop.run(main())
    assert order[:6] == ["steps", "other"] * 3


# ---- what pyfuse3 uses ----


def test_workers_take_the_lock_in_turn(loop: Loop, trio: Any) -> None:
    lock = trio.Lock()
    inside = 0
    order: list[int] = []

    async def worker(number: int) -> None:
        nonlocal inside
        async with lock:
            inside += 1
            assert inside == 1
            await loop.yield_now()
            order.append(number)
            inside -= 1

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(worker, number)

    loop.run(main())
    assert order == [0, 1, 2, 3]


def test_the_lock_is_free_again_when_nobody_waits(loop: Loop, trio: Any) -> None:
    async def main() -> int:
        lock = trio.Lock()
        turns = 0
        for _ in range(3):
            async with lock:
                turns += 1
        return turns

    assert loop.run(main()) == 3


def test_an_empty_nursery_ends(loop: Loop, trio: Any) -> None:
    async def main() -> str:
        async with trio.open_nursery():
            pass
        return "ended"

    assert loop.run(main()) == "ended"


def test_an_error_in_a_nursery_does_not_wait_for_its_workers(loop: Loop, trio: Any) -> None:
    stuck = Waiter(loop)

    async def worker() -> None:
        await stuck

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker)
            raise KeyError("body")

    async def pause() -> None:
        await loop.yield_now()

    with pytest.raises(KeyError, match="body"):
        loop.run(main())
    stuck.complete()
    loop.run(pause())


def test_a_worker_that_dies_of_a_withdrawn_request_is_started_again(loop: Loop, trio: Any) -> None:
    """The session must not end meanwhile, even if it is the only worker."""
    attempts: list[str] = []

    async def worker(name: str) -> None:
        attempts.append(name)
        await loop.yield_now()
        if len(attempts) < 3:
            raise OSError(errno.EAGAIN, "withdrawn")

    async def main() -> int:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker, "worker", name="worker")
        return len(attempts)

    assert loop.run(main()) == 3


def test_a_worker_that_dies_of_anything_else_ends_the_loop(loop: Loop, trio: Any) -> None:
    async def worker() -> None:
        raise OSError(errno.EIO, "broken")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker)

    coroutine = main()
    with pytest.raises(OSError, match="broken"):
        loop.run(coroutine)


def test_the_nursery_ends_with_the_last_worker(loop: Loop, trio: Any) -> None:
    ended: list[str] = []

    async def short() -> None:
        ended.append("short")

    async def long() -> None:
        await loop.sleep(0.002)
        ended.append("long")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(short)
            nursery.start_soon(long)
        ended.append("nursery")

    loop.run(main())
    assert ended == ["short", "long", "nursery"]


def test_the_reader_is_resumed_when_its_descriptor_is_readable(loop: Loop, trio: Any) -> None:
    ours, theirs = socket.socketpair()

    async def main() -> list[bytes]:
        received = []
        for message in (b"first", b"second"):
            loop.call_later(0, lambda message=message: theirs.sendall(message))  # type: ignore[misc]
            await trio.lowlevel.wait_readable(ours.fileno())
            received.append(ours.recv(100))
        return received

    assert loop.run(main()) == [b"first", b"second"]
    ours.close()
    theirs.close()


def test_closing_wakes_the_reader(loop: Loop, trio: Any) -> None:
    ours, theirs = socket.socketpair()

    async def main() -> None:
        loop.call_later(0, lambda: trio.lowlevel.notify_closing(ours.fileno()))
        with pytest.raises(ClosedResourceError):
            await trio.lowlevel.wait_readable(ours.fileno())

    loop.run(main())
    ours.close()
    theirs.close()


def test_workers_know_their_names(loop: Loop, trio: Any) -> None:
    names: list[str] = []

    async def worker() -> None:
        names.append(trio.lowlevel.current_task().name)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker, name="pyfuse-01")

    loop.run(main())
    assert names == ["pyfuse-01"]
