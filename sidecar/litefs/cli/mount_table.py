"""Finds, aborts and detaches FUSE mounts without ever touching what is mounted.

Strategy: everything is learned from `/proc/self/mountinfo`, for a stat or a listing of a dead mount can block for ever.
`umount2` with MNT_DETACH looks up the mount point but asks nothing of the file system on it.

Guarantees: standard library only (the supervisor lives here); no call waits for a FUSE server.
"""

import errno
import os
import re

_MOUNTINFO = "/proc/self/mountinfo"
_ABORT_FILE = "/sys/fs/fuse/connections/{}/abort"
_OCTAL_ESCAPE = re.compile(r"\\([0-7]{3})")
_MNT_DETACH = 0x2
_UMOUNT_NOFOLLOW = 0x8


def fuse_connections_at(mount_dir: str, mountinfo: str | None = None) -> list[int]:
    """Returns the connection numbers of the FUSE mounts that sit exactly on `mount_dir`, the topmost last.

    Args:
        mount_dir: absolute path without a trailing slash.
        mountinfo: the text to search instead of the kernel's table.

    Source: `Documentation/filesystems/proc.rst`, section 3.5; the connection number is the minor device number.
    """
    if mountinfo is None:
        with open(_MOUNTINFO, encoding="utf-8", errors="surrogateescape") as table:
            mountinfo = table.read()
    found = []
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        # id parent major:minor root mountpoint options [optional …] - type source superoptions
        filesystem_type = fields[fields.index("-", 6) + 1]
        mountpoint = _OCTAL_ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[4])
        if mountpoint == mount_dir and (filesystem_type == "fuse" or filesystem_type.startswith("fuse.")):
            found.append(int(fields[2].partition(":")[2]))
    return found


def abort_connection(connection: int) -> bool:
    """Makes every request of a FUSE connection fail at once, also those that hang.

    Returns:
        Whether the kernel was told; false where fusectl is not mounted or the connection is gone already.
    """
    try:
        with open(_ABORT_FILE.format(connection), "w", encoding="ascii") as file:
            file.write("1")
    except OSError:
        return False
    return True


def detach(mount_dir: str) -> bool:
    """Takes the topmost mount off `mount_dir` now; what has files open in it keeps them.

    Returns:
        Whether a mount was taken off.

    Raises:
        OSError: there is a mount, and neither the kernel nor fusermount3 takes it off.
    """
    code = _umount2(mount_dir)
    if code in {errno.EINVAL, errno.ENOENT}:
        return False
    if code == errno.EPERM:
        code = _fusermount(mount_dir)
    if code:
        raise OSError(code, f"cannot detach the mount: {os.strerror(code)}", mount_dir)
    return True


def _umount2(mount_dir: str) -> int:
    """Returns 0 or the errno."""
    import ctypes  # noqa: PLC0415 -- a megabyte that only a detaching supervisor needs

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(mount_dir), _MNT_DETACH | _UMOUNT_NOFOLLOW) == 0:
        return 0
    return ctypes.get_errno()


def _fusermount(mount_dir: str) -> int:
    """Detaches as an ordinary user, through the setuid program. Returns 0 or an errno."""
    try:
        pid = os.posix_spawnp("fusermount3", ["fusermount3", "-u", "-z", "--", mount_dir], os.environ)
    except FileNotFoundError:
        return errno.EPERM
    _, status = os.waitpid(pid, 0)
    return errno.EPERM if status else 0


def detach_all(mount_dir: str) -> int:
    """Aborts and detaches every FUSE mount on `mount_dir`; mounts of other kinds stay.

    Returns:
        How many were detached.

    Raises:
        OSError: one cannot be detached.
    """
    count = 0
    while connections := fuse_connections_at(mount_dir):
        abort_connection(connections[-1])
        if not detach(mount_dir):
            break
        count += 1
    return count
