"""The Tornado server."""
