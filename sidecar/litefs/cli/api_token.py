"""The secret that the nodes of a cluster, and the commands that speak to them, may share."""

from collections.abc import Mapping
from pathlib import Path

from litefs.errors import ConfigError

TOKEN_VARIABLE = "LITEFS_TOKEN"  # noqa: S105 - the name of it
TOKEN_FILE_VARIABLE = "LITEFS_TOKEN_FILE"  # noqa: S105

TOKEN_CHARACTERS_MIN = 16
"""Shorter ones can be guessed over a network."""

TOKEN_BYTES_MAX = 4096


def read_token(environment: Mapping[str, str], path: str = "") -> str:
    """Returns the token, or "" where none is set.

    Args:
        environment: `LITEFS_TOKEN` is the token itself, `LITEFS_TOKEN_FILE` names a file that holds it.
        path: of such a file, by the configuration; it counts before the environment.

    Raises:
        ConfigError: the file cannot be read, or what is there is no token.
    """
    path = path or ("" if environment.get(TOKEN_VARIABLE) else environment.get(TOKEN_FILE_VARIABLE, ""))
    source = path or TOKEN_VARIABLE
    if path:
        try:
            with Path(path).open("rb") as file:
                token = file.read(TOKEN_BYTES_MAX + 1).decode("ascii", "replace").strip()
        except OSError as error:
            raise ConfigError(f"token: {path}: {error.strerror}") from error
    else:
        token = environment.get(TOKEN_VARIABLE, "").strip()
        if not token:
            return ""
    if len(token) < TOKEN_CHARACTERS_MIN or len(token) > TOKEN_BYTES_MAX:
        raise ConfigError(f"token: {source}: expected at least {TOKEN_CHARACTERS_MIN} characters")
    if not all("!" <= character <= "~" for character in token):
        raise ConfigError(f"token: {source}: expected printable ASCII characters without spaces")
    return token
