"""What the benchmark needs and the repository does not hold: it is compiled, installed or unpacked when first used.

Everything lands in `benchmarks/.cache`, which git ignores; deleting the folder is always safe.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

__all__ = [
    "CACHE",
    "ROOT",
    "Component",
    "DebianPackages",
    "Native",
    "NodePackages",
    "Peers",
    "Program",
    "Unavailable",
]

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "benchmarks" / ".cache"
_NATIVE = ROOT / "benchmarks" / "native"
_PEERS = ROOT / "benchmarks" / "peers.txt"


class Unavailable(Exception):
    """A component cannot be had here; the text says why and how to get it."""


@dataclass(frozen=True, slots=True)
class Component:
    """Something that a system needs. `prepare` gets it ready or raises `Unavailable`; it may be called again."""

    name: str

    def prepare(self) -> None:
        """Make it usable."""
        raise Unavailable(f"{self.name}: nobody knows how to get it")

    def versions(self) -> Mapping[str, str]:
        """Names and versions, for the report; only after `prepare`."""
        return {}


def _run(command: Sequence[str], *, what: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """A step of the set-up; its output is shown only when it fails."""
    try:
        done = subprocess.run(
            command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    except OSError as error:
        raise Unavailable(f"{what}: {error}") from error
    if done.returncode != 0:
        last = " | ".join(line for line in done.stdout.strip().splitlines()[-3:])
        raise Unavailable(f"{what}: `{Path(command[0]).name}` ended with status {done.returncode}: {last}")
    return done.stdout


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Native(Component):
    """A C program of `benchmarks/native`, compiled with gcc; a change of its source compiles it anew."""

    libraries: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The program."""
        source = (_NATIVE / f"{self.name}.c").read_bytes()
        return CACHE / "native" / f"{self.name}-{_digest(source)}"

    def prepare(self) -> None:
        """Compile it; without zlib's header the program does without deflate."""
        if self.path.exists():
            return
        if not shutil.which("gcc"):
            raise Unavailable("needs a C compiler: apt install gcc libc6-dev zlib1g-dev")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        command = ["gcc", "-O2", "-std=gnu11", "-pthread", "-o", str(unfinished), str(_NATIVE / f"{self.name}.c")]
        try:
            _run([*command, *self.libraries], what=self.name)
        except Unavailable:
            if not self.libraries:
                raise
            _run([*command, "-DNO_ZLIB"], what=self.name)
        unfinished.rename(self.path)


@dataclass(frozen=True, slots=True)
class Peers(Component):
    """The Python packages of `peers.txt`, in an environment of their own, for Antiphon from the source tree too."""

    @property
    def folder(self) -> Path:
        """The environment; another list of packages or another Python is another environment."""
        return CACHE / f"peers-{_digest(_PEERS.read_bytes(), sys.version.encode(), str(CACHE).encode())}"

    def program(self, name: str) -> str:
        """The path of a command in it."""
        return str(self.folder / "bin" / name)

    def prepare(self) -> None:
        """Make the environment and install."""
        finished = self.folder / "finished"
        if finished.exists():
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        print(f"  installing the packages of {_PEERS.name} (once)", flush=True)
        venv.create(self.folder, with_pip=True)
        pip = [self.program("python"), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        _run([*pip, "--requirement", str(_PEERS)], what="pip install -r benchmarks/peers.txt", env=environment)
        finished.touch()

    def versions(self) -> Mapping[str, str]:
        """Those of the packages in the list."""
        names = [line.partition("==")[0].partition("[")[0].strip() for line in _PEERS.read_text().splitlines()]
        wanted = [name for name in names if name and not name.startswith("#")]
        code = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
        output = _run([self.program("python"), "-c", code, *wanted], what="versions of the peers")
        found: dict[str, str] = json.loads(output)
        return found


@dataclass(frozen=True, slots=True)
class NodePackages(Component):
    """npm packages with pinned versions, for servers that run on node."""

    packages: tuple[str, ...]
    apps: Path

    @property
    def folder(self) -> Path:
        """Where they are, with copies of the server programs beside them, which node needs to find them."""
        return CACHE / f"node-{_digest(*(package.encode() for package in self.packages))}"

    def prepare(self) -> None:
        """Install, and copy the programs."""
        if not shutil.which("node") or not shutil.which("npm"):
            raise Unavailable("needs node and npm: apt install nodejs npm")
        finished = self.folder / "finished"
        if not finished.exists():
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            (self.folder / "package.json").write_text('{"private": true}\n')
            print(f"  installing {', '.join(self.packages)} (once)", flush=True)
            install = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--save-exact"]
            _run([*install, *self.packages], what="npm install", cwd=self.folder)
            finished.touch()
        for program in self.apps.glob("*.mjs"):
            shutil.copy(program, self.folder)

    def versions(self) -> Mapping[str, str]:
        """Those of the packages and of node."""
        found = {"node": _run(["node", "--version"], what="node").strip().removeprefix("v")}
        for package in self.packages:
            name, _, version = package.rpartition("@")
            found[f"{name} (npm)"] = version
        return found


@dataclass(frozen=True, slots=True)
class DebianPackages(Component):
    """Debian packages, downloaded and unpacked beside one another: nothing is installed, root is not needed."""

    packages: tuple[str, ...]
    program: str
    """The program's path below the root, to see that it is there."""
    libraries: str = "usr/lib"

    @property
    def folder(self) -> Path:
        """The root that they are unpacked in."""
        return CACHE / f"debian-{self.name}"

    def environment(self) -> dict[str, str]:
        """For the programs in it: where their libraries are."""
        folders = sorted({str(path.parent) for path in self.folder.glob("usr/lib/**/*.so*")})
        return {"LD_LIBRARY_PATH": ":".join(folders)}

    def prepare(self) -> None:
        """Download and unpack."""
        if (self.folder / "finished").exists():
            return
        by_hand = f"apt-get download {' '.join(self.packages)}"
        if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
            raise Unavailable(f"needs Debian or Ubuntu: {by_hand}, then dpkg-deb -x")
        shutil.rmtree(self.folder, ignore_errors=True)
        downloads = self.folder / "downloads"
        downloads.mkdir(parents=True)
        try:
            _run(["apt-get", "download", *self.packages], what=by_hand, cwd=downloads)
            for package in downloads.glob("*.deb"):
                _run(["dpkg-deb", "-x", str(package), str(self.folder)], what=package.name)
        except Unavailable as error:
            raise Unavailable(f"{error} (perhaps `apt-get update` first)") from error
        if not (self.folder / self.program).exists():
            raise Unavailable(f"{by_hand}: no {self.program} in them")
        (self.folder / "finished").touch()

    def versions(self) -> Mapping[str, str]:
        """As the packages' file names say."""
        found = {}
        for package in (self.folder / "downloads").glob("*.deb"):
            name, version, _ = package.stem.split("_", 2)
            if not name.startswith("lib") or name.startswith("libnginx"):
                found[f"{name} (Debian)"] = version.replace("%3a", ":")
        return found


@dataclass(frozen=True, slots=True)
class Program(Component):
    """One of several commands that have to be on the PATH already."""

    choices: tuple[str, ...]
    how_to_get: str
    flags: tuple[str, ...] = field(default=("--version",))

    @property
    def path(self) -> str:
        """The first of them that is there."""
        for choice in self.choices:
            found = _which(choice)
            if found:
                return found
        raise Unavailable(f"needs {' or '.join(self.choices)} on the PATH: {self.how_to_get}")

    def prepare(self) -> None:
        """Only look for it."""
        _ = self.path

    def versions(self) -> Mapping[str, str]:
        """Its own word for it."""
        first_line = _run([self.path, *self.flags], what=self.name).strip().splitlines()[0]
        return {self.name: first_line}


@cache
def _which(name: str) -> str | None:
    return shutil.which(name)
