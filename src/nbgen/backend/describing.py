"""The protocol of what says which model draws; see ``nbgen.backend``."""

from __future__ import annotations

from typing import Protocol

from nbgen.schema import ModelFacts, PromptLength


class Describing(Protocol):
    """Says which model draws, and how much of a prompt it reads.

    It is the model that the settings of this backend name, loaded or not. Where another
    process runs the queue, with another checkpoint, that one draws with its own.

    Both calls answer None where the model is not known: an engine of the caller's own,
    a checkpoint that is not on this machine, or ``"auto"`` where SDXL is here and the
    engine has not said yet whether there is a GPU for it.
    """

    def model(self) -> ModelFacts | None:
        """Return what is known of the model, from its files; None for nothing.

        It loads nothing and may be called often. ``ModelFacts.device`` is known once
        the engine has loaded the model.
        """

    def measure_prompt(self, text: str) -> PromptLength | None:
        """Return how long a prompt is for the model, and where it would be cut.

        The same holds for a negative prompt. The first call reads the model's
        vocabulary; the later ones are quick enough for each key that is typed.

        Args:
            text: The prompt, of any length.

        Returns:
            The length; None where the model is not known or has no sound tokenizer.

        Raises:
            InvalidRequest: It is no text.
        """
