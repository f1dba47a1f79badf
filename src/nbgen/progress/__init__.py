"""The state of running tasks: one thread-safe hub and its callbacks."""

from nbgen.progress.previews import PreviewHub
from nbgen.progress.service import ProgressService, get_progress_service

__all__ = ["PreviewHub", "ProgressService", "get_progress_service"]
