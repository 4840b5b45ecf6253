"""What the mount still does when it is about to go."""

import errno
import os

from litefs.link import messages as m
from tests.support.fuseless_link import Link
from tests.support.fuseless_mount import NODE, ROOT, context


def test_applications_open_nothing_and_no_shared_memory_grows(link: Link) -> None:
    link.greet()
    link.mount.create("a.db")
    shm = link.mount.create("a.db-shm")
    link.mount.write(shm, 0, bytes(4096))
    assert link.received() == [m.ShmCreated("a.db")]
    assert link.ask(m.RefuseOpens()) == [m.OpensRefused(["a.db-shm"])]
    operations, inodes = link.mount.operations, link.mount.inodes
    number = inodes.by_name["a.db-shm"].number
    assert link.mount.errno(operations.open(number, os.O_RDWR, context())) == errno.ENOTCONN
    create = operations.create(ROOT, b"b.db-shm", 0o644, os.O_RDWR, context())
    assert link.mount.errno(create) == errno.ENOTCONN
    assert link.mount.errno(operations.write(shm, 4095, bytes(2))) == errno.ENOTCONN
    link.mount.write(shm, 0, b"\1" * 4096)
    assert link.mount.read(link.mount.open("a.db-shm", os.O_RDONLY, ctx=NODE), 0, 9999) == b"\1" * 4096
