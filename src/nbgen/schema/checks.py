"""Checks of single fields: each returns the value in its proper type, or raises.

Pure functions, for any thread. Every error is an ``InvalidRequest`` that names the
field, the value and what is allowed.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import operator
import re
from enum import StrEnum
from typing import Any, TypeVar

from nbgen.errors import InvalidRequest

MAX_PROMPT_LENGTH = 2_000
MAX_SEED = 2**32 - 1
SHORTEST_SIDE, LONGEST_SIDE = 64, 2_048
"""The sides of a picture, in pixels."""
SIZE_MULTIPLE = 8
"""SDXL's VAE halves each side three times, so sides are multiples of 8 pixels."""
LONGEST_TASK_ID = 128
LONGEST_REQUEST_KEY = 255
LONGEST_BATCH_NAME = 60
LONGEST_REVIEWER_ID = 200
LONGEST_FEEDBACK = 10_000
LONGEST_URL = 2_000
LONGEST_TAG, MOST_TAGS = 100, 20
LONGEST_PUBLISHER_NAME = 200
LONGEST_IMAGE_NAME = 40
LONGEST_QUEUE_NAME = 60
LONGEST_LANE_NAME = 120
IMAGE_NAME = re.compile(r"[0-9a-f]{32}\.(png|jpeg|webp)")
"""What the picture files of the image folder are called."""
IMAGE_URL = "/images/"
"""The path under which a server serves them."""

HIGHEST_PRIORITY = 1_000
MOST_LISTED = 1_000

_REQUEST_KEY = re.compile(rf"[!-~]{{1,{LONGEST_REQUEST_KEY}}}")
_TASK_ID = re.compile(rf"[A-Za-z0-9._:-]{{1,{LONGEST_TASK_ID}}}")


def check_task_id(task_id: object) -> str:
    """Return the task id, or raise ``InvalidRequest`` when it cannot be one.

    An id is one segment of a URL path, so a slash, a blank, ``.`` and ``..`` cannot
    stand in it.
    """
    if (
        isinstance(task_id, str)
        and _TASK_ID.fullmatch(task_id)
        and task_id not in (".", "..")
    ):
        return task_id
    raise InvalidRequest(
        "task_id",
        task_id,
        f"1 to {LONGEST_TASK_ID} letters, digits, dots, underscores, colons or hyphens "
        "(and not '.' or '..')",
    )


def submission_id(
    task_id: str | None, request_key: object, *, field: str = "request_key"
) -> str | None:
    """Return the id that a submission asks for; None for one that is to be drawn.

    Args:
        task_id: The id, or None.
        request_key: What the caller calls the submission, or None. All submissions
            with one key ask for one id, which is made from the key.
        field: What the caller calls the key.

    Raises:
        InvalidRequest: The key cannot be one, or there is an id, too.
    """
    if request_key is None:
        return task_id
    if not isinstance(request_key, str) or not _REQUEST_KEY.fullmatch(request_key):
        allowed = f"1 to {LONGEST_REQUEST_KEY} visible ASCII characters"
        raise InvalidRequest(field, request_key, allowed)
    if task_id is not None:
        raise InvalidRequest(field, request_key, "left out beside a task_id")
    return hashlib.sha256(request_key.encode()).hexdigest()[:16]


def check_batch_name(field: str, name: object) -> str:
    """Return the name of a batch or of its row; raise ``InvalidRequest`` if it is none.

    Together they make the id of a task.
    """
    if isinstance(name, str) and len(name) <= LONGEST_BATCH_NAME:
        with contextlib.suppress(InvalidRequest):
            return check_task_id(name)
    raise InvalidRequest(
        field,
        name,
        f"1 to {LONGEST_BATCH_NAME} letters, digits, dots, underscores, colons or "
        "hyphens (and not '.' or '..')",
    )


def check_queue_name(name: object) -> str:
    """Return the name of a queue, or raise ``InvalidRequest`` when it cannot be one."""
    return check_batch_name("queue", name)


def check_tags(tags: object) -> tuple[str, ...]:
    """Return the trimmed tags, each once; raise ``InvalidRequest`` if they are bad."""
    if not isinstance(tags, (list, tuple)) or len(tags) > MOST_TAGS:
        raise InvalidRequest("tags", tags, f"a list of up to {MOST_TAGS} texts")
    trimmed = (check_text("tags", tag, shortest=1, longest=LONGEST_TAG) for tag in tags)
    return tuple(dict.fromkeys(trimmed))


def check_priority(priority: object) -> int:
    """Return the priority, -1,000 to 1,000; raise ``InvalidRequest`` if it is none."""
    return check_int("priority", priority, -HIGHEST_PRIORITY, HIGHEST_PRIORITY)


def check_text(
    field: str, value: Any, *, shortest: int = 0, longest: int = MAX_PROMPT_LENGTH
) -> str:
    """Return the trimmed text, of so many characters."""
    trimmed = value.strip() if isinstance(value, str) else None
    if trimmed is None or not shortest <= len(trimmed) <= longest:
        allowed = f"a text of {shortest:,} to {longest:,} characters"
        raise InvalidRequest(field, value, allowed)
    if "\0" in trimmed:  # which PostgreSQL cannot store
        raise InvalidRequest(field, value, "a text without the character NUL")
    # A lone surrogate can be neither stored nor sent.
    return trimmed.encode("utf-8", "replace").decode()


def check_int(field: str, value: Any, least: int, most: int) -> int:
    """Return the whole number, ends included."""
    try:
        # bool is an int to Python, but not to the person who wrote it.
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        allowed = f"a whole number from {least:,} to {most:,}"
        raise InvalidRequest(field, value, allowed)
    return number


def check_number(
    field: str, value: Any, least: float, most: float, *, ends: bool = True
) -> float:
    """Return the finite number, ends included unless ``ends`` is false."""
    try:
        number = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    # A comparison with nan is false.
    if not (least <= number <= most if ends else least < number < most):
        allowed = f"a number {'from' if ends else 'between'} {least} "
        raise InvalidRequest(field, value, f"{allowed}{'to' if ends else 'and'} {most}")
    return number


_Choice = TypeVar("_Choice", bound=StrEnum)


def check_choice(field: str, value: Any, choices: type[_Choice]) -> _Choice:
    """Return the member of a closed set that the value names."""
    try:
        return choices(value)
    except ValueError:
        *others, last = (f"'{choice}'" for choice in choices)
        allowed = f"{', '.join(others)} or {last}"
        raise InvalidRequest(field, value, allowed) from None


def image_name_of(text: str) -> str | None:
    """Return the name of a picture that is its name or ``/images/`` URL, else None."""
    name = text.removeprefix(IMAGE_URL)
    return name if IMAGE_NAME.fullmatch(name) else None


def check_image_name(field: str, value: Any) -> str | None:
    """Return the name of a picture file, None for none; an ``/images/`` URL will do."""
    if value is None:
        return None
    name = image_name_of(value) if isinstance(value, str) else None
    if name is None:
        allowed = "the name or the /images/ URL of a picture that is kept here"
        raise InvalidRequest(field, value, allowed)
    return name


def check_flag(field: str, value: Any) -> bool:
    """Return the true or false."""
    if not isinstance(value, bool):
        raise InvalidRequest(field, value, "true or false")
    return value


def check_side(field: str, value: Any, least: int, most: int, multiple: int) -> int:
    """Return the length of a picture's side in pixels."""
    allowed = f"a multiple of {multiple} from {least:,} to {most:,} pixels"
    try:
        side = check_int(field, value, least, most)
    except InvalidRequest:
        raise InvalidRequest(field, value, allowed) from None
    if side % multiple:
        below = side - side % multiple
        nearest = f" (the nearest are {below} and {below + multiple})"
        raise InvalidRequest(field, value, allowed + nearest)
    return side
