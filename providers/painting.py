"""Painting: scenes with a heliograph, drawn from chance alone: the same words and seed give the same one. Blocking."""

from __future__ import annotations

import colorsys
import hashlib
import math
import random
import unicodedata

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps

Colour = tuple[int, int, int]


def paint(prompt: str, seed: int, size: tuple[int, int], index: int, mark: str) -> Image.Image:
    """The picture number `index` of a prompt: its scene, the prompt itself, and a mark that says what made it."""
    picture = scene(prompt, seed, size, index)
    caption(picture, prompt, mark)
    return picture


def chances(prompt: str, seed: int, index: int) -> random.Random:
    """What decides everything in the scene number `index` of a prompt."""
    return random.Random(hashlib.sha256(f"{seed}\n{index}\n{prompt}".encode()).digest())  # noqa: S311 - a picture is no secret


def scene(prompt: str, seed: int, size: tuple[int, int], index: int) -> Image.Image:
    """Sky, sun, rays, hills and a heliograph."""
    chance = chances(prompt, seed, index)
    width, height = size
    hue, night = chance.random(), chance.random() < 0.3
    sun = width * chance.uniform(0.2, 0.8), height * chance.uniform(0.16, 0.36)
    horizon = round(height * chance.uniform(0.52, 0.62))
    picture = _sky(size, hue, night)
    _shine(picture, sun, hue, horizon + height // 6, chance)
    front = _hills(picture, hue, night, horizon, chance)
    _heliograph(picture, front[round(len(front) * chance.uniform(0.25, 0.75))], colour(hue + 0.16, 0.95, 0.9))
    return picture


def colour(hue: float, light: float, strength: float) -> Colour:
    """Red, green and blue, of 0 to 255; hue, light and strength are of 0 to 1."""
    red, green, blue = colorsys.hls_to_rgb(hue % 1, light, strength)
    return round(red * 255), round(green * 255), round(blue * 255)


def _sky(size: tuple[int, int], hue: float, night: bool) -> Image.Image:
    column = Image.linear_gradient("L").crop((0, 0, 1, 256)).resize((1, size[1]), Image.Resampling.BILINEAR)
    top = colour(hue, 0.16 if night else 0.40, 0.55)
    middle = colour(hue + 0.06, 0.34 if night else 0.66, 0.6)
    bottom = colour(hue + 0.14, 0.6 if night else 0.86, 0.8)
    return ImageOps.colorize(column, top, bottom, middle).resize(size, Image.Resampling.NEAREST)


def _shine(picture: Image.Image, sun: tuple[float, float], hue: float, bottom: int, chance: random.Random) -> None:
    """The sun, its glow and its rays, down to `bottom`; beneath it are only hills."""
    x, y = sun
    radius = min(picture.size) * chance.uniform(0.06, 0.1)
    light = Image.new("L", (picture.width // 4, bottom // 4))
    draw = ImageDraw.Draw(light)
    count, turn, reach = chance.randint(9, 15), chance.random(), sum(picture.size)
    for ray in range(count):
        middle, half = (turn + ray / count) * math.tau, math.pi / count * chance.uniform(0.25, 0.6)
        edges = [
            (x / 4 + reach * math.cos(angle), y / 4 + reach * math.sin(angle))
            for angle in (middle - half, middle + half)
        ]
        draw.polygon([(x / 4, y / 4), *edges], fill=chance.randint(16, 36))
    reach = round(radius * 9 / 4)
    glow = Image.radial_gradient("L").point([round(max(0.0, 1 - far / 178) ** 2 * 190) for far in range(256)])
    light, halo = light.filter(ImageFilter.BoxBlur(1)), Image.new("L", light.size)
    halo.paste(glow.resize((reach * 2, reach * 2)), (round(x / 4) - reach, round(y / 4) - reach))
    light = ImageChops.add(light, halo).resize((picture.width, bottom), Image.Resampling.BICUBIC)
    picture.paste(colour(hue + 0.16, 0.92, 0.9), (0, 0), light)
    disc = Image.new("L", (round(radius * 8), round(radius * 8)))
    ImageDraw.Draw(disc).ellipse((0, 0, disc.width - 1, disc.height - 1), fill=255)
    disc = disc.reduce(4)
    picture.paste(colour(hue + 0.16, 0.96, 0.95), (round(x - disc.width / 2), round(y - disc.height / 2)), disc)


def _hills(
    picture: Image.Image, hue: float, night: bool, horizon: int, chance: random.Random
) -> list[tuple[int, float]]:
    """Ranges of hills, darker the nearer they are; returns the outline of the range before the nearest."""
    width, height = picture.size
    count = chance.randint(4, 6)
    outlines = []
    for number in range(count):
        depth = (number + 1) / count
        base, swing = horizon + (height - horizon) * number / count * 0.95, height * (0.03 + 0.06 * depth)
        waves = [
            (chance.uniform(0.6, 1.6) * wave / width * math.tau, chance.random() * math.tau, swing / wave)
            for wave in range(1, 5)
        ]
        outline = [
            (x, base + sum(high * math.sin(often * x + shift) for often, shift, high in waves))
            for x in range(0, width + 8, 8)
        ]
        light = (0.3 if night else 0.52) * (1 - depth) + 0.10
        _fill_below(picture, outline, colour(hue + 0.14 - 0.3 * depth, light, 0.35 + 0.2 * depth))
        outlines.append(outline)
    return outlines[-2]


def _fill_below(picture: Image.Image, outline: list[tuple[int, float]], colour: Colour) -> None:
    """Fills everything under the outline; its edge is drawn at double height and halved, so that it is smooth."""
    top = max(0, math.floor(min(y for _, y in outline)))
    bottom = min(picture.height, math.ceil(max(y for _, y in outline)))
    if bottom > top:
        edge = Image.new("L", (picture.width, (bottom - top) * 2))
        corners = [(0.0, edge.height), *((x, (y - top) * 2) for x, y in outline), (outline[-1][0], edge.height)]
        ImageDraw.Draw(edge).polygon(corners, fill=255)
        picture.paste(colour, (0, top), edge.reduce((1, 2)))
    picture.paste(colour, (0, bottom, picture.width, picture.height))


def _heliograph(picture: Image.Image, foot: tuple[int, float], light: Colour) -> None:
    """A mirror on three legs that flashes, standing at `foot`; drawn four times as large and reduced."""
    side = max(8, min(picture.size) // 12)
    big = Image.new("RGBA", (side * 4, side * 4))
    draw = ImageDraw.Draw(big)
    middle, mirror, line = side * 2, side * 1.1, max(2, side // 8)
    third = side / 3
    for leg in (-0.9, 0.0, 0.9):
        draw.line((middle, mirror, middle + leg * side, side * 4), fill=(24, 22, 28, 255), width=line)
    for reach, thin in ((side, 0.12), (side * 0.7, 0.2)):
        tilt = math.pi / 4 if thin > 0.15 else 0.0
        points = [
            (middle + length * math.cos(tilt + k * math.pi / 4), mirror + length * math.sin(tilt + k * math.pi / 4))
            for k, length in enumerate((reach, reach * thin) * 4)
        ]
        draw.polygon(points, fill=(*light, 255))
    draw.ellipse((middle - third, mirror - third, middle + third, mirror + third), fill=(255, 255, 255, 255))
    small = big.reduce(4)
    picture.paste(small, (round(foot[0] - side / 2), round(foot[1] - side * 0.85)), small)


def caption(picture: Image.Image, prompt: str, mark: str) -> None:
    """The prompt at the bottom, cut to the width, and at the top the mark."""
    letters = max(10, min(picture.size) // 48)
    font, draw = ImageFont.load_default(letters), ImageDraw.Draw(picture)
    room = picture.width - 2 * letters
    text = _plain(prompt[:400])
    if draw.textlength(text, font) > room:
        while text and draw.textlength(text + " …", font) > room:
            text = text[: len(text) * 9 // 10]
        text += " …"
    draw.text((letters, picture.height - letters), text, (235, 235, 235), font, "ls")
    draw.text((picture.width - letters, letters), mark, (235, 235, 235), font, "rt")


def _plain(text: str) -> str:
    """The text in the letters that Pillow's own font has."""
    letters = unicodedata.normalize("NFKD", " ".join(text.split()))
    return "".join(letter if letter.isascii() else "?" for letter in letters if not unicodedata.combining(letter))
