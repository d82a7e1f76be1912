"""Benchmarks: `fleet` runs whole servers against a load generator, `micro` counts operations of single functions."""
