"""Assembles container images without a container engine, as archives that `ctr images import` takes.

Strategy: an image is a Debian layer (packages and what they need, unpacked by mmdebstrap and not configured), a layer
of Python packages, and our own files. The first two are cached under a hash of what they are made of. Python packages
are installed by the Python that runs us, which must be of Debian's minor version, for compiled modules to fit. It also
compiles Debian's Python modules, which configuring them would: else each start compiles them, for a fifth of a second.
"""

import hashlib
import io
import json
import os
import shlex
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from e2e import recipe
from e2e.commands import run
from e2e.components import PAUSE_IMAGE
from e2e.errors import SetupError
from e2e.tools import CACHE, REPOSITORY, Tools

SIDECAR = "localhost/litefs:e2e"
OPERATOR = "localhost/litefs-operator:e2e"
APPLICATION = "localhost/application:e2e"
CONSUL = "localhost/consul:e2e"

_SUITE = "bookworm"
_SUITE_PYTHON = (3, 11)
_SLIM_BASE = ("coreutils", "dash", "grep", "libc-bin", "sed")
"""What the slim image has that a person at a shell misses first."""

_APPLICATION_PACKAGES = ("curl", "python3", "sqlite3")
_BUILD_TIMEOUT_S = 900.0
_COMPILE_HOOK = """\
modules="$1/usr/lib/python3.11"
test ! -d "$modules" || "$python" -m compileall -q --invalidation-mode unchecked-hash -s "$1" "$modules"
"""
_LEFT_OUT = (
    *("dev/", "usr/share/doc/", "usr/share/man/", "usr/share/locale/", "usr/share/zoneinfo/", "usr/share/info/"),
    "usr/lib/x86_64-linux-gnu/gconv/",
)
_ACCOUNTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image: its layers, from the lowest, and what a container of it starts with."""

    name: str
    layers: tuple[Path, ...]
    user: str = ""
    environment: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


_ARCHIVES = CACHE / "archives"
_LAYERS = CACHE / "layers"


def build_all(tools: Tools) -> list[Path]:
    """Returns the archives of all images that the tests use: they stay in the cache, and are written anew each time."""
    for directory in (_ARCHIVES, _LAYERS):
        directory.mkdir(parents=True, exist_ok=True)
    pause, consul = _ARCHIVES / "pause.layer", _ARCHIVES / "consul.layer"
    _pack([(tools.pause, "/pause")], pause)
    _pack([(tools.consul, "/consul")], consul)
    images = [
        Image(name=PAUSE_IMAGE, layers=(pause,), entrypoint=("/pause",)),
        Image(name=CONSUL, layers=(consul,), entrypoint=("/consul",)),
        Image(name=APPLICATION, layers=(_debian_layer((*_SLIM_BASE, *_APPLICATION_PACKAGES)),)),
        *own_images().values(),
    ]
    return [_archive(image) for image in images]


def archive_of(name: str) -> Path:
    """Returns where the archive of one of these images is."""
    return _ARCHIVES / f"{name.rpartition('/')[2].partition(':')[0]}.tar"


def own_images() -> dict[str, Image]:
    """Returns the images of our Dockerfiles by the directories of these, with the sources as they are."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    # The operator needs nothing that the sidecar does.
    operator_needs = project["optional-dependencies"]["operator"]
    return {
        "sidecar": _of_dockerfile(SIDECAR, "sidecar", "litefs", tuple(project["dependencies"])),
        "operator": _of_dockerfile(OPERATOR, "operator", "litefs_operator", tuple(operator_needs)),
    }


def size_beyond_base(image: Image) -> int:
    """Returns the bytes of an image's files, less those that the slim base has."""
    base = _sizes(_debian_layer(_SLIM_BASE))
    sizes: dict[str, int] = {}
    for layer in image.layers:
        sizes |= _sizes(layer)
    return sum(size for name, size in sizes.items() if name not in base)


def _sizes(layer: Path) -> dict[str, int]:
    with tarfile.open(layer) as archive:
        return {member.name: member.size for member in archive}


def _of_dockerfile(name: str, part: str, package_name: str, requirements: tuple[str, ...]) -> Image:
    read = recipe.read(REPOSITORY / part / "Dockerfile")
    own = _ARCHIVES / f"{part}.layer"
    with tempfile.TemporaryDirectory() as work:
        package = Path(work) / package_name
        run(["cp", "-r", REPOSITORY / part / package_name, package])
        _compile(package)
        files = [(REPOSITORY / source, destination) for source, destination in read.files]
        _pack([*files, (package, f"{read.python_directory}/{package_name}")], own)
    return Image(
        name=name,
        layers=(
            _debian_layer((*_SLIM_BASE, *read.packages)),
            _python_layer(read.python_directory, requirements),
            own,
        ),
        user=read.user,
        environment=tuple(f"{key}={value}" for key, value in read.environment.items()),
        entrypoint=read.entrypoint,
        command=read.command,
    )


def _debian_layer(packages: tuple[str, ...]) -> Path:
    if sys.version_info[:2] != _SUITE_PYTHON:
        raise SetupError(f"e2e images need Python 3.{_SUITE_PYTHON[1]} in .venv/: set PYTHON and run scripts/setup")
    names = ",".join(sorted(set(packages)))

    def make(out: Path) -> None:
        with tempfile.NamedTemporaryFile(suffix=".tar") as raw:
            options = ["--quiet", "--variant=extract", "--format=tar", f"--include={names}"]
            hook = f"--extract-hook=python={shlex.quote(sys.executable)}; {_COMPILE_HOOK}"
            run(["mmdebstrap", *options, hook, _SUITE, raw.name], timeout_s=_BUILD_TIMEOUT_S)
            _copy_debian(Path(raw.name), out)

    return _cached(("debian", _SUITE, names, _LEFT_OUT, _COMPILE_HOOK), make)


def _copy_debian(raw: Path, out: Path) -> None:
    with tarfile.open(raw) as source, tarfile.open(out, "w", format=tarfile.PAX_FORMAT) as target:
        for member in source:
            name = member.name.removeprefix("./")
            if not name or name.startswith(_LEFT_OUT) or member.isdev():
                continue
            member.name = name
            if member.islnk():
                member.linkname = member.linkname.removeprefix("./")
            target.addfile(member, source.extractfile(member) if member.isreg() else None)
        for name, text in _ACCOUNTS.items():
            _add_bytes(target, name, text.encode())


def _python_layer(directory: str, requirements: tuple[str, ...]) -> Path:
    constraints = REPOSITORY / "constraints.txt"

    def make(out: Path) -> None:
        with tempfile.TemporaryDirectory() as work:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", work]
            environment = ["env", f"PIP_CONSTRAINT={constraints}", "PIP_DISABLE_PIP_VERSION_CHECK=1"]
            run([*environment, *pip, *requirements], timeout_s=_BUILD_TIMEOUT_S)
            _compile(Path(work))
            _pack([(Path(work), directory)], out)

    return _cached(("python", directory, requirements, constraints.read_text()), make)


def _compile(directory: Path) -> None:
    """As in the Dockerfile: else every start would compile everything again, the root being read-only."""
    run(["find", directory, "-name", "__pycache__", "-prune", "-exec", "rm", "-r", "{}", "+"])
    compiler = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    run([*compiler, directory], timeout_s=_BUILD_TIMEOUT_S)


def _cached(inputs: object, make: Callable[[Path], None]) -> Path:
    out = _LAYERS / f"{hashlib.sha256(repr(inputs).encode()).hexdigest()[:16]}.tar"
    if not out.exists():
        fresh = out.with_suffix(f".{os.getpid()}")
        make(fresh)
        # Crash: the name appears only with the whole layer behind it.
        fresh.rename(out)
    return out


def _pack(pairs: list[tuple[Path, str]], out: Path) -> None:
    """Writes a layer of files and directories under the names that they get in the image."""

    def as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = ""
        # pip's directories are its user's alone.
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        return member

    with tarfile.open(out, "w", format=tarfile.PAX_FORMAT) as target:
        for source, destination in pairs:
            target.add(source, destination.lstrip("/"), filter=as_root)


def _add_bytes(target: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    target.addfile(member, io.BytesIO(data))


def _archive(image: Image) -> Path:
    digests = [_sha256(layer) for layer in image.layers]
    settings = {
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", *image.environment],
        "User": image.user,
        "Entrypoint": list(image.entrypoint) or None,
        "Cmd": list(image.command) or None,
    }
    layers = {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]}
    configuration = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": layers, "config": settings}).encode()
    name = f"{hashlib.sha256(configuration).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [image.name], "Layers": [f"{digest}.tar" for digest in digests]}]
    out = archive_of(image.name)
    with tarfile.open(out, "w", format=tarfile.PAX_FORMAT) as target:
        _add_bytes(target, name, configuration)
        _add_bytes(target, "manifest.json", json.dumps(manifest).encode())
        for digest, layer in zip(digests, image.layers, strict=True):
            target.add(layer, f"{digest}.tar")
    return out


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
