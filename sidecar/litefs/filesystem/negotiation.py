"""Takes one feature out of what the kernel offers libfuse: dropping cached pages because of a time stamp.

libfuse wants every feature that it knows, and pyfuse3 has no say in it. With `AUTO_INVAL_DATA` the kernel drops all
cached pages of a file when it learns of a modification time it did not expect; each write brings one, and SQLite asks
for the attributes after each write. So every commit would empty the cache of the whole database, for its writer and for
all its readers, and drop pages of a `-shm` that connections have mapped: whoever touches one of those after our death
is killed by SIGBUS. All changes come through the mount, so the kernel's pages are never wrong.

Strategy: the first request of a mount, FUSE_INIT, and its answer pass through our hands. Its descriptor number is
lent to a socket meanwhile, from which libfuse reads the request as we want it.

Source: include/uapi/linux/fuse.h (fuse_in_header, fuse_init_in); fs/fuse/inode.c (fuse_change_attributes_i).
"""

import os
import socket
import struct

from litefs.errors import CorruptStateError
from litefs.filesystem.loop import Loop

AUTO_INVAL_DATA = 1 << 12
NO_OPENDIR_SUPPORT = 1 << 24
"""A directory whose opening was answered ENOSYS can be listed nevertheless (Linux 5.1)."""

_FUSE_INIT = 26
_OPCODE_OFFSET = 4
_FLAGS_OFFSET = 52
_REQUEST_BYTES_MAX = 1 << 20  # the kernel refuses to fill a buffer that its largest request might not fit into


def negotiate(loop: Loop, fuse_fd: int) -> int:
    """Has FUSE_INIT answered without `AUTO_INVAL_DATA`, as soon as libfuse reads `fuse_fd`.

    Args:
        loop: will run libfuse.
        fuse_fd: of a mount that was just made; neither it nor its number is closed.

    Returns:
        The features that the kernel offers.

    Raises:
        CorruptStateError: the first request is not FUSE_INIT.
    """
    kernel_fd = os.dup(fuse_fd)
    request = os.read(kernel_fd, _REQUEST_BYTES_MAX)
    os.set_blocking(kernel_fd, False)
    ours, libfuse_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with libfuse_end:
        libfuse_end.setblocking(False)
        os.dup2(libfuse_end.fileno(), fuse_fd, inheritable=False)
    ours.send(without_auto_inval_data(request))

    def pass_answer_on() -> None:
        os.write(kernel_fd, ours.recv(_REQUEST_BYTES_MAX))
        # Before the socket ends: libfuse would take its end of file for that of the mount.
        os.dup2(kernel_fd, fuse_fd, inheritable=False)
        loop.unwatch(ours.fileno())
        os.close(kernel_fd)
        ours.close()

    loop.watch(ours.fileno(), pass_answer_on)
    return _features(request)


def without_auto_inval_data(request: bytes) -> bytes:
    """Returns a FUSE_INIT request that does not offer the feature.

    Raises:
        CorruptStateError: it is another request.
    """
    (opcode,) = struct.unpack_from("=I", request, _OPCODE_OFFSET)
    if opcode != _FUSE_INIT:
        raise CorruptStateError(f"the first request of the mount has opcode {opcode}, expected FUSE_INIT")
    changed = bytearray(request)
    struct.pack_into("=I", changed, _FLAGS_OFFSET, _features(request) & ~AUTO_INVAL_DATA)
    return bytes(changed)


def _features(request: bytes) -> int:
    (flags,) = struct.unpack_from("=I", request, _FLAGS_OFFSET)
    return int(flags)
