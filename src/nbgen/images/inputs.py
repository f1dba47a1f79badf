"""Keeps the pictures that people bring along, for image-to-image and masks.

Thread-safe, as the image folder is.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from nbgen.errors import InvalidRequest
from nbgen.schema.checks import IMAGE_NAME, IMAGE_URL

if TYPE_CHECKING:
    from nbgen.images.store import Images

ALLOWED = (
    "a picture: a PIL image, the path of a picture file, or the name of a picture that "
    "is kept here"
)


def keep_picture(
    images: Images, field: str, source: str | Path | bytes | Image.Image | None
) -> str | None:
    """Put a picture into the image folder and return its name there.

    One that is there already is made young, so that it lasts until the row that refers
    to it is committed.

    Args:
        images: Where pictures are kept.
        field: What the picture is for, for the error.
        source: A picture, the path or the bytes of a picture file, or the name or
            ``/images/`` URL of one that is in the folder already; None is returned.

    Raises:
        InvalidRequest: It is no picture, or there is none of that name.
    """
    if source is None:
        return None
    if isinstance(source, str):
        name = source.removeprefix(IMAGE_URL)
        if IMAGE_NAME.fullmatch(name):
            if not images.keep(name):
                raise InvalidRequest(field, source, ALLOWED)
            return name
    try:
        picture = _open(source)
        picture = ImageOps.exif_transpose(picture)
        if picture.has_transparency_data:  # of a palette, it cannot go straight to RGB
            picture = picture.convert("RGBA")
        buffer = io.BytesIO()
        picture.convert("RGB").save(buffer, "PNG")
    except Image.DecompressionBombError as error:
        raise InvalidRequest(field, "a huge picture", ALLOWED) from error
    except Exception as error:  # whatever Pillow raises over a broken file
        shown = source if isinstance(source, (str, Path)) else type(source).__name__
        raise InvalidRequest(field, str(shown), ALLOWED) from error
    return images.save(buffer.getvalue(), "png")


def _open(source: str | Path | bytes | Image.Image) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
