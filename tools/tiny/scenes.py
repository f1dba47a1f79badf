"""The grammar of the training pictures: what is in a scene, and how it is said.

A scene is drawn at random from a seed. It carries what the picture shows, a caption
of it, and labels that say what the caption says, from which the text encoders learn.
Little is left to chance beyond the caption, because a model of two million weights
has no room for variety that nobody asked for.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (250, 220, 60),
    "green": (50, 160, 70),
    "cyan": (70, 205, 220),
    "blue": (45, 85, 205),
    "purple": (125, 60, 165),
    "pink": (245, 145, 185),
    "brown": (125, 80, 45),
    "black": (25, 25, 30),
    "gray": (135, 135, 140),
    "white": (248, 248, 248),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "ring", "cross")
SIZES = ("small", "medium", "big")
PLACES = {
    "center": (0, 0),
    "left": (-1, 0),
    "right": (1, 0),
    "top": (0, -1),
    "bottom": (0, 1),
    "top left": (-1, -1),
    "top right": (1, -1),
    "bottom left": (-1, 1),
    "bottom right": (1, 1),
}
RELATIONS = ("above", "below", "left of", "right of", "beside", "on", "inside", "and")
GROUNDS = ("hills", "field", "desert", "snow", "sea", "mountains")
LANDMARKS = ("house", "tree", "pine", "flower", "car", "boat")
TIMES = ("day", "night", "sunset")
# The sky of each time of day, at the top of the picture.
SKIES: dict[str, tuple[int, int, int]] = {
    "day": (135, 200, 245),
    "night": (20, 25, 70),
    "sunset": (250, 150, 70),
}

# What the text encoders learn to read out of a caption; the first class of each
# label is "not said".
LABELS: dict[str, tuple[str, ...]] = {
    "kind": ("one", "two", "row", "landscape"),
    "background": ("", *COLOURS, *TIMES),
    "shape": ("", *SHAPES),
    "colour": ("", *COLOURS),
    "size": ("", *SIZES),
    "place": ("", *PLACES),
    "relation": ("", *RELATIONS),
    "shape2": ("", *SHAPES),
    "colour2": ("", *COLOURS),
    "size2": ("", *SIZES),
    "count": ("", "two", "three"),
    "ground": ("", *GROUNDS),
    "landmark": ("", *LANDMARKS),
    "roof": ("", *COLOURS),
    "sun": ("", "sun"),
    "moon": ("", "moon"),
    "stars": ("", "stars"),
    "clouds": ("", "clouds"),
}


@dataclass(frozen=True)
class Thing:
    """One shape: its class, colour, radius and centre, in pixels of 128."""

    shape: str
    colour: str
    radius: float
    x: float
    y: float


@dataclass(frozen=True)
class Landscape:
    """A landscape. ``x`` is the landmark's place and ``phase`` that of the hills.

    ``sky`` is a time of day or the name of a colour.
    """

    sky: str
    ground: str
    landmark: str
    colour: str
    roof: str
    extras: frozenset[str]
    x: float
    phase: float


@dataclass(frozen=True)
class Scene:
    """A picture to draw, its caption, and what the caption says."""

    caption: str
    background: str
    things: tuple[Thing, ...] = ()
    landscape: Landscape | None = None
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def relation(self) -> str:
        """How the two things of a pair stand to each other, or an empty string."""
        return self.labels.get("relation", "")


def label_ids(scene: Scene) -> list[int]:
    """Return the class of each of `LABELS`, in their order."""
    return [
        classes.index(scene.labels.get(name, classes[0]))
        for name, classes in LABELS.items()
    ]


def make_scene(seed: int, index: int, kind: str | None = None) -> Scene:
    """Return the scene of a seed and an index; the same for the same two.

    Args:
        seed: The seed of the whole set.
        index: The scene's number in it.
        kind: One of the classes of the label ``kind``, or None for the training mix.
    """
    rng = random.Random(f"{seed}-{index}")
    if kind is None:
        kind = rng.choices(("one", "two", "row", "landscape"), (44, 26, 4, 26))[0]
    make = {"one": _one, "two": _two, "row": _row, "landscape": _landscape}[kind]
    return make(rng)


def _article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _sized(rng: random.Random, said: str, small: float) -> tuple[str, float]:
    """Return the word for a size and a radius; ``said`` is the class or ''."""
    radius = {"small": 0.72, "": 1.0, "medium": 1.0, "big": 1.36}[said] * small
    word = "large" if said == "big" and rng.random() < 0.3 else said
    return word, radius * rng.uniform(0.96, 1.04)


def _on_background(rng: random.Random, subject: str, background: str) -> str:
    return rng.choices(
        (
            f"{_article(subject)} on {_article(background)} background",
            f"{subject}, {background} background",
            f"{_article(subject)}, {background} background",
            f"a drawing of {_article(subject)} on {_article(background)} background",
            f"{_article(subject)} on {background}",
        ),
        (60, 10, 10, 12, 8),
    )[0]


def _two_colours(rng: random.Random, count: int) -> list[str]:
    return rng.sample(list(COLOURS), count)


def _one(rng: random.Random) -> Scene:
    background, colour = _two_colours(rng, 2)
    shape = rng.choice(SHAPES)
    size = rng.choices(("", *SIZES), (46, 22, 8, 24))[0]
    place = rng.choice(tuple(PLACES)) if rng.random() < 0.35 else ""
    word, radius = _sized(rng, size, 32.0)
    if place not in ("", "center"):
        radius *= 0.8
    dx, dy = PLACES[place or "center"]
    thing = Thing(
        shape,
        colour,
        radius,
        64 + dx * 28 + rng.uniform(-3, 3),
        64 + dy * 28 + rng.uniform(-3, 3),
    )
    subject = f"{word} {colour} {shape}".strip()
    if place:
        where = f"in the {place}" if place == "center" else f"at the {place}"
        tail = f"on {_article(background)} background"
        caption = rng.choice(
            (
                f"{_article(subject)} {where} {tail}",
                f"{_article(subject)} {tail}, {where}",
            )
        )
    else:
        caption = _on_background(rng, subject, background)
    labels = {
        "kind": "one",
        "background": background,
        "shape": shape,
        "colour": colour,
        "size": size,
        "place": place,
    }
    return Scene(caption, background, (thing,), labels=labels)


def _two(rng: random.Random) -> Scene:
    background, colour, colour2 = _two_colours(rng, 3)
    shape, shape2 = rng.choice(SHAPES), rng.choice(SHAPES)
    relation = rng.choices(RELATIONS, (18, 14, 16, 16, 8, 10, 6, 12))[0]
    size, size2 = "", ""
    if relation == "inside":
        # Only what has room inside; the outer one is big whether that is said or not.
        shape2 = rng.choice(("circle", "square", "heart", "ring", "diamond"))
    elif rng.random() < 0.25:
        size = rng.choice(("small", "big"))
        size2 = "big" if size == "small" and rng.random() < 0.5 else ""
    word, radius = _sized(rng, size, 22.0)
    word2, radius2 = _sized(rng, size2, 22.0)
    x, y = 64 + rng.uniform(-3, 3), 64 + rng.uniform(-3, 3)
    x2, y2 = x, y
    gap = 58 if relation != "on" else (radius + radius2) * 0.97
    if relation in ("above", "on"):
        y, y2 = y - gap / 2, y2 + gap / 2
    elif relation == "below":
        y, y2 = y + gap / 2, y2 - gap / 2
    elif relation in ("left of", "beside", "and"):
        x, x2 = x - gap / 2, x2 + gap / 2
    elif relation == "right of":
        x, x2 = x + gap / 2, x2 - gap / 2
    else:
        radius, radius2 = 13.0, 46.0
        if shape2 == "heart":
            y -= 5
    link = relation
    if relation == "left of" and rng.random() < 0.3:
        link = "to the left of"
    elif relation == "right of" and rng.random() < 0.3:
        link = "to the right of"
    elif relation == "beside" and rng.random() < 0.5:
        link = "next to"
    elif relation == "on" and rng.random() < 0.3:
        link = "on top of"
    first = f"{word} {colour} {shape}".strip()
    second = f"{word2} {colour2} {shape2}".strip()
    caption = _on_background(rng, f"{first} {link} {_article(second)}", background)
    labels = {
        "kind": "two",
        "background": background,
        "shape": shape,
        "colour": colour,
        "size": size,
        "relation": relation,
        "shape2": shape2,
        "colour2": colour2,
        "size2": size2,
    }
    things = (
        Thing(shape, colour, radius, x, y),
        Thing(shape2, colour2, radius2, x2, y2),
    )
    if relation == "inside":
        things = (things[1], things[0])
    return Scene(caption, background, things, labels=labels)


def _row(rng: random.Random) -> Scene:
    background, colour = _two_colours(rng, 2)
    shape = rng.choice(SHAPES)
    count = rng.choice(("two", "three"))
    number = 2 if count == "two" else 3
    pitch = 56 if number == 2 else 40
    radius = (21.0 if number == 2 else 16.0) * rng.uniform(0.96, 1.04)
    x0, y = 64 + rng.uniform(-2, 2), 64 + rng.uniform(-3, 3)
    things = tuple(
        Thing(shape, colour, radius, x0 + (i - (number - 1) / 2) * pitch, y)
        for i in range(number)
    )
    plural = "crosses" if shape == "cross" else f"{shape}s"
    caption = f"{count} {colour} {plural} on {_article(background)} background"
    labels = {
        "kind": "row",
        "background": background,
        "shape": shape,
        "colour": colour,
        "count": count,
    }
    return Scene(caption, background, things, labels=labels)


def _landscape(rng: random.Random) -> Scene:
    time = rng.choices(TIMES, (50, 28, 22))[0]
    sky = time
    if time == "day" and rng.random() < 0.3:
        sky = rng.choice(("pink", "yellow", "purple", "orange", "gray", "cyan"))
    landmark = rng.choice(("", *LANDMARKS))
    ground = "sea" if landmark == "boat" else rng.choice(GROUNDS)
    if ground == "sea" and landmark not in ("", "boat"):
        ground = "hills"
    colour = rng.choice(("red", "yellow", "blue", "white", "orange", "purple", "pink"))
    roof = ""
    if landmark in ("", "tree", "pine"):
        colour = ""
    elif landmark == "house" and rng.random() < 0.4:
        roof = rng.choice([c for c in ("red", "brown", "blue", "gray") if c != colour])
    extras = set()
    if sky in ("day", "sunset", "pink", "yellow", "purple", "cyan"):
        if rng.random() < 0.45:
            extras.add("sun")
        if sky != "sunset" and rng.random() < 0.3:
            extras.add("clouds")
    elif sky == "night":
        if rng.random() < 0.6:
            extras.add("moon")
        if rng.random() < 0.6:
            extras.add("stars")
    landscape = Landscape(
        sky=sky,
        ground=ground,
        landmark=landmark,
        colour=colour,
        roof=roof,
        extras=frozenset(extras),
        x=64 + rng.uniform(-8, 8),
        phase=rng.uniform(0, 1),
    )
    labels = {
        "kind": "landscape",
        "background": sky,
        "colour": colour,
        "ground": ground,
        "landmark": landmark,
        "roof": roof,
        **{extra: extra for extra in extras},
    }
    return Scene(_say(rng, landscape), sky, landscape=landscape, labels=labels)


def _say(rng: random.Random, scene: Landscape) -> str:
    where = {
        "hills": "green hills",
        "field": "a field",
        "desert": "the desert",
        "snow": "the snow",
        "sea": "the sea",
        "mountains": "mountains",
    }[scene.ground]
    landmark = ""
    if scene.landmark:
        landmark = _article(f"{scene.colour} {scene.landmark}".strip())
        if scene.roof:
            landmark += f" with {_article(scene.roof)} roof"
        join = {"mountains": "before", "sea": "on", "hills": "on"}
        landmark += f" {join.get(scene.ground, 'in')} {where}"
    when = {
        "day": rng.choice(("by day", "under a blue sky", "")),
        "night": "at night",
        "sunset": "at sunset",
    }.get(scene.sky, f"under {_article(scene.sky)} sky")
    extras = [
        {"sun": "a yellow sun", "moon": "a moon"}.get(extra, extra)
        for extra in ("sun", "moon", "stars", "clouds")
        if extra in scene.extras
    ]
    listed = " and ".join(extras)
    main = landmark or where
    if extras and not landmark and rng.random() < 0.5:
        return f"{listed} over {where} {when}".strip()
    middle = f"{main} {when}".strip()
    return f"{middle} with {listed}" if extras else middle
