"""Servers of every kind under the same load, on one core, measured from outside."""
