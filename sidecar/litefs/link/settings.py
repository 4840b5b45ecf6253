"""What the supervisor hands to each process: plain, validated values, as one JSON document.

The document arrives in the environment variable `LITEFS_SETTINGS`; the descriptors named in it are
inherited. The command line and the YAML of the user never reach these processes.
"""

import msgspec

SETTINGS_VARIABLE = "LITEFS_SETTINGS"


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a process writes its log lines to standard error."""

    format: str = "text"  # "text" or "json"
    timestamp: bool = False
    debug: bool = False


class FilesystemSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Start parameters of the filesystem process.

    Attributes:
        link_fd: our end of the socket to the node process (AF_UNIX, SOCK_STREAM).
        control_fd: our end of the socket to the supervisor; its end of file means: detach and exit.
        data_dir: absolute path of the data directory.
        mount_dir: absolute path of the mount point.
        primary: this node is the primary for ever (static lease); otherwise the node process says so.
        set_aside_damaged: go on without a database that does not add up: for a node that can follow another one.
        allow_other: other users than our own may use the mount.
        default_permissions: the kernel checks modes and owners.
        low_latency: keep the machine's processors from sleeping while transactions are written.
        debug: log every request.
        compress: write LTX images as LZ4 frames.
        sync_every_commit: answer a commit when it is durable, whatever the application asked for.
        overlay_memory_bytes: uncommitted pages kept in memory per database before they spill to disk.
        segment_bytes: size of a log segment once a database has grown to it.
        retention_s: images younger than this stay in the log after they are in the base file.
        kept_for_replicas_bytes: size of a log up to which older images stay that a replica still needs.
        retention_check_s: pause between two looks for images that are old enough to go.
        log: how to write log lines.
    """

    link_fd: int
    control_fd: int
    data_dir: str
    mount_dir: str
    primary: bool
    set_aside_damaged: bool = False
    allow_other: bool = False
    default_permissions: bool = False
    low_latency: bool = False
    debug: bool = False
    compress: bool = True
    sync_every_commit: bool = False
    overlay_memory_bytes: int = 64 << 20
    segment_bytes: int = 8 << 20
    retention_s: float = 600.0
    kept_for_replicas_bytes: int = 1 << 30
    retention_check_s: float = 60.0
    log: LogSettings = LogSettings()


class ConsulSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the lease is kept, when it is kept in Consul.

    Attributes:
        url: `http(s)://user:TOKEN@host:port/prefix`.
        key: of the lease, below the prefix.
        ttl_s: of the session.
        lock_delay_s: how long Consul refuses a new holder after one that did not release the lease.
    """

    url: str
    key: str
    ttl_s: float
    lock_delay_s: float


class NodeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Start parameters of the node process.

    Attributes:
        http_host: address to listen on.
        http_port: port to listen on; 0 picks a free one.
        primary: static lease: this node is the primary.
        primary_url: static lease, replica: where the primary is reached.
        hostname: static lease: the primary's hostname as `.primary` shows it; else this node's own.
        advertise_url: where the other nodes reach this one; "" with a static lease on a replica.
        candidate: this node may become primary.
        promote: ask for the lease once this node has caught up.
        leaves: this node was told to leave before this process began: it takes no lease.
        consul: where the lease is; None for a static one.
        token: secret that the nodes of the cluster share; "" for none.
        open_metrics: the metrics are for everybody.
        sync_every_commit: as in `FilesystemSettings`, to be shown.
        reconnect_delay_s: pause before a broken stream is opened again.
        snapshot_timeout_s: longest time that one snapshot may take to send.
        replica_retention_s: for so long a replica that went still has the log kept for it.
        compress: send snapshots as LZ4 frames.
        log: how to write log lines.
    """

    link_fd: int
    control_fd: int
    data_dir: str
    mount_dir: str
    http_host: str
    http_port: int
    primary: bool
    primary_url: str = ""
    hostname: str = ""
    advertise_url: str = ""
    candidate: bool = False
    promote: bool = False
    leaves: bool = False
    consul: ConsulSettings | None = None
    token: str = ""
    open_metrics: bool = False
    sync_every_commit: bool = False
    reconnect_delay_s: float = 1.0
    snapshot_timeout_s: float = 600.0
    replica_retention_s: float = 3600.0
    compress: bool = True
    log: LogSettings = LogSettings()


class Mounted(msgspec.Struct, frozen=True, tag="mounted"):
    """Filesystem process to supervisor: the mount answers. `device` is the connection number (st_dev minor)."""

    device: int


class NodeReady(msgspec.Struct, frozen=True, tag="node-ready"):
    """Node process to supervisor: it serves HTTP, and has caught up once (or is the primary)."""


class Leaving(msgspec.Struct, frozen=True, tag="leaving"):
    """Node process to supervisor: it was told to leave, and so is every node process that may come after it."""


class StepDown(msgspec.Struct, frozen=True, tag="step-down"):
    """Supervisor to node process: give up a lease that another node can have, and make the mount safe to detach."""


class SteppedDown(msgspec.Struct, frozen=True, tag="stepped-down"):
    """Node process to supervisor: it is done, or cannot be."""


class NewLink(msgspec.Struct, frozen=True, tag="new-link"):
    """Supervisor to filesystem process: the node process died; a new link arrives with this message.

    The descriptor of the new link is attached with SCM_RIGHTS. The node process is not reaped before this is sent.
    """


SupervisorMessage = Mounted | NodeReady | Leaving | StepDown | SteppedDown | NewLink
"""One line of JSON each, ended by a newline, in either direction of a control socket."""
