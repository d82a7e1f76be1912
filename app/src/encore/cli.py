"""The command `encore`."""

from __future__ import annotations

from typing import Annotated

import typer

import antiphon
from encore.migration import upgrade
from encore.settings import read_settings

__all__ = ["main"]

main = typer.Typer(no_args_is_help=True, add_completion=False, help="Encore, the site.")


@main.callback()
def _root() -> None:
    pass


@main.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
) -> None:
    """Serve the site: one replica."""
    antiphon.run("encore.main:app", host=host, port=port)


@main.command()
def migrate() -> None:
    """Bring the database to the present schema."""
    upgrade(read_settings().database_url.get_secret_value())
