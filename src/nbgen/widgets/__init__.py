"""Notebook widgets over a studio: they show its state and call its methods."""

from nbgen.errors import PackageMissing

try:
    from nbgen.widgets.batch_panel import BatchPanel
    from nbgen.widgets.generation_panel import GenerationPanel
except ModuleNotFoundError as error:
    raise PackageMissing(error.name, "notebook") from error

__all__ = ["BatchPanel", "GenerationPanel"]
