"""The exit codes of the command line, and which error leads to which."""

from __future__ import annotations

from enum import IntEnum

from antiphon.errors import AntiphonError, BrokerError, ConfigurationError, MissingExtra, PublishFailed

__all__ = ["Exit", "exit_for"]


class Exit(IntEnum):
    """What a script that calls `antiphon` can rely on."""

    OK = 0
    """Done. Also when `tail` is ended by Ctrl-C or by a pipe that nobody reads any more."""
    FAILED = 1
    """It did not work, for a reason that is printed."""
    USAGE = 2
    """An argument, an option or an address makes no sense. Nothing was sent."""
    BROKER = 3
    """The broker cannot be reached, does not answer, or refuses."""


def exit_for(error: AntiphonError) -> Exit:
    """The exit code that an error of the library leads to."""
    if isinstance(error, BrokerError | PublishFailed):
        return Exit.BROKER
    if isinstance(error, ConfigurationError) and not isinstance(error, MissingExtra):
        return Exit.USAGE
    return Exit.FAILED
