"""`litefs mount`: reads the configuration, then becomes the supervisor of a node."""

import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from litefs.cli import logs
from litefs.cli.config import find_config, load_config
from litefs.cli.config_models import Config
from litefs.cli.flags import Arguments, Flag, Usage
from litefs.cli.launch import build_plan, exec_supervisor, log_settings, warn_about_loopback
from litefs.cli.version_command import version_line
from litefs.errors import ConfigError

_logger = logging.getLogger(__name__)

USAGE = Usage(
    synopsis="litefs mount [flags] [-- CMD…]",
    text="""
Mounts the file system, replicates its databases, and runs CMD, or the commands of `exec`, once the mount is ready.
Runs until the application ends or SIGTERM or SIGINT arrives.

examples:
  litefs mount -config /etc/litefs.yml
  litefs mount -- myapp -addr :8080

exit codes:
  0    told to stop, or the application ended with 0
  1    the mount could not be set up
  2    wrong usage or a refused configuration; nothing was created
  N    the application's exit code; 128 + N when signal N ended it
  99   at start, a disk call that must not fail has failed
""",
    flags=(
        Flag(
            name="config", value_name="PATH", help="configuration; default ./litefs.yml, ~/litefs.yml, /etc/litefs.yml"
        ),
        Flag(name="no-expand-env", help="take $VAR and ${VAR} in the configuration literally"),
        Flag(name="skip-unmount", help="leave a mount of an earlier run on the mount point where it is"),
        Flag(name="fuse.debug", help="log every request of the file system"),
        Flag(name="debug", help="log debug lines"),
        Flag(name="tracing", help="not supported yet"),
    ),
    takes_command=True,
)


def run(arguments: Sequence[str]) -> int:
    """Mounts. Returns only by an exception, for this process becomes the supervisor."""
    parsed = USAGE.parse(arguments)
    if "tracing" in parsed.switches:
        raise ConfigError("not supported yet: -tracing")
    # As LiteFS does, for the applications of `exec`.
    os.environ.setdefault("HOSTNAME", socket.gethostname())
    config = _effective_config(parsed)
    plan = build_plan(config, command=parsed.command, skip_unmount="skip-unmount" in parsed.switches)
    logs.configure(log_settings(config), "litefs")
    _logger.info("%s", version_line())
    warn_about_loopback(config)
    exec_supervisor(plan)


def _effective_config(parsed: Arguments) -> Config:
    """The configuration file, with what the flags add."""
    path = Path(parsed.texts["config"]) if parsed.texts["config"] else find_config()
    config = load_config(path, expand="no-expand-env" not in parsed.switches)
    if "debug" in parsed.switches:
        config = config.model_copy(update={"log": config.log.model_copy(update={"debug": True})})
    if "fuse.debug" in parsed.switches:
        config = config.model_copy(update={"fuse": config.fuse.model_copy(update={"debug": True})})
    return config
