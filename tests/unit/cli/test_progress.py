"""Progress of a transfer, on a terminal and in a log."""

import io
import logging

import pytest

from litefs.cli.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_draws_a_bar_on_a_terminal() -> None:
    stream, clock = Terminal(), Clock()
    progress = Progress("exporting a.db", 4 << 20, stream=stream, clock=clock)
    clock.now_s = 1.0
    progress.advance(1 << 20)
    assert stream.getvalue() == f"\r\x1b[Kexporting a.db [{'#' * 7}{'.' * 23}]  25%  1.0 MB  1.0 MB/s"
    clock.now_s = 2.0
    progress.advance(3 << 20)
    progress.finish()
    assert stream.getvalue().endswith(f"[{'#' * 30}] 100%  4.0 MB  2.0 MB/s\n")


def test_does_not_redraw_too_often() -> None:
    stream, clock = Terminal(), Clock()
    progress = Progress("x", 100, stream=stream, clock=clock)
    clock.now_s = 0.05
    progress.advance(1)
    assert stream.getvalue() == ""
    assert progress.done_bytes == 1


def test_without_a_total_it_counts() -> None:
    stream, clock = Terminal(), Clock()
    progress = Progress("x", None, stream=stream, clock=clock)
    clock.now_s = 2.0
    progress.advance(2048)
    assert stream.getvalue() == "\r\x1b[Kx: 2.0 KB, 1.0 KB/s"


def test_an_empty_transfer_ends() -> None:
    stream, clock = Terminal(), Clock()
    Progress("x", 0, stream=stream, clock=clock).finish()
    assert stream.getvalue() == "\r\x1b[Kx: 0 B of 0 B, 0 B/s\n"


def test_writes_lines_where_there_is_no_terminal(caplog: pytest.LogCaptureFixture) -> None:
    stream, clock = io.StringIO(), Clock()
    with caplog.at_level(logging.INFO):
        progress = Progress("x", 4096, stream=stream, clock=clock)
        clock.now_s = 5.0
        progress.advance(1024)
        clock.now_s = 10.0
        progress.advance(1024)
        progress.finish()
    assert stream.getvalue() == ""
    assert [record.getMessage() for record in caplog.records] == ["x: 2.0 KB of 4.0 KB, 205 B/s"] * 2
