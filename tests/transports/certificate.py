"""A certificate for one test."""

from __future__ import annotations

import subprocess
from pathlib import Path


def self_signed(folder: Path) -> tuple[str, str]:
    """Make a certificate for 127.0.0.1 that nobody trusts, and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=127.0.0.1 -days 2"
    subprocess.run(
        ["openssl", *make.split(), "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True
    )
    return str(certificate), str(key)
