"""catalogue of the site."""
