"""Broadcasts: short announcements from the creators to everybody."""
