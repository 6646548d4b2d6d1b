"""Small, changed and broken fonts for tests, made from those of matplotlib."""

import functools
import io
import sys
import types
from pathlib import Path

import matplotlib
from fontTools import subset
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.t2CharStringPen import T2CharStringPen
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTCollection, TTFont
from fontTools.ttLib.tables.TupleVariation import TupleVariation

from csn_jax.data.sources.fonts import CHARACTERS

MATPLOTLIB = Path(matplotlib.get_data_path()) / "fonts/ttf"


@functools.cache
def small(name: str = "DejaVuSans") -> bytes:
    """A font of matplotlib with the 62 characters alone, which is quick to change and save."""
    font = TTFont(MATPLOTLIB / f"{name}.ttf", recalcTimestamp=False)
    options = subset.Options(hinting=False, layout_features=[], notdef_outline=True)
    subsetter = subset.Subsetter(options)
    subsetter.populate(text=CHARACTERS)
    subsetter.subset(font)
    return saved(font)


def opened(name: str = "DejaVuSans") -> TTFont:
    return TTFont(io.BytesIO(small(name)), recalcTimestamp=False)


def saved(font: TTFont) -> bytes:
    buffer = io.BytesIO()
    font.save(buffer)
    return buffer.getvalue()


def remapped(change) -> bytes:
    """The small font with another character map. change(mapping, character) returns the name of a glyph or None."""
    font = opened()
    mapping = font.getBestCmap()
    for table in font["cmap"].tables:
        table.cmap = {code: glyph for code in mapping if (glyph := change(mapping, chr(code)))}
    return saved(font)


def blanked(characters: str) -> bytes:
    """The small font with empty glyphs for some characters."""
    font = opened()
    for character in characters:
        glyph = font["glyf"][font.getBestCmap()[ord(character)]]
        glyph.numberOfContours, glyph.coordinates = 0, []
    return saved(font)


def as_woff(flavor: str, monkeypatch) -> bytes:
    """The small font in a web container. fontTools needs a brotli library for woff2; stored blocks are valid brotli."""

    def compress(data: bytes, **_) -> bytes:
        out, bits = b"", "0"  # a window of 64 kB; bits fill a byte from its lowest
        for start in range(0, len(data), 1 << 16):
            block = data[start : start + (1 << 16)]
            bits += "000" + f"{len(block) - 1:016b}"[::-1] + "1"  # not the last; length by 4 nibbles; stored
            bits += "0" * (-len(bits) % 8)
            out += int(bits[::-1], 2).to_bytes(len(bits) // 8, "little") + block
            bits = ""
        return out + b"\x03"  # the last, and empty

    monkeypatch.setitem(sys.modules, "brotli", types.SimpleNamespace(compress=compress, MODE_FONT=2))
    import fontTools.ttLib.woff2 as woff2

    monkeypatch.setattr(woff2, "haveBrotli", True)
    monkeypatch.setattr(woff2, "brotli", sys.modules["brotli"], raising=False)
    font = opened()
    font.flavor = flavor
    return saved(font)


def as_otf() -> bytes:
    """The small font's outlines as an OpenType font with cubic (CFF) outlines."""
    font = opened()
    glyphs, names = font.getGlyphSet(), font.getGlyphOrder()
    builder = FontBuilder(font["head"].unitsPerEm, isTTF=False)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap(font.getBestCmap())
    strings = {}
    for name in names:
        pen = T2CharStringPen(glyphs[name].width, glyphs)
        glyphs[name].draw(pen)
        strings[name] = pen.getCharString()
    builder.setupCFF("Cubic", {}, strings, {})
    builder.setupHorizontalMetrics({name: (glyphs[name].width, 0) for name in names})
    builder.setupHorizontalHeader(ascent=1900, descent=-500)
    builder.setupNameTable({"familyName": "Cubic", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    return saved(builder.font)


def collection(*fonts: TTFont) -> bytes:
    """A file of several faces."""
    made, buffer = TTCollection(), io.BytesIO()
    made.fonts = list(fonts)
    made.save(buffer)
    return buffer.getvalue()


def variable(*instances: tuple[str, float], family: str = "Stretch") -> TTFont:
    """The small font with an axis that makes all glyphs wider, and named instances at places from 0 to 1 of it."""
    font = opened()
    builder = FontBuilder(font=font)
    named = [{"location": {"wdth": 100 + 100 * place}, "stylename": name} for name, place in instances]
    builder.setupFvar([("wdth", 100, 100, 200, "Width")], named)
    deltas = {}
    for glyph in font.getGlyphOrder():
        points, _ = font["glyf"]._getCoordinatesAndControls(glyph, font["hmtx"].metrics)
        deltas[glyph] = [TupleVariation({"wdth": (0, 1, 1)}, [(round(0.4 * x), 0) for x, _ in points])]
    builder.setupGvar(deltas)
    return named_family(font, family)


def named_family(font: TTFont, family: str) -> TTFont:
    """The font under another family, of which it has no other name."""
    table = font["name"]
    table.names = [name for name in table.names if name.nameID not in (1, 16, 21)]
    table.setName(family, 1, 3, 1, 0x409)
    return font


def barcodes() -> bytes:
    """A font that draws each character as its own row of vertical bars."""
    font = opened()
    for number, character in enumerate(CHARACTERS, start=64):
        pen = TTGlyphPen(None)
        for bit in range(8):
            left, right = bit * 200, bit * 200 + (150 if number >> bit & 1 else 50)
            pen.moveTo((left, 0)), pen.lineTo((left, 1500)), pen.lineTo((right, 1500)), pen.lineTo((right, 0))
            pen.closePath()
        font["glyf"][font.getBestCmap()[ord(character)]] = pen.glyph()
    return saved(font)


def symbols() -> bytes:
    """A symbol font like Wingdings: its character map has private codes in place of letters."""
    font = opened()
    mapping = font.getBestCmap()
    tables = [table for table in font["cmap"].tables if (table.platformID, table.platEncID) == (3, 1)]
    tables[0].platEncID = 0
    tables[0].cmap = {0xF000 + code: glyph for code, glyph in mapping.items()}
    font["cmap"].tables = tables[:1]
    return saved(font)
