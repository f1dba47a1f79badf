"""Placeholder."""

from nbgen.local.worker import Worker as Endings

__all__ = ["Endings"]
