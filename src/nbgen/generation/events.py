"""What an engine says while it works: a closed set of frozen values.

The same values go from an engine to the queue in one process, and, as msgpack, out of a
process of its own. Any thread may hold them.
"""

from __future__ import annotations

import msgspec

from nbgen.schema import OutputFormat, Preview, Stage, StagePlan


class Planned(msgspec.Struct, frozen=True, tag=True):
    """The stages of the run are known; comes once, before the first step."""

    stages: tuple[StagePlan, ...]


class StageStarted(msgspec.Struct, frozen=True, tag=True):
    """A stage began.

    ``Stage.SAVE`` comes from the runner, not from the engine: the pictures are drawn,
    the engine is free, and some pictures may not be encoded yet.
    """

    stage: Stage


class StepFinished(msgspec.Struct, frozen=True, tag=True):
    """One more sampling step is done."""


class Warned(msgspec.Struct, frozen=True, tag=True):
    """The user should know something; ``message`` is a sentence."""

    message: str


class Silent(msgspec.Struct, frozen=True, tag=True):
    """The engine's process has said nothing for longer than is usual.

    It comes each second, from the runner, until the process says something. A cancel
    ends the process at once meanwhile.

    Attributes:
        for_s: For how many seconds.
    """

    for_s: float


class PreviewMade(msgspec.Struct, frozen=True, tag=True):
    """The first picture of the batch will look like this."""

    preview: Preview


class PictureMade(msgspec.Struct, frozen=True, tag=True):
    """A picture is drawn and encoded. Comes from the runner, not from the engine.

    Attributes:
        index: Its place in the batch, from 0.
        seed: The seed that it was made from.
        width: Width in pixels.
        height: Height in pixels.
        output_format: The kind of file.
        data: The bytes of the file, recipe included.
        facts: What it was made with; see ``Engine.facts``.
    """

    index: int
    seed: int
    width: int
    height: int
    output_format: OutputFormat
    data: bytes
    facts: dict[str, str]


class Ended(msgspec.Struct, frozen=True, tag=True):
    """The last event of each run. Comes from the runner, not from the engine.

    Attributes:
        error: Why not all pictures were made; ``Cancelled`` after a cancel. None if
            all were made.
        traceback: Where the error was raised, for the log, if that was in another
            process; None otherwise.
    """

    error: BaseException | None = None
    traceback: str | None = None


EngineEvent = (
    StepFinished
    | StageStarted
    | Planned
    | Warned
    | Silent
    | PreviewMade
    | PictureMade
    | Ended
)
