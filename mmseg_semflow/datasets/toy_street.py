"""A procedurally drawn street for segmentation and mask to image synthesis."""

import json
import os
from numbers import Integral
from pathlib import Path
from typing import Callable, Optional, Sequence, Tuple

import cv2
import numpy as np
from mmengine.utils import track_iter_progress
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from mmseg_semflow.files import written_whole

from .unreadable import NamedFiles

VERSION = 1
CLASSES = ('sky', 'building', 'road', 'sidewalk', 'tree', 'car', 'person',
           'pole')
PALETTE = [[70, 130, 180], [70, 70, 70], [128, 64, 128], [244, 35, 232],
           [107, 142, 35], [0, 0, 142], [220, 20, 60], [153, 153, 153]]
SKY, BUILDING, ROAD, SIDEWALK, TREE, CAR, PERSON, POLE = range(len(CLASSES))
SPLITS = ('train', 'val')

# Zenith colour, horizon colour, light colour, strength of the sun.
TIMES = (((62, 122, 212), (188, 214, 240), (1.06, 1.03, 0.98), 0.30),
         ((120, 165, 222), (214, 226, 238), (1.00, 1.00, 1.00), 0.20),
         ((160, 168, 180), (206, 209, 213), (0.84, 0.87, 0.91), 0.03),
         ((92, 104, 168), (250, 188, 130), (1.02, 0.85, 0.72), 0.35),
         ((38, 46, 96), (158, 118, 136), (0.64, 0.66, 0.80), 0.05))
EVENING = len(TIMES) - 1
FACADES = ((176, 92, 72), (206, 178, 138), (190, 188, 180), (150, 122, 104),
           (214, 202, 170), (158, 106, 92), (140, 148, 158), (198, 150, 110))
PAINTS = ((196, 32, 36), (236, 236, 238), (34, 36, 42), (34, 74, 168),
          (168, 172, 178), (232, 186, 36), (32, 116, 84), (120, 30, 50))
CLOTHES = ((214, 40, 48), (38, 82, 190), (240, 200, 40), (232, 232, 228),
           (226, 110, 36), (150, 50, 150), (30, 150, 140), (40, 42, 52))
SKINS = ((236, 194, 164), (206, 154, 120), (150, 100, 72), (100, 66, 50))
FOLIAGE = ((58, 112, 44), (82, 134, 50), (44, 92, 52), (110, 132, 46),
           (186, 124, 40))
GRAIN = np.array([1.5, 4, 4, 6, 15, 3, 4, 3], np.float32)


class _Canvas:
    """Image and label map seen by a camera above a straight street.

    World coordinates are metres: x to the right of the camera, y above the
    ground, z ahead of the camera. Every primitive sets the same pixels of the
    image and of the label map.

    Args:
        rng (np.random.Generator): Source of all randomness of the scene.
        size (tuple[int]): Height and width in pixels.
    """

    def __init__(self, rng: np.random.Generator, size: Tuple[int, int]) -> None:
        self.rng = rng
        self.height, self.width = size
        self.image = np.zeros((*size, 3), np.float32)
        self.labels = np.zeros(size, np.uint8)
        self.focal = 1.25 * min(self.height, self.width / 1.5)
        self.eye = rng.uniform(1.8, 2.5)
        self.vanish = np.array([
            self.width * rng.uniform(0.36, 0.64),
            self.height * rng.uniform(0.36, 0.52)
        ])
        self.time = rng.integers(len(TIMES))
        zenith, horizon, light, self.sun = TIMES[self.time]
        self.sun *= rng.choice((-1, 1))
        self.zenith = self.vary(zenith, 10)
        self.horizon = self.vary(horizon, 8)
        self.light = np.array(light) * rng.uniform(0.85, 1.12)
        self.half_road = rng.uniform(2.9, 4.0)
        self.walk = rng.uniform(1.8, 3.2)
        self.centre = rng.uniform(-0.5, 0.5) * self.half_road

    def vary(self, colour: Sequence[float], spread: float) -> np.ndarray:
        """Jitter an RGB colour (0 to 255) by a standard deviation."""
        jitter = self.rng.normal(0, spread, 4)
        return (colour + jitter[0] + 0.5 * jitter[1:]).clip(0, 255)

    def pick(self,
             colours: Sequence[Sequence[float]],
             spread: float = 8) -> np.ndarray:
        """Jitter one of several RGB colours."""
        return self.vary(colours[self.rng.integers(len(colours))], spread)

    def shade(self,
              colour: Sequence[float],
              z: float,
              gain: float = 1) -> np.ndarray:
        """Light a surface colour and fade it into the haze of its distance."""
        haze = 1 - np.exp(-z / 130)
        return (1 - haze) * gain * self.light * colour + haze * self.horizon

    def project(self, x, y, z) -> np.ndarray:
        """Project world coordinates (metres) to pixels of shape (..., 2)."""
        scale = self.focal / np.asarray(z)
        u, v = scale * x, scale * (self.eye - y)
        points = np.empty((*np.broadcast(u, v).shape, 2))
        points[..., 0], points[..., 1] = u, v
        return points + self.vanish

    def quads(self, face: Callable, s: Sequence, t: Sequence,
              colour: np.ndarray, label: int) -> None:
        """Fill the rectangles s[0]..s[1] by t[0]..t[1] (metres) of a face."""
        corners = face(
            np.array((s[0], s[1], s[1], s[0])).T,
            np.array((t[0], t[0], t[1], t[1])).T)
        self.polygons(corners.reshape(-1, 4, 2), colour, label)

    def polygons(self, points: np.ndarray, colour: np.ndarray,
                 label: int) -> None:
        """Fill disjoint polygons given in pixels, shape (count, corners, 2)."""
        points = np.rint(points).astype(np.int32)
        cv2.fillPoly(self.image, points, colour.tolist())
        cv2.fillPoly(self.labels, points, label)

    def rect(self, middle: float, bottom: float, width: float, height: float,
             colour: np.ndarray, label: int) -> None:
        """Fill an upright rectangle given in pixels, at least one pixel."""
        left, top = round(middle - width / 2), round(bottom - height)
        right = left + max(1, round(width))
        bottom = top + max(1, round(height))
        rows = slice(max(top, 0), max(bottom, 0))
        columns = slice(max(left, 0), max(right, 0))
        self.image[rows, columns] = colour
        self.labels[rows, columns] = label

    def ellipse(self, centre: Sequence[float], radii: Sequence[float],
                colour: np.ndarray, label: int) -> None:
        """Fill an upright ellipse given in pixels."""
        centre = [round(float(value)) for value in centre]
        radii = [max(1, round(float(value))) for value in radii]
        cv2.ellipse(self.image, centre, radii, 0, 0, 360, colour.tolist(), -1)
        cv2.ellipse(self.labels, centre, radii, 0, 0, 360, label, -1)

    def shadow(self, foot: Sequence[float], x: Sequence[float],
               z: Sequence[float], gain: float) -> None:
        """Darken the visible ground inside the corners x, z around a foot."""
        mask = np.zeros_like(self.labels)
        corners = self.project(foot[0] + np.array(x), 0, foot[1] + np.array(z))
        cv2.fillPoly(mask, [np.rint(corners).astype(np.int32)], 1)
        ground = (self.labels == ROAD) | (self.labels == SIDEWALK)
        self.image[(mask > 0) & ground] *= gain

    def faces(self, x: Sequence[float],
              z: float) -> Tuple[Callable, Callable, float]:
        """Get the side and front of a box and the light gain of the side."""
        near = x[0] if x[0] > 0 else x[1]
        gain = 0.85 - self.sun * np.sign(near)
        return (lambda s, t: self.project(near, t, s),
                lambda s, t: self.project(s, t, z), gain)

    def box(self, x: Sequence[float], y: Sequence[float], z: Sequence[float],
            colour: np.ndarray, label: int) -> None:
        """Draw the visible faces of a box of the given extents (metres)."""
        side, front, gain = self.faces(x, z[0])
        lit = [self.shade(colour, z[0], value) for value in (1.15, gain, 0.95)]
        if y[1] < self.eye:
            self.quads(lambda s, t: self.project(s, y[1], t), x, z, lit[0],
                       label)
        if x[0] > 0 or x[1] < 0:
            self.quads(side, z, y, lit[1], label)
        self.quads(front, x, y, lit[2], label)

    def finish(self) -> Tuple[np.ndarray, np.ndarray]:
        """Add the grain of each class and round the image to uint8."""
        size = self.labels.shape
        coarse = self.rng.normal(0, 1, (size[0] // 2, size[1] // 2))
        coarse = cv2.resize(coarse.astype(np.float32), size[::-1])
        noise = 0.5 * self.rng.normal(0, 1, size) + coarse
        image = self.image + (noise * GRAIN[self.labels])[..., None]
        return np.clip(np.rint(image), 0, 255).astype(np.uint8), self.labels


def _draw_sky(canvas: _Canvas) -> None:
    rng, height = canvas.rng, canvas.height
    blend = np.clip(np.arange(height) / canvas.vanish[1], 0, 1)[:, None, None]
    canvas.image[:] = (1 - blend) * canvas.zenith + blend * canvas.horizon
    white = 0.5 * canvas.horizon + 0.5 * 255 * canvas.light.clip(0, 1)
    for _ in range(rng.integers(0, 5)):
        middle = rng.uniform((0, 0), (canvas.width, 0.8 * canvas.vanish[1]))
        for shift in rng.uniform(-0.09, 0.09, 3) * canvas.width:
            radii = rng.uniform((0.05, 0.012), (0.11, 0.035)) * canvas.width
            canvas.ellipse(middle + (shift, shift / 9), radii, white, SKY)


def _draw_ground(canvas: _Canvas) -> None:
    rng, half, far = canvas.rng, canvas.half_road, 90

    def ground(x, z):
        return canvas.project(canvas.centre + np.asarray(x), 0, z)

    def stripes(x, z, colour, label):
        canvas.quads(ground, x, z, canvas.shade(colour, 8), label)

    paving = canvas.vary((172, 158, 146), 8)
    stripes((-200, 200), (0.5, 400), paving, SIDEWALK)
    joints = np.arange(2, 30, 1.5)
    stripes((-50, 50), (joints, joints + 0.12), 0.86 * paving, SIDEWALK)
    kerb = half + 0.25
    stripes((-kerb, kerb), (0.5, far), 1.15 * paving, SIDEWALK)
    asphalt = canvas.vary((88, 90, 98), 7)
    stripes((-half, half), (0.5, far), asphalt, ROAD)
    paint = np.array((226, 224, 214))
    dashes = np.arange(1 + rng.uniform(0, 4), 50, 4)
    stripes((-0.09, 0.09), (dashes, dashes + 2), paint, ROAD)
    if rng.random() < 0.4:
        bars, z = np.arange(0.5 - half, half - 0.6, 1), rng.uniform(6, 11)
        stripes((bars, bars + 0.5), (z, z + 2.2), paint, ROAD)


def _draw_skyline(canvas: _Canvas) -> None:
    left = -40.0
    while left < 40:
        right = left + canvas.rng.uniform(6, 14)
        height = canvas.rng.uniform(5, 17)
        canvas.box((left, right), (0, height), (90, 95), canvas.pick(FACADES),
                   BUILDING)
        left = right


def _draw_windows(canvas: _Canvas, face: Callable, s: Sequence[float],
                  height: float, colours: Sequence[np.ndarray]) -> None:
    columns = max(1, int((s[1] - s[0]) / 2.4))
    pitch = (s[1] - s[0]) / columns
    left, low = np.meshgrid(s[0] + pitch * (np.arange(columns) + 0.25),
                            np.arange(3.6, height - 1.8, 2.9))
    lit = canvas.rng.random(left.shape) < 0.5
    for mask, colour in zip((lit, ~lit), colours, strict=True):
        if mask.any():
            canvas.quads(face, (left[mask], left[mask] + pitch / 2),
                         (low[mask], low[mask] + 1.5), colour, BUILDING)


def _draw_building(canvas: _Canvas, x: Sequence[float],
                   z: Sequence[float]) -> None:
    rng = canvas.rng
    height, colour = rng.uniform(5, 15), canvas.pick(FACADES, 10)
    canvas.box(x, (0, height), z, colour, BUILDING)
    side, front, gain = canvas.faces(x, z[0])
    shop, glass = canvas.pick(FACADES, 25) * 0.7, canvas.vary((66, 78, 96), 8)
    lamp = np.array((252, 206, 112))
    for face, s, light in ((side, z, gain), (front, x, 0.95)):
        canvas.quads(face, s, (0, 2.7), canvas.shade(shop, z[0], light),
                     BUILDING)
        canvas.quads(face, s, (height - 0.5, height),
                     canvas.shade(0.7 * colour, z[0], light), BUILDING)
        dark = canvas.shade(glass, z[0], light)
        other = lamp if canvas.time == EVENING else 1.2 * dark
        if z[0] < 35:
            _draw_windows(canvas, face, s, height, (other, dark))


def _draw_tree(canvas: _Canvas, x: float, z: float) -> None:
    rng, scale = canvas.rng, canvas.focal / z
    crown, tall = rng.uniform(1.2, 1.9), rng.uniform(3.4, 4.8)
    canvas.shadow((x, z), (-crown, 0, crown, 0), (0, -crown, 0, crown), 0.7)
    u, v = canvas.project(x, 0, z)
    trunk = canvas.shade(canvas.vary((92, 68, 48), 8), z)
    canvas.rect(u, v, max(2, 0.36 * scale), tall * scale, trunk, TREE)
    leaves = canvas.pick(FOLIAGE)
    for gain in np.linspace(0.7, 1.2, 9):
        turn, reach = rng.uniform(0, 2 * np.pi), crown * rng.uniform(0.3, 0.6)
        shift = (reach * np.cos(turn) - (gain - 0.9) * np.sign(canvas.sun),
                 -tall + reach * np.sin(turn) - 2 * (gain - 0.9))
        radii = crown * rng.uniform(0.45, 0.7, 2) * scale
        canvas.ellipse((u, v) + np.multiply(shift, scale), radii,
                       canvas.shade(leaves, z, gain), TREE)


def _draw_car(canvas: _Canvas, x: float, z: float, oncoming: bool) -> None:
    rng, scale = canvas.rng, canvas.focal / z
    colour, black = canvas.pick(PAINTS), canvas.shade(np.full(3, 26), z)
    glass = canvas.shade(canvas.vary((58, 72, 88), 6), z)
    tail = (255, 244, 196) if oncoming else (206, 24, 22)
    lights = canvas.shade(np.array(tail), z, 1.1)
    body, cabin = (x - 0.9, x + 0.9), (x - 0.74, x + 0.74)
    roof = rng.uniform(1.4, 1.65)
    canvas.shadow((x, z), (-1, 1, 1, -1), (-0.3, -0.3, 4.3, 4.3), 0.45)
    for wheel in (-0.68, 0.68):
        canvas.rect(*canvas.project(x + wheel, 0, z), 0.26 * scale, 0.5 * scale,
                    black, CAR)
    canvas.box(body, (0.25, 0.9), (z, z + 4.2), colour, CAR)
    side, front, _ = canvas.faces(body, z)
    beside = abs(x) > 0.9
    for axle in (z + 0.8, z + 3.4) if beside else ():
        edges = side(np.array((axle - 0.34, axle + 0.34)), 0.34)
        radii = np.ptp(edges[:, 0]) / 2, 0.34 * canvas.focal / axle
        canvas.ellipse(edges.mean(0), radii, black, CAR)
    canvas.box(cabin, (0.9, roof), (z + 0.5, z + 3.3), colour, CAR)
    canvas.quads(front, body, (0.25, 0.4), black, CAR)
    lamps = (x - 0.82, x + 0.5), (x - 0.5, x + 0.82)
    canvas.quads(front, lamps, (0.6, 0.8), lights, CAR)
    side, front, _ = canvas.faces(cabin, z + 0.5)
    pane = (0.95, roof - 0.12)
    canvas.quads(front, (x - 0.62, x + 0.62), pane, glass, CAR)
    if beside:
        doors = (z + 0.7, z + 2), (z + 1.8, z + 3.1)
        canvas.quads(side, doors, pane, glass, CAR)


def _draw_person(canvas: _Canvas, x: float, z: float) -> None:
    rng, tall = canvas.rng, 1.75 * canvas.focal / z
    canvas.shadow((x, z), (-0.4, 0.1, 0.5, 0), (0, -0.3, 0, 0.3), 0.6)
    u, v = canvas.project(x, 0, z)
    skin = canvas.shade(canvas.pick(SKINS), z)
    shirt, trousers = (canvas.pick(CLOTHES) for _ in range(2))
    stride = rng.uniform(0.06, 0.16) * tall
    for hip, foot in ((-0.08 * tall, -stride), (0.08 * tall, stride)):
        thick = max(1, 0.11 * tall)
        leg = [(u + hip, v - 0.46 * tall),
               (u + hip + thick / 2, v - 0.46 * tall),
               (u + foot + thick / 2, v), (u + foot - thick / 2, v)]
        canvas.polygons(
            np.array([leg]), canvas.shade(0.55 * trousers, z), PERSON)
    canvas.rect(u, v - 0.42 * tall, max(4, 0.42 * tall), 0.38 * tall,
                canvas.shade(shirt, z, 0.8), PERSON)
    canvas.rect(u, v - 0.40 * tall, max(2, 0.26 * tall), 0.44 * tall,
                canvas.shade(shirt, z), PERSON)
    head = (0.09 * tall, 0.10 * tall)
    hair = canvas.shade(
        canvas.pick(((40, 30, 26), (120, 84, 44), (180, 150, 90))), z)
    canvas.ellipse((u, v - 0.91 * tall), head, hair, PERSON)
    canvas.ellipse((u, v - 0.88 * tall), np.multiply(head, 0.8), skin, PERSON)


def _draw_pole(canvas: _Canvas, x: float, z: float, side: int) -> None:
    rng, scale = canvas.rng, canvas.focal / z
    u, v = canvas.project(x, 0, z)
    metal = canvas.shade(canvas.pick(((70, 74, 78), (52, 62, 58)), 6), z)
    width = max(2, 0.2 * scale)
    tall = rng.uniform(4, 6) * scale
    canvas.rect(u, v, width, tall, metal, POLE)
    if rng.random() < 0.5:
        reach = 1.4 * scale
        canvas.rect(u - side * reach / 2, v - tall, reach, width, metal, POLE)
        lamp = canvas.shade(np.array((255, 240, 190)), z)
        canvas.rect(u - side * reach, v - tall + width, 0.7 * scale, width,
                    lamp, POLE)
    else:
        bottom = v - 2.5 * scale
        canvas.rect(u, bottom, max(4, 0.45 * scale), 1.2 * scale, 0.5 * metal,
                    POLE)
        light = rng.integers(2)
        colour = np.array(((240, 40, 30), (40, 220, 90))[light])
        canvas.ellipse((u, bottom - (0.9, 0.3)[light] * scale), (1, 1), colour,
                       POLE)


def _place(canvas: _Canvas, x: float, near: float,
           far: float) -> Tuple[float, float]:
    """Choose a distance at which x is in view, moving x inwards if need be."""
    room = canvas.vanish[0] if x < 0 else canvas.width - canvas.vanish[0]
    limit = canvas.focal * abs(x) / (0.92 * room)
    if limit > 0.8 * far:
        x, limit = x * 0.8 * far / limit, 0.8 * far
    return x, 1 / canvas.rng.uniform(1 / far, 1 / max(near, limit))


def _build_blocks(canvas: _Canvas) -> None:
    """Draw the skyline and the houses along both sides, far to near."""
    rng, edge = canvas.rng, canvas.half_road + canvas.walk
    _draw_skyline(canvas)
    for side in (-1, 1):
        front, z, blocks = canvas.centre + side * edge, rng.uniform(0.8, 5), []
        while z < 60:
            length = rng.uniform(6, 14)
            blocks.append((z, z + length))
            z += length + (rng.uniform(2, 6) if rng.random() < 0.35 else 0)
        for block in blocks[::-1]:
            _draw_building(canvas, sorted((front, front + side * 9)), block)
    if abs(canvas.sun) > 0.1:
        side = np.sign(canvas.sun)
        wall = canvas.centre + side * edge
        reach = -side * rng.uniform(1, edge)
        canvas.shadow((wall, 0), (0, 0, reach, reach), (0.8, 60, 60, 0.8), 0.68)


def _place_objects(canvas: _Canvas) -> list:
    """List the objects of the street as (distance, function, arguments)."""
    rng, half, centre, objects = canvas.rng, canvas.half_road, canvas.centre, []

    def add(draw, x, near, far, *args):
        x, z = _place(canvas, x, near, far)
        objects.append((z, draw, (x, z, *args)))

    for side in (-1, 1):
        lane = centre + side * (half - 1.2)
        slots = 6 + rng.uniform(0, 2) + 6 * np.arange(4)
        for z in slots[rng.random(4) < 0.4]:
            add(_draw_car, lane, z, z + 0.5, side < 0)
        for _ in range(rng.integers(1, 3)):
            add(_draw_pole, centre + side * (half + 0.4), 6, 20, side)
        for _ in range(rng.integers(1, 3)):
            add(_draw_tree, centre + side * (half + 0.7 * canvas.walk), 7, 26)
    if not any(draw is _draw_car for _, draw, _ in objects):
        add(_draw_car, centre + half - 1.2, 6, 14, False)
    unit = 1.75 * canvas.focal / canvas.height
    for _ in range(rng.integers(3, 7)):
        walk = half + rng.uniform(0.2, 0.9) * canvas.walk
        across = rng.uniform(-half, half)
        shift = across if rng.random() < 0.3 else rng.choice((-1, 1)) * walk
        add(_draw_person, centre + shift, unit / 0.41, unit / 0.16)
    return objects


def draw_street(
    rng: np.random.Generator, size: Tuple[int, int] = (64, 96)
) -> Tuple[np.ndarray, np.ndarray]:
    """Draw one random street.

    Args:
        rng (np.random.Generator): Source of all randomness.
        size (tuple[int]): Height and width in pixels, each at least 32.
            Defaults to (64, 96).

    Returns:
        tuple[np.ndarray]: The RGB image of shape (H, W, 3) and the label map
        of shape (H, W), both uint8. Labels index ``CLASSES``; each is the
        class of the top-most object drawn at its pixel.

    Raises:
        ValueError: If ``size`` is not two integers of at least 32.
    """
    canvas = _Canvas(rng, _check_size(size))
    _draw_sky(canvas)
    _draw_ground(canvas)
    _build_blocks(canvas)
    for _, draw, args in sorted(
            _place_objects(canvas), key=lambda item: -item[0]):
        draw(canvas, *args)
    return canvas.finish()


def _check_integer(name: str, value: int, least: int) -> int:
    if not isinstance(value, Integral) or value < least:
        raise ValueError(f'{name} must be an integer of at least {least}, '
                         f'got {value!r}')
    return int(value)


def _check_size(size: Sequence[int]) -> Tuple[int, int]:
    if not isinstance(size, Sequence) or len(size) != 2:
        raise ValueError(f'size must be (height, width), got {size!r}')
    return tuple(
        _check_integer('every side of size', side, 32) for side in size)


def _check_folder(root: Path, meta: dict) -> None:
    path = root / 'meta.json'
    found = json.loads(path.read_text()) if path.is_file() else None
    hint = 'delete it or choose another data_root'
    if found != meta:
        raise ValueError(
            f'{root} holds another dataset: found {found}, requested '
            f'{meta}; {hint}')
    for split in SPLITS:
        for kind in ('img_dir', 'ann_dir'):
            count = len(list((root / kind / split).glob('*.png')))
            if count != meta[f'num_{split}']:
                raise ValueError(
                    f'{root / kind / split} is incomplete: found {count} '
                    f'files, requested {meta[f"num_{split}"]}; {hint}')


def _write_scenes(root: Path, meta: dict) -> None:
    count = meta['num_train'] + meta['num_val']
    print(f'drawing {count} street scenes', flush=True)
    scenes = []
    for number, split in enumerate(SPLITS):
        for kind in ('img_dir', 'ann_dir'):
            (root / kind / split).mkdir(parents=True)
        scenes += [(number, split, i) for i in range(meta[f'num_{split}'])]
    for number, split, i in track_iter_progress(scenes):
        rng = np.random.default_rng([meta['seed'], number, i])
        image, labels = draw_street(rng, meta['size'])
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        for kind, pixels in (('img_dir', image), ('ann_dir', labels)):
            png = cv2.imencode('.png', pixels)[1]
            (root / kind / split / f'{i:05d}.png').write_bytes(png.tobytes())
    (root / 'meta.json').write_text(json.dumps(meta))


def write_toy_street(data_root: str,
                     num_train: int = 1500,
                     num_val: int = 200,
                     size: Tuple[int, int] = (64, 96),
                     seed: int = 0) -> None:
    """Write the dataset to ``data_root`` unless it is already there.

    The folder appears complete or not at all, also when several processes
    write it at once, and is never overwritten. Scene i of a split depends only
    on ``seed``, ``size``, the split and i, so smaller datasets are subsets.

    Args:
        data_root (str): Folder to write; absent, empty or already complete.
        num_train (int): Number of training scenes, at least 1.
            Defaults to 1500.
        num_val (int): Number of validation scenes, at least 1.
            Defaults to 200.
        size (tuple[int]): Height and width in pixels, each at least 32.
            Defaults to (64, 96).
        seed (int): Seed of the scenes, at least 0. Defaults to 0.

    Raises:
        ValueError: If an argument is out of range, or ``data_root`` holds
            anything but the complete requested dataset.
    """
    meta = dict(
        version=VERSION,
        size=list(_check_size(size)),
        num_train=_check_integer('num_train', num_train, 1),
        num_val=_check_integer('num_val', num_val, 1),
        seed=_check_integer('seed', seed, 0))
    root = Path(data_root).resolve()
    if not root.exists() or not os.listdir(root):
        try:
            with written_whole(root) as scenes:
                _write_scenes(scenes, meta)
        except OSError:
            # Unless another process was the first to write it.
            if not (root / 'meta.json').is_file():
                raise
    _check_folder(root, meta)


@DATASETS.register_module()
class ToyStreetDataset(NamedFiles, BaseSegDataset):
    """Procedurally drawn streets with 8 classes in the usual mmseg layout.

    Select a split with ``data_prefix``, e.g. ``dict(img_path='img_dir/train',
    seg_map_path='ann_dir/train')``.

    Args:
        data_root (str): Folder of the dataset.
        generate (dict, optional): Arguments of :func:`write_toy_street` other
            than ``data_root``; the dataset is written if it is not there yet.
            Defaults to None, which means that nothing is written.
        img_suffix (str): Suffix of images. Defaults to '.png'.
        seg_map_suffix (str): Suffix of label maps. Defaults to '.png'.
        reduce_zero_label (bool): Whether to ignore label 0.
            Defaults to False.
        **kwargs: Other arguments of :class:`mmseg.datasets.BaseSegDataset`.

    Raises:
        ValueError: If ``generate`` is out of range or differs from what
            ``data_root`` holds.
    """

    METAINFO = dict(classes=CLASSES, palette=PALETTE)

    def __init__(self,
                 data_root: str,
                 generate: Optional[dict] = None,
                 img_suffix: str = '.png',
                 seg_map_suffix: str = '.png',
                 reduce_zero_label: bool = False,
                 **kwargs) -> None:
        if generate is not None:
            write_toy_street(data_root, **generate)
        super().__init__(
            data_root=data_root,
            img_suffix=img_suffix,
            seg_map_suffix=seg_map_suffix,
            reduce_zero_label=reduce_zero_label,
            **kwargs)
