"""From a run's figures to something to read."""
