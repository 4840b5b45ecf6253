"""`litefs version`."""

from collections.abc import Sequence

from litefs.cli.flags import Usage
from litefs.version import VERSION

USAGE = Usage(synopsis="litefs version", text="Prints the version. Exit codes: 0, 2 wrong usage.")


def version_line() -> str:
    """Returns the version as the first log line of a mount shows it, too."""
    return f"LiteFS v{VERSION}"


def run(arguments: Sequence[str]) -> int:
    """Prints the version."""
    USAGE.parse(arguments)
    print(version_line())
    return 0
