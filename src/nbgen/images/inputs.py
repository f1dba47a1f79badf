"""Pictures that people bring along, for image-to-image and masks.

Thread-safe, as the image folder is.
"""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageOps

from nbgen.errors import InvalidRequest
from nbgen.images.store import Images
from nbgen.schema.checks import image_name_of

ALLOWED = (
    "a picture: a PIL image, the path of a picture file, or the name of a picture that "
    "is kept here"
)

PictureSource = str | Path | bytes | Image.Image
"""A PIL image, the path or the bytes of a picture file, or the name of a picture."""


def read_source(field: str, source: PictureSource) -> str | bytes:
    """Return the name that the source is, or the picture as the bytes of a PNG file.

    Args:
        field: The field of the request that the picture is for, for the error.
        source: A PIL image, the path or the bytes of a picture file, or the name or
            ``/images/`` URL of a picture that is kept already.

    Returns:
        The name without its URL, or a PNG file in RGB, upright, without transparency.

    Raises:
        InvalidRequest: It is no picture.
    """
    if isinstance(source, str):
        name = image_name_of(source)
        if name is not None:
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
    return buffer.getvalue()


def keep_picture(images: Images, field: str, picture: str | bytes) -> str:
    """Return the name of a picture that a request may refer to from now on.

    The age of a picture that is kept already is reset, so that garbage collection
    leaves it until the row that refers to it is committed.

    Args:
        images: The picture files.
        field: The field of the request that the picture is for, for the error.
        picture: The name or ``/images/`` URL of a picture that is kept already, or the
            bytes of a PNG file.

    Raises:
        InvalidRequest: No picture of that name is kept.
        PictureDamaged: Its file is damaged.
    """
    if isinstance(picture, bytes):
        return images.save(picture, "png")
    name = image_name_of(picture)
    if name is None or not images.keep(name):
        raise InvalidRequest(field, picture, ALLOWED)
    return name


def _open(source: PictureSource) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
