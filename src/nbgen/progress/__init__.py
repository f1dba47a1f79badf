"""The state of running work: one thread-safe hub and those it tells."""

from nbgen.progress.previews import PreviewHub
from nbgen.progress.service import ProgressService

__all__ = ["PreviewHub", "ProgressService"]
