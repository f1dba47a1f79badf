"""The state of running work: pure values and one thread-safe hub."""

from nbgen.progress.progress import GenerationProgress, Stage, StagePlan
from nbgen.progress.service import ProgressService, get_progress_service

__all__ = [
    "GenerationProgress",
    "ProgressService",
    "Stage",
    "StagePlan",
    "get_progress_service",
]
