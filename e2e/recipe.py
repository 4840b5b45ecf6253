"""Reads the Dockerfile of an image, so that what e2e assembles without an engine is what an engine would build.

Strategy: only the last stage counts: the packages that it installs, what it copies, and its settings. Python packages
come `--from` the stage before. An instruction or an option that is not known here is refused: better no image than
another one.
"""

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from e2e.errors import SetupError

_PACKAGES_DIRECTORY = "/packages"
"""Where the first stage of our Dockerfiles leaves Python packages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What an image consists of, beyond its base.

    Attributes:
        base: the image that it starts from.
        packages: of Debian, sorted.
        python_directory: where the Python packages go; "" if the image has none.
        files: source, relative to the repository, and destination of each file or directory copied.
        user, environment, entrypoint, command, labels: as a container runtime gets them.
    """

    base: str
    packages: tuple[str, ...] = ()
    python_directory: str = ""
    files: tuple[tuple[str, str], ...] = ()
    user: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)


def read(path: Path) -> Recipe:
    """Returns the recipe in a Dockerfile.

    Raises:
        SetupError: an instruction is not known here.
    """
    instructions = _instructions(path.read_text())
    last = max((number for number, (keyword, _) in enumerate(instructions) if keyword == "FROM"), default=-1)
    if last < 0:
        raise SetupError(f"{path}: no FROM")
    recipe = Recipe(base=instructions[last][1].split()[0])
    for keyword, rest in instructions[last + 1 :]:
        if keyword not in _READERS:
            raise SetupError(f"{path}: e2e cannot assemble an image with {keyword}")
        recipe = _READERS[keyword](recipe, rest)
    return recipe


def _instructions(text: str) -> list[tuple[str, str]]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split(maxsplit=1)[0].upper(), line.split(maxsplit=1)[1].strip()) for line in joined.splitlines()]


def _run(recipe: Recipe, rest: str) -> Recipe:
    """Packages may be installed, and the lists that this took be removed: nothing else."""
    packages: list[str] = []
    for command in rest.split("&&"):
        words = shlex.split(command)
        if words[:2] == ["apt-get", "install"]:
            packages += [word for word in words[2:] if not word.startswith("-")]
        elif words[:2] != ["apt-get", "update"] and words != ["rm", "-rf", "/var/lib/apt/lists/*"]:
            raise SetupError(f"e2e cannot assemble an image with RUN {command.strip()}")
    return replace(recipe, packages=tuple(sorted({*recipe.packages, *packages})))


def _copy(recipe: Recipe, rest: str) -> Recipe:
    words = rest.split()
    options = [word for word in words if word.startswith("--")]
    source, destination = [word for word in words if not word.startswith("--")]
    if "--from=build" in options:
        if source != _PACKAGES_DIRECTORY:
            raise SetupError(f"e2e cannot assemble an image with COPY {rest}")
        return replace(recipe, python_directory=destination)
    if set(options) - {"--chmod=0755"}:
        raise SetupError(f"e2e cannot assemble an image with COPY {rest}")
    return replace(recipe, files=(*recipe.files, (source, destination)))


def _pairs(rest: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(rest))


_READERS: dict[str, Callable[[Recipe, str], Recipe]] = {
    "RUN": _run,
    "COPY": _copy,
    "LABEL": lambda recipe, rest: replace(recipe, labels=recipe.labels | _pairs(rest)),
    "ENV": lambda recipe, rest: replace(recipe, environment=recipe.environment | _pairs(rest)),
    "USER": lambda recipe, rest: replace(recipe, user=rest),
    "ENTRYPOINT": lambda recipe, rest: replace(recipe, entrypoint=tuple(json.loads(rest))),
    "CMD": lambda recipe, rest: replace(recipe, command=tuple(json.loads(rest))),
}
