"""Encore: an audio-streaming community site. What is live on it goes through `antiphon`."""

__version__ = "0.1.0"
