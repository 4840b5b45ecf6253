import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from litefs.errors import ConfigError
from litefs.filesystem.wakefulness import HOLD_S, Wakefulness


class Machine:
    """A device that keeps what is written to it, and timers on a clock of its own."""

    def __init__(self, directory: Path) -> None:
        self.device = directory / "cpu_dma_latency"
        self.device.touch()
        self.now_s = 0.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def wakefulness(self) -> Wakefulness:
        return Wakefulness(self.call_later, lambda: self.now_s, str(self.device))

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self.timers.append((self.now_s + delay_s, callback))

    def advance(self, seconds: float) -> None:
        self.now_s += seconds
        due = [timer for timer in self.timers if timer[0] <= self.now_s]
        self.timers = [timer for timer in self.timers if timer[0] > self.now_s]
        for _, callback in due:
            callback()

    @property
    def demands_us(self) -> list[int]:
        return [value for (value,) in struct.iter_unpack("=i", self.device.read_bytes())]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_nothing_is_demanded_before_the_first_write(machine: Machine) -> None:
    wakefulness = machine.wakefulness()
    assert machine.demands_us == [2_000_000_000]
    assert not wakefulness.is_held


def test_one_demand_lasts_as_long_as_writes_come(machine: Machine) -> None:
    wakefulness = machine.wakefulness()
    for _ in range(20):
        wakefulness.hold()
        machine.advance(HOLD_S / 3)
    assert machine.demands_us == [2_000_000_000, 0]
    assert len(machine.timers) == 1


def test_it_ends_after_the_last_write_and_begins_again_with_the_next(machine: Machine) -> None:
    wakefulness = machine.wakefulness()
    wakefulness.hold()
    machine.advance(HOLD_S / 2)
    wakefulness.hold()
    machine.advance(HOLD_S / 2)
    assert machine.demands_us == [2_000_000_000, 0]
    machine.advance(HOLD_S)
    assert machine.demands_us == [2_000_000_000, 0, 2_000_000_000]
    assert not machine.timers
    wakefulness.hold()
    assert machine.demands_us[-1] == 0


def test_without_the_device_the_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"fuse.low-latency: .*/absent: No such file or directory; it needs root"):
        Wakefulness(lambda delay_s, callback: None, device=str(tmp_path / "absent"))
