"""Keeps processors from falling asleep while transactions are written.

A request is a round trip between two processes: while ours works, the application's processor has nothing to do. On a
virtual machine sleep is an exit to the host and waking up another, which together may cost more than all the rest of a
small write. As long as a descriptor of /dev/cpu_dma_latency holds the value 0, Linux polls on idle processors instead.
That is true for the whole machine and costs power, so it is an option, and it ends soon after the last write.

Source: Documentation/power/pm_qos_interface.rst.
"""

import os
import struct
import time
from collections.abc import Callable

from litefs.errors import ConfigError

DEVICE = "/dev/cpu_dma_latency"

HOLD_S = 0.02
"""How long after the last write: well above the pauses between the statements of a busy application."""

_NO_SLEEP = struct.pack("=i", 0)
_NO_DEMAND = struct.pack("=i", 2_000_000_000)  # microseconds; PM_QOS_CPU_LATENCY_DEFAULT_VALUE


class Wakefulness:
    """One demand on the machine's idle loop. It ends with the process, however that ends."""

    __slots__ = ("_call_later", "_clock", "_fd", "_until", "is_held")

    def __init__(
        self,
        call_later: Callable[[float, Callable[[], None]], None],
        clock: Callable[[], float] = time.monotonic,
        device: str = DEVICE,
    ) -> None:
        """Args: call_later: of the loop; clock: seconds.

        Raises:
            ConfigError: the device cannot be opened, or does not take a value.
        """
        self._call_later = call_later
        self._clock = clock
        self._until = 0.0
        self.is_held = False
        try:
            self._fd = os.open(device, os.O_WRONLY | os.O_CLOEXEC)
            os.write(self._fd, _NO_DEMAND)
        except OSError as error:
            raise ConfigError(
                f"fuse.low-latency: {device}: {error.strerror}; it needs root or a privileged container"
            ) from error

    def hold(self) -> None:
        """A write came: no processor sleeps for the next `HOLD_S`."""
        self._until = self._clock() + HOLD_S
        if not self.is_held:
            self.is_held = True
            os.write(self._fd, _NO_SLEEP)
            self._call_later(HOLD_S, self._release)

    def _release(self) -> None:
        left_s = self._until - self._clock()
        if left_s > 0:
            self._call_later(left_s, self._release)
        else:
            self.is_held = False
            os.write(self._fd, _NO_DEMAND)
