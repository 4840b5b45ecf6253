"""litefs.yml: what is read, what is refused, and how the refusal reads."""

import socket
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import pytest

from litefs.cli.config import find_config, load_config
from litefs.cli.config_models import Config, Durability, LeaseType, LogFormat
from litefs.errors import ConfigError

# The keys that a configuration written for LiteFS 0.5 may have, with a static lease.
FULL = """
exit-on-error: false
skip-sync: true
strict-verify: false
exec:
  - cmd: "migrate --all"
    if-candidate: true
  - cmd: "serve 'a b'"
data:
  dir: "/var/lib/litefs"
  compress: false
  retention: "1h"
  retention-monitor-interval: 5m
fuse:
  dir: "/litefs"
  allow-other: true
  debug: false
http:
  addr: ":20202"
  snapshot-timeout: 30s
proxy:
  max-lag: 10s
lease:
  type: "static"
  hostname: "node-1"
  advertise-url: "http://node-1:20202"
  candidate: true
  promote: false
  reconnect-delay: 250ms
  demote-delay: 10s
  consul:
    url: "http://localhost:8500"
    key: "litefs/primary"
    ttl: 10s
    lock-delay: 1s
log:
  format: json
  timestamp: true
  debug: true
tracing:
  enabled: true
"""
NO_VARIABLES: Mapping[str, str] = MappingProxyType({})
MINIMAL = "lease: {type: static}\n"


class Load(Protocol):
    def __call__(self, text: str, environment: Mapping[str, str] = ..., *, expand: bool = True) -> Config: ...


@pytest.fixture
def load(tmp_path: Path) -> Load:
    path = tmp_path / "litefs.yml"

    def load_text(text: str, environment: Mapping[str, str] = NO_VARIABLES, *, expand: bool = True) -> Config:
        path.write_text(text)
        return load_config(path, environment=environment, expand=expand)

    return load_text


def refusal(load: Load, text: str, environment: Mapping[str, str] = NO_VARIABLES) -> str:
    with pytest.raises(ConfigError) as caught:
        load(text, environment)
    lines = str(caught.value).splitlines()
    return "\n".join(line[line.find("litefs.yml") :] if "litefs.yml" in line else line for line in lines)


def test_reads_a_whole_litefs_configuration(load: Load) -> None:
    config = load(FULL)
    assert not config.exit_on_error
    assert config.skip_sync
    assert [entry.cmd for entry in config.exec] == ["migrate --all", "serve 'a b'"]
    assert [entry.if_candidate for entry in config.exec] == [True, False]
    assert (config.data.retention, config.data.retention_monitor_interval) == (3600, 300)
    assert not config.data.compress
    assert config.fuse.allow_other
    assert (config.http.host, config.http.port, config.http.snapshot_timeout) == ("", 20202, 30)
    assert (config.lease.type, config.lease.reconnect_delay) == (LeaseType.STATIC, 0.25)
    assert config.log.format is LogFormat.JSON


def test_defaults_are_those_of_litefs(load: Load) -> None:
    config = load(MINIMAL)
    assert (config.data.dir, config.fuse.dir) == ("/var/lib/litefs", "/litefs")
    assert config.data.compress
    assert config.data.durability is Durability.AS_ASKED
    assert (config.data.retention, config.data.retention_monitor_interval) == (600, 60)
    assert config.exit_on_error
    assert config.lease.candidate
    assert config.exec == []
    assert config.data.overlay_memory == 64 << 20
    assert (config.data.replica_retention, config.data.replica_retention_size) == (3600, 1 << 30)


def test_listens_on_loopback_unless_an_address_is_given(load: Load) -> None:
    assert load(MINIMAL).http.host == "127.0.0.1"
    assert load(MINIMAL + "http: {addr: ':20202'}").http.host == ""
    assert load(MINIMAL + "http: {addr: '[::1]:99'}").http.host == "::1"


@pytest.mark.parametrize("text", ["exec:", "exec: ''", "exec: []", "data:", "http:\n  # addr: 1"])
def test_an_empty_value_leaves_the_default(load: Load, text: str) -> None:
    config = load(MINIMAL + text)
    assert config.exec == []
    assert config == load(MINIMAL)


def test_one_command_may_stand_inline(load: Load) -> None:
    assert [entry.cmd for entry in load(MINIMAL + "exec: 'app -x'").exec] == ["app -x"]


def test_text_stays_text(load: Load) -> None:
    lease = load("lease: {type: static, hostname: no, consul: {key: 12:30}}").lease
    assert (lease.hostname, lease.consul.key) == ("no", "12:30")


@pytest.mark.parametrize(("word", "expected"), [("true", True), ("yes", True), ("On", True), ("FALSE", False)])
def test_reads_booleans_as_go_yaml_does(load: Load, word: str, expected: bool) -> None:
    assert load(MINIMAL + f"skip-sync: {word}").skip_sync is expected


def test_anchors_and_merges_work(load: Load) -> None:
    config = load("lease: &l {type: static, hostname: a}\n" + "log: {<<: &d {debug: true}, format: json}")
    assert config.log.debug
    assert config.log.format is LogFormat.JSON


def test_expands_variables_before_reading(load: Load) -> None:
    text = "lease:\n  type: static\n  candidate: ${REGION == 'ams'}\n  advertise-url: http://$PEER:1\n"
    lease = load(text, {"REGION": "fra", "PEER": "p"}).lease
    assert not lease.candidate
    assert lease.advertise_url == "http://p:1"
    assert load(MINIMAL + "exec: echo $X", {"X": "no"}, expand=False).exec[0].cmd == "echo $X"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lease: {type: static}\nfoo: 1", "litefs.yml:2: unknown key foo; known are backup, data, exec, "),
        ("lease: {type: static}\ndata:\n  dirr: 1", "litefs.yml:3: unknown key data.dirr; data knows compress, dir, "),
        (MINIMAL + "exec:\n- cmd: a\n- cmd: b\n  if: c", "litefs.yml:5: unknown key exec[1].if; exec[1] knows cmd, "),
        (MINIMAL + "exec:\n- if-candidate: true", "litefs.yml:3: exec[0].cmd is required"),
        (MINIMAL + "data: x", "litefs.yml:2: data: expected a mapping of keys to values"),
        (MINIMAL + "exec: {cmd: x}", "litefs.yml:2: exec: expected a list"),
        (MINIMAL + "data: {dir: [a]}", "litefs.yml:2: data.dir: expected text"),
        (MINIMAL + "data:\n  retention: 10", 'litefs.yml:3: data.retention: "10" is not a duration: '),
        (MINIMAL + "data:\n  retention-monitor-interval: 0s", "litefs.yml:3: data.retention-monitor-interval: input"),
        (MINIMAL + "skip-sync: maybe", 'litefs.yml:2: skip-sync: "maybe" is not a boolean: write true or false'),
        (MINIMAL + "http:\n  addr: 20202", 'litefs.yml:3: http.addr: "20202" is not an address: '),
        (
            "lease:\n  type: static\n  advertise-url: 'p:1'",
            'litefs.yml:3: lease.advertise-url: "p:1" is not the URL of ',
        ),
        ("lease: {type: static, advertise-url: 'http://:1'}", 'litefs.yml:1: lease.advertise-url: "http://:1" is not '),
        (
            "lease: {type: static, advertise-url: 'http://p:x'}",
            'litefs.yml:1: lease.advertise-url: "http://p:x" is not ',
        ),
        (MINIMAL + "http: {addr: ':70000'}", 'litefs.yml:2: http.addr: ":70000" is not an address: '),
        (MINIMAL + "data: {overlay-memory: lots}", 'litefs.yml:2: data.overlay-memory: "lots" is not a size: '),
        (MINIMAL + "data: {overlay-memory: 1KB}", "litefs.yml:2: data.overlay-memory: input should be greater than"),
        (
            MINIMAL + "data:\n  durability: full",
            "litefs.yml:3: data.durability: input should be 'as-asked' or 'every-commit'",
        ),
        (MINIMAL + "log: {format: xml}", "litefs.yml:2: log.format: input should be 'text' or 'json'"),
        (
            "lease: {type: consul, consul: {key: k}}",
            "litefs.yml: lease.consul.url and lease.consul.key are required when",
        ),
        (
            "lease: {type: consul, consul: {url: u}}",
            "litefs.yml: lease.consul.url and lease.consul.key are required when",
        ),
        ("lease: {type: static, promote: true}", "litefs.yml: lease.promote needs a lease that can move"),
        (
            "lease: {type: consul, consul: {url: 'consul:8500', key: k}}",
            "litefs.yml: lease.consul.url is not the URL of a Consul",
        ),
        ("lease: {type: consul, consul: {ttl: 10ms}}", "litefs.yml:1: lease.consul.ttl: input should be greater than"),
        ("lease: {type: raft}", "litefs.yml:1: lease.type: input should be 'consul' or 'static'"),
        ("lease:\n  hostname: x", "litefs.yml:1: lease.type is required"),
        ("", "litefs.yml: lease.type is required"),
        ("lease: {type: static, candidate: false}", "litefs.yml: lease.advertise-url is required when "),
        (MINIMAL + "skip-sync: true\nskip-sync: false", "litefs.yml:3: skip-sync is set twice"),
        ("- a", "litefs.yml:1: expected a mapping of keys to values"),
        ("a: b: c", "litefs.yml:1: mapping values are not allowed here"),
        ("? [a]\n: b", "litefs.yml:1: a key must be a plain name"),
        ("a: \x01", "litefs.yml: unacceptable character"),
    ],
)
def test_says_where_and_what_is_wrong(load: Load, text: str, expected: str) -> None:
    assert refusal(load, text).startswith(expected)


def test_names_every_fault_at_once(load: Load) -> None:
    assert len(refusal(load, MINIMAL + "foo: 1\nbar: 2\nskip-sync: 3").splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        (MINIMAL + "strict-verify: true", 2, "strict-verify"),
        ("lease:\n  type: static\n  databases: [a.db]", 3, "lease.databases"),
        (MINIMAL + "proxy:\n  target: localhost:8080", 3, "proxy.target"),
        (MINIMAL + "proxy:\n  passthrough: ['*.ico']", 3, "proxy.passthrough"),
        (MINIMAL + "backup:\n  type: file", 3, "backup.type"),
        (MINIMAL + "tracing:\n  path: /tmp/x", 3, "tracing.path"),
    ],
)
def test_refuses_by_name_what_is_not_built(load: Load, text: str, line: int, key: str) -> None:
    assert refusal(load, text) == f"litefs.yml:{line}: not supported yet: {key}"


def test_refuses_a_delay_that_nothing_would_wait_for(load: Load) -> None:
    text = refusal(load, "lease:\n  type: static\n  demote-delay: 30s\n")
    assert text.startswith("litefs.yml:3: lease.demote-delay: nothing demotes a node by command")


def test_refuses_every_key_that_is_not_built(load: Load) -> None:
    text = MINIMAL + "proxy: {target: a, addr: b, db: c}\nbackup: {type: file, path: /p}"
    expected = [(2, "proxy.addr"), (2, "proxy.target"), (2, "proxy.db"), (3, "backup.type"), (3, "backup.path")]
    lines = [f"litefs.yml:{line}: not supported yet: {key}" for line, key in expected]
    assert refusal(load, text).splitlines() == lines


def test_refuses_the_token_of_litefs_cloud(load: Load) -> None:
    assert "not supported yet: LITEFS_CLOUD_TOKEN" in refusal(load, MINIMAL, {"LITEFS_CLOUD_TOKEN": "t"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fuse: {dir: ''}", "fuse directory required"),
        ("data: {dir: ''}", "data directory required"),
        ("fuse: {dir: /d}\ndata: {dir: /d/}", "cannot be the same path"),
        ("fuse: {dir: /d}\ndata: {dir: /d/x/../y}", "cannot be inside the mount at /d"),
    ],
)
def test_checks_the_two_directories(load: Load, text: str, expected: str) -> None:
    assert expected in refusal(load, MINIMAL + text)


def test_the_name_of_the_host_is_known_though_no_variable_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell has HOSTNAME for itself, and does not tell the commands that read the configuration."""
    monkeypatch.delenv("HOSTNAME", raising=False)
    path = tmp_path / "litefs.yml"
    path.write_text(MINIMAL + "data: {dir: '/data/${HOSTNAME}'}")
    assert load_config(path).data.dir == f"/data/{socket.gethostname()}"
    monkeypatch.setenv("HOSTNAME", "another")
    assert load_config(path).data.dir == "/data/another"


def test_looks_in_three_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    (home / "litefs.yml").touch()
    assert find_config() == home / "litefs.yml"
    (tmp_path / "litefs.yml").touch()
    assert find_config() == Path("litefs.yml")


def test_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    if Path("/etc/litefs.yml").exists():
        assert find_config() == Path("/etc/litefs.yml")
        return
    with pytest.raises(ConfigError, match=r"config file not found: looked for litefs.yml, .*, /etc/litefs.yml"):
        find_config()


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yml: cannot be read: No such file or directory$"):
        load_config(tmp_path / "none.yml")
    (tmp_path / "binary.yml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.yml: cannot be read"):
        load_config(tmp_path / "binary.yml")
