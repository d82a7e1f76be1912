"""forum of the site."""
