"""pandas in and out: the only part of nbgen that imports it.

Pure functions of a studio; any thread may call them, but a DataFrame that another
thread changes meanwhile is the caller's to keep from it.
"""

from nbgen.errors import PackageMissing

try:
    from nbgen.frames.batch import FrameBatch, generate_frame
    from nbgen.frames.tables import (
        decisions_frame,
        images_frame,
        read_frame,
        tasks_frame,
    )
except ModuleNotFoundError as error:
    raise PackageMissing(error.name, "notebook") from error

__all__ = [
    "FrameBatch",
    "decisions_frame",
    "generate_frame",
    "images_frame",
    "read_frame",
    "tasks_frame",
]
