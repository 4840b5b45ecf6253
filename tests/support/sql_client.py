"""Drives an application process (`sql_worker.py`) from a test.

Everything SQLite does happens in the child: the test process never touches the mount. A call has a time limit;
when it passes, the mount is aborted and the test fails. A child that dies by a signal fails the test with the
signal's name, so a SIGBUS cannot go unnoticed.
"""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.support.children import COMMAND_TIMEOUT_S, HungChildError, end

_WORKER = Path(__file__).with_name("sql_worker.py")

Rows = list[list[object]]


class SqlError(Exception):
    """SQLite refused a statement. `name` is the extended result code, `SQLITE_BUSY` for example."""

    def __init__(self, name: str, text: str) -> None:
        """Keeps code and message apart."""
        super().__init__(f"{name}: {text}")
        self.name = name
        self.text = text


class SqlProcess:
    """One application process with any number of connections.

    Args:
        free: aborts the mount under test.
        environment: added to the child's environment.
        prefix: a command that starts the child, for example `setpriv ...`.
    """

    def __init__(
        self, *, free: Callable[[], None], environment: dict[str, str] | None = None, prefix: tuple[str, ...] = ()
    ) -> None:
        """Starts the process."""
        self._free = free
        self._buffer = b""
        self._child = subprocess.Popen(
            [*prefix, sys.executable, "-I", "-S", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=os.environ | (environment or {}),
        )

    @property
    def pid(self) -> int:
        """The process id of the application."""
        return self._child.pid

    def call(self, operation: str, *arguments: object, timeout_s: float = COMMAND_TIMEOUT_S) -> Rows:
        """Has the process do one thing and waits for the answer.

        Raises:
            SqlError: SQLite refused it.
            HungChildError: no answer in time; the mount has been aborted and the process killed.
            AssertionError: the process died.
        """
        self.send(operation, *arguments)
        return self.receive(timeout_s=timeout_s)

    def send(self, operation: str, *arguments: object) -> None:
        """Has the process begin one thing; `receive` gets the answer."""
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps([operation, *arguments]).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise AssertionError(self._death()) from None

    def receive(self, *, timeout_s: float = COMMAND_TIMEOUT_S) -> Rows:
        """Waits for the answer to the last `send`; raises as `call` does."""
        answer = json.loads(self._read_line(timeout_s))
        if "error" in answer:
            raise SqlError(answer["error"], answer["text"])
        rows: Rows = answer["rows"]
        return rows

    def kill(self) -> None:
        """Ends the process with SIGKILL, in the middle of whatever it does."""
        end(self._child, free=self._free)  # type: ignore[arg-type]  # bytes or text makes no difference to it

    def close(self) -> None:
        """Lets the process end by itself: standard input ends, connections are not closed."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        try:
            code = self._child.wait(COMMAND_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise HungChildError("the application did not end") from None
        message = self._death() if code else ""
        self.kill()
        assert not code, message

    def _read_line(self, timeout_s: float) -> bytes:
        assert self._child.stdout is not None
        descriptor = self._child.stdout.fileno()
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([descriptor], [], [], timeout_s)
            if not ready:
                self._free()
                self.kill()
                raise HungChildError(f"no answer from the application after {timeout_s:.0f} s")
            chunk = os.read(descriptor, 1 << 20)
            if not chunk:
                raise AssertionError(self._death())
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _death(self) -> str:
        code = self._child.wait(COMMAND_TIMEOUT_S)
        what = signal.Signals(-code).name if code < 0 else f"exit {code}"
        assert self._child.stderr is not None
        return f"the application died: {what}\n{self._child.stderr.read().decode(errors='replace')[-2000:]}"
