"""What stands before every route: where a request may come from, how large it may be, and what each answer says."""

from encore.web.addresses import client_address
from encore.web.bodies import BODIES, BodyRule
from encore.web.identifiers import request_id, set_user
from encore.web.stack import install

__all__ = ["BODIES", "BodyRule", "client_address", "install", "request_id", "set_user"]
