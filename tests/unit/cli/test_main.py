"""The outcome of a command line: what is printed, and the exit code."""

import subprocess
import sys
from pathlib import Path

import pytest

from litefs.cli import main as cli
from litefs.cli.exit_codes import exit_code_of
from litefs.errors import ConfigError, DiskLostError, LiteFSError, NotPrimaryError
from litefs.version import VERSION


@pytest.mark.parametrize("arguments", [[], ["help"], ["-h"], ["--help"]])
def test_without_a_command_it_shows_the_usage(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert cli.run(arguments) == 2
    assert "usage: litefs COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["mount", "import", "export", "status", "promote", "handoff", "version"])
def test_every_command_has_help_with_exit_codes(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert cli.run([command, "-help"]) == 2
    text = capsys.readouterr().out
    assert text.startswith(f"usage: litefs {command}")
    assert "xit codes:" in text


@pytest.mark.parametrize("verb", ["list", "dump", "verify"])
def test_every_ltx_verb_has_help_with_exit_codes(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    assert cli.run(["ltx", verb, "-help"]) == 2
    text = capsys.readouterr().out
    assert text.startswith(f"usage: litefs ltx {verb}")
    assert "exit codes:" in text


def test_prints_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["version"]) == 0
    assert capsys.readouterr().out == f"LiteFS v{VERSION}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nope"], 1, "litefs nope: unknown command"),
        (["run", "--", "x"], 2, "not supported yet: litefs run"),
        (["mount", "-tracing"], 2, "not supported yet: -tracing"),
        (["mount", "-nope"], 2, "flag provided but not defined: -nope"),
        (["mount", "word"], 2, "too many arguments: word"),
        (["mount", "-config", "/nonexistent/litefs.yml"], 2, "/nonexistent/litefs.yml: cannot be read"),
        (["ltx", "nope"], 2, "litefs ltx nope: unknown command"),
        (["import", "x"], 2, "required: -name DATABASE"),
        (["status", "-url", "localhost"], 2, "expected a URL such as"),
        (["status", "-url", "https://localhost"], 2, "expected a URL such as"),
        (["status", "-url", "http://localhost:port"], 2, "-url http://localhost:port"),
        (["handoff", "-timeout", "soon"], 2, '-timeout: "soon" is not a duration'),
        (["handoff", "-timeout", "0s"], 2, "-timeout 0s: expected more than 0s"),
        (["handoff", "-node", "xyz"], 2, "-node xyz: expected up to 16 hexadecimal digits"),
        (["handoff", "-node", "1", "-leave"], 2, "-node and -leave"),
        (["handoff", "-url", "http://x", "-config", "y"], 2, "-url and -config"),
        (["handoff", "-config", "/nonexistent/litefs.yml"], 2, "/nonexistent/litefs.yml: cannot be read"),
        (["promote", "-timeout", "-1s"], 2, "-timeout -1s: expected more than 0s"),
        (["promote", "word"], 2, "too many arguments: word"),
    ],
)
def test_a_refused_command_line_says_why(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert cli.run(arguments) == code
    assert message in capsys.readouterr().err


def test_a_refused_configuration_creates_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "litefs.yml"
    path.write_text(
        f"data: {{dir: {tmp_path}/d}}\nfuse: {{dir: {tmp_path}/m}}\nlease: {{type: static}}\nstrict-verify: true\n"
    )
    assert cli.run(["mount", "-config", str(path)]) == 2
    assert f"ERROR: {path}:4: not supported yet: strict-verify" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError(), 2),
        (DiskLostError(), 99),
        (NotPrimaryError(), 1),
        (LiteFSError(), 1),
        (KeyboardInterrupt(), 130),
        (ValueError(), None),
    ],
)
def test_exceptions_have_exit_codes(error: BaseException, code: int | None) -> None:
    assert exit_code_of(error) == code


def test_a_fault_of_ours_shows_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(cli._COMMAND_MODULES, "version", "litefs.no_such_module")
    assert cli.run(["version"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_handoff_by_url_loads_little_before_it_asks() -> None:
    """The end of a pod waits for it: what reads a configuration takes longer to load than the handoff takes."""
    program = """
import sys
from litefs.cli import api_client, main

def request(*arguments, **options):
    raise SystemExit(" ".join(sys.modules.keys() & {"pydantic", "yaml", "msgspec"}))

api_client.request = request
main.run(["handoff", "-url", "http://localhost:20202"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, "\n")
