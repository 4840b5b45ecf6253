"""Runs commands to their end, and waits for conditions: never without a bound."""

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from e2e.errors import CommandError, NotYetError

TIMEOUT_S = 60.0
"""Of a command that takes about a second on an idle machine."""

_POLL_S = 0.1
_OUTPUT_CHARACTERS_MAX = 4000


def run(
    command: Sequence[str | Path],
    *,
    stdin: str = "",
    timeout_s: float = TIMEOUT_S,
    cwd: Path | None = None,
    with_errors: bool = False,
) -> str:
    """Returns what a command printed.

    Args:
        with_errors: on standard error too.

    Raises:
        CommandError: it ended with another code than 0, or not in its time.
    """
    words = [str(word) for word in command]
    text = " ".join(words)[:300]
    try:
        done = subprocess.run(
            words,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            cwd=cwd,
        )
    except subprocess.TimeoutExpired:
        raise CommandError(f"no end after {timeout_s:.0f} s: {text}") from None
    if done.returncode != 0:
        output = (done.stdout + done.stderr)[-_OUTPUT_CHARACTERS_MAX:]
        raise CommandError(f"exit code {done.returncode}: {text}\n{output}")
    return done.stdout + done.stderr * with_errors


def succeeds(command: Sequence[str | Path], *, timeout_s: float = TIMEOUT_S) -> bool:
    """Whether a command ends with 0 in its time."""
    try:
        run(command, timeout_s=timeout_s)
    except CommandError:
        return False
    return True


def wait_until(what: str, condition: Callable[[], bool], *, timeout_s: float) -> float:
    """Returns after how many seconds a condition was true.

    Raises:
        NotYetError: it was not, in `timeout_s`; the message says `what`.
    """
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > timeout_s:
            raise NotYetError(f"not after {timeout_s:.0f} s: {what}")
        time.sleep(_POLL_S)
    return time.monotonic() - start
