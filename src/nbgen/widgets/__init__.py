"""Notebook widgets."""
