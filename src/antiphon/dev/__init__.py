"""Several replicas on one machine, with a broker of their own: for development, demonstrations and tests."""
