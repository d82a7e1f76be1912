"""The command `antiphon`. It needs the packages of `antiphon[cli]`, and says so when they are missing."""

from __future__ import annotations

import importlib.util
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line, and leave with its exit code: `docs/operation.md` lists them."""
    missing = [name for name in ("typer", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"antiphon: the command line needs {' and '.join(missing)}: pip install 'antiphon[cli]', "
            "or 'antiphon[dev]' for `antiphon dev` too",
            file=sys.stderr,
        )
        sys.exit(1)
    from antiphon.cli.commands import run

    sys.exit(run(sys.argv[1:]))
