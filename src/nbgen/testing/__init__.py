"""Helpers for tests of code that uses nbgen."""

from nbgen.testing.engine import PatternEngine

__all__ = ["PatternEngine"]
