"""One filesystem process on a real mount, without supervisor, node process or HTTP.

Strategy: the test stands in for the supervisor (the control socket) and for a silent node process (the link), so
a primary that nobody follows is complete with one process. Teardown detaches the mount first and then ends the
process by its pid; a process that does not end has its connection aborted.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import msgspec

from litefs.link.settings import SETTINGS_VARIABLE, FilesystemSettings, LogSettings
from tests.support.fuse_mounts import abort, connection_number, detach

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0

REPOSITORY = Path(__file__).resolve().parents[2]


class NodeFailedError(AssertionError):
    """The node did not start, did not stop, or died; the message ends with its log."""


class FilesystemNode:
    """The filesystem process of a static primary (or of a replica that hears from nobody).

    Attributes:
        mount_dir: where applications open databases; the test process never touches it.
        data_dir: the data directory, which the test may read.
        log_path: standard error of the process, of all its starts.
    """

    def __init__(self, root: Path, *, primary: bool = True, settings: dict[str, object] | None = None) -> None:
        """Makes the directories; starts nothing.

        Args:
            root: an empty directory of this node's own.
            primary: whether commits are allowed.
            settings: fields of `FilesystemSettings` that differ from their defaults.
        """
        root = root.resolve()
        self.mount_dir = root / "mnt"
        self.data_dir = root / "data"
        self.log_path = root / "filesystem.log"
        self.environment: dict[str, str] = {}
        self._primary = primary
        self._settings = settings or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._sockets: list[socket.socket] = []
        for directory in (self.mount_dir, self.data_dir):
            directory.mkdir(parents=True, exist_ok=True)

    @property
    def pid(self) -> int:
        """The process id of the filesystem process."""
        assert self._process is not None, "the node is not running"
        return self._process.pid

    def start(self) -> None:
        """Starts the process and returns when the mount is there.

        Raises:
            NodeFailedError: it ended, or did not mount in time.
        """
        self._await_mounted(self.launch())

    def launch(self) -> socket.socket:
        """Starts the process. Returns the supervisor's end of its control socket, which stays the node's."""
        control, control_end = socket.socketpair()
        link, link_end = socket.socketpair()
        self._sockets = [control, link]
        settings = FilesystemSettings(
            link_fd=link_end.fileno(),
            control_fd=control_end.fileno(),
            data_dir=str(self.data_dir),
            mount_dir=str(self.mount_dir),
            primary=self._primary,
            log=LogSettings(timestamp=True, debug=False),
        )
        settings = msgspec.structs.replace(settings, **self._settings)
        path = os.pathsep.join([str(REPOSITORY / "sidecar"), os.environ.get("PYTHONPATH", "")])
        environment = {SETTINGS_VARIABLE: msgspec.json.encode(settings).decode(), "PYTHONPATH": path}
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "litefs.cli.filesystem_process"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(link_end.fileno(), control_end.fileno()),
                env=os.environ | environment | self.environment,
                start_new_session=True,
            )
        control_end.close()
        link_end.close()
        # Nobody listens to the node end, but a full socket must not look like a slow node.
        threading.Thread(target=_drain, args=(link,), daemon=True).start()
        return control

    def kill(self) -> None:
        """Ends the filesystem process with SIGKILL and detaches the dead mount, as the supervisor would."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._reap()
        self._close_sockets()
        detach(self.mount_dir)

    def stop(self) -> None:
        """Detaches the mount and winds the process up; safe to call in any state."""
        detach(self.mount_dir)
        self._close_sockets()  # end of file on the control socket means: detach and exit
        if self._process is not None:
            self._process.terminate()
            self._reap()

    def restart(self) -> None:
        """Stops in good order and starts again on the same data directory."""
        self.stop()
        self.start()

    def free(self) -> None:
        """Aborts the connection, so that whatever waits for this mount gets an error."""
        abort(self.mount_dir)

    @property
    def exit_code(self) -> int | None:
        """Of the process; None while it runs."""
        return self._process.poll() if self._process is not None else None

    @property
    def is_alive(self) -> bool:
        """Whether the process runs and its mount is there."""
        running = self._process is not None and self._process.poll() is None
        return running and connection_number(self.mount_dir) is not None

    def log_text(self) -> str:
        """Returns all log lines so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def _await_mounted(self, control: socket.socket) -> None:
        control.settimeout(START_TIMEOUT_S)
        buffer = b""
        try:
            while b"\n" not in buffer:
                chunk = control.recv(4096)
                if not chunk:
                    raise NodeFailedError(f"the filesystem process ended before it mounted\n{self._log_tail()}")
                buffer += chunk
        except TimeoutError:
            self.stop()
            raise NodeFailedError(f"no mount after {START_TIMEOUT_S:.0f} s\n{self._log_tail()}") from None
        message = json.loads(buffer.partition(b"\n")[0])
        assert message["type"] == "mounted", message

    def _reap(self) -> None:
        assert self._process is not None
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.free()
            self._process.kill()
            self._process.wait(STOP_TIMEOUT_S)
            raise NodeFailedError(f"the filesystem process did not end\n{self._log_tail()}") from None

    def _close_sockets(self) -> None:
        for end in self._sockets:
            try:
                end.shutdown(socket.SHUT_RDWR)  # wakes the draining thread, which close alone does not
            except OSError:  # the process has gone first
                pass
            end.close()
        self._sockets = []

    def _log_tail(self) -> str:
        return "\n".join(self.log_text().splitlines()[-40:])


def _drain(link: socket.socket) -> None:
    try:
        while link.recv(1 << 16):
            pass
    except OSError:  # closed by the test
        return
