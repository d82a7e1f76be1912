"""broadcasts of the site."""
