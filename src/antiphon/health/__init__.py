"""How this replica is, and who may ask: pure data and decisions, nothing that waits or listens."""
