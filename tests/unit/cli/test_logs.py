"""The two shapes of log lines."""

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest
from hpack import Encoder

from litefs.cli import logs
from litefs.link.settings import LogSettings


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("litefs")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:], (root.level, ours.level) = handlers, levels


def _lines(settings: LogSettings) -> list[str]:
    stream = io.StringIO()
    logs.configure(settings, "node", stream)
    logger = logging.getLogger("litefs.test")
    logger.debug("detail")
    logger.warning("%d images for %s", 3, "ä.db")
    try:
        int("broken")
    except ValueError:
        logger.exception("it failed")
    return stream.getvalue().splitlines()


def test_text_lines_carry_level_process_and_message() -> None:
    lines = _lines(LogSettings())
    assert lines[0] == "WARNING node: 3 images for ä.db"
    assert lines[1] == "ERROR node: it failed"
    assert lines[-1] == "ValueError: invalid literal for int() with base 10: 'broken'"


@pytest.mark.parametrize("format_", ["text", "json"])
def test_a_message_of_a_peer_s_making_is_one_line_without_control_characters(format_: str) -> None:
    stream = io.StringIO()
    logs.configure(LogSettings(format=format_), "node", stream)
    logging.getLogger("litefs.test").warning("refused %s", "/a\nERROR node: it is lost\r\x1b[2J\x9b1m")
    (line,) = stream.getvalue().splitlines()
    assert line.isprintable() or format_ == "json"
    assert not any(ord(character) < 32 for character in line)


def test_json_lines_are_one_object_each() -> None:
    first, second = (json.loads(line) for line in _lines(LogSettings(format="json", timestamp=True)))
    assert first.pop("time").endswith("Z")
    assert first == {"level": "WARNING", "process": "node", "msg": "3 images for ä.db"}
    assert second["error"].endswith("'broken'")


def test_debug_lines_are_written_when_asked_for() -> None:
    assert _lines(LogSettings(debug=True))[0] == "DEBUG node: detail"


def test_a_token_that_is_sent_by_http_2_is_in_no_debug_line() -> None:
    stream = io.StringIO()
    logs.configure(LogSettings(debug=True), "node", stream)
    Encoder().encode([(b"authorization", b"Bearer secret")], huffman=False)
    assert "secret" not in stream.getvalue()


def test_a_time_stamp_leads_a_text_line_when_asked_for() -> None:
    assert _lines(LogSettings(timestamp=True))[0].split()[1:3] == ["WARNING", "node:"]


def test_standard_error_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(), "node", sys.stderr)
    logging.getLogger("litefs.test").info("hello")
    assert capsys.readouterr().err == "INFO node: hello\n"
