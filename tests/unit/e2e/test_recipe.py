"""What is read of a Dockerfile is what e2e assembles: everything else is refused, not left out."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from e2e import recipe
from e2e.errors import SetupError
from e2e.tools import REPOSITORY

DOCKERFILE = """\
FROM base AS build
RUN anything at all
COPY everything ./
# The image itself
FROM slim AS final
RUN apt-get update \\
 && apt-get install --yes b a \\
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /packages /usr/lib/packages
COPY --chmod=0755 command /bin/command
LABEL one="1 2" \\
      two=2
ENV A=1
USER 1000
ENTRYPOINT ["/bin/command"]
CMD ["run"]
"""


def read(directory: Path, text: str) -> recipe.Recipe:
    path = directory / "Dockerfile"
    path.write_text(text)
    return recipe.read(path)


def test_reads_the_last_stage(tmp_path: Path) -> None:
    assert read(tmp_path, DOCKERFILE) == recipe.Recipe(
        base="slim",
        packages=("a", "b"),
        python_directory="/usr/lib/packages",
        files=(("command", "/bin/command"),),
        user="1000",
        environment={"A": "1"},
        entrypoint=("/bin/command",),
        command=("run",),
        labels={"one": "1 2", "two": "2"},
    )


@pytest.mark.parametrize(
    "line",
    [
        "WORKDIR /somewhere",
        "RUN curl https://example.com",
        "RUN apt-get update && touch /file",
        "COPY --from=build /elsewhere /elsewhere",
        "COPY --from=other /packages /packages",
        "COPY --chown=1:1 a b",
    ],
)
def test_refuses_what_it_would_not_assemble(tmp_path: Path, line: str) -> None:
    with pytest.raises(SetupError):
        read(tmp_path, f"{DOCKERFILE}{line}\n")


def test_refuses_a_file_without_a_stage(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no FROM"):
        read(tmp_path, "USER 0\n")


def test_the_sidecar_is_assembled_from_its_dockerfile() -> None:
    read = recipe.read(REPOSITORY / "sidecar" / "Dockerfile")
    assert read.packages == ("ca-certificates", "libfuse3-3", "python3")
    assert read.python_directory == "/usr/local/lib/python3.11/dist-packages"
    assert read.user == "0"
    assert (read.entrypoint, read.command) == (("/usr/local/bin/litefs",), ("mount",))
    for source, _ in read.files:
        assert (REPOSITORY / source).is_file()


def test_the_operator_is_assembled_from_its_dockerfile() -> None:
    read = recipe.read(REPOSITORY / "operator" / "Dockerfile")
    assert read.packages == ("ca-certificates", "python3")
    assert read.python_directory == "/usr/local/lib/python3.11/dist-packages"
    assert read.user == "65532:65532"
    assert (read.entrypoint, read.command) == (("/usr/local/bin/litefs-operator",), ())
    for source, _ in read.files:
        assert (REPOSITORY / source).is_file()


def test_the_engine_installs_the_same_requirements_of_the_operator_as_e2e_does() -> None:
    """e2e takes the extra from pyproject.toml (e2e/images.py); the Dockerfile has a line that prints it."""
    text = (REPOSITORY / "operator" / "Dockerfile").read_text()
    program = re.search(r"python3 -c '(.*)' >requirements.txt", text)
    assert program is not None
    printed = subprocess.run(
        [sys.executable, "-c", program[1]], cwd=REPOSITORY, check=True, capture_output=True, text=True, timeout=60
    ).stdout
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert printed.splitlines() == project["optional-dependencies"]["operator"]
