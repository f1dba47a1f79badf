"""Make, watch and approve SDXL images, in JupyterLab and over a WebSocket.

The public names are imported when they are first used, so that ``import nbgen`` loads
none of torch, diffusers, tornado, pandas or ipywidgets.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbgen.errors import NbgenError as NbgenError
    from nbgen.errors import RowErrors as RowErrors
    from nbgen.frames import read_frame as read_frame
    from nbgen.generation.recipe import recipe as recipe
    from nbgen.handles.batch import Batch as Batch
    from nbgen.handles.task import Task as Task
    from nbgen.progress import ProgressService as ProgressService
    from nbgen.review.publishers import FolderPublisher as FolderPublisher
    from nbgen.review.webhook import WebhookPublisher as WebhookPublisher
    from nbgen.schema import DecisionRequest as DecisionRequest
    from nbgen.schema import GenerationProgress as GenerationProgress
    from nbgen.schema import GenerationRequest as GenerationRequest
    from nbgen.schema import GenerationResult as GenerationResult
    from nbgen.studio import Studio as Studio
    from nbgen.widgets import BatchPanel as BatchPanel
    from nbgen.widgets import GenerationPanel as GenerationPanel

__version__ = "0.1.0"

# Name and home of all that is public; the imports for types above repeat it.
_MODULE_OF = {
    "Batch": "nbgen.handles.batch",
    "BatchPanel": "nbgen.widgets",
    "DecisionRequest": "nbgen.schema",
    "FolderPublisher": "nbgen.review.publishers",
    "GenerationPanel": "nbgen.widgets",
    "GenerationProgress": "nbgen.schema",
    "GenerationRequest": "nbgen.schema",
    "GenerationResult": "nbgen.schema",
    "NbgenError": "nbgen.errors",
    "ProgressService": "nbgen.progress",
    "RowErrors": "nbgen.errors",
    "Studio": "nbgen.studio",
    "Task": "nbgen.handles.task",
    "WebhookPublisher": "nbgen.review.webhook",
    "read_frame": "nbgen.frames",
    "recipe": "nbgen.generation.recipe",
}

__all__ = ["__version__", *_MODULE_OF]  # noqa: PLE0604 - all are strings

# Without a handler of any kind, Python prints warnings to stderr, and a notebook
# that is compared with its stored outputs must not print.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
