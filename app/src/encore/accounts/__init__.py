"""People: who they are, what they may do, and the sessions by which they prove it."""
