"""The ways to a client's socket: `base` says what one must offer."""
