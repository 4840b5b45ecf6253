"""Obtains SQLite's own test program, `testfixture`, from Debian's source package.

Strategy: everything lies in one cache directory outside the checkout (`$LITEFS_CACHE`, else
`~/.cache/litefs-sqlite-suite`). The package comes through apt with a source list and package lists of our
own, so the system's configuration is read and never changed, and no root is needed. The build takes about a
minute, once; a stamp file says that it is complete.

What differs from an ordinary build, and why:
    - `-DSQLITE_NO_SYNC=1` leaves the Makefile, else no sync ever reaches the file system under test.
    - `tester.tcl` takes its directory from the environment variable `SQLITE_TESTDIR`: its own `--testdir=`
      leaves a Tcl variable behind that breaks wal2, and a symbolic link breaks tests that compare paths.
    - Scripts that tests write and execute (`crash.tcl`, `tf_main.tcl`) go to `SQLITE_SCRATCH`: a mount of databases
      need not carry other files.
    - `glob`, by which tests save, restore and list their files, leaves out the positions (`test.db-pos`).
    - Files that would end at a directory they make go on without it, or make it in `SQLITE_SCRATCH`: a mount has none.
    - malloc deletes the databases of a test before their super-journal: without it they would be committed, and one of
      them was torn on purpose, in page 1.
    - pager2, whose subject is savepoints, has `journal_mode=TRUNCATE` where it has MEMORY, which a mount refuses.

Source: Debian's `sqlite3` source package (public domain), tests included.
"""

import fcntl
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BUILD_TIMEOUT_S = 900.0
"""A build needs a minute of one core; a loaded machine of CI gets fifteen."""

EXT4_RESULTS = "ext4"
"""Directory in the cache: what the tests do on the machine's own file system, kept by `compare`."""

_STAMP = "complete-7"
"""Counted up when a change below makes an older build unusable."""

_APT_SOURCES = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d"))
_FEATURES = "-DSQLITE_ENABLE_SNAPSHOT -DSQLITE_ENABLE_UNLOCK_NOTIFY"
_GLOB = """
if {[info commands every_glob] eq ""} {
  rename glob every_glob
  proc glob {args} { lsearch -all -inline -not [uplevel 1 [list every_glob {*}$args]] *-pos }
}
"""
_REPLACEMENTS = {
    "lock.test": [("file mkdir tempdir/t1/t2", ""), ("./tempdir/../tempdir/t1/.//t2/../../..//test.db", ".//test.db")],
    "lock3.test": [
        ("file mkdir tempdir/t1/t2/t3", ""),
        ("./tempdir/t1//t2/./t3//./../..//./../../tempdir/..//test.db//", ".//./test.db//"),
    ],
    "malloc.test": [
        (
            """err!="no such table: t1"} {
      error $err
    }
  }
}""",
            """err!="no such table: t1"} {
      error $err
    }
  } -cleanup {
    catch {db close}
    forcedelete test2.db test.db test2.db-journal test.db-journal
  }
}""",
        )
    ],
    "misc7.test": [
        ("./mydir", "mydir"),
        ("mydir", "$::env(SQLITE_SCRATCH)/mydir"),
        (" tst", " $::env(SQLITE_SCRATCH)/tst"),
    ],
    "pager1.test": [("set nDir [expr $nPadding / 32]", "set nDir 0")],
    "pager2.test": [("journal_mode = memory", "journal_mode = truncate")],
}
_SCRIPT_USE = re.compile(r"(\bopen |\[info nameofexec\] |\$prg )(?:\./)?((?:crash|tf_main2?)\.tcl)\b")


class SuiteUnavailableError(Exception):
    """The test program cannot be had on this machine; nothing was run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Testfixture:
    """A test program that is ready to run.

    Attributes:
        program: the `testfixture` executable.
        test_dir: directory of the `*.test` files.
        version: SQLite's version, as its source says.
    """

    __test__ = False

    program: Path
    test_dir: Path
    version: str


def cache_dir() -> Path:
    """Returns the directory that keeps sources and build between runs."""
    chosen = os.environ.get("LITEFS_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "litefs-sqlite-suite"


def obtain_testfixture() -> Testfixture:
    """Returns the test program, building it when it is not in the cache.

    Raises:
        SuiteUnavailableError: there is no source package, no compiler or no Tcl.
    """
    cache = cache_dir()
    if not (cache / _STAMP).exists():
        cache.mkdir(parents=True, exist_ok=True)
        with _exclusive(cache / "lock"):
            if not (cache / _STAMP).exists():
                _build(cache)
    source = cache / "source"
    return Testfixture(
        program=cache / "build" / "testfixture",
        test_dir=source / "test",
        version=(source / "VERSION").read_text().strip(),
    )


def _build(cache: Path) -> None:
    for tool in ("apt-get", "gcc", "make", "tclsh"):
        if shutil.which(tool) is None:
            raise SuiteUnavailableError(
                f"`{tool}` is missing (needed: gcc make tcl-dev zlib1g-dev, on a Debian system)"
            )
    source, build = cache / "source", cache / "build"
    for older in (source, cache / EXT4_RESULTS):  # of an older stamp: the tests were changed in another way
        shutil.rmtree(older, ignore_errors=True)
    _unpack(_download(cache / "apt"), source)
    _patch_tests(source / "test")
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir()
    _run([source / "configure", "CFLAGS=-O1 -g"], cwd=build)
    makefile = build / "Makefile"
    text = makefile.read_text()
    if "-DSQLITE_NO_SYNC=1" not in text:
        raise SuiteUnavailableError("the Makefile of this SQLite is not the one this was written for")
    makefile.write_text(text.replace("-DSQLITE_NO_SYNC=1", ""))
    _run(["make", f"-j{os.cpu_count() or 1}", f"OPTS={_FEATURES}", "testfixture"], cwd=build)
    (cache / _STAMP).touch()


def _download(apt: Path) -> Path:
    """Returns the upstream tarball of the source package that belongs to the system's release."""
    if apt.exists() and (kept := _tarballs(apt)):
        return kept[-1]
    for name in ("lists/partial", "archives/partial"):
        (apt / name).mkdir(parents=True, exist_ok=True)
    sources = apt / "sources"
    sources.mkdir(exist_ok=True)
    _write_source_lists(sources)
    options = [
        f"-oDir::Etc::SourceList={os.devnull}",
        f"-oDir::Etc::SourceParts={sources}",
        f"-oDir::State::Lists={apt / 'lists'}",
        f"-oDir::Cache={apt}",
        "-oAPT::Sandbox::User=",
    ]
    _run(["apt-get", *options, "-qq", "update"], cwd=apt)
    _run(["apt-get", *options, "-qq", "source", "--download-only", "sqlite3"], cwd=apt)
    if not (tarballs := _tarballs(apt)):
        raise SuiteUnavailableError("apt knows no source package `sqlite3`")
    return tarballs[-1]


def _tarballs(apt: Path) -> list[Path]:
    return sorted(path for path in apt.glob("sqlite3_*.orig.tar.*") if path.suffix != ".asc")


def _write_source_lists(target: Path) -> None:
    """Copies the system's source lists with binary entries turned into source entries."""
    written = False
    files = [_APT_SOURCES[0]] if _APT_SOURCES[0].exists() else []
    files += sorted(_APT_SOURCES[1].glob("*")) if _APT_SOURCES[1].is_dir() else []
    for path in files:
        text = path.read_text(errors="replace")
        if path.suffix == ".list" and re.search(r"^deb\s", text, re.MULTILINE):
            text = re.sub(r"^deb-src\s.*$", "", text, flags=re.MULTILINE)
            text = re.sub(r"^deb(?=\s)", "deb-src", text, flags=re.MULTILINE)
        elif path.suffix == ".sources" and re.search(r"^Types:", text, re.MULTILINE):
            text = re.sub(r"^Types:.*$", "Types: deb-src", text, flags=re.MULTILINE)
        else:
            continue
        (target / path.name).write_text(text)
        written = True
    if not written:
        raise SuiteUnavailableError("this system has no apt source lists")


def _unpack(tarball: Path, source: Path) -> None:
    staging = source.with_name("unpacking")
    shutil.rmtree(staging, ignore_errors=True)
    with tarfile.open(tarball) as archive:
        archive.extractall(staging, filter="data")
    (top,) = staging.iterdir()
    top.rename(source)
    shutil.rmtree(staging)


def _patch_tests(test_dir: Path) -> None:
    tester = test_dir / "tester.tcl"
    text = tester.read_text(encoding="latin-1")
    text = text.replace("file mkdir $cmdlinearg(testdir)", "file mkdir $::env(SQLITE_TESTDIR)", 1)
    text = text.replace("cd $cmdlinearg(testdir)", "cd $::env(SQLITE_TESTDIR)", 1)
    if text.count("$::env(SQLITE_TESTDIR)") != 2:
        raise SuiteUnavailableError("the tester.tcl of this SQLite is not the one this was written for")
    tester.write_text(text + _GLOB, encoding="latin-1")
    for name, replacements in _REPLACEMENTS.items():
        text = (test_dir / name).read_text(encoding="latin-1")
        for old, new in replacements:
            text = text.replace(old, new)
        (test_dir / name).write_text(text, encoding="latin-1")
    for path in (tester, test_dir / "lock_common.tcl", *sorted(test_dir.glob("*.test"))):
        text = path.read_text(encoding="latin-1")
        moved = _SCRIPT_USE.sub(r"\1$::env(SQLITE_SCRATCH)/\2", text)
        if moved != text:
            path.write_text(moved, encoding="latin-1")


def _run(command: list[str | Path], *, cwd: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, errors="replace", timeout=BUILD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise SuiteUnavailableError(f"{command[0]} took more than {BUILD_TIMEOUT_S:.0f} s") from error
    if done.returncode:
        raise SuiteUnavailableError(f"{command[0]} failed ({done.returncode}):\n{(done.stdout + done.stderr)[-2000:]}")


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Holds a lock file, so that two runs do not build into each other."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
