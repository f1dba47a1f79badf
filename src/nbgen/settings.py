"""What holds unless the caller says otherwise: defaults, then ``NBGEN_…`` variables."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

DATABASE_FILE = "nbgen.sqlite"
"""Where tasks and decisions are, in a data folder, unless they are elsewhere."""


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


def default_quorum() -> str:
    """Return ``NBGEN_QUORUM`` or, unset, ``"any"``."""
    return os.environ.get("NBGEN_QUORUM") or "any"


def default_queue() -> str:
    """Return ``NBGEN_QUEUE`` or, unset, ``"default"``."""
    return os.environ.get("NBGEN_QUEUE") or "default"


def default_publish_folder() -> str | None:
    """Return ``NBGEN_PUBLISH_FOLDER``, or None if it is unset."""
    return os.environ.get("NBGEN_PUBLISH_FOLDER") or None


def default_webhook() -> tuple[str, str | None] | None:
    """Return ``NBGEN_WEBHOOK_URL`` with ``NBGEN_WEBHOOK_SECRET``, if it is set."""
    url = os.environ.get("NBGEN_WEBHOOK_URL")
    return (url, os.environ.get("NBGEN_WEBHOOK_SECRET") or None) if url else None
