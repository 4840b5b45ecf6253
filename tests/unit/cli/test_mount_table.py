"""FUSE mounts as /proc/self/mountinfo lists them."""

from litefs.cli.mount_table import abort_connection, detach_all, fuse_connections_at

TABLE = """\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 22 0:45 / /litefs rw,nosuid shared:7 - fuse litefs rw,user_id=0
31 22 0:46 / /litefs rw,nosuid - fuse.litefs litefs rw
32 22 0:47 / /litefs/sub rw - fuse litefs rw
33 22 0:48 / /data rw shared:1 master:2 - tmpfs tmpfs rw
34 22 0:49 / /with\\040space\\134x rw - fuse litefs rw
35 22 0:50 / /ctl rw - fusectl fusectl rw
"""


def test_finds_the_connections_on_a_mount_point_topmost_last() -> None:
    assert fuse_connections_at("/litefs", TABLE) == [45, 46]
    assert fuse_connections_at("/litefs/sub", TABLE) == [47]


def test_decodes_escapes() -> None:
    assert fuse_connections_at("/with space\\x", TABLE) == [49]


def test_other_file_systems_do_not_count() -> None:
    for mount_dir in ("/", "/data", "/ctl", "/litefs/", "/nothing"):
        assert fuse_connections_at(mount_dir, TABLE) == []


def test_reads_the_table_of_this_process() -> None:
    assert fuse_connections_at("/proc") == []


def test_nothing_to_detach_is_no_error(tmp_path: object) -> None:
    assert detach_all(str(tmp_path)) == 0


def test_a_connection_that_is_gone_cannot_be_aborted() -> None:
    assert not abort_connection(2**31)
