"""From a validated configuration to a running supervisor.

Strategy: this process has loaded YAML and pydantic, which the supervisor must not keep. So it writes the plan into a
memory file and replaces itself by a fresh interpreter, which inherits that file.
"""

import ipaddress
import logging
import os
import shlex
import socket
import sys
from typing import NoReturn
from urllib.parse import urlsplit

import msgspec

from litefs.cli.api_token import read_token
from litefs.cli.config_models import Config, ConsulSection, Durability, LeaseType
from litefs.cli.plan import Plan
from litefs.errors import ConfigError
from litefs.link.settings import ConsulSettings, FilesystemSettings, LogSettings, NodeSettings

_UNSET_FD = -1  # the supervisor makes the sockets and fills in their numbers
_PROCESS_MODULES = {"filesystem": "litefs.cli.filesystem_process", "node": "litefs.cli.node_process"}

_logger = logging.getLogger(__name__)


def build_plan(config: Config, *, command: list[str] | None = None, skip_unmount: bool = False) -> Plan:
    """Derives what to start from the configuration.

    Args:
        config: the configuration.
        command: the words after `--` on the command line, which replace `exec`; joined and split again like there.
        skip_unmount: leave a mount of an earlier run where it is.

    Raises:
        ConfigError: a command of `exec` has unbalanced quotes, or the token cannot be used.
    """
    filesystem, node = process_settings(config)
    return Plan(
        settings={"filesystem": msgspec.to_builtins(filesystem), "node": msgspec.to_builtins(node)},
        programs={name: [sys.executable, "-P", "-m", module] for name, module in _PROCESS_MODULES.items()},
        commands=_commands(config, command),
        exit_on_error=config.exit_on_error,
        skip_sync=config.skip_sync,
        skip_unmount=skip_unmount,
    )


def process_settings(config: Config) -> tuple[FilesystemSettings, NodeSettings]:
    """Translates the user's keys into the settings of the two processes; paths become absolute.

    Raises:
        ConfigError: there is a token, but none that can be used.
    """
    sync_every_commit = config.data.durability is Durability.EVERY_COMMIT
    log = log_settings(config)
    data_dir, mount_dir = os.path.abspath(config.data.dir), os.path.abspath(config.fuse.dir)
    lease = config.lease
    is_static = lease.type is LeaseType.STATIC
    is_primary = is_static and lease.candidate
    hostname = lease.hostname or ("" if is_static else socket.gethostname())
    own_url = lease.advertise_url or ("" if is_static else f"http://{hostname}:{config.http.port}")
    filesystem = FilesystemSettings(
        link_fd=_UNSET_FD,
        control_fd=_UNSET_FD,
        data_dir=data_dir,
        mount_dir=mount_dir,
        primary=is_primary,
        set_aside_damaged=not is_primary,
        allow_other=config.fuse.allow_other,
        default_permissions=config.fuse.default_permissions,
        low_latency=config.fuse.low_latency,
        debug=config.fuse.debug,
        compress=config.data.compress,
        sync_every_commit=sync_every_commit,
        overlay_memory_bytes=config.data.overlay_memory,
        segment_bytes=config.data.segment_size,
        retention_s=config.data.retention,
        kept_for_replicas_bytes=config.data.replica_retention_size,
        retention_check_s=config.data.retention_monitor_interval,
        log=log,
    )
    node = NodeSettings(
        link_fd=_UNSET_FD,
        control_fd=_UNSET_FD,
        data_dir=data_dir,
        mount_dir=mount_dir,
        http_host=config.http.host,
        http_port=config.http.port,
        primary=is_primary,
        primary_url=lease.advertise_url if is_static and not is_primary else "",
        hostname=hostname,
        advertise_url="" if is_static and not is_primary else own_url,
        candidate=lease.candidate,
        promote=lease.promote and lease.candidate and not is_static,
        consul=None if is_static else _consul_settings(lease.consul),
        token=read_token(os.environ, config.http.token_file),
        open_metrics=config.http.open_metrics,
        sync_every_commit=sync_every_commit,
        reconnect_delay_s=lease.reconnect_delay,
        snapshot_timeout_s=config.http.snapshot_timeout or config.data.retention,
        replica_retention_s=config.data.replica_retention,
        compress=config.data.compress,
        log=log,
    )
    return filesystem, node


def log_settings(config: Config) -> LogSettings:
    """Returns how the processes write their log lines."""
    return LogSettings(format=config.log.format.value, timestamp=config.log.timestamp, debug=config.log.debug)


def _consul_settings(consul: ConsulSection) -> ConsulSettings:
    return ConsulSettings(url=consul.url, key=consul.key, ttl_s=consul.ttl, lock_delay_s=consul.lock_delay)


def warn_about_loopback(config: Config) -> None:
    """Says so when other hosts are told to reach this primary, and its API listens on loopback only."""
    advertised = urlsplit(config.lease.advertise_url).hostname
    if config.lease.candidate and advertised and _is_loopback(config.http.host) and not _is_loopback(advertised):
        _logger.warning(
            'http.addr is "%s", so replicas cannot reach lease.advertise-url %s: '
            'set http.addr to ":%d" to listen on every interface',
            config.http.addr,
            config.lease.advertise_url,
            config.http.port,
        )


def exec_supervisor(plan: Plan) -> NoReturn:
    """Replaces this process by the supervisor.

    Raises:
        OSError: the interpreter cannot be started.
    """
    plan_fd = os.memfd_create("litefs-plan", 0)
    os.write(plan_fd, plan.to_json().encode())
    os.lseek(plan_fd, 0, os.SEEK_SET)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", "litefs.cli.supervisor", str(plan_fd)])


def _commands(config: Config, command: list[str] | None) -> list[list[str]]:
    if command:
        lines = [" ".join(command)]
    else:
        lines = [entry.cmd for entry in config.exec if config.lease.candidate or not entry.if_candidate]
    try:
        return [words for words in map(shlex.split, lines) if words]
    except ValueError as error:
        raise ConfigError(f"exec: {error}") from error


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
