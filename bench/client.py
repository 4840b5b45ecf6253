"""Starts the client programs and reads what they measured."""

import json
import subprocess
import sys
from pathlib import Path

from bench.targets import Target
from tests.support import children

_CLIENTS = Path(__file__).with_name("clients")
CLIENT_TIMEOUT_S = 300.0
"""The longest client fills 1 GiB; a slow target may need minutes for it."""


def command_of(program: str, *arguments: object) -> list[str]:
    """Returns the command line of a client program: an interpreter without site packages."""
    return [sys.executable, "-I", "-S", str(_CLIENTS / f"{program}.py"), *map(str, arguments)]


def run_client(target: Target, program: str, *arguments: object) -> dict[str, float]:
    """Runs a client to its end and returns what it printed."""
    done = children.run(command_of(program, *arguments), free=target.free, timeout_s=CLIENT_TIMEOUT_S)
    if done.code:
        raise RuntimeError(f"{program} on {target.name} failed:\n{done.err[-2000:]}")
    result: dict[str, float] = json.loads(done.out.splitlines()[-1])
    return result


class Client:
    """A client that runs beside others: it says "ready", waits for `go`, and answers at its end."""

    def __init__(self, target: Target, program: str, *arguments: object) -> None:
        """Starts it and waits until it is ready."""
        self._target = target
        self._program = program
        self._child = subprocess.Popen(
            command_of(program, *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._child.stdout is not None
        first = self._child.stdout.readline()
        if first.strip() != "ready":
            self._child.kill()
            raise RuntimeError(f"{program} on {target.name} did not get ready:\n{self._child.communicate()[1][-2000:]}")

    def go(self) -> None:
        """Lets it begin."""
        assert self._child.stdin is not None
        self._child.stdin.write("go\n")
        self._child.stdin.flush()

    def result(self) -> dict[str, float]:
        """Waits for its end and returns what it printed."""
        try:
            out, err = self._child.communicate(timeout=CLIENT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.end()
            raise
        if self._child.returncode:
            raise RuntimeError(f"{self._program} on {self._target.name} failed:\n{err[-2000:]}")
        result: dict[str, float] = json.loads(out.splitlines()[-1])
        return result

    def end(self) -> None:
        """Kills it, whatever it does."""
        children.end(self._child, free=self._target.free)
