"""Finds the picture that an approval stands for.

Pure functions, for any thread; a callback says which files exist and are sound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from nbgen.errors import InvalidRequest, PictureDamaged
from nbgen.review.image_url import find_image_url
from nbgen.schema import DecisionRequest, Subject, Verdict
from nbgen.schema.checks import image_name_of


class Candidate(NamedTuple):
    """A picture that an approval may stand for.

    Attributes:
        url: Its URL.
        name: The name of its file, which must still exist; None for a picture that need
            not be kept here. If it is, its file must not be damaged.
    """

    url: str
    name: str | None = None


def find_picture(
    subject: Subject, request: DecisionRequest, has_picture: Callable[[str], bool]
) -> str | PictureDamaged | None:
    """Return the URL of the first candidate whose file exists and is sound.

    Args:
        subject: What is decided on.
        request: The decision.
        has_picture: Returns whether there is a picture of that name; raises
            ``PictureDamaged`` if its file is damaged.

    Returns:
        None if no candidate has a file; the error if the first that has one is damaged
        and none is sound.
    """
    damaged: PictureDamaged | None = None
    for url, name in find_candidates(subject, request):
        kept_as = name or image_name_of(url)
        try:
            exists = kept_as is not None and has_picture(kept_as)
        except PictureDamaged as error:
            damaged = damaged or error
            continue
        if exists or name is None:
            return url
    return damaged


def find_candidates(subject: Subject, request: DecisionRequest) -> list[Candidate]:
    """Return the pictures that an approval may stand for, the preferred one first.

    That is the decision's own URL, or the picture that it names; else what the metadata
    say, the task's own URL, then the pictures that were generated. Any other verdict
    has none.

    Raises:
        InvalidRequest: The decision names a picture that is none of the task's.
    """
    made = subject.task.result.images if subject.task and subject.task.result else ()
    urls = {picture.name: picture.url for picture in made}
    if request.image is not None and request.image not in urls:
        allowed = f"the name of a picture of task {subject.task_id!r}, or left out"
        raise InvalidRequest("image", request.image, allowed)
    if request.verdict is not Verdict.APPROVED:
        return []
    if request.featured_image_url is not None:
        return [Candidate(request.featured_image_url)]
    if request.image is not None:
        return [Candidate(urls[request.image], request.image)]
    if subject.content is not None:
        content = subject.content
        url = find_image_url(content.metadata) or content.featured_image_url
        if url is not None:
            return [Candidate(url)]
    return [Candidate(url, name) for name, url in urls.items()]
