"""How far a transfer is: a bar on a terminal, a log line now and then elsewhere."""

import logging
import time
from collections.abc import Callable
from typing import TextIO

from litefs.cli.units import format_size

BAR_WIDTH = 30
REDRAW_S = 0.1
LOG_LINE_S = 10.0

_logger = logging.getLogger(__name__)


class Progress:
    """Counts the bytes of one transfer and shows them.

    Attributes:
        done_bytes: counted so far.
    """

    def __init__(
        self,
        label: str,
        total_bytes: int | None,
        *,
        stream: TextIO,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args: label: what is transferred; total_bytes: None if unknown; stream: gets a bar if it is a terminal."""
        self.done_bytes = 0
        self._label = label
        self._total_bytes = total_bytes
        self._stream = stream
        self._clock = clock
        self._is_terminal = stream.isatty()
        self._started_at = clock()
        self._shown_at = self._started_at

    def advance(self, size_bytes: int) -> None:
        """Counts `size_bytes` more."""
        self.done_bytes += size_bytes
        now = self._clock()
        if now - self._shown_at < (REDRAW_S if self._is_terminal else LOG_LINE_S):
            return
        self._shown_at = now
        self._show()

    def finish(self) -> None:
        """Shows the final count."""
        self._show(end="\n")

    def _show(self, end: str = "") -> None:
        if self._is_terminal:
            self._stream.write(f"\r\x1b[K{self._bar()}{end}")
            self._stream.flush()
        else:
            _logger.info("%s", self._summary())

    def _rate(self) -> float:
        return self.done_bytes / max(self._clock() - self._started_at, 1e-3)

    def _summary(self) -> str:
        of_total = f" of {format_size(self._total_bytes)}" if self._total_bytes is not None else ""
        return f"{self._label}: {format_size(self.done_bytes)}{of_total}, {format_size(self._rate())}/s"

    def _bar(self) -> str:
        if not self._total_bytes:
            return self._summary()
        part = min(self.done_bytes / self._total_bytes, 1.0)
        bar = ("#" * int(part * BAR_WIDTH)).ljust(BAR_WIDTH, ".")
        return f"{self._label} [{bar}] {part:4.0%}  {format_size(self.done_bytes)}  {format_size(self._rate())}/s"
