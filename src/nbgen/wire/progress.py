"""Version 1 of the progress protocol, without sockets: docs/protocol.md describes it.

Nothing here does I/O. A ``WatchSession`` belongs to one connection and to the thread
or loop that serves it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from nbgen.schema import GenerationProgress

WAITING_MESSAGE = "Waiting for generation to start..."
KEEP_ALIVE = '{"type":"keep-alive"}'
PONG = '{"type":"pong"}'


def progress_message(progress: GenerationProgress) -> dict[str, Any]:
    """Return the ``progress`` message for a state."""
    message = {
        "type": "progress",
        "task_id": progress.task_id,
        "status": progress.status.value,
        "current_step": progress.current_step,
        "total_steps": progress.total_steps,
        "percentage": progress.percentage,
        "current_stage": progress.current_stage or "",
        "elapsed_time": progress.elapsed_time,
        "estimated_remaining": progress.estimated_remaining,
        "error": progress.error,
        "message": progress.message,
        "timestamp": progress.timestamp.isoformat(),
        "seq": progress.seq,
        "overall_percentage": progress.overall_percentage,
        "remaining_known": progress.remaining_known,
    }
    if progress.outcome is not None:
        message["outcome"] = progress.outcome.value
        message["result"] = msgspec.to_builtins(progress.result)
    return message


def encode_progress(progress: GenerationProgress) -> str:
    """Return the text frame for a state; one serves any number of watchers."""
    return msgspec.json.encode(progress_message(progress)).decode()
