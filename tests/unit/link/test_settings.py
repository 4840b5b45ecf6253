import msgspec
import pytest

from litefs.link.settings import (
    FilesystemSettings,
    LogSettings,
    Mounted,
    NewLink,
    NodeReady,
    NodeSettings,
    SupervisorMessage,
)

FILESYSTEM = FilesystemSettings(
    link_fd=3,
    control_fd=4,
    data_dir="/data",
    mount_dir="/mnt",
    primary=True,
    retention_s=1.5,
    log=LogSettings(debug=True),
)
NODE = NodeSettings(
    link_fd=3, control_fd=4, data_dir="/data", mount_dir="/mnt", http_host="::1", http_port=0, primary=False
)


def test_settings_survive_the_environment_variable() -> None:
    assert msgspec.json.decode(msgspec.json.encode(FILESYSTEM), type=FilesystemSettings) == FILESYSTEM
    assert msgspec.json.decode(msgspec.json.encode(NODE), type=NodeSettings) == NODE


@pytest.mark.parametrize("missing", ["link_fd", "control_fd", "data_dir", "mount_dir", "primary"])
def test_what_has_no_default_must_be_there(missing: str) -> None:
    values = msgspec.to_builtins(FILESYSTEM)
    del values[missing]
    with pytest.raises(msgspec.ValidationError, match=missing):
        msgspec.convert(values, FilesystemSettings)


@pytest.mark.parametrize("message", [Mounted(55), NodeReady(), NewLink()])
def test_a_message_of_the_supervisor_is_one_line(message: SupervisorMessage) -> None:
    line = msgspec.json.encode(message)
    assert b"\n" not in line
    assert msgspec.json.decode(line, type=SupervisorMessage) == message
