import os
import socket
import struct

import pytest

from litefs.errors import CorruptStateError
from litefs.filesystem.loop import Loop
from litefs.filesystem.negotiation import AUTO_INVAL_DATA, negotiate, without_auto_inval_data

FUSE_INIT = 26
FUSE_GETATTR = 3
OTHER_FEATURES = 0x73FFE7FB & ~AUTO_INVAL_DATA


def request(opcode: int, flags: int) -> bytes:
    """A request as Linux 6 sends it: header of 40 bytes, then version 7.44, read-ahead and features."""
    header = struct.pack("=IIQQIIIHH", 104, opcode, 2, 0, 0, 0, 0, 0, 0)
    return header + struct.pack("=IIIII", 7, 44, 131072, flags, 0x3FF) + bytes(44)


def test_one_feature_is_not_offered() -> None:
    changed = without_auto_inval_data(request(FUSE_INIT, OTHER_FEATURES | AUTO_INVAL_DATA))
    assert changed == request(FUSE_INIT, OTHER_FEATURES)


def test_a_kernel_without_the_feature_is_fine() -> None:
    assert without_auto_inval_data(request(FUSE_INIT, OTHER_FEATURES)) == request(FUSE_INIT, OTHER_FEATURES)


def test_another_request_is_refused() -> None:
    with pytest.raises(CorruptStateError, match="opcode 3, expected FUSE_INIT"):
        without_auto_inval_data(request(FUSE_GETATTR, 0))


def test_the_descriptor_is_the_mounts_again_once_the_first_request_is_answered() -> None:
    loop = Loop()
    kernel, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    kernel.send(request(FUSE_INIT, OTHER_FEATURES | AUTO_INVAL_DATA))
    fuse_fd = device.fileno()
    seen: list[bytes] = []

    def send_another() -> None:
        kernel.send(b"second request")

    async def libfuse() -> None:
        while len(seen) < 2:
            await loop.wait_readable(fuse_fd)
            try:
                seen.append(os.read(fuse_fd, 65536))
            except BlockingIOError:
                continue
            os.write(fuse_fd, b"answer to FUSE_INIT" if len(seen) == 1 else b"second answer")
            if len(seen) == 1:
                loop.call_later(0.01, send_another)

    assert negotiate(loop, fuse_fd) == OTHER_FEATURES | AUTO_INVAL_DATA
    with kernel, device:
        loop.run(libfuse())
        assert seen == [request(FUSE_INIT, OTHER_FEATURES), b"second request"]
        assert kernel.recv(65536) == b"answer to FUSE_INIT"
        assert kernel.recv(65536) == b"second answer"
