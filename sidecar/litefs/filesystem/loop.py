"""The event loop under pyfuse3: one `poll`, coroutines stepped by hand.

Strategy: a FUSE request costs a round trip between two processes; what a general event loop adds to it
(trio 2–4 times the whole request, asyncio and uvloop not much less) is the largest cost of a small
write. This loop knows one hot descriptor, `/dev/fuse`, and resumes the waiting worker directly. After a
request that belongs to a write it polls without sleeping for `SPIN_S`, since the next one is on its way.

pyfuse3 takes its loop from the module attribute `pyfuse3.trio`; `install` puts this loop there. Of trio
it uses `Lock`, `open_nursery`, `lowlevel.wait_readable`, `current_task`, `current_trio_token`,
`notify_closing` and `ClosedResourceError`.

Rules:
    1. Nothing blocks the loop: what waits for the disk goes through `offload`. The sync of a log on a disk that is
       quicker than a thread is done in place (`drive`).
    2. `/dev/fuse` is non-blocking: a request withdrawn between poll and read would freeze the process with
       the GIL held. pyfuse3 raises EAGAIN then, and its worker is started again.
"""

import errno
import heapq
import itertools
import logging
import os
import queue
import select
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import SimpleNamespace
from typing import Any, Self, TypeVar

import pyfuse3

from litefs.filesystem.disk_pace import DiskPace
from litefs.filesystem.wakefulness import Wakefulness
from litefs.storage.steps import LogSync, Step, Steps

SPIN_S = 50e-6
"""How long to poll without sleeping after a write: a factor of two for small transactions (measured 2026-11)."""

STRAIGHT_MAX = 64
"""Requests served in a row before timers are looked at: well under 5 ms."""

OFFLOAD_THREADS_MAX = 16
"""Concurrent waits for the disk: one per database that is being synced is what helps."""

T = TypeVar("T")
_log = logging.getLogger("litefs.filesystem")


class ClosedResourceError(Exception):
    """The descriptor that a worker waits for is about to be closed."""


class Waiter:
    """One-shot event that coroutines await. Completed on the loop only."""

    __slots__ = ("_loop", "_tasks", "error", "is_done", "result")

    def __init__(self, loop: "Loop") -> None:
        """Args: loop: resumes the awaiting coroutines."""
        self._loop = loop
        self._tasks: list[_Task] = []
        self.is_done = False
        self.result: Any = None
        self.error: BaseException | None = None

    def complete(self, result: Any = None, error: BaseException | None = None) -> None:
        """Lets the awaiting coroutines go on with a result or an error."""
        self.result, self.error, self.is_done = result, error, True
        for task in self._tasks:
            self._loop.make_ready(task)

    def __await__(self) -> Generator[None, None, Any]:
        if not self.is_done:
            assert self._loop.current is not None, "awaited on the loop"
            self._tasks.append(self._loop.current)
            yield
        if self.error is not None:
            raise self.error
        return self.result


class _Task:
    __slots__ = ("coroutine", "name")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], name: str) -> None:
        self.coroutine = coroutine
        self.name = name


class _Lock:
    """What pyfuse3 wants of `trio.Lock`: its workers take turns at waiting for the next request."""

    def __init__(self, loop: "Loop") -> None:
        self._loop = loop
        self._is_held = False
        self._waiting: deque[Waiter] = deque()

    async def __aenter__(self) -> None:
        if self._is_held:
            waiter = Waiter(self._loop)
            self._waiting.append(waiter)
            await waiter
        self._is_held = True

    async def __aexit__(self, *args: object) -> None:
        self._is_held = False
        if self._waiting:
            self._is_held = True
            self._waiting.popleft().complete()


class _Nursery:
    """What pyfuse3 wants of `trio.open_nursery`: it ends when all its tasks have."""

    def __init__(self, loop: "Loop") -> None:
        self._loop = loop
        self._alive = 0
        self._all_ended = Waiter(loop)

    async def __aenter__(self) -> Self:
        return self

    def start_soon(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any, name: str = "") -> None:
        """Starts a worker; one that dies of EAGAIN is started again (rule 2)."""
        self._alive += 1
        self._loop.spawn(self._run(function, *args), name)

    async def _run(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> None:
        while True:
            try:
                await function(*args)
                break
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    raise
        self._alive -= 1
        if not self._alive:
            self._all_ended.complete()

    async def __aexit__(self, error_type: type[BaseException] | None, *args: object) -> None:
        if self._alive and error_type is None:
            await self._all_ended


class Loop:
    """Runs coroutines, watches descriptors, keeps timers, and sends slow calls to threads."""

    def __init__(self, pace: DiskPace | None = None) -> None:
        """Owns an eventfd, and threads once something is offloaded. Args: pace: knows the disk; None: a new one."""
        self.current: _Task | None = None
        self.spin_until = 0.0
        self._ready: deque[_Task] = deque()
        self._poll = select.poll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._reader: tuple[int, _Task] | None = None
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_numbers = itertools.count()
        self._stopped = self._closing = False
        self._straight_n = 0
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Waiter]] = queue.SimpleQueue()
        self._finished: deque[tuple[Waiter, Any, BaseException | None]] = deque()
        self._threads = 0
        self._pending_jobs = 0
        self._syncs: list[float] = []
        """When those that threads are at were begun, oldest first."""
        self._pace = pace or DiskPace()
        self.wakefulness: Wakefulness | None = None
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.watch(self._wake_fd, self._collect)

    # ---- coroutines ----

    def spawn(self, coroutine: Coroutine[Any, Any, Any], name: str) -> None:
        """Starts a coroutine. An exception that leaves it ends the loop: `run` raises it."""
        self._ready.append(_Task(coroutine, name))

    def make_ready(self, task: _Task) -> None:
        """Queues a suspended task."""
        self._ready.append(task)

    def yield_now(self) -> Awaitable[None]:
        """Returns what to await for others to run first."""
        return self.sleep(0)

    def sleep(self, delay_s: float) -> Awaitable[None]:
        """Returns what to await for `delay_s` seconds to pass."""
        waiter = Waiter(self)
        self.call_later(delay_s, waiter.complete)
        return waiter

    async def drive(self, steps: Steps[T]) -> T:
        """Drives steps of storage to their end, others running meanwhile. Returns what they return.

        A `LogSync` is done in place while the disk is quick and nobody else waits for it: a stall of the disk then
        stops the loop once, and the next syncs go to threads again.
        """
        try:
            step: Step = next(steps)
            while True:
                if step is None:
                    await self.yield_now()
                    step = steps.send(None)
                    continue
                try:
                    result = await (self._sync(step) if isinstance(step, LogSync) else self.offload(step))
                except Exception as error:  # noqa: BLE001 - whatever it is, the steps are to see it
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as stop:
            value: T = stop.value
            return value

    def run(self, main: Coroutine[Any, Any, T], name: str = "main") -> T:
        """Runs until `main` ends. Returns its result, or raises what it or any other coroutine raised."""
        outcome: list[T] = []
        self._stopped = False

        async def supervise() -> None:
            try:
                outcome.append(await main)
            finally:
                self._stopped = True

        supervisor = supervise()
        self.spawn(supervisor, name)
        try:
            while not self._stopped:
                self._step_ready()
                if not self._stopped:
                    self._wait()
        finally:
            supervisor.close()
        return outcome[0]

    def _step_ready(self) -> None:
        ready = self._ready
        while ready:
            self._step(ready.popleft())

    def _step(self, task: _Task) -> None:
        self.current = task
        try:
            task.coroutine.send(None)
        except StopIteration:
            pass
        finally:
            self.current = None

    # ---- descriptors and timers ----

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Calls `callback` on the loop whenever `fd` is readable or hung up."""
        self._callbacks[fd] = callback
        self._poll.register(fd, select.POLLIN)

    def unwatch(self, fd: int) -> None:
        """Ends a watch."""
        if self._callbacks.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Calls `callback` on the loop after `delay_s` seconds."""
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._timer_numbers), callback))

    def call_from_signal(self, callback: Callable[[], None]) -> None:
        """Calls `callback` on the loop soon. A poll that a signal interrupts is taken up again: it has to be ended."""
        self.call_later(0, callback)
        os.eventfd_write(self._wake_fd, 1)

    def spin(self) -> None:
        """Asks the loop not to sleep for the next `SPIN_S`: another request is on its way."""
        self.spin_until = time.monotonic() + SPIN_S
        if self.wakefulness is not None:
            self.wakefulness.hold()

    async def wait_readable(self, fd: int) -> None:
        """Waits until `fd` is readable. For `/dev/fuse`: one waiter at a time."""
        if fd not in self._callbacks:
            self.watch(fd, self._resume_reader)
        if self._next_is_here(fd):
            return
        assert self.current is not None
        self._reader = (fd, self.current)
        await _Suspend()
        if self._closing:
            raise ClosedResourceError

    def _next_is_here(self, fd: int) -> bool:
        """Spins for the next request while a write is going on, without leaving the worker.

        Everything else gets its turn: after `STRAIGHT_MAX` requests, as soon as another descriptor is ready or a
        task waits, and when a thread works for us, which needs the GIL more than we do.
        """
        if self._straight_n >= STRAIGHT_MAX or self._closing:
            self._straight_n = 0
            return False
        poll = self._poll.poll
        while not self._ready and not self._pending_jobs:
            events = poll(0)
            if events:
                self._straight_n += 1
                return len(events) == 1 and events[0][0] == fd
            if time.monotonic() >= self.spin_until:
                return False
        return False

    def notify_closing(self, fd: int) -> None:
        """`fd` is about to be closed: whoever waits for it gets `ClosedResourceError`."""
        self.unwatch(fd)
        self._closing = True
        if self._reader is not None:
            self._ready.append(self._reader[1])
            self._reader = None

    def _resume_reader(self) -> None:
        if self._reader is not None:
            task = self._reader[1]
            self._reader = None
            self._step(task)

    def _wait(self) -> None:
        for fd, _ in self._poll.poll(self._timeout_ms()):
            callback = self._callbacks.get(fd)
            if callback is not None:
                callback()
        if self._timers:
            self._run_timers()

    def _timeout_ms(self) -> float | None:
        if self._ready:
            return 0
        if not self._timers:
            return None
        return max(0.0, (self._timers[0][0] - time.monotonic()) * 1000)

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()

    # ---- threads ----

    def offload(self, function: Callable[[], T]) -> Awaitable[T]:
        """Returns what to await for the result of `function`, which runs in a thread."""
        waiter = Waiter(self)
        self._pending_jobs += 1
        if self._threads < min(self._pending_jobs, OFFLOAD_THREADS_MAX):
            self._threads += 1
            threading.Thread(target=self._work, name=f"offload-{self._threads}", daemon=True).start()
        self._jobs.put((function, waiter))
        return waiter

    async def _sync(self, step: LogSync) -> None:
        pace = self._pace
        if pace.is_quick and not self._pending_jobs:
            pace.timed(step)
        else:
            begun = time.monotonic()
            self._syncs.append(begun)
            try:
                await self.offload(lambda: pace.timed(step))
            finally:
                self._syncs.remove(begun)

    @property
    def sync_wait_s(self) -> float:
        """How long the oldest sync of a log has been waiting for the disk, in seconds; 0 if none is."""
        return time.monotonic() - self._syncs[0] if self._syncs else 0.0

    def _work(self) -> None:
        while True:
            function, waiter = self._jobs.get()
            try:
                outcome: tuple[Waiter, Any, BaseException | None] = (waiter, function(), None)
            except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
                outcome = (waiter, None, error)
            self._finished.append(outcome)
            os.eventfd_write(self._wake_fd, 1)

    def _collect(self) -> None:
        os.eventfd_read(self._wake_fd)
        while self._finished:
            waiter, result, error = self._finished.popleft()
            self._pending_jobs -= 1
            waiter.complete(result, error)

    # ---- pyfuse3 ----

    def install(self) -> None:
        """Makes pyfuse3 run on this loop."""
        pyfuse3.trio = SimpleNamespace(  # type: ignore[attr-defined]
            Lock=lambda: _Lock(self),
            open_nursery=lambda: _Nursery(self),
            ClosedResourceError=ClosedResourceError,
            lowlevel=SimpleNamespace(
                wait_readable=self.wait_readable,
                current_task=lambda: self.current,
                current_trio_token=lambda: self,
                notify_closing=self.notify_closing,
            ),
        )


class _Suspend:
    """Gives control back to the loop once; whoever holds the task resumes it."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        yield
