"""Measures whether a picture shows what its prompt asked for, by colours and masks."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from tools.tiny.draw import Pixels, draw
from tools.tiny.scenes import COLOURS, SHAPES, SKIES, Scene, Thing

Mask = npt.NDArray[np.bool_]

# A colour counts as present from this share of the picture on.
_PRESENT = 0.006
_TEMPLATE_SIDE = 32
# A pixel has a colour if no channel is further off; training pictures vary by 8.
_NEAR = 20


@dataclass(frozen=True)
class Measured:
    """What is right in a picture; None where the prompt asks for no such thing.

    Attributes:
        background: The colour at the border, or of the sky, is the one asked for.
        colour: The main thing's colour is there (of one thing: the commonest).
        shape: The main thing's outline is most like the shape asked for.
        both: Both things of a pair have the right colour and shape.
        arrangement: The two things of a pair stand as asked.
        clean: The share of the picture in one of its flat colours, 0 to 1: what is
            blurred, smeared or of a wrong shade is not.
    """

    background: bool
    colour: bool | None = None
    shape: bool | None = None
    both: bool | None = None
    arrangement: bool | None = None
    clean: float | None = None


def measure(pixels: Pixels, scene: Scene) -> Measured:
    """Compare a picture (128, 128, 3) with the scene that was asked for."""
    if scene.landscape is not None:
        return Measured(background=_sky(pixels) == scene.background)
    border = np.concatenate(
        [
            part.reshape(-1, 3)
            for part in (pixels[:4], pixels[-4:], pixels[:, :4], pixels[:, -4:])
        ]
    )
    background = _nearest(np.median(border, axis=0)[None], list(COLOURS))[0]
    right = background == scene.background
    clean = _clean(pixels, scene)
    if scene.labels["kind"] == "two":
        return _measure_two(pixels, scene, background, right, clean)
    thing = scene.things[0]
    colour = _commonest(pixels, background)
    if colour is None:
        return Measured(right, colour=False, shape=False, clean=clean)
    mask = _masks(pixels, [background, colour])[1]
    return Measured(
        right,
        colour=colour == thing.colour,
        shape=classify(_largest_part(mask)) == thing.shape,
        clean=clean,
    )


def _clean(pixels: Pixels, scene: Scene) -> float:
    names = [scene.background, *(thing.colour for thing in scene.things)]
    table = np.array([COLOURS[name] for name in names], dtype=float)
    distance = np.abs(pixels[:, :, None].astype(float) - table).max(-1).min(-1)
    return float((distance <= _NEAR).mean())


def _measure_two(
    pixels: Pixels, scene: Scene, background: str, right: bool, clean: float
) -> Measured:
    inside = scene.relation == "inside"
    first, second = scene.things[::-1] if inside else scene.things
    names = list(dict.fromkeys([background, first.colour, second.colour]))
    masks = dict(zip(names, _masks(pixels, names), strict=True))
    masks[background] = np.zeros_like(masks[background])
    one, two = masks[first.colour], masks[second.colour]
    there = one.mean() > _PRESENT, two.mean() > _PRESENT
    one, two = _largest_part(one), _largest_part(two)
    # What is inside covers its surroundings, unless they are a ring.
    outer = two | one if inside and second.shape != "ring" else two
    shapes = (
        there[0] and classify(one) == first.shape,
        there[1] and classify(outer) == second.shape,
    )
    return Measured(
        right,
        colour=bool(there[0]),
        shape=bool(shapes[0]),
        both=all(shapes),
        arrangement=all(there) and _stand(one, two, scene.relation),
        clean=clean,
    )


def _stand(one: Mask, two: Mask, relation: str) -> bool:
    """Say whether the first of two masks stands to the second in this relation."""
    (y, x), (y2, x2) = _centre(one), _centre(two)
    dx, dy = x2 - x, y2 - y
    across, upright = abs(dx) > 1.3 * abs(dy), abs(dy) > 1.3 * abs(dx)
    if relation == "inside":
        return abs(dx) < 14 and abs(dy) < 14 and bool(one.sum() < two.sum())
    if relation in ("above", "on"):
        return upright and dy > 12
    if relation == "below":
        return upright and dy < -12
    if relation in ("left of", "and"):
        return across and dx > 12
    if relation == "right of":
        return across and dx < -12
    return across and abs(dx) > 12


def _centre(mask: Mask) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return float(rows.mean()), float(columns.mean())


def _sky(pixels: Pixels) -> str:
    """Return the time of day or the colour that a landscape's top is nearest to."""
    top = np.median(pixels[:4].reshape(-1, 3), axis=0)
    known = {**COLOURS, **SKIES}
    # No landscape has such a sky, and they are near to the sky of the night.
    for name in ("black", "blue"):
        del known[name]
    return min(known, key=lambda name: float(np.abs(top - known[name]).sum()))


def _nearest(colours: npt.NDArray[np.floating], names: list[str]) -> list[str]:
    table = np.array([COLOURS[name] for name in names], dtype=float)
    distance = np.square(colours[:, None] - table[None]).sum(-1)
    return [names[i] for i in distance.argmin(1)]


def _masks(pixels: Pixels, names: list[str]) -> list[Mask]:
    """Return for each of some colours where it is the nearest of them."""
    table = np.array([COLOURS[name] for name in names], dtype=float)
    distance = np.square(pixels[:, :, None].astype(float) - table).sum(-1)
    nearest = distance.argmin(-1)
    return [nearest == number for number in range(len(names))]


def _commonest(pixels: Pixels, background: str) -> str | None:
    """Return the commonest colour but one, or None if there is no other."""
    names = list(COLOURS)
    shares = [float(mask.mean()) for mask in _masks(pixels, names)]
    shares[names.index(background)] = 0.0
    best = int(np.argmax(shares))
    return names[best] if shares[best] > _PRESENT else None


def _largest_part(mask: Mask) -> Mask:
    """Return the largest connected part of a mask."""
    left = mask.copy()
    best = np.zeros_like(mask)
    size = 0
    height, width = mask.shape
    for start in zip(*np.nonzero(mask), strict=True):
        if not left[start]:
            continue
        part = [start]
        left[start] = False
        todo = deque(part)
        while todo:
            y, x = todo.popleft()
            for near in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                inside = 0 <= near[0] < height and 0 <= near[1] < width
                if inside and left[near]:
                    left[near] = False
                    part.append(near)
                    todo.append(near)
        if len(part) > size:
            size = len(part)
            best = np.zeros_like(mask)
            best[tuple(np.array(part).T)] = True
    return best


def _fitted(mask: Mask) -> npt.NDArray[np.float64]:
    """Return a mask cut to its bounds, in the middle of a square of fixed side."""
    rows, columns = np.nonzero(mask)
    cut = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    side = max(cut.shape)
    square = np.zeros((side, side))
    top, left = (side - cut.shape[0]) // 2, (side - cut.shape[1]) // 2
    square[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
    image = Image.fromarray((square * 255).astype(np.uint8))
    resized = image.resize((_TEMPLATE_SIDE, _TEMPLATE_SIDE), Image.Resampling.BOX)
    return np.asarray(resized, dtype=np.float64) / 255


@cache
def _templates() -> dict[str, npt.NDArray[np.float64]]:
    made = {}
    for shape in SHAPES:
        thing = Thing(shape, "black", 40, 64, 64)
        pixels = draw(Scene("", "white", (thing,)))
        made[shape] = _fitted(pixels[:, :, 0] < 128)
    return made


def classify(mask: Mask) -> str | None:
    """Return the shape whose outline a mask is most like, or None if it is empty."""
    if not mask.any():
        return None
    fitted = _fitted(mask)
    overlap = {
        shape: np.minimum(fitted, template).sum() / np.maximum(fitted, template).sum()
        for shape, template in _templates().items()
    }
    return max(overlap, key=lambda shape: float(overlap[shape]))
