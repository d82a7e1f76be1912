"""comments of the site."""
