"""All tables: importing this makes `Model.metadata` complete."""

from encore.accounts import models as accounts
from encore.book_requests import models as book_requests
from encore.broadcasts import models as broadcasts
from encore.catalogue import models as catalogue
from encore.comments import models as comments
from encore.forum import models as forum
from encore.forum import notification_models as forum_notifications

__all__ = ["accounts", "book_requests", "broadcasts", "catalogue", "comments", "forum", "forum_notifications"]
