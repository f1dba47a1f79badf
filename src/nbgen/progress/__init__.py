"""The state of running work: pure values and one thread-safe hub."""

from nbgen.progress.previews import Preview, PreviewHub
from nbgen.progress.progress import GenerationProgress, Stage, StagePlan
from nbgen.progress.service import ProgressService, get_progress_service

__all__ = [
    "GenerationProgress",
    "Preview",
    "PreviewHub",
    "ProgressService",
    "Stage",
    "StagePlan",
    "get_progress_service",
]
