"""What the protocol page says of fields."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parent.parent.parent / "docs" / "protocol.md"


def documented(heading: str) -> dict[str, tuple[str, str]]:
    """Return the default and the text of each field in the table below a heading."""
    _, _, below = PAGE.read_text().partition(f"\n{heading}\n")
    section = re.split(r"\n###? ", below)[0]
    found = {}
    for line in section.splitlines():
        if line.startswith("| `"):
            names, default, text = (cell.strip() for cell in line.split("|")[1:4])
            for name in re.findall(r"`(\w+)`", names):
                found[name] = (default, text)
    return found
