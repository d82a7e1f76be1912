"""Track comments: what people say at a second of a track."""
