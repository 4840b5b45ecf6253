"""Names of databases as they arrive in requests.

A name is checked here before anything else sees it; no other module of this package turns wire text into a path.
"""

from litefs.errors import FormatError
from litefs.formats import database_name


def check_database_name(name: str) -> str:
    """Returns `name` if it can be a database's name in the mount.

    Raises:
        FormatError: it cannot.
    """
    if not name:
        raise FormatError("name required")
    try:
        database_name.check_database_name(name)
    except FormatError as error:
        raise FormatError(f"invalid database name: {error}") from None
    return name
