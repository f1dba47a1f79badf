"""Draws scenes with Pillow, smooth-edged, and degrades some of them on purpose."""

from __future__ import annotations

import math
import random

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from tools.tiny.scenes import COLOURS, SKIES, Landscape, Scene, Thing

SIDE = 128
# Pictures are drawn this many times larger and averaged, for smooth edges.
_SCALE = 3

Rgb = tuple[int, int, int]
Points = list[tuple[float, float]]
Pixels = npt.NDArray[np.uint8]


def draw(scene: Scene) -> Pixels:
    """Return the picture of a scene, shape (128, 128, 3)."""
    image = Image.new("RGB", (SIDE * _SCALE, SIDE * _SCALE))
    canvas = ImageDraw.Draw(image)
    if scene.landscape is not None:
        _draw_landscape(image, canvas, scene.landscape)
    else:
        background = COLOURS[scene.background]
        canvas.rectangle((0, 0, *image.size), fill=background)
        for thing in scene.things:
            _draw_thing(canvas, thing, background)
    return np.asarray(image.reduce(_SCALE))


def degrade(pixels: Pixels, side: int) -> Pixels:
    """Return a picture as if it had been only ``side`` pixels wide and enlarged."""
    image = Image.fromarray(pixels)
    small = image.resize((side, side), Image.Resampling.BOX)
    return np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def outline(shape: str, x: float, y: float, r: float) -> Points:
    """Return the corners of a shape other than a circle or a ring."""
    if shape == "square":
        a = 0.86 * r
        return [(x - a, y - a), (x + a, y - a), (x + a, y + a), (x - a, y + a)]
    if shape == "triangle":
        return [(x, y - r), (x + r, y + 0.8 * r), (x - r, y + 0.8 * r)]
    if shape == "diamond":
        return [(x, y - r), (x + 0.72 * r, y), (x, y + r), (x - 0.72 * r, y)]
    if shape == "cross":
        a, b = 0.95 * r, 0.32 * r
        return [
            (x + sx * p, y + sy * q)
            for sx, sy, p, q in (
                (-1, -1, b, a), (1, -1, b, a), (1, -1, b, b), (1, -1, a, b),
                (1, 1, a, b), (1, 1, b, b), (1, 1, b, a), (-1, 1, b, a),
                (-1, 1, b, b), (-1, 1, a, b), (-1, -1, a, b), (-1, -1, b, b),
            )
        ]  # fmt: skip
    if shape == "star":
        points = []
        for i in range(10):
            radius = r * 1.08 if i % 2 == 0 else r * 0.45
            angle = math.pi * (i / 5 - 0.5)
            points.append((x + radius * math.cos(angle), y + radius * math.sin(angle)))
        return points
    if shape == "heart":
        points = []
        for i in range(60):
            t = 2 * math.pi * i / 60
            px = 16 * math.sin(t) ** 3
            py = (
                13 * math.cos(t)
                - 5 * math.cos(2 * t)
                - 2 * math.cos(3 * t)
                - math.cos(4 * t)
            )
            points.append((x + px * r / 16.5, y - (py + 2.5) * r / 16.5))
        return points
    raise ValueError(shape)


def _scaled(points: Points) -> Points:
    return [(px * _SCALE, py * _SCALE) for px, py in points]


def _disc(canvas: ImageDraw.ImageDraw, x: float, y: float, r: float, fill: Rgb) -> None:
    canvas.ellipse(
        ((x - r) * _SCALE, (y - r) * _SCALE, (x + r) * _SCALE, (y + r) * _SCALE),
        fill=fill,
    )


def _box(
    canvas: ImageDraw.ImageDraw, x0: float, y0: float, x1: float, y1: float, fill: Rgb
) -> None:
    canvas.rectangle(
        (x0 * _SCALE, y0 * _SCALE, x1 * _SCALE - 1, y1 * _SCALE - 1), fill=fill
    )


def _draw_thing(canvas: ImageDraw.ImageDraw, thing: Thing, background: Rgb) -> None:
    fill = COLOURS[thing.colour]
    if thing.shape in ("circle", "ring"):
        _disc(canvas, thing.x, thing.y, thing.radius * 0.97, fill)
        if thing.shape == "ring":
            _disc(canvas, thing.x, thing.y, thing.radius * 0.56, background)
    else:
        points = outline(thing.shape, thing.x, thing.y, thing.radius)
        canvas.polygon(_scaled(points), fill=fill)


def _draw_landscape(
    image: Image.Image, canvas: ImageDraw.ImageDraw, scene: Landscape
) -> None:
    top = SKIES.get(scene.sky) or COLOURS[scene.sky]
    if scene.sky == "sunset":
        low: Rgb = (255, 215, 120)
        for row in range(84):
            f = row / 84
            mixed = tuple(round(a + (b - a) * f) for a, b in zip(top, low, strict=True))
            _box(canvas, 0, row, SIDE, row + 1, (mixed[0], mixed[1], mixed[2]))
        _box(canvas, 0, 84, SIDE, SIDE, low)
    else:
        canvas.rectangle((0, 0, *image.size), fill=top)
    if "sun" in scene.extras:
        yellow = (255, 235, 90) if scene.sky != "yellow" else (255, 160, 40)
        _disc(canvas, 106, 24 if scene.sky != "sunset" else 58, 13, yellow)
    if "moon" in scene.extras:
        _disc(canvas, 28, 26, 11, (245, 245, 215))
    if "stars" in scene.extras:
        for x, y in ((14, 58), (52, 16), (66, 44), (86, 20), (104, 50), (118, 14)):
            _disc(canvas, x, y, 2.2, (255, 255, 235))
    if "clouds" in scene.extras:
        for x, y in ((34, 24), (70, 40)):
            for dx, r in ((-10, 6), (0, 9), (10, 7)):
                _disc(canvas, x + dx, y, r, (252, 252, 252))
    _draw_ground(canvas, scene)
    _draw_landmark(canvas, scene)


def _wave(
    canvas: ImageDraw.ImageDraw, level: float, height: float, phase: float, fill: Rgb
) -> None:
    points: Points = [(0, SIDE), (0, level)]
    for x in range(0, SIDE + 1, 2):
        angle = 2 * math.pi * (x / 100 + phase)
        points.append((x, level + height * math.sin(angle)))
    points.append((SIDE, SIDE))
    canvas.polygon(_scaled(points), fill=fill)


def _draw_ground(canvas: ImageDraw.ImageDraw, scene: Landscape) -> None:
    dim = 0.55 if scene.sky == "night" else 1.0

    def lit(r: int, g: int, b: int) -> Rgb:
        return round(r * dim), round(g * dim), round(b * dim)

    if scene.ground == "hills":
        _wave(canvas, 84, 9, scene.phase, lit(110, 185, 85))
        _wave(canvas, 98, 7, scene.phase + 0.45, lit(70, 150, 65))
    elif scene.ground == "field":
        _box(canvas, 0, 86, SIDE, SIDE, lit(120, 190, 80))
    elif scene.ground == "desert":
        _wave(canvas, 88, 4, scene.phase, lit(235, 200, 130))
    elif scene.ground == "snow":
        _wave(canvas, 88, 4, scene.phase, lit(245, 248, 252))
    elif scene.ground == "sea":
        _box(canvas, 0, 82, SIDE, SIDE, lit(40, 105, 180))
        for y in (94, 108, 120):
            _box(canvas, 0, y, SIDE, y + 2, lit(80, 145, 210))
    else:
        for x, height, half in ((22, 46, 40), (104, 52, 44), (64, 60, 42)):
            peak = 92 - height
            sides: Points = [(x, peak), (x + half, 92), (x - half, 92)]
            canvas.polygon(_scaled(sides), fill=lit(115, 115, 130))
            cap: Points = [
                (x, peak),
                (x + half * 0.25, peak + height * 0.25),
                (x - half * 0.25, peak + height * 0.25),
            ]
            canvas.polygon(_scaled(cap), fill=lit(250, 250, 252))
        _box(canvas, 0, 90, SIDE, SIDE, lit(95, 165, 80))


def _draw_landmark(canvas: ImageDraw.ImageDraw, scene: Landscape) -> None:
    x = scene.x
    fill = COLOURS[scene.colour] if scene.colour else (0, 0, 0)
    if scene.landmark == "house":
        roof = COLOURS[scene.roof] if scene.roof else (105, 55, 45)
        _box(canvas, x - 21, 72, x + 21, 106, fill)
        canvas.polygon(_scaled([(x, 48), (x + 27, 73), (x - 27, 73)]), fill=roof)
        _box(canvas, x - 6, 86, x + 6, 106, (75, 50, 40))
    elif scene.landmark == "tree":
        _box(canvas, x - 5, 76, x + 5, 108, (110, 70, 40))
        for dx, dy, r in ((-12, 66, 15), (12, 66, 15), (0, 54, 17)):
            _disc(canvas, x + dx, dy, r, (35, 120, 50))
    elif scene.landmark == "pine":
        _box(canvas, x - 4, 94, x + 4, 108, (100, 65, 40))
        for foot, half in ((96, 25), (78, 20), (60, 15)):
            points: Points = [(x, foot - 30), (x + half, foot), (x - half, foot)]
            canvas.polygon(_scaled(points), fill=(20, 90, 55))
    elif scene.landmark == "flower":
        _box(canvas, x - 2.5, 64, x + 2.5, 112, (40, 125, 50))
        for i in range(6):
            angle = math.pi * i / 3
            right, down = 14 * math.cos(angle), 14 * math.sin(angle)
            _disc(canvas, x + right, 56 + down, 9, fill)
        heart = (150, 90, 30) if scene.colour == "yellow" else (255, 225, 70)
        _disc(canvas, x, 56, 8, heart)
    elif scene.landmark == "car":
        _box(canvas, x - 32, 84, x + 32, 102, fill)
        canvas.polygon(
            _scaled([(x - 17, 68), (x + 13, 68), (x + 22, 85), (x - 24, 85)]), fill=fill
        )
        _box(canvas, x - 14, 72, x + 10, 84, (195, 225, 240))
        for dx in (-18, 18):
            _disc(canvas, x + dx, 102, 9, (35, 35, 40))
    elif scene.landmark == "boat":
        canvas.polygon(
            _scaled([(x - 32, 86), (x + 32, 86), (x + 20, 104), (x - 20, 104)]),
            fill=fill,
        )
        _box(canvas, x - 2, 36, x + 2, 87, (90, 60, 40))
        canvas.polygon(
            _scaled([(x + 4, 38), (x + 30, 80), (x + 4, 80)]), fill=(250, 250, 250)
        )


def draw_for_training(seed: int, index: int, scene: Scene) -> tuple[Pixels, int]:
    """Return a picture and the width it had before it was enlarged.

    One in twelve is drawn soft, so that the original size and the aesthetic score
    that the models are told have something true to stand for.
    """
    rng = random.Random(f"quality-{seed}-{index}")
    pixels = draw(scene)
    if rng.random() > 1 / 12:
        return pixels, SIDE
    side = rng.choice((24, 32, 48, 64))
    return degrade(pixels, side), side
