"""Where a log is synced: in a thread, or on the loop while the disk is quicker than a thread."""

import errno
import threading

from litefs.filesystem.disk_pace import QUICK_S, DiskPace
from litefs.filesystem.loop import Loop
from litefs.storage.steps import LogSync, Steps


class VirtualDisk:
    """A disk whose syncs take as long as it is told, on a clock of its own."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.threads: list[str] = []

    def sync(self, duration_s: float) -> LogSync:
        def work() -> None:
            self.threads.append(threading.current_thread().name)
            self.now_s += duration_s

        return LogSync(work)

    def drive(self, durations_s: list[float]) -> list[bool]:
        """Does one sync after the other. Returns which of them stopped the loop."""

        def steps() -> Steps[None]:
            for duration_s in durations_s:
                yield self.sync(duration_s)

        loop = Loop(DiskPace(lambda: self.now_s))
        loop.run(loop.drive(steps()))
        return [name == threading.current_thread().name for name in self.threads]


def test_syncs_of_a_quick_disk_are_done_in_place_once_it_has_proved_to_be_quick() -> None:
    in_place = VirtualDisk().drive([QUICK_S / 4] * 100)
    assert not any(in_place[:30])
    assert all(in_place[60:])


def test_syncs_of_a_slow_disk_never_stop_the_loop() -> None:
    assert not any(VirtualDisk().drive([QUICK_S * 1.1] * 200))


def test_a_stall_stops_the_loop_once() -> None:
    in_place = VirtualDisk().drive([QUICK_S / 4] * 100 + [0.05] + [QUICK_S / 4] * 20)
    assert in_place[100]
    assert not any(in_place[101:])


def test_syncs_that_others_wait_beside_go_to_threads() -> None:
    disk = VirtualDisk()
    loop = Loop(DiskPace(lambda: disk.now_s))
    release = threading.Event()

    def quick() -> Steps[None]:
        for _ in range(100):
            yield disk.sync(0.0)

    async def main() -> None:
        await loop.drive(quick())
        assert disk.threads[-1] == threading.current_thread().name
        waiting = loop.offload(release.wait)
        await loop.drive(one_sync(disk))
        release.set()
        await waiting

    loop.run(main())
    assert disk.threads[-1] != threading.current_thread().name


def one_sync(disk: VirtualDisk) -> Steps[None]:
    yield disk.sync(0.0)


def test_a_sync_in_place_tells_its_error_to_the_steps() -> None:
    disk = VirtualDisk()

    def fail() -> None:
        raise OSError(errno.EIO, "disk")

    def steps() -> Steps[str]:
        for _ in range(100):
            yield disk.sync(0.0)
        try:
            yield LogSync(fail)
        except OSError as error:
            return f"seen {error.errno}"
        return "not seen"

    loop = Loop(DiskPace(lambda: disk.now_s))
    assert loop.run(loop.drive(steps())) == f"seen {errno.EIO}"


def test_the_loop_tells_how_long_the_disk_lets_a_sync_wait() -> None:
    loop = Loop()
    is_released = threading.Event()
    waits_s: list[float] = []

    def steps(sync: LogSync) -> Steps[None]:
        yield sync

    def hang() -> None:
        is_released.wait(20)

    async def watch() -> None:
        loop.spawn(loop.drive(steps(LogSync(hang))), "stuck")
        while not loop.sync_wait_s:
            await loop.yield_now()
        while len(waits_s) < 3:
            loop.spawn(loop.drive(steps(LogSync(lambda: None))), "beside")  # the oldest counts
            waits_s.append(loop.sync_wait_s)
            await loop.yield_now()
        is_released.set()
        while loop.sync_wait_s:
            await loop.yield_now()

    loop.run(watch())
    assert waits_s == sorted(waits_s)
