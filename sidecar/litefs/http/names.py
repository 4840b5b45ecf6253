"""Names of databases as they arrive in requests.

A name is checked here before anything else sees it; no other module of this package turns wire text into a path.
"""

from litefs.errors import FormatError
from litefs.formats import database_name
from litefs.http.errors import DatabaseNameError


def check_database_name(name: str) -> str:
    """Returns `name` if it can be a database's name in the mount.

    Raises:
        DatabaseNameError: it cannot.
    """
    if not name:
        raise DatabaseNameError("name required")
    try:
        database_name.check_database_name(name)
    except FormatError as error:
        raise DatabaseNameError(f"invalid database name: {error}") from None
    return name
