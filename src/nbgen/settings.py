"""Where things are unless the caller says otherwise."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def default_data_dir() -> Path:
    """Return ``NBGEN_DATA_DIR`` or, unset, the user's data folder for nbgen."""
    chosen = os.environ.get("NBGEN_DATA_DIR")
    return Path(chosen) if chosen else platformdirs.user_data_path("nbgen")
