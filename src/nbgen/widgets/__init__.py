"""Notebook widgets over a studio. They translate, and hold no rules of their own."""

from nbgen.widgets.batch_panel import BatchPanel
from nbgen.widgets.generation_panel import GenerationPanel

__all__ = ["BatchPanel", "GenerationPanel"]
