"""Where things are unless the caller says otherwise."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def default_data_dir() -> Path:
    """Return ``NBGEN_DATA_DIR`` or, unset, the user's data folder for nbgen."""
    chosen = os.environ.get("NBGEN_DATA_DIR")
    return Path(chosen) if chosen else platformdirs.user_data_path("nbgen")


def default_database() -> str | None:
    """Return ``NBGEN_DATABASE``, the URL of a database, or None if it is unset."""
    return os.environ.get("NBGEN_DATABASE") or None


def default_images() -> str | None:
    """Return ``NBGEN_IMAGES``, the URL of the pictures, or None if it is unset."""
    return os.environ.get("NBGEN_IMAGES") or None
