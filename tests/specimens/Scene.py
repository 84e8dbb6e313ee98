"""A photograph of a card: background, tilt, shadow, light, glare, blur and grain."""

from __future__ import annotations

import cv2
import numpy as np

from tests.specimens.Card import Card, Image
from tests.specimens.Dice import Dice
from tests.specimens.Encode import Frame
from tests.specimens.Surfaces import SURFACES, plain

SCENE_SIZE = 1000  # pixels of the scene's longer side, before it is reduced to the frame


def photograph(card: Card, frame: Frame, dice: Dice) -> Image:
    """Return `card` photographed as `frame` says: `(frame.height, frame.width, 3)`."""
    scale = SCENE_SIZE / max(frame.width, frame.height)
    width, height = round(frame.width * scale), round(frame.height * scale)
    if card.full_frame:
        scene = cv2.resize(card.pixels, (width, height), interpolation=cv2.INTER_AREA)
    else:
        surface = plain if frame.flat else SURFACES[frame.number % len(SURFACES)]
        scene = lay(card, surface(dice, width, height), dice, frame.flat)
    if not frame.flat:
        scene = light(scene, dice)
    scene = cv2.GaussianBlur(scene, (0, 0), dice.uniform(0.3, 1.6))
    picture = cv2.resize(scene, (frame.width, frame.height), interpolation=cv2.INTER_AREA).astype(np.float32)
    if frame.flat:
        return (np.rint(picture / 12) * 12).clip(0, 255).astype(np.uint8)  # few tones: a small PNG
    grain = dice.standard_normal((frame.height, frame.width, 1)) * dice.uniform(0.5, 2.4)
    return np.rint(picture + grain).clip(0, 255).astype(np.uint8)


def corners(card: Card, width: int, height: int, dice: Dice, flat: bool) -> np.ndarray:
    """Return where the card's four corners `(4, 2)` fall: turned, tilted away from the camera, fitted to the frame."""
    turn = np.deg2rad(dice.normal(0, 5) if dice.chance(0.8) else dice.uniform(-35, 35))
    lean, swing = np.deg2rad(dice.uniform(-24, 24, 2) * (0.0 if flat else 1.0))
    if (card.width > card.height) != (width > height) and dice.chance(0.25):
        turn += dice.pick((-1, 1)) * np.pi / 2
    half = np.array((card.width, card.height)) / card.width
    flat_corners = np.array(((-1, -1), (1, -1), (1, 1), (-1, 1))) * half
    spin = np.array(((np.cos(turn), -np.sin(turn)), (np.sin(turn), np.cos(turn))))
    x, y = (flat_corners @ spin.T).T
    depth = 5 + x * np.sin(swing) + y * np.sin(lean)
    points = np.stack([x * np.cos(swing) / depth, y * np.cos(lean) / depth], axis=1)
    points -= (points.min(axis=0) + points.max(axis=0)) / 2
    fill = dice.uniform(0.86, 0.99) if dice.chance(0.8) else dice.uniform(1.0, 1.12)
    points *= fill * min(width / np.ptp(points[:, 0]), height / np.ptp(points[:, 1]))
    spare = np.maximum(np.array((width, height)) - np.ptp(points, axis=0), 0) / 2
    return points + np.array((width, height)) / 2 + dice.uniform(-0.8, 0.8, 2) * spare


def lay(card: Card, scene: Image, dice: Dice, flat: bool) -> Image:
    """Return `scene` with the card lying on it, above its own shadow."""
    height, width = scene.shape[:2]
    source = np.array(((0, 0), (card.width, 0), (card.width, card.height), (0, card.height)), np.float32)
    target = corners(card, width, height, dice, flat).astype(np.float32)
    project = cv2.getPerspectiveTransform(source, target)
    pixels = cv2.warpPerspective(card.pixels, project, (width, height), borderMode=cv2.BORDER_REPLICATE)
    mask = cv2.warpPerspective(card.mask, project, (width, height)).astype(np.float32) / 255
    reach = dice.uniform(-16, 16, 2)
    shift = np.array(((1, 0, reach[0]), (0, 1, reach[1])), np.float32)
    shadow = cv2.GaussianBlur(cv2.warpAffine(mask, shift, (width, height)), (0, 0), dice.uniform(4, 14))
    shaded = scene * (1 - dice.uniform(0.25, 0.6) * shadow[:, :, None])
    return np.rint(shaded + mask[:, :, None] * (pixels - shaded)).astype(np.uint8)


def light(scene: Image, dice: Dice) -> Image:
    """Return `scene` under uneven light: a slope, a colour cast, perhaps glare, a passing shadow, a dark rim."""
    height, width = scene.shape[:2]
    x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    angle = dice.uniform(0, 6.28)
    level = dice.uniform(0.84, 1.14) * (1 + dice.uniform(0, 0.22) * (x * np.cos(angle) + y * np.sin(angle)))
    if dice.chance(0.35):
        edge = x * np.cos(angle + 1) + y * np.sin(angle + 1) - dice.uniform(-0.6, 0.6)
        level = level * (1 - dice.uniform(0.2, 0.45) / (1 + np.exp(-edge * dice.uniform(6, 40))))
    if dice.chance(0.4):
        level = level * (1 - dice.uniform(0.1, 0.3) * (x**2 + y**2) / 2)
    lit = scene * level[:, :, None] * dice.uniform(0.92, 1.06, 3).astype(np.float32)
    if dice.chance(0.4):
        left, top, size = dice.uniform(-0.8, 0.8), dice.uniform(-0.8, 0.8), dice.uniform(0.12, 0.4)
        spot = np.exp(-((x - left) ** 2 + ((y - top) * dice.uniform(0.5, 2)) ** 2) / size**2)
        lit += dice.uniform(50, 150) * spot[:, :, None]
    return np.rint(lit).clip(0, 255).astype(np.uint8)
