"""Finds, aborts and detaches FUSE mounts without ever touching them.

A process that calls stat on a hung mount cannot be killed, and a test run would hang with it. So all
knowledge comes from `/proc/self/mountinfo` (its text is produced by the kernel alone), the connection is aborted
through the control file system of FUSE, and detaching is left to a child process with a time limit.
"""

import shutil
import subprocess
import threading
from pathlib import Path

_CONTROL = Path("/sys/fs/fuse/connections")
_DETACH_TIMEOUT_S = 10.0


def connection_number(mount_dir: Path) -> int | None:
    """Returns the number of the FUSE connection mounted at `mount_dir`, or None when nothing is mounted there.

    Of several mounts on top of each other it is the topmost.
    """
    wanted = str(mount_dir)
    found = None
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        if _unescape(fields[4]) == wanted and right.split()[0].startswith("fuse"):
            found = int(fields[2].partition(":")[2])
    return found


def abort(mount_dir: Path) -> None:
    """Ends the FUSE connection at `mount_dir`: every waiting request fails, and its process can be killed."""
    number = connection_number(mount_dir)
    if number is None:
        return
    if not any(_CONTROL.iterdir()):
        subprocess.run(["mount", "-t", "fusectl", "none", str(_CONTROL)], timeout=_DETACH_TIMEOUT_S, check=False)
    try:
        (_CONTROL / str(number) / "abort").write_text("1\n")
    except FileNotFoundError:
        return


def detach(mount_dir: Path) -> None:
    """Takes every mount at `mount_dir` out of the tree, whatever state its server is in."""
    command = ["umount", "-l"] if shutil.which("umount") else ["fusermount3", "-u", "-z"]
    while connection_number(mount_dir) is not None:
        done = subprocess.run([*command, str(mount_dir)], timeout=_DETACH_TIMEOUT_S, capture_output=True, check=False)
        # Its server may have detached it in between.
        if done.returncode and connection_number(mount_dir) is not None:
            raise OSError(f"{mount_dir} cannot be detached: {done.stderr.decode(errors='replace').strip()}")


class Watchdog:
    """Aborts the connection at a mount point when it is not called off in time."""

    def __init__(self, mount_dir: Path, seconds: float) -> None:
        """Starts the clock."""
        self.fired = False
        self._mount_dir = mount_dir
        self._timer = threading.Timer(seconds, self._fire)
        self._timer.daemon = True
        self._timer.start()

    def call_off(self) -> None:
        """Stops the clock; a watchdog that has fired stays fired."""
        self._timer.cancel()

    def _fire(self) -> None:
        self.fired = True
        abort(self._mount_dir)


def _unescape(field: str) -> str:
    """Undoes the octal escapes of mountinfo (blank, tab, newline, backslash)."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field
