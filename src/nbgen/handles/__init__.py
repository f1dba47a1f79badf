"""Handles on tasks, batches and pictures, over the ``Backend`` protocols."""

from nbgen.handles.batch import Batch
from nbgen.handles.picture import Picture
from nbgen.handles.task import Task

__all__ = ["Batch", "Picture", "Task"]
