"""Helpers for tests of code that uses nbgen; see docs/testing.md."""

from nbgen.testing.capture import collect_progress
from nbgen.testing.engine import PatternEngine
from nbgen.testing.gate import Gate
from nbgen.testing.memory import MemoryBackend

__all__ = ["Gate", "MemoryBackend", "PatternEngine", "collect_progress"]
