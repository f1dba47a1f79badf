"""Serves the progress protocol and the HTTP API with Tornado."""

from nbgen.server.app import Server
from nbgen.server.progress_socket import Limits, Timing

__all__ = ["Limits", "Server", "Timing"]
