"""The catalogue: albums and tracks, their audio and covers, and where each person stopped listening."""
