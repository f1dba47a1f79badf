"""Decisions about finished pictures."""
