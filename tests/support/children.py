"""Starts child processes that may touch a mount, and always gets rid of them again.

A child that waits for a hung FUSE server ignores SIGKILL until the connection is aborted, so whoever starts
one says how to abort (`free`). No child outlives its time limit, and none is waited for without one.
"""

import os
import select
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

COMMAND_TIMEOUT_S = 30.0
"""A command on a mount takes milliseconds; on a machine with other load it gets this long."""

_KILL_TIMEOUT_S = 10.0


class HungChildError(AssertionError):
    """A child did not end in time: the mount hung, or what ran in the child did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A child that has ended. `code` is negative for a signal, as in `subprocess`."""

    code: int
    out: str
    err: str


def run(
    command: Sequence[str | Path],
    *,
    free: Callable[[], None],
    timeout_s: float = COMMAND_TIMEOUT_S,
    stdin: str = "",
    environment: dict[str, str] | None = None,
) -> Finished:
    """Runs a command to its end.

    Raises:
        HungChildError: the time limit passed; the child has been killed.
    """
    child = subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        env=os.environ | (environment or {}),
    )
    try:
        out, err = child.communicate(stdin, timeout_s)
    except subprocess.TimeoutExpired:
        end(child, free=free)
        raise HungChildError(f"no end after {timeout_s:.0f} s: {' '.join(map(str, command))[:300]}") from None
    return Finished(code=child.returncode, out=out, err=err)


def checked(command: Sequence[str | Path], *, free: Callable[[], None], timeout_s: float = COMMAND_TIMEOUT_S) -> str:
    """Runs a command that must succeed, and returns what it printed."""
    done = run(command, free=free, timeout_s=timeout_s)
    assert done.code == 0, f"{' '.join(map(str, command))[:300]}: exit {done.code}\n{done.err}"
    return done.out


def end(child: "subprocess.Popen[str]", *, free: Callable[[], None]) -> None:
    """Kills a child's process group and waits, aborting its mount when it does not go by itself."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    try:
        child.wait(_KILL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        free()
        child.wait(_KILL_TIMEOUT_S)
    for stream in (child.stdin, child.stdout, child.stderr):
        if stream is not None:
            try:
                stream.close()
            except BrokenPipeError:  # what was still buffered for the dead child
                pass


def kill_and_wait(pid: int) -> None:
    """Kills somebody else's child and waits until it can be reaped; its sockets close a moment earlier."""
    pidfd = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        assert poller.poll(_KILL_TIMEOUT_S * 1000)
    finally:
        os.close(pidfd)
