"""The featured image is found by the first usable value, wherever it is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbgen.review.image_url import find_image_url, searched_places

URL = "https://x.example/a.png"
OTHER = "https://x.example/b.png"
CONTAINERS = ["result", "content", "metadata", "image_metadata"]

SHAPES: list[tuple[Any, str | None]] = [
    # Each place by itself.
    ({"featured_image_url": URL}, URL),
    ({"image": {"url": URL}}, URL),
    ({"image_url": URL}, URL),
    ({"featured_image": {"url": URL}}, URL),
    ({"image": URL}, URL),
    ({"featured_image": URL}, URL),
    # The earlier place wins, whatever the order of the keys.
    ({"image": {"url": OTHER}, "featured_image_url": URL}, URL),
    ({"image_url": OTHER, "image": {"url": URL}}, URL),
    ({"featured_image": {"url": OTHER}, "image_url": URL}, URL),
    ({"image": OTHER, "featured_image": {"url": URL}}, URL),
    ({"featured_image": OTHER, "image": URL}, URL),
    ({"image": OTHER, "image_url": URL}, URL),
    ({"result": {"featured_image_url": OTHER}, "featured_image": URL}, URL),
    ({"content": {"image": OTHER}, "result": {"featured_image": URL}}, URL),
    ({"metadata": {"image": OTHER}, "content": {"featured_image": URL}}, URL),
    ({"image_metadata": {"image": OTHER}, "metadata": {"image": URL}}, URL),
    # What is not usable falls through.
    ({"featured_image_url": None, "image_url": URL}, URL),
    ({"featured_image_url": "", "image_url": URL}, URL),
    ({"featured_image_url": " \t\n", "image_url": URL}, URL),
    ({"featured_image_url": {}, "image_url": URL}, URL),
    ({"featured_image_url": {"url": OTHER}, "image_url": URL}, URL),
    ({"featured_image_url": [OTHER], "image_url": URL}, URL),
    ({"featured_image_url": 7, "image_url": URL}, URL),
    ({"featured_image_url": True, "image_url": URL}, URL),
    ({"image": {}, "featured_image": URL}, URL),
    ({"image": {"url": None}, "featured_image": {"url": URL}}, URL),
    ({"image": {"url": {"url": OTHER}}, "featured_image": URL}, URL),
    ({"image": [{"url": OTHER}], "featured_image": URL}, URL),
    ({"image": "", "featured_image": URL}, URL),
    ({"image": None, "featured_image": None, "result": {"image": URL}}, URL),
    ({"result": None, "content": {"image_url": URL}}, URL),
    (
        {"result": {}, "content": [], "metadata": 1, "image_metadata": {"image": URL}},
        URL,
    ),
    # Blanks around a URL are not part of it.
    ({"image_url": f"  {URL}\n"}, URL),
    # JSON text, outside and inside.
    (json.dumps({"image": {"url": URL}}), URL),
    ({"result": json.dumps({"image": {"url": URL}})}, URL),
    (json.dumps({"content": json.dumps({"featured_image_url": URL})}), URL),
    ({"result": "{broken", "content": {"image": URL}}, URL),
    ({"result": "[" * 100_000, "content": {"image": URL}}, URL),
    ({"result": "9" * 10_000, "content": {"image": URL}}, URL),
    # A half of a character, and a NUL, which no database takes.
    ({"result": {"image_url": "\ud800"}, "content": {"image": URL}}, URL),
    ({"result": {"image_url": "\0"}, "content": {"image": URL}}, URL),
    # None at all.
    (None, None),
    ("", None),
    (URL, None),
    ("{broken", None),
    ("[" * 100_000, None),
    ('{"a":' * 100_000, None),
    (json.dumps(json.dumps({"image_url": URL})), None),
    ([], None),
    ([{"image_url": URL}], None),
    (7, None),
    (1.5, None),
    (True, None),
    ({}, None),
    ({"IMAGE_URL": URL, "url": URL, "images": [URL]}, None),
    ({"result": {"content": {"image_url": URL}}}, None),
]


@pytest.mark.parametrize(("metadata", "expected"), SHAPES)
def test_the_first_usable_value_is_found(metadata: Any, expected: str | None) -> None:
    assert find_image_url(metadata) == expected


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_place_is_searched_once_more_in_a_container(container: str) -> None:
    """Both a container and one that is JSON text."""
    for metadata, expected in SHAPES[:6]:
        assert find_image_url({container: metadata}) == expected
        assert find_image_url({container: json.dumps(metadata)}) == expected


def test_the_places_are_named_in_the_order_of_the_search() -> None:
    assert searched_places() == (
        "featured_image_url",
        "image.url",
        "image_url",
        "featured_image.url",
        "image",
        "featured_image",
        "result.*",
        "content.*",
        "metadata.*",
        "image_metadata.*",
    )


NAMES = st.sampled_from(
    [*CONTAINERS, "featured_image_url", "image", "image_url", "featured_image", "url"]
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(NAMES | st.text(), inner)
        | inner.map(json.dumps)
    ),
)


def texts(value: Any) -> set[str]:
    """Return every text in the value, also in what is JSON text."""
    if isinstance(value, dict):
        return {text for inner in value.values() for text in texts(inner)}
    if isinstance(value, list):
        return {text for inner in value for text in texts(inner)}
    if not isinstance(value, str):
        return set()
    try:
        return {value} | texts(json.loads(value))
    except ValueError:
        return {value}


@given(JSON_VALUES)
def test_no_json_value_raises(metadata: Any) -> None:
    found = find_image_url(metadata)
    if found is not None:
        assert found
        assert found in {text.strip() for text in texts(metadata)}
