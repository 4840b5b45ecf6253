"""One child of the supervisor: started, listened to, signalled, reaped.

Guarantees: standard library only. A child's end is seen through its pidfd, so nothing else can reap it by accident and
waiting has a bound. Descriptors are passed on to exactly one child.
"""

import os
import select
import signal
import socket

# What Python ignores at start must not stay ignored in a program that it starts.
_DEFAULT_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)


class Child:
    """A running (or ended, not yet reaped) child process.

    Attributes:
        name: for the log.
        pid: its process id, ours until `reap`.
        pidfd: becomes readable when it has ended.
        control: our end of its control socket, non-blocking; None for an application.
        started_at: monotonic seconds.
    """

    __slots__ = ("_received", "control", "name", "pid", "pidfd", "started_at")

    def __init__(self, name: str, pid: int, control: socket.socket | None, started_at: float) -> None:
        self.name = name
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.control = control
        self.started_at = started_at
        self._received = b""

    def receive_lines(self) -> list[bytes]:
        """Returns the whole lines that the child has sent; closes the control socket at its end."""
        if self.control is None:
            return []
        try:
            data = self.control.recv(65536)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self.close_control()
            return []
        *lines, self._received = (self._received + data).split(b"\n")
        return lines

    def send(self, line: bytes, descriptors: list[int]) -> bool:
        """Sends one line with descriptors attached to its first byte; never waits.

        Returns:
            Whether it was taken: false when the child does not read, or is gone.
        """
        if self.control is None:
            return False
        try:
            return socket.send_fds(self.control, [line], descriptors) == len(line)
        except OSError:
            return False

    def close_control(self) -> None:
        """Closes the control socket: the child sees its end of file and winds itself up."""
        if self.control is not None:
            self.control.close()
            self.control = None

    def kill(self, number: int) -> None:
        """Sends a signal. The pid is not reaped, so it is still this child's."""
        os.kill(self.pid, number)

    def wait(self, timeout_s: float) -> bool:
        """Waits until the child has ended, at most `timeout_s` seconds. Returns whether it has."""
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        return bool(poller.poll(timeout_s * 1000))

    def reap(self) -> int:
        """Collects the ended child.

        Returns:
            Its exit code; -N when signal N ended it.
        """
        _, status = os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        self.close_control()
        return os.waitstatus_to_exitcode(status)


def spawn(
    argv: list[str],
    *,
    environment: dict[str, str],
    pass_fds: tuple[int, ...] = (),
    own_group: bool = True,
) -> int:
    """Starts a program with /dev/null as its input.

    Args:
        argv: program (looked up in PATH) and arguments.
        environment: the child's variables.
        pass_fds: descriptors that the child inherits under the same numbers.
        own_group: keep the terminal's Ctrl-C away from it.

    Returns:
        The pid.

    Raises:
        OSError: the program cannot be started.
    """
    for fd in pass_fds:
        os.set_inheritable(fd, True)
    try:
        actions = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)]
        if own_group:
            return os.posix_spawnp(
                argv[0], argv, environment, file_actions=actions, setsigdef=_DEFAULT_SIGNALS, setpgroup=0
            )
        return os.posix_spawnp(argv[0], argv, environment, file_actions=actions, setsigdef=_DEFAULT_SIGNALS)
    finally:
        for fd in pass_fds:
            os.set_inheritable(fd, False)


def reap_orphans(known_pids: set[int]) -> None:
    """Reaps ended processes that init must adopt, without touching the children in `known_pids`.

    An ended known child hides orphans behind it; it is reaped by its owner and the next call goes on.
    """
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None or ended.si_pid in known_pids:
            return
        os.waitpid(ended.si_pid, 0)
