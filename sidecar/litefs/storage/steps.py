"""Work that may take long, written once and driven by whoever has a loop.

A generator of steps yields `None` where others may run, and a callable where the disk has to be waited
for: the driver runs it off the loop and sends back what it returned, or throws what it raised.
The filesystem drives steps from its coroutines, tests and recovery with `run`.
"""

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LogSync:
    """A step that an application waits for and that quick disks do in less time than a thread takes to wake up."""

    work: Callable[[], None]

    def __call__(self) -> None:
        """Does it."""
        self.work()


Step = Callable[[], Any] | None
Steps = Generator[Step, Any, T]


PAUSE_S = 0.001


def pause() -> None:
    """A step that only waits: to look again in a moment whether others are done."""
    time.sleep(PAUSE_S)


def run(steps: Steps[T]) -> T:
    """Drives steps to their end in this thread. Returns what they return."""
    try:
        step = next(steps)
        while True:
            if step is None:
                step = steps.send(None)
                continue
            try:
                result = step()
            except Exception as error:  # noqa: BLE001 - whatever it is, the steps are to see it
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as stop:
        value: T = stop.value
        return value
