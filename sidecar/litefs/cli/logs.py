"""Log lines on standard error, in the two shapes of `log.format`: text and JSON.

One record is one line (a traceback adds its own lines to a text record). Both shapes carry the same
fields as the Go LiteFS writes: time (only with `log.timestamp`), level, msg; ours add the process.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

from litefs.link.settings import LogSettings

_SHOWN_BY_NUMBER = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
"""Control characters: what a peer sends must not look like a line of ours, nor steer a terminal."""


def configure(settings: LogSettings, process: str, stream: TextIO | None = None) -> None:
    """Sends every log record of this process to standard error.

    Args:
        settings: format, time stamps and level.
        process: which of the processes of a node speaks, for example "node".
        stream: where the lines go instead of standard error.
    """
    formatter = JsonFormatter if settings.format == "json" else TextFormatter
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter(process, timestamp=settings.timestamp))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    # Debug lines of ours only: those of the library for HTTP/2 hold each header, with the token.
    logging.getLogger("litefs").setLevel(logging.DEBUG if settings.debug else logging.NOTSET)


class _ProcessFormatter(logging.Formatter):
    def __init__(self, process: str, *, timestamp: bool) -> None:
        """Args: process: name put into each line; timestamp: add an ISO 8601 time in UTC."""
        super().__init__()
        self._process = process
        self._timestamp = timestamp


class TextFormatter(_ProcessFormatter):
    """`INFO node: message`, led by the time if wanted."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line of one record, followed by its traceback if it has one."""
        time = _time_of(record) + " " if self._timestamp else ""
        line = f"{time}{record.levelname} {self._process}: {record.getMessage().translate(_SHOWN_BY_NUMBER)}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(_ProcessFormatter):
    """One JSON object a line: time, level, process, msg, and error with the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the JSON of one record, without a newline."""
        fields = {"time": _time_of(record)} if self._timestamp else {}
        fields |= {"level": record.levelname, "process": self._process, "msg": record.getMessage()}
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def _time_of(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
