"""Bytes in and out, without a network: JSON, envelopes between replicas, frames to clients."""
