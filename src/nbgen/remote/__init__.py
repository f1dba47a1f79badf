"""Clients of a server that runs elsewhere."""
