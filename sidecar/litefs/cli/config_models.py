"""The keys of litefs.yml: their types, their defaults, and which of them are not built yet.

Strategy: each section is a frozen pydantic model that forbids unknown keys, as LiteFS does. Scalars arrive as the text
that stands in the file (`config.py` keeps it), so that a hostname called `no` stays one; the types below read it.

Source: LiteFS 0.5.14, `cmd/litefs/config.go` and `etc/litefs.yml`. Keys of our own: `data.durability`,
`data.overlay-memory`, `data.replica-retention`, `data.replica-retention-size`, `data.segment-size`,
`fuse.default-permissions`, `fuse.low-latency`, `http.open-metrics`, `http.token-file`.
"""

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from litefs.cli.units import parse_duration, parse_size

DEMOTE_DELAY_S = 10.0
"""LiteFS's default."""

_TRUE_WORDS = frozenset({"true", "yes", "on", "y"})
_FALSE_WORDS = frozenset({"false", "no", "off", "n"})
_ADDRESS = re.compile(r"(?:\[(?P<bracketed>[^\]]*)\]|(?P<plain>[^:]*)):(?P<port>\d{1,5})", re.ASCII)


def _parse_bool(value: object) -> object:
    """Reads the words that a YAML reader of Go takes for a boolean field."""
    if not isinstance(value, str):
        return value
    if value.lower() in _TRUE_WORDS:
        return True
    if value.lower() in _FALSE_WORDS:
        return False
    raise ValueError(f'"{value}" is not a boolean: write true or false')


def _parse_duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


def _parse_size(value: object) -> object:
    return parse_size(value) if isinstance(value, str) else value


def _check_address(value: str) -> str:
    """Accepts what Go listens on: `host:port`, `[v6]:port`, and `:port` for every interface."""
    match = _ADDRESS.fullmatch(value)
    if match is None or int(match["port"]) > 65535:
        raise ValueError(f'"{value}" is not an address: write "host:port", or ":port" for every interface')
    return value


def _check_node_url(value: str) -> str:
    """Accepts what leads to a host: nodes would take any other for one of this machine."""
    if value and not _leads_to_a_host(value):
        raise ValueError(f'"{value}" is not the URL of a node: write "http://HOST:PORT"')
    return value


def _leads_to_a_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _check_demote_delay(value: float) -> float:
    """Refuses what would have an effect, if it had any: no command of LiteFS demotes a node."""
    if value != DEMOTE_DELAY_S:
        raise ValueError(
            "nothing demotes a node by command, so there is nothing to wait for: leave the key out "
            "(after a handoff a node is a candidate again at once; `litefs handoff -leave` makes it one no more)"
        )
    return value


def _exec_commands(value: object) -> object:
    """Lets `exec: CMD` stand for a list of one command."""
    if not isinstance(value, str):
        return value
    return [{"cmd": value}] if value.strip() else []


Flag = Annotated[bool, BeforeValidator(_parse_bool)]
DurationS = Annotated[float, BeforeValidator(_parse_duration)]
SizeBytes = Annotated[int, BeforeValidator(_parse_size)]


class LeaseType(StrEnum):
    """How the nodes agree on the primary."""

    CONSUL = "consul"
    STATIC = "static"


class Durability(StrEnum):
    """Which commits are answered only when they are on the disk: those that the application asks it for, or all."""

    AS_ASKED = "as-asked"
    EVERY_COMMIT = "every-commit"


class LogFormat(StrEnum):
    """How a log line is written."""

    TEXT = "text"
    JSON = "json"


class Section(BaseModel):
    """One mapping of litefs.yml; its keys are the field names with dashes."""

    model_config = ConfigDict(
        alias_generator=lambda name: name.replace("_", "-"),
        extra="forbid",
        frozen=True,
        validate_by_name=False,
    )


class ExecCommand(Section):
    """A command that runs once the mount is ready; `if-candidate` skips it on nodes that cannot become primary."""

    cmd: str
    if_candidate: Flag = False


class DataSection(Section):
    """Where the databases and their log are kept, and for how long."""

    dir: str = "/var/lib/litefs"
    durability: Durability = Durability.AS_ASKED
    compress: Flag = True
    retention: DurationS = 600.0
    # LiteFS keeps images for ever at 0 or less; that is not supported yet.
    retention_monitor_interval: DurationS = Field(default=60.0, gt=0)
    replica_retention: DurationS = 3600.0
    replica_retention_size: SizeBytes = 1 << 30
    overlay_memory: SizeBytes = Field(default=64 << 20, ge=1 << 20)
    segment_size: SizeBytes = Field(default=8 << 20, ge=64 << 10)


class FuseSection(Section):
    """The mount."""

    dir: str = "/litefs"
    allow_other: Flag = False
    debug: Flag = False
    default_permissions: Flag = False
    low_latency: Flag = False


class HttpSection(Section):
    """The HTTP API. Without `addr` it listens on loopback only, for without a token everybody may use it."""

    addr: Annotated[str, BeforeValidator(_check_address)] = "127.0.0.1:20202"
    snapshot_timeout: DurationS = 0.0
    token_file: str = ""
    open_metrics: Flag = False

    @property
    def host(self) -> str:
        """The host part of `addr`, without brackets; empty means every interface."""
        host, _, _ = self.addr.rpartition(":")
        return host.strip("[]")

    @property
    def port(self) -> int:
        """The port of `addr`."""
        return int(self.addr.rpartition(":")[2])


class ProxySection(Section):
    """The built-in HTTP proxy. Not built yet."""

    addr: str = ""
    target: str = ""
    db: str = ""
    max_lag: DurationS = 10.0
    debug: Flag = False
    passthrough: list[str] = []
    always_forward: list[str] = []
    primary_redirect_timeout: DurationS = 5.0
    read_timeout: DurationS = 0.0
    read_header_timeout: DurationS = 10.0
    write_timeout: DurationS = 0.0
    idle_timeout: DurationS = 30.0


class ConsulSection(Section):
    """The lease in Consul; read when `lease.type` is consul."""

    url: str = ""
    key: str = ""
    # Consul's own minimum is 10 s, unless its session_ttl_min is lowered; below a second a renewal is a matter of luck.
    ttl: DurationS = Field(default=10.0, ge=1.0)
    lock_delay: DurationS = Field(default=1.0, ge=0.0)


class LeaseSection(Section):
    """Which node is the primary."""

    type: LeaseType
    hostname: str = ""
    advertise_url: Annotated[str, AfterValidator(_check_node_url)] = ""
    candidate: Flag = True
    promote: Flag = False
    reconnect_delay: DurationS = Field(default=1.0, ge=0)
    demote_delay: Annotated[DurationS, AfterValidator(_check_demote_delay)] = DEMOTE_DELAY_S
    databases: list[str] = []
    consul: ConsulSection = ConsulSection()


class BackupSection(Section):
    """Continuous backup. Not built yet."""

    type: str = ""
    path: str = ""
    url: str = "https://litefs.fly.io"
    cluster: str = ""
    auth_token: str = ""


class LogSection(Section):
    """The log on standard error."""

    format: LogFormat = LogFormat.TEXT
    timestamp: Flag = False
    debug: Flag = False


class TracingSection(Section):
    """The trace file. Not built yet."""

    enabled: Flag = True
    path: str = ""
    max_size: int = 64
    max_count: int = 8
    compress: Flag = True


class Config(Section):
    """A whole litefs.yml, valid once built."""

    exit_on_error: Flag = True
    skip_sync: Flag = False
    strict_verify: Flag = False
    exec: Annotated[list[ExecCommand], BeforeValidator(_exec_commands)] = []
    data: DataSection = DataSection()
    fuse: FuseSection = FuseSection()
    http: HttpSection = HttpSection()
    proxy: ProxySection = ProxySection()
    lease: LeaseSection
    backup: BackupSection = BackupSection()
    log: LogSection = LogSection()
    tracing: TracingSection = TracingSection()

    @model_validator(mode="after")
    def _replica_knows_its_primary(self) -> Self:
        if self.lease.type is LeaseType.STATIC and not self.lease.candidate and not self.lease.advertise_url:
            raise ValueError(
                "lease.advertise-url is required when lease.type is static and lease.candidate is false: "
                "it is the URL of the primary"
            )
        return self

    @model_validator(mode="after")
    def _lease_in_consul_has_a_place(self) -> Self:
        lease = self.lease
        if lease.type is LeaseType.CONSUL:
            if not lease.consul.url or not lease.consul.key.strip("/"):
                raise ValueError("lease.consul.url and lease.consul.key are required when lease.type is consul")
            if not _leads_to_a_host(lease.consul.url):
                raise ValueError('lease.consul.url is not the URL of a Consul: write "http://HOST:PORT"')
        elif lease.promote:
            raise ValueError("lease.promote needs a lease that can move: lease.type is static")
        return self


# A key listed here is refused as soon as its value would make a difference, that is, when it is not the default.
# What LiteFS itself leaves unread (lease.consul with a static lease, tracing.enabled without a path) is not listed.
NOT_BUILT_YET = (
    "strict-verify",
    "proxy",
    "lease.databases",
    "backup",
    "tracing.path",
    "tracing.max-size",
    "tracing.max-count",
    "tracing.compress",
)


def keys_not_built_yet(config: Config) -> Iterator[str]:
    """Yields the dotted keys of `config` that ask for something that this version does not do, in file order.

    A key counts when it is set to something else than its default.
    """
    for dotted in NOT_BUILT_YET:
        section: Section = config
        *parents, name = dotted.split(".")
        for parent in parents:
            section = getattr(section, parent)
        yield from _differing_keys(section, name, dotted)


def _differing_keys(section: Section, name: str, dotted: str) -> Iterator[str]:
    field_name = name.replace("-", "_")
    value = getattr(section, field_name)
    if isinstance(value, Section):
        for key in type(value).model_fields:
            yield from _differing_keys(value, key, f"{dotted}.{key.replace('_', '-')}")
    elif value != type(section).model_fields[field_name].default:
        yield dotted
