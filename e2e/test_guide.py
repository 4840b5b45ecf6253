"""The five-minute guide of docs/kubernetes.md, as it is typed, but for the names of images.

What needs an engine for containers is left out, and the installation is that of the other tests.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.commands import run, wait_until
from e2e.errors import CommandError
from e2e.installation import Installation
from e2e.kubectl import READY_TIMEOUT_S, Kubectl
from e2e.target import Target
from e2e.tools import REPOSITORY

GUIDE = REPOSITORY / "docs" / "kubernetes.md"
RUN_TIMEOUT_S = 180.0
"""Deleting a pod waits for the application in it to run down."""


def typed() -> Iterator[str]:
    """The commands of the guide, in their order; one can have several lines."""
    section = GUIDE.read_text().partition("\n## Five minutes\n")[2].partition("\n## ")[0]
    for block in re.findall(r"(?:^    .*\n)+", section, re.MULTILINE):
        text = re.sub(r"^    ", "", block, flags=re.MULTILINE)
        yield from re.split(r"\n(?=docker |helm |kubectl |make )", text.rstrip("\n"))


class Person:
    """Someone who types what the guide says, in a shell in the root of a checkout."""

    def __init__(self, kubectl: Kubectl, target: Target, directory: Path) -> None:
        program = Path(str(target.kubectl))
        kubeconfig = directory / "kubeconfig"
        kubeconfig.write_bytes(target.kubeconfig.read_bytes())
        choose = ["config", "set-context", "--current", "--namespace", kubectl.namespace]
        run([program, "--kubeconfig", kubeconfig, *choose])
        path = f"{program.parent}:{os.environ['PATH']}" if program.is_absolute() else os.environ["PATH"]
        self._environment = ["env", f"KUBECONFIG={kubeconfig}", f"PATH={path}"]

    def types(self, command: str) -> str:
        """Returns what a command printed. Nothing is watched, for that has no end."""
        shell = ["bash", "-c", command.replace(" --watch", "")]
        return run([*self._environment, *shell], timeout_s=RUN_TIMEOUT_S, cwd=REPOSITORY)


@pytest.fixture(scope="module")
def person(
    kubectl: Kubectl, target: Target, installation: Installation, tmp_path_factory: pytest.TempPathFactory
) -> Person:
    return Person(kubectl, target, tmp_path_factory.mktemp("guide"))


def test_the_guide_works_as_it_is_typed(kubectl: Kubectl, target: Target, person: Person, tmp_path: Path) -> None:
    apply, watch, write, read, delete, _ = (command for command in typed() if command.startswith("kubectl"))
    example = tmp_path / "example.yaml"
    file = apply.split()[-1]
    example.write_text((REPOSITORY / file).read_text().replace("python:3.12-slim", target.application_image))
    person.types(apply.replace(file, str(example)))
    wait_until("READY and 3/3", lambda: {"True", "3/3"} <= set(person.types(watch).split()), timeout_s=READY_TIMEOUT_S)

    assert "written by blog-" in person.types(write)
    wait_until("the post at a replica", lambda: "hello" in says(person, read), timeout_s=READY_TIMEOUT_S)

    primary = kubectl.get("lfs", "blog")["status"]["primary"]
    person.types(delete)
    wait_until("another primary", lambda: row(person, watch)[3] not in {primary, "0/0"}, timeout_s=READY_TIMEOUT_S)
    wait_until("READY and 3/3", lambda: {"True", "3/3"} <= set(row(person, watch)), timeout_s=READY_TIMEOUT_S)
    # The node of a new pod is ready before the application in it begins.
    wait_until("another post", lambda: "written by blog-" in says(person, write), timeout_s=READY_TIMEOUT_S)


def row(person: Person, watch: str) -> list[str]:
    """What `kubectl get litefsclusters` shows of the cluster: NAME, READY, PHASE, PRIMARY, NODES, AGE."""
    return person.types(watch).splitlines()[1].split()


def says(person: Person, command: str) -> str:
    """What a command prints; "" if it failed."""
    try:
        return person.types(command)
    except CommandError:
        return ""
