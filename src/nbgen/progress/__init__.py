"""The state of running tasks: one thread-safe hub and its callbacks."""

from nbgen.progress.follower import ChangeFollower
from nbgen.progress.previews import PreviewHub
from nbgen.progress.service import ProgressService

__all__ = ["ChangeFollower", "PreviewHub", "ProgressService"]
