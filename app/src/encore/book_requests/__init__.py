"""Book requests: listeners ask for audiobooks and books, creators answer."""
