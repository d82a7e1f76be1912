"""A certificate authority for one test: made with openssl, trusted by nobody else."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

__all__ = ["Authority", "Credentials"]

_CONFIGURATION = """
[ca]
default_ca = test
[test]
database = {folder}/index.txt
new_certs_dir = {folder}
rand_serial = yes
unique_subject = no
default_md = sha256
policy = names
[names]
commonName = supplied
"""

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Credentials(NamedTuple):
    """A certificate and its key."""

    certificate: str
    key: str


class Authority:
    """Signs certificates. `certificate` is what must be trusted."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder / name
        self._folder.mkdir()
        self._folder.joinpath("index.txt").touch()
        self._folder.joinpath("ca.cnf").write_text(_CONFIGURATION.format(folder=self._folder))
        self.certificate = str(self._folder / "ca.pem")
        self._key = str(self._folder / "ca.key")
        _openssl(
            "req", "-x509", *_KEY, "-subj", f"/CN={name}", "-days", "2", "-keyout", self._key, "-out", self.certificate
        )

    def sign(self, name: str, *, alternative: str, expired: bool = False) -> Credentials:
        """A certificate for `alternative`, such as `IP:127.0.0.1`."""
        key, request, made, extension = (str(self._folder / f"{name}.{end}") for end in ("key", "csr", "pem", "ext"))
        _openssl("req", *_KEY, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        Path(extension).write_text(f"subjectAltName = {alternative}\n")
        dates = ("20200101000000Z", "20200102000000Z") if expired else ("20200101000000Z", "20991231000000Z")
        command = ["ca", "-batch", "-notext", "-config", str(self._folder / "ca.cnf"), "-extfile", extension]
        command += ["-cert", self.certificate, "-keyfile", self._key, "-in", request, "-out", made]
        _openssl(*command, "-startdate", dates[0], "-enddate", dates[1])
        return Credentials(made, key)


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
