"""book requests of the site."""
