"""The small pieces: overlay, scratch file, state file, steps, disk, incoming files."""

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from litefs.errors import CorruptStateError, FormatError
from litefs.formats.checksum import CHECKSUM_FLAG, database_checksum, page_checksums
from litefs.storage.base_file import BaseFile
from litefs.storage.disk import FREED_AT_ONCE_BYTES, DelayingDisk, Disk, FullDisk, disk_from_environment
from litefs.storage.incoming import IncomingDatabase, read_sums
from litefs.storage.overlay import Overlay
from litefs.storage.scratch import ScratchFile
from litefs.storage.state import DatabaseState, read_state, write_state
from litefs.storage.steps import Steps, run
from tests.support.faulty_disk import FaultyDisk, QuickDisk

PAGE = 512


# ---- base file ----


def test_a_large_cut_of_the_base_is_seen_at_once_and_made_with_the_layers(tmp_path: Path) -> None:
    base = BaseFile(QuickDisk(), tmp_path / "database", PAGE)
    page_n = FREED_AT_ONCE_BYTES // PAGE + 3
    for pgno in (1, 2, page_n):
        base.put(pgno, bytes([pgno % 251]) * PAGE, 1, 1)
    base.resize((page_n - 1) * PAGE, 2, 2)
    assert base.path.stat().st_size == (page_n - 1) * PAGE
    base.resize(PAGE, 3, 3)
    base.put(3, b"c" * PAGE, 4, 4)
    seen = b"\1" * PAGE + bytes(PAGE) + b"c" * PAGE
    assert base.read(0, 1 << 30) == seen
    assert base.path.stat().st_size == (page_n - 1) * PAGE
    layer = base.freeze(4)
    assert layer is not None
    base.write_layer(layer)
    base.written(layer)
    assert base.path.read_bytes() == base.read(0, 1 << 30) == seen


@pytest.mark.parametrize("code", [errno.EIO, errno.EOPNOTSUPP])
def test_a_read_is_not_refused_because_nobody_can_tell_whether_it_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    base = BaseFile(QuickDisk(), tmp_path / "database", PAGE)
    base.put(1, b"a" * PAGE, 1, 1)
    asked = []

    def preadv(*arguments: object) -> int:
        asked.append(arguments)
        raise OSError(code, "injected")

    monkeypatch.setattr(os, "preadv", preadv)
    assert [base.warming(0, PAGE), base.warming(0, PAGE)] == [None, None]
    assert len(asked) == (1 if code == errno.EOPNOTSUPP else 2)
    assert base.read(0, PAGE) == b"a" * PAGE


def test_without_a_descriptor_left_a_read_waits_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = BaseFile(QuickDisk(), tmp_path / "database", PAGE)
    base.put(1, b"a" * PAGE, 1, 1)

    def fails(*_: object) -> int:
        raise BlockingIOError if len(_) > 1 else OSError(errno.EMFILE, "injected")

    monkeypatch.setattr(os, "preadv", fails)
    monkeypatch.setattr(os, "dup", fails)
    assert base.warming(0, PAGE) is None


# ---- overlay ----


@pytest.mark.parametrize("memory_pages", [0, 1, 5, 100])
@pytest.mark.parametrize("seed", range(3))
def test_an_overlay_returns_what_was_put_last_wherever_it_lies(tmp_path: Path, memory_pages: int, seed: int) -> None:
    rng = random.Random(seed)
    overlay = Overlay(QuickDisk(), tmp_path, PAGE, memory_pages * PAGE)
    model: dict[int, bytes] = {}
    for _ in range(300):
        pgno = rng.randint(1, 20)
        if rng.random() < 0.05:
            overlay.truncate(pgno * PAGE)
            model = {key: page for key, page in model.items() if key <= pgno}
        else:
            model[pgno] = rng.randbytes(PAGE)
            generation = overlay.generation
            overlay.put(pgno, model[pgno])
            assert overlay.generation != generation
        in_memory = sum(page is not None for page in overlay.pages.values())
        assert in_memory <= memory_pages
    assert {pgno: overlay.get(pgno) for pgno in range(1, 22) if overlay.get(pgno) is not None} == model
    overlay.close()
    assert overlay.is_clean


def test_an_overlay_that_cannot_spill_keeps_what_it_has(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path)
    overlay = Overlay(disk, tmp_path, PAGE, PAGE)
    overlay.put(1, b"a" * PAGE)
    disk.full = ("overlay.*",)
    with pytest.raises(OSError, match="full"):
        overlay.put(2, b"b" * PAGE)
    assert overlay.get(2) is None
    overlay.put(1, b"c" * PAGE)
    assert overlay.get(1) == b"c" * PAGE
    overlay.close()


# ---- scratch ----


@pytest.mark.parametrize("memory_bytes", [0, 1000, 1 << 20])
@pytest.mark.parametrize("seed", range(3))
def test_a_scratch_file_behaves_as_a_file(
    tmp_path: Path, memory_bytes: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("litefs.storage.scratch.SCRATCH_MEMORY_BYTES", memory_bytes)
    rng = random.Random(seed)
    scratch = ScratchFile(QuickDisk(), tmp_path)
    model = bytearray()
    for _ in range(200):
        offset, size = rng.randint(0, 3000), rng.randint(1, 700)
        if rng.random() < 0.15:
            target = rng.choice([0, offset])
            scratch.truncate(target)
            del model[target:]
            model += bytes(target - len(model))
        else:
            data = rng.randbytes(size)
            scratch.write(offset, data)
            model += bytes(max(0, offset + size - len(model)))
            model[offset : offset + size] = data
        assert scratch.size == len(model)
        offset = rng.randint(0, 3500)
        assert scratch.read(offset, 900) == bytes(model[offset : offset + 900])
    scratch.close()


def test_a_scratch_file_that_cannot_spill_keeps_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("litefs.storage.scratch.SCRATCH_MEMORY_BYTES", 100)
    disk = FaultyDisk(tmp_path)
    scratch = ScratchFile(disk, tmp_path)
    scratch.write(0, b"x" * 100)
    disk.full = ("scratch.*",)
    attempts: list[Callable[[], None]] = [lambda: scratch.write(50, b"y" * 51), lambda: scratch.truncate(101)]
    for attempt in attempts:
        with pytest.raises(OSError, match="full"):
            attempt()
        assert scratch.read(0, 200) == b"x" * 100


# ---- state ----

STATE = DatabaseState(base_txid=5, checksum=CHECKSUM_FLAG | 3, page_size=4096, page_n=2, timestamp_ms=7, group=8)


def test_a_state_reads_as_it_was_written(tmp_path: Path) -> None:
    assert read_state(tmp_path) is None
    write_state(QuickDisk(), tmp_path, STATE)
    assert read_state(tmp_path) == STATE


def test_every_flipped_bit_and_every_truncation_of_a_state_file_is_noticed(tmp_path: Path) -> None:
    write_state(QuickDisk(), tmp_path, STATE)
    path = tmp_path / "state"
    data = path.read_bytes()
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(CorruptStateError, match="state"):
            _expect_damage(tmp_path)
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(CorruptStateError, match="state"):
            _expect_damage(tmp_path)


def _expect_damage(directory: Path) -> None:
    """A hexadecimal digit in the other case says the same, and the missing last newline is none of content."""
    if read_state(directory) == STATE:
        raise CorruptStateError("state: as it was")


@pytest.mark.parametrize("call", range(1, 7))
def test_a_state_file_that_cannot_be_replaced_is_the_old_or_the_new_one(tmp_path: Path, call: int) -> None:
    disk = FaultyDisk(tmp_path)
    write_state(disk, tmp_path, STATE)
    disk.fail_at = len(disk.calls) + call
    new = DatabaseState(base_txid=6)
    try:
        write_state(disk, tmp_path, new)
    except OSError:
        assert read_state(tmp_path) in (STATE, new)
    else:
        assert read_state(tmp_path) == new


# ---- steps ----


def test_steps_are_driven_with_results_and_errors() -> None:
    def fail() -> int:
        raise OSError("no")

    def steps() -> Steps[list[object]]:
        seen: list[object] = [(yield None), (yield lambda: 7)]
        try:
            yield fail
        except OSError as error:
            seen.append(str(error))
        return seen

    assert run(steps()) == [None, 7, "no"]


# ---- disk ----


def test_the_environment_chooses_the_disk(tmp_path: Path) -> None:
    assert type(disk_from_environment({})) is Disk
    assert isinstance(disk_from_environment({"LITEFS_FAULTS": "delay:log.*:0.5"}), DelayingDisk)
    assert isinstance(disk_from_environment({"LITEFS_FAULTS": f"full:log.*:{tmp_path}/flag"}), FullDisk)
    for text in ("delay", "delay:x", "other:x:1", "full:x:"):
        with pytest.raises(ValueError, match="LITEFS_FAULTS"):
            disk_from_environment({"LITEFS_FAULTS": text})


def test_a_full_disk_is_full_for_its_labels_while_the_flag_is_there(tmp_path: Path) -> None:
    disk = FullDisk("log.*", str(tmp_path / "flag"))
    fd = disk.open("open", tmp_path / "file", os.O_RDWR | os.O_CREAT)
    disk.write("log.append", fd, b"x", 0)
    (tmp_path / "flag").touch()
    disk.write("base.write", fd, b"x", 0)
    attempts: list[Callable[[], None]] = [
        lambda: disk.write("log.a", fd, b"x", 0),
        lambda: disk.write_vector("log.a", fd, [b"x"], 0),
    ]
    for attempt in attempts:
        with pytest.raises(OSError, match="injected"):
            attempt()
    disk.close("close", fd)


def test_the_disk_writes_all_of_everything(tmp_path: Path) -> None:
    disk = Disk()
    fd = disk.open("open", tmp_path / "file", os.O_RDWR | os.O_CREAT)
    disk.write_vector("write", fd, [b"ab", b"", b"cd"], 1)
    disk.write("write", fd, memoryview(b"xy"), 5)
    assert disk.read("read", fd, 100, 0) == b"\0abcdxy"
    other = disk.open_unnamed("open", tmp_path)
    assert disk.copy("copy", fd, other, 1, 0, 100) == 6
    assert disk.read("read", other, 3, 1) == b"bcd"
    disk.close("close", other)
    disk.close("close", fd)
    disk.replace_file("replace", tmp_path / "small", b"one")
    disk.replace_file("replace", tmp_path / "small", b"two")
    assert (tmp_path / "small").read_bytes() == b"two"
    assert sorted(os.listdir(tmp_path)) == ["file", "small"]


class DiskWithoutTmpfile(Disk):
    """A disk as on NFS: no file is made without a name."""

    def _open_tmpfile(self, directory: Path | str) -> int:
        raise OSError(errno.EOPNOTSUPP, "injected")


def test_a_file_loses_its_name_where_none_is_made_without(tmp_path: Path) -> None:
    disk = DiskWithoutTmpfile()
    fd = disk.open_unnamed("open", tmp_path)
    assert os.listdir(tmp_path) == []
    disk.write("write", fd, b"spilled", 5)
    assert disk.read("read", fd, 100, 0) == bytes(5) + b"spilled"
    disk.close_unnamed("close", fd)


# ---- incoming ----

PAGES = random.Random(1).randbytes(5 * PAGE)


def test_an_incoming_database_is_complete_with_its_checksums(tmp_path: Path) -> None:
    incoming = IncomingDatabase(tmp_path / "a.db", PAGE, 5, QuickDisk())
    incoming.write_pages(1, PAGES[: 2 * PAGE])
    incoming.write_pages(3, PAGES[2 * PAGE :])
    sums = page_checksums(PAGES, PAGE, 1)
    assert incoming.finish() == database_checksum(sums) | CHECKSUM_FLAG
    assert (tmp_path / "a.db" / incoming.name).read_bytes() == PAGES
    assert list(read_sums(tmp_path / "a.db", incoming.name, 5)) == sums
    with pytest.raises(FormatError, match="5 checksums for 4"):
        read_sums(tmp_path / "a.db", incoming.name, 4)


def _skip_a_page(incoming: IncomingDatabase) -> None:
    incoming.write_pages(2, PAGES[:PAGE])


def _write_half_a_page(incoming: IncomingDatabase) -> None:
    incoming.write_pages(1, PAGES[: PAGE // 2])


def _write_too_much(incoming: IncomingDatabase) -> None:
    incoming.write_pages(1, PAGES)


def _finish_too_early(incoming: IncomingDatabase) -> None:
    incoming.write_pages(1, PAGES[:PAGE])
    incoming.finish()


@pytest.mark.parametrize("mistake", [_skip_a_page, _write_half_a_page, _write_too_much, _finish_too_early])
def test_an_incoming_database_refuses_what_does_not_fit(
    tmp_path: Path, mistake: Callable[[IncomingDatabase], None]
) -> None:
    incoming = IncomingDatabase(tmp_path, PAGE, 4, QuickDisk())
    with pytest.raises(FormatError):
        mistake(incoming)
    incoming.abort()
    assert list(tmp_path.iterdir()) == []


def test_two_new_states_of_one_database_do_not_meet(tmp_path: Path) -> None:
    both = [IncomingDatabase(tmp_path, PAGE, 1, QuickDisk()) for _ in range(2)]
    for number, incoming in enumerate(both):
        incoming.write_pages(1, PAGES[number * PAGE : (number + 1) * PAGE])
    for number, incoming in enumerate(both):
        incoming.finish()
        assert (tmp_path / incoming.name).read_bytes() == PAGES[number * PAGE : (number + 1) * PAGE]
