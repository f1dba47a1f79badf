"""The measuring function of the tiny checkpoint, on pictures known to be right."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

sys.path.insert(0, str(Path(__file__).parents[2]))

from tools.tiny.draw import draw
from tools.tiny.measure import measure
from tools.tiny.scenes import RELATIONS, Scene, Thing, make_scene


@pytest.mark.parametrize("kind", ["one", "two", "row", "landscape"])
def test_finds_nothing_wrong_in_drawn_pictures(kind: str) -> None:
    for index in range(40):
        scene = make_scene(7, index, kind)
        measured = measure(draw(scene), scene)
        assert False not in vars(measured).values(), (scene.caption, measured)
        assert measured.clean is None or measured.clean > 0.93


def _one(shape: str = "circle", colour: str = "red", on: str = "blue") -> Scene:
    labels = {"kind": "one", "shape": shape, "colour": colour, "background": on}
    return Scene("", on, (Thing(shape, colour, 30, 60, 66),), labels=labels)


def test_sees_a_wrong_background() -> None:
    measured = measure(draw(_one(on="green")), _one())
    assert (measured.background, measured.colour, measured.shape) == (False, True, True)


def test_sees_a_wrong_colour() -> None:
    measured = measure(draw(_one(colour="pink")), _one())
    assert (measured.background, measured.colour, measured.shape) == (True, False, True)


def test_sees_a_wrong_shape() -> None:
    measured = measure(draw(_one(shape="star")), _one())
    assert (measured.background, measured.colour, measured.shape) == (True, True, False)


def test_sees_blur() -> None:
    drawn = Image.fromarray(draw(_one()))
    shares = [
        measure(
            np.asarray(drawn.filter(ImageFilter.GaussianBlur(radius))), _one()
        ).clean
        for radius in (0, 2, 4)
    ]
    assert shares == sorted(shares, key=float, reverse=True)  # type: ignore[arg-type]
    assert float(shares[0] or 0) - float(shares[2] or 0) > 0.1


def test_sees_an_empty_picture() -> None:
    empty = np.full((128, 128, 3), (45, 85, 205), np.uint8)
    measured = measure(empty, _one())
    assert (measured.background, measured.colour, measured.shape) == (
        True,
        False,
        False,
    )


@pytest.mark.parametrize("relation", RELATIONS)
def test_sees_a_wrong_arrangement(relation: str) -> None:
    def pair(x: float, y: float) -> Scene:
        things = (Thing("circle", "red", 16, 64, 64), Thing("star", "blue", 16, x, y))
        labels = {"kind": "two", "relation": relation}
        return Scene("", "white", things, labels=labels)

    wrong = pair(64, 24) if relation != "below" else pair(64, 104)
    asked = replace(wrong, things=wrong.things)
    if relation == "inside":
        asked = replace(wrong, things=wrong.things[::-1])
    assert measure(draw(wrong), asked).arrangement is False
