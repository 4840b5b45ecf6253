"""The plan that a configuration leads to."""

import logging

import msgspec
import pytest

from litefs.cli.config_models import Config
from litefs.cli.launch import build_plan, process_settings, warn_about_loopback
from litefs.cli.plan import Plan
from litefs.errors import ConfigError
from litefs.link.settings import FilesystemSettings, NodeSettings


def config_of(**sections: object) -> Config:
    return Config.model_validate({"lease": {"type": "static"}, **sections})


def replica_of(url: str) -> dict[str, object]:
    return {"type": "static", "candidate": "false", "hostname": "p", "advertise-url": url}


def test_translates_every_key_that_the_processes_read() -> None:
    config = config_of(
        data={
            "dir": "/d",
            "durability": "every-commit",
            "compress": "false",
            "retention": "1h",
            "retention-monitor-interval": "2m",
            "overlay-memory": "1MB",
            "segment-size": "2MB",
            "replica-retention": "2h",
            "replica-retention-size": "3MB",
        },
        fuse={
            "dir": "/m/",
            "allow-other": "true",
            "debug": "true",
            "default-permissions": "true",
            "low-latency": "true",
        },
        http={"addr": "10.0.0.1:1", "snapshot-timeout": "3s", "open-metrics": "true"},
        lease={**replica_of("http://p:1"), "reconnect-delay": "2s"},
        log={"format": "json", "timestamp": "true", "debug": "true"},
    )
    filesystem, node = process_settings(config)
    assert (filesystem.data_dir, filesystem.mount_dir, filesystem.primary) == ("/d", "/m", False)
    assert filesystem.allow_other
    assert filesystem.debug
    assert filesystem.default_permissions
    assert filesystem.low_latency
    assert not filesystem.compress
    assert (filesystem.sync_every_commit, node.sync_every_commit) == (True, True)
    assert (filesystem.overlay_memory_bytes, filesystem.segment_bytes) == (1 << 20, 2 << 20)
    assert (filesystem.retention_s, filesystem.retention_check_s) == (3600, 120)
    assert (filesystem.kept_for_replicas_bytes, node.replica_retention_s) == (3 << 20, 7200)
    assert (node.http_host, node.http_port, node.snapshot_timeout_s) == ("10.0.0.1", 1, 3)
    assert (node.primary, node.primary_url, node.hostname) == (False, "http://p:1", "p")
    assert node.reconnect_delay_s == 2
    assert node.open_metrics
    assert node.log == filesystem.log
    assert (node.log.format, node.log.timestamp, node.log.debug) == ("json", True, True)


def test_a_primary_follows_nobody_and_snapshots_take_as_long_as_retention() -> None:
    _, node = process_settings(config_of(lease={"type": "static", "advertise-url": "http://me:1"}))
    assert node.primary
    assert node.primary_url == ""
    assert node.snapshot_timeout_s == 600


def test_the_plan_survives_its_way_to_the_supervisor() -> None:
    plan = Plan.from_json(build_plan(config_of(exec="app 'a b'"), skip_unmount=True).to_json())
    assert msgspec.convert(plan.settings["filesystem"], FilesystemSettings).mount_dir == "/litefs"
    assert msgspec.convert(plan.settings["node"], NodeSettings).http_port == 20202
    assert plan.programs["node"][-2:] == ["-m", "litefs.cli.node_process"]
    assert plan.commands == [["app", "a b"]]
    assert (plan.exit_on_error, plan.skip_sync, plan.skip_unmount) == (True, False, True)
    assert (plan.log_format, plan.log_timestamp, plan.log_debug) == ("text", False, False)
    assert (plan.data_dir, plan.mount_dir) == ("/var/lib/litefs", "/litefs")


def test_commands_for_candidates_are_skipped_elsewhere() -> None:
    commands: list[dict[str, str]] = [{"cmd": "migrate", "if-candidate": "true"}, {"cmd": "serve"}]
    assert build_plan(config_of(exec=commands)).commands == [["migrate"], ["serve"]]
    assert build_plan(config_of(exec=commands, lease=replica_of("http://p"))).commands == [["serve"]]


def test_the_command_line_replaces_exec_and_is_split_again() -> None:
    assert build_plan(config_of(exec="other"), command=["app", "-x", "'a b'"]).commands == [["app", "-x", "a b"]]


def test_refuses_unbalanced_quotes() -> None:
    with pytest.raises(ConfigError, match="exec: No closing quotation"):
        build_plan(config_of(exec="app 'a"))


@pytest.mark.parametrize(
    ("addr", "url", "warned"),
    [
        (None, "http://10.0.0.1:20202", True),
        (None, "http://localhost:20202", False),
        (None, "http://[::1]:20202", False),
        (None, "", False),
        (":20202", "http://10.0.0.1:20202", False),
        ("10.0.0.1:20202", "http://10.0.0.1:20202", False),
    ],
)
def test_warns_when_replicas_cannot_reach_the_primary(
    caplog: pytest.LogCaptureFixture, addr: str | None, url: str, *, warned: bool
) -> None:
    http = {"addr": addr} if addr else {}
    with caplog.at_level(logging.WARNING):
        warn_about_loopback(config_of(http=http, lease={"type": "static", "advertise-url": url}))
    assert bool(caplog.records) is warned
