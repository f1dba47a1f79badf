"""Helpers for tests of code that uses nbgen."""

from nbgen.testing.engine import PatternEngine
from nbgen.testing.memory import MemoryBackend

__all__ = ["MemoryBackend", "PatternEngine"]
