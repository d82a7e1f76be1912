"""All tables: importing this makes `Model.metadata` complete."""

from encore.accounts import models as accounts

__all__ = ["accounts"]
