"""Notebook widgets over a studio. They translate, and hold no rules of their own."""

from nbgen.errors import PackageMissing

try:
    from nbgen.widgets.batch_panel import BatchPanel
    from nbgen.widgets.generation_panel import GenerationPanel
except ModuleNotFoundError as error:
    raise PackageMissing(error.name, "notebook") from error

__all__ = ["BatchPanel", "GenerationPanel"]
