"""The `litefs` command: finds the subcommand, runs it, and turns its outcome into an exit code.

Strategy: a subcommand's module is imported when it is called, so that `litefs version` does not load what
`litefs mount` needs.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from litefs.cli.exit_codes import FAILURE, REFUSED, exit_code_of
from litefs.cli.flags import HelpRequestedError
from litefs.errors import ConfigError

_USAGE = """litefs replicates SQLite databases between nodes through a FUSE mount.

usage: litefs COMMAND [flags]

commands:
  mount     mount the file system, replicate, and run an application beside it
  import    copy a SQLite file into a cluster
  export    copy a database out of a cluster
  status    show the role, the lag and the databases of a node
  promote   make a node the primary
  handoff   hand the lease of a primary to another node
  ltx       list, dump or verify transaction images
  version   print the version

`litefs COMMAND -help` shows the flags of a command, examples and exit codes.
"""

_COMMAND_MODULES = {
    "mount": "litefs.cli.mount",
    "import": "litefs.cli.import_command",
    "export": "litefs.cli.export_command",
    "status": "litefs.cli.status_command",
    "promote": "litefs.cli.promote_command",
    "handoff": "litefs.cli.handoff_command",
    "ltx": "litefs.cli.ltx_command",
    "version": "litefs.cli.version_command",
}
_NOT_BUILT_YET = frozenset({"run"})


def run(arguments: Sequence[str]) -> int:
    """Runs one command line, without the program's name.

    Returns:
        The exit code.
    """
    try:
        return _dispatch(list(arguments))
    except HelpRequestedError as help_text:
        print(help_text)
        return REFUSED
    except BrokenPipeError:
        # Whoever read our output has had enough. Nothing more can be said there, not even by the flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except BaseException as error:
        code = exit_code_of(error)
        if code is None:
            if isinstance(error, SystemExit):
                raise
            traceback.print_exc()
            return FAILURE
        if not isinstance(error, KeyboardInterrupt):
            print(f"ERROR: {error}", file=sys.stderr)
        return code


def _dispatch(arguments: list[str]) -> int:
    name = arguments[0] if arguments else ""
    if name in {"", "help", "-h", "-help", "--help"}:
        raise HelpRequestedError(_USAGE.rstrip())
    if name in _NOT_BUILT_YET:
        raise ConfigError(f"not supported yet: litefs {name}")
    if name not in _COMMAND_MODULES:
        print(f"litefs {name}: unknown command\nRun 'litefs help' for usage.", file=sys.stderr)
        return FAILURE
    code: int = importlib.import_module(_COMMAND_MODULES[name]).run(arguments[1:])
    return code


def main() -> NoReturn:
    """Runs the command line of this process and exits."""
    sys.exit(run(sys.argv[1:]))
