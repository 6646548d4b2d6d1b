"""Source `fonts`: which glyphs are drawn, and which fonts are left out for which reason."""

import os
import re
import shutil
import signal
import string
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from crashing_fonts import die_on_bombs
from made_fonts import (
    MATPLOTLIB,
    as_otf,
    as_woff,
    barcodes,
    blanked,
    collection,
    named_family,
    opened,
    remapped,
    saved,
    small,
    symbols,
    variable,
)

from csn_jax.config import Config, DataConfig, PreprocessConfig
from csn_jax.data.item_set import SPLITS, split_rows
from csn_jax.data.sources import font_faces, fonts
from csn_jax.data.sources.font_faces import Face, faces_in
from csn_jax.data.sources.fonts import CHARACTERS, font_files, read_fonts, render_face, render_faces
from csn_jax.errors import UserError

SHARED = Path(__file__).parents[4] / "shared/data/fonts"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} does not exist")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CSN_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "fonts").mkdir()
    return tmp_path / "fonts"


def write(folder: Path, **content: bytes) -> None:
    for name, data in content.items():
        (folder / f"{name}.ttf").write_bytes(data)


def render(folder: Path, size: int = 64, workers: int = 2) -> dict[str, np.ndarray | str]:
    """{name: images of a font, or its fault}, from worker processes."""
    rendered = render_faces(faces_in(font_files(folder)), size, workers)
    return {name: images if fault is None else fault for name, images, fault in rendered}


def render_here(folder: Path, size: int = 64) -> dict[str, np.ndarray | str]:
    """The same from this process, which starts sooner."""
    return {name: render_face((Face(str(path)), size)) for name, path in font_files(folder).items()}


def read(folder: Path, size: int = 64) -> tuple[np.ndarray, list[str]]:
    images, faces = read_fonts(DataConfig(source="fonts", path=str(folder)), size)
    return images, [*faces]


def margins(images: np.ndarray) -> np.ndarray:
    """Free rows or columns at the top, bottom, left and right of each image: [..., S, S] -> [n, 4]."""
    ink = images.reshape(-1, *images.shape[-2:]) > 0
    rows, columns = ink.any(axis=2), ink.any(axis=1)
    return np.stack([side.argmax(axis=1) for side in (rows, rows[:, ::-1], columns, columns[:, ::-1])], axis=1)


@pytest.mark.parametrize("size", [16, 32, 64])
def test_glyphs_are_whole_and_centred_and_keep_their_proportions(size):
    """All text faces of matplotlib: each glyph has a free border and its ink is centred to half a pixel. It is white on
    black, grey at the edges, and the largest glyph of a face fills the image."""
    paths = [path for path in sorted(MATPLOTLIB.glob("*.ttf")) if path.stem.startswith(("DejaVuS", "STIXGen", "cm"))]
    faces = {path.stem: render_face((Face(str(path)), size)) for path in paths if "Display" not in path.stem}
    assert len(faces) >= 20
    for name, images in faces.items():
        assert images.shape == (62, size, size) and images.dtype == np.uint8
        top, bottom, left, right = margins(images).T
        assert max(np.abs(top - bottom).max(), np.abs(left - right).max()) <= 1, name
        border = round(size / 16)
        assert min(top.min(), bottom.min(), left.min(), right.min()) >= border, name
        height, width = size - top - bottom, size - left - right
        assert max(height.max(), width.max()) >= size - 2 * border - 2, name  # the largest fills its room
        if size == 64 and name.startswith("DejaVuSans"):
            assert images.max() == 255 and 0 < np.median(images[images > 0])
            at = dict(zip(CHARACTERS, height, strict=True))
            assert at["c"] < 0.85 * at["C"] and at["x"] < 0.85 * at["h"]  # one scale for the whole face


def test_all_formats_are_read_in_all_subfolders(folder, monkeypatch):
    """ttf, otf, woff and woff2, also with suffixes in capitals. Other files are ignored. Two files of one name keep
    their suffixes."""
    (folder / "a/b").mkdir(parents=True)
    (folder / "plain.ttf").write_bytes(small())
    (folder / "a/web.woff").write_bytes(as_woff("woff", monkeypatch))
    (folder / "a/b/web.WOFF2").write_bytes(as_woff("woff2", monkeypatch))
    (folder / "plain.otf").write_bytes(as_otf())
    (folder / "readme.txt").write_text("no font")
    (folder / "folder.ttf").mkdir()
    faces = render_here(folder)
    assert list(faces) == ["a/b/web", "a/web", "plain.otf", "plain.ttf"]
    for name, images in faces.items():
        # Other outlines have other greys at the edges, but each letter is nearest to itself.
        gaps = np.abs(images[:, None].astype(int) - faces["plain.ttf"]).mean(axis=(2, 3))  # [62, 62]
        np.testing.assert_array_equal(gaps.argmin(axis=1), range(62), err_msg=name)


# (content, reason in the message)
BAD = {
    "three characters missing": (
        lambda: remapped(lambda m, c: None if c in "xyz" else m[ord(c)]),
        r"has no glyph.*3 of 62.*\(xyz\)",
    ),
    "all characters missing": (lambda: (MATPLOTLIB / "DejaVuSansDisplay.ttf").read_bytes(), "has no glyph.*62 of 62"),
    "two characters blank": (lambda: blanked("Q7"), r"draws nothing for 2 of 62 characters \(Q7\)"),
    "all characters blank": (lambda: blanked(CHARACTERS), "draws nothing for 62 of 62"),
    "capitals for small letters": (lambda: remapped(lambda m, c: m[ord(c.upper())]), "only 36 different glyphs for 62"),
    "one glyph for all": (lambda: remapped(lambda m, c: m[65]), "only 1 different glyphs for 62"),
    "one real glyph for all": (
        lambda: (MATPLOTLIB / "LastResortHE-Regular.ttf").read_bytes(),
        "only 1 different",
    ),
    "truncated": (lambda: small()[: len(small()) // 3], "draws nothing for 62"),  # FreeType finds no outlines
    "cut short by one glyph": (lambda: small()[:-3000], "draws nothing for"),
    "garbage after the header": (lambda: small()[:300] + bytes(len(small()) - 300), "cannot be read"),
    "random bytes": (lambda: np.random.default_rng(0).bytes(5000), "cannot be read"),
    "a text": (lambda: b"<html>404 not found</html>", "cannot be read"),
    "empty": (lambda: b"", "cannot be read"),
    "barcodes": (barcodes, "draws barcodes"),
    "symbol map": (symbols, "has no glyph"),
}


def test_bad_fonts_are_left_out_with_their_reason(folder, capsys):
    """And all good fonts are kept."""
    write(folder, **{name: make() for name, (make, _) in BAD.items()})
    write(folder, **{name: small(name) for name in ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono")})
    write(folder, **{"twin of sans": small()})
    images, faces = read(folder)
    assert faces == ["DejaVuSans", "DejaVuSansMono", "DejaVuSerif"]
    assert images.shape == (3, 62, 64, 64) and isinstance(images, np.memmap)
    printed = capsys.readouterr().err
    for name, (_, reason) in BAD.items():
        line = next(line for line in printed.splitlines() if line.startswith(f"left out font {name}: "))
        assert re.search(reason, line), line
    assert "left out font twin of sans: draws the same pixels as DejaVuSans\n" in printed
    total = len(BAD) + 4
    assert f"4 of {total} fonts in {folder} are usable; 1 of these draw the same pixels as another" in printed


def test_a_missing_character_differs_from_a_blank_one(folder):
    """A font may draw nothing for missing characters. Then the advance width shows which glyph exists and is blank."""
    font = opened()
    font["glyf"][".notdef"].numberOfContours = 0
    font["glyf"]["Q"].numberOfContours = 0
    for table in font["cmap"].tables:
        table.cmap = {code: glyph for code, glyph in table.cmap.items() if chr(code) != "Z"}
    write(folder, one=saved(font))
    assert render_here(folder)["one"] == "has no glyph for 1 of 62 characters (Z)"


def test_flipped_bits_cost_only_their_font(folder):
    """Each damaged font renders or is refused, and the whole font renders."""
    rng = np.random.default_rng(0)
    for number in range(30):
        data = bytearray(small())
        for position in rng.integers(len(data), size=1 + number):
            data[position] ^= 1 << rng.integers(8)
        write(folder, **{f"damaged {number:02}": data})
    write(folder, whole=small())
    faces = render(folder, 32)
    assert len(faces) == 31 and isinstance(faces["whole"], np.ndarray)
    assert sum(isinstance(face, str) for face in faces.values()) > 3


def test_a_crash_of_the_font_library_costs_one_font(folder, monkeypatch, capsys):
    monkeypatch.setattr(fonts, "render_face", die_on_bombs)
    write(folder, a=small(), bomb=small(), c=small("DejaVuSerif"))
    assert read(folder, 32)[1] == ["a", "c"]
    assert "left out font bomb: ended its reader with signal SIGABRT" in capsys.readouterr().err


def test_missing_and_huge_files_are_faults(folder):
    gone, huge = folder / "gone.ttf", folder / "huge.ttf"
    assert "cannot be read (FileNotFoundError" in render_face((Face(str(gone)), 32))
    with open(huge, "wb") as file:
        file.truncate(fonts.MAX_FILE + 1)
    assert render_face((Face(str(huge)), 32)) == "is larger than 64 MB"


def test_fonts_are_rendered_once_and_then_read_from_the_cache(folder, monkeypatch):
    """A copy of the folder is not rendered again. A changed or renamed file and another size are."""
    times = []

    def counted(faces, size):
        times.append(1)
        yield from ((name, render_face((face, size)), None) for name, face in faces.items())

    monkeypatch.setattr(fonts, "render_faces", counted)
    write(folder, DejaVuSans=small(), DejaVuSerif=small("DejaVuSerif"))
    first, names = read(folder, 32)
    again, same = read(folder, 32)
    np.testing.assert_array_equal(again, first)
    assert same == names and isinstance(again, np.memmap)
    copy = folder.with_name("elsewhere")
    shutil.copytree(folder, copy)
    read(copy, 32)
    assert len(times) == 1
    write(folder, DejaVuSerif=small("DejaVuSansMono"))
    changed, names = read(folder, 32)
    assert len(times) == 2 and names == ["DejaVuSans", "DejaVuSerif"]
    np.testing.assert_array_equal(changed[0], first[0])
    assert (changed[1] != first[1]).any()
    (folder / "DejaVuSerif.ttf").rename(folder / "Mono.ttf")
    assert read(folder, 32)[1] == ["DejaVuSans", "Mono"]
    assert read(folder, 16)[0].shape == (2, 62, 16, 16)
    assert len(times) == 4


def test_a_kill_while_rendering_leaves_no_partial_file(folder, cache):
    """Nothing has a final name after SIGKILL, and the next run renders the rest."""
    write(folder, **{f"{number:02}": small() + bytes(number) for number in range(20)})
    write(folder, DejaVuSerif=small("DejaVuSerif"))
    code = (
        "from csn_jax.config import DataConfig; from csn_jax.data.sources.fonts import read_fonts\n"
        f"read_fonts(DataConfig(source='fonts', path={str(folder)!r}), 64)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as process:
        deadline = time.time() + 60
        while not any(path.stat().st_size > 62 * 64 * 64 for path in cache.glob("*.tmp")) and time.time() < deadline:
            time.sleep(0.01)
        assert process.poll() is None, "the rendering ended before the kill"
        process.send_signal(signal.SIGKILL)
    assert [np.load(path).size for path in cache.glob("*.npy")] == [0]  # of the list of faces
    images, names = read(folder)
    assert names == ["00", "DejaVuSerif"] and len(images) == 2  # all others are twins of the first
    assert not list(cache.glob("*.tmp"))


def test_workers_change_nothing(folder):
    """The same faces in the same order as in this process."""
    write(folder, **{name: small(name) for name in ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral")})
    here, workers = render_here(folder, 32), render(folder, 32)
    assert list(here) == list(workers) == sorted(font_files(folder))
    np.testing.assert_array_equal([*here.values()], [*workers.values()])


def test_a_file_name_may_hold_any_bytes(folder):
    for name, font in ((b"\xff.ttf", "DejaVuSans"), ("ü <b>.ttf".encode(), "DejaVuSerif")):
        (folder / os.fsdecode(name)).write_bytes(small(font))
    for _ in range(2):
        assert read(folder, 32)[1] == ["ü <b>", "\udcff"]


TEXT = b"not a font"
# (folder in config.data.path, files, words of the message)
FOLDERS = {
    "no path": ("", {}, ["config.data.path is ''", "not a folder", "give a folder"]),
    "no folder": ("{folder}/nowhere", {}, ["config.data.path is ", "nowhere", "not a folder"]),
    "a file": (__file__, {}, ["test_fonts.py", "not a folder"]),
    "no fonts": ("{folder}", {}, ["no font file", ".ttf"]),
    "bad fonts": (
        "{folder}",
        {"text": TEXT, "blank": lambda: blanked("Q")},
        ["0 different usable faces in 2 fonts", "1 font: draws nothing", "give other fonts"],
    ),
    "twins": ("{folder}", {"a": small, "b": small}, ["1 different usable faces in 2 fonts", "training needs 2"]),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_cannot_serve_is_named(name, folder):
    path, files, words = FOLDERS[name]
    (folder / "readme.txt").write_text("not a font")
    write(folder, **{file: data if isinstance(data, bytes) else data() for file, data in files.items()})
    for _ in range(2):  # the second time from the cache
        with pytest.raises(UserError) as error:
            read_fonts(DataConfig(source="fonts", path=path.format(folder=folder)), 32)
        assert [word for word in words if word not in str(error.value)] == []
        assert tiny.is_one_sentence(str(error.value))


def test_characters_are_the_62_of_the_paper():
    assert CHARACTERS == string.ascii_uppercase + string.ascii_lowercase + string.digits


@pytest.mark.shared_data
@needs_shared
def test_unusable_real_fonts_are_refused(folder):
    """Each for its own reason; similar fonts are not refused."""
    wanted = (
        "flow-",
        "redacted",
        "libre-barcode",
        "kumar-one",
        "zilla-slab",
        "playwrite-nl",
        "roboto-latin-400-normal",
    )
    for path in SHARED.iterdir():
        if path.name.startswith(wanted):
            shutil.copy(path, folder)
    faces = {name.replace("-latin", ""): result for name, result in render(folder).items()}
    assert len(faces) > 15
    for name, fault in faces.items():
        reason = {
            "flow": "has no glyph for 51 of 62",
            "redacted": "has no glyph for 62 of 62|draws the same for several characters: only 5 different",
            "libre": "draws barcodes|draws the same for several characters: only 36",
            "kumar": "cannot be read .OSError: execution context too long",
        }.get(name.split("-")[0], "None$")
        assert re.match(reason, fault if isinstance(fault, str) else "None"), (name, fault)


@pytest.mark.shared_data
@pytest.mark.slow
@needs_shared
def test_the_real_fonts(capsys, cache):
    """2,237 of 2,297 are usable, and 165 of these draw the same pixels as another. Each font that is left out is named
    with its reason. Every glyph is whole and centred. Takes a minute on 2 cores, half a second from the cache."""
    began = time.time()
    images, names = read(SHARED)
    rendered = time.time() - began
    printed = capsys.readouterr().err
    assert "2237 of 2297 fonts" in printed and "165 of these draw the same pixels" in printed
    left_out = [line.split(": ", 1) for line in printed.splitlines() if line.startswith("left out font ")]
    assert len(left_out) == 225 and all(len(line) == 2 and line[1] for line in left_out)
    assert len({name for name, _ in left_out}) == 225
    assert images.shape == (2072, 62, 64, 64) and len(set(names)) == 2072
    began = time.time()
    read(SHARED)
    again = time.time() - began
    assert again < rendered / 5
    for start in range(0, len(images), 100):
        top, bottom, left, right = margins(images[start : start + 100]).T
        assert max(np.abs(top - bottom).max(), np.abs(left - right).max()) <= 1
        assert min(top.min(), bottom.min(), left.min(), right.min()) >= 4
    with capsys.disabled():
        print(f"\n{len(names)} faces rendered in {rendered:.0f} s, read again in {again:.1f} s")
    shutil.rmtree(cache)  # half a gigabyte that pytest would keep


def test_every_face_of_a_collection_is_a_font(folder, capsys):
    """With the pixels of the same face in a file of its own."""
    alone = {name: small(name) for name in ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono")}
    write(folder, DejaVuSans=alone["DejaVuSans"])
    (folder / "three.ttc").write_bytes(collection(*map(opened, alone)))
    images, names = read(folder, 32)
    assert names == ["DejaVuSans", "three#1", "three#2"]
    for image, name in zip(images, alone, strict=True):
        (folder / "one.ttf").write_bytes(alone[name])
        np.testing.assert_array_equal(image, render_face((Face(str(folder / "one.ttf")), 32)))
    printed = capsys.readouterr().err
    assert "2 font files hold 4 fonts" in printed and "4 of 4 fonts in" in printed
    assert "left out font three#0: draws the same pixels as DejaVuSans\n" in printed


def test_the_named_instances_of_a_variable_font_are_fonts(folder):
    """Those of one name are one font; a collection may hold variable fonts. FreeType adds the font as it opens, here
    Book, if no instance is like it."""
    instances = [("Regular", 0), ("Wide", 0.5), ("Wide", 0.5), ("Ältere <b>", 1)]
    (folder / "stretch.ttf").write_bytes(saved(variable(*instances)))
    (folder / "two.ttc").write_bytes(collection(opened("DejaVuSerif"), variable(("Half", 0.5), ("Slim", 0.2))))
    write(folder, plain=saved(variable()))  # an axis, and no instance: one font
    faces = faces_in(font_files(folder))
    assert len(faces) == 8 and [name for name in faces if "lter" not in name] == [
        *("plain", "stretch#Regular", "stretch#Wide"),
        *("two#0", "two#1#Half", "two#1#Slim", "two#1#Book"),
    ]
    pixels = {name: render_face((face, 64)).astype(int) for name, face in faces.items()}
    np.testing.assert_array_equal(pixels["plain"], pixels["stretch#Regular"])
    np.testing.assert_array_equal(pixels["stretch#Wide"], pixels["two#1#Half"])
    top, bottom, left, right = margins(np.stack(list(pixels.values()))[:, CHARACTERS.index("H")]).T
    ratio = dict(zip(faces, (64 - left - right) / (64 - top - bottom), strict=True))
    wide = ratio["stretch#Wide"] / ratio["plain"]
    assert 1.1 < wide < 1.3 and 1.02 < ratio["two#1#Slim"] / ratio["plain"] < wide  # 1.2 and 1.08


def test_faces_that_are_not_read_are_counted(folder, monkeypatch, capsys):
    monkeypatch.setattr(font_faces, "read_in_workers", lambda list_, tasks: ((list_(task), None) for task in tasks))
    monkeypatch.setattr(font_faces, "MOST_FACES", 3)
    (folder / "many.ttf").write_bytes(saved(variable(*((f"W{place}", place / 10) for place in range(8)))))
    (folder / "four.ttc").write_bytes(collection(*[opened()] * 4))
    damaged = bytearray(collection(*map(opened, ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono"))))
    damaged[16:20] = b"\xff" * 4  # where the second face is
    (folder / "damaged.ttc").write_bytes(damaged)
    (folder / "none.ttc").write_bytes(b"ttcf\0\1\0\0\0\0\0\0")
    assert [*faces_in(font_files(folder))] == [
        *("damaged#0", "damaged#1", "four#0", "four#1", "four#2", "many#W0", "many#W1", "many#W2", "none")
    ]
    printed = capsys.readouterr().err
    assert "left out the last 5 faces of font many: 3 of a file are read\n" in printed
    assert "left out the last 1 faces of font four: 3 of" in printed
    assert "left out the last 1 faces of font damaged: 2 of" in printed
    faces = faces_in(font_files(folder))
    assert [name for name in faces if isinstance(render_face((faces[name], 32)), str)] == ["damaged#1", "none"]


# name of a file: (the family in it, its label)
FAMILIES = {
    "a": ("Mitr", "Mitr"),
    "b": ("Mitr ExtraLight", "Mitr"),
    "c": ("Playfair 5pt SemiExpanded Light", "Playfair"),
    "d": ("Black Ops One", "Black Ops One"),
    "e": ("Black", "Black"),
    "f": ("Highlight", "Highlight"),
    "open-sans-latin-700-italic": ("", "open-sans"),
    "OpenSans-BoldItalic": ("", "OpenSans"),
    "gothic_bold": ("ゴシック", "gothic"),
}


def test_a_family_has_no_word_for_its_cut(folder):
    write(folder, **{name: saved(named_family(opened(), family)) for name, (family, _) in FAMILIES.items()})
    found = {name: face.family for name, face in faces_in(font_files(folder)).items()}
    assert found == {name: label for name, (_, label) in FAMILIES.items()}


def test_split_by_family_keeps_sisters_together(folder):
    """The label is not a condition unless asked; splitting by font notes that sister cuts may part."""
    for number, name in enumerate(("DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "cmr10", "STIXGeneral")):
        font = named_family(opened(name), f"F{number // 2} " + ("Bold", "")[number % 2])
        write(folder, **{f"f{number}": saved(font)})
    data = DataConfig("fonts", path=str(folder), split_by="family")
    rows = fonts.read(Config(data=data, preprocess=PreprocessConfig(16)))
    families = rows.labels["family"]
    assert families.tolist() == np.repeat(["F0", "F0", "F1", "F1", "F2"], 62).tolist()
    assert [name for name, _ in rows.conditions] == ["character", "font"]
    assert rows.others == (("family", "categorical"),) and not rows.notes
    split, _ = split_rows(rows, data)
    homes = [set(split[families == family].tolist()) for family in ("F0", "F1", "F2")]
    assert [len(home) for home in homes] == [1, 1, 1] and set.union(*homes) == {*SPLITS}
    by_font = fonts.read(Config(data=replace(data, split_by="font"), preprocess=PreprocessConfig(16)))
    assert by_font.notes[0].startswith("4 of 5 fonts have a sister in their family")


def test_links_out_of_the_folder_are_left_out(folder, tmp_path, capsys):
    write(folder, DejaVuSans=small(), DejaVuSerif=small("DejaVuSerif"))
    (folder / "again.ttf").symlink_to("DejaVuSans.ttf")
    (tmp_path / "elsewhere.ttf").write_bytes(small("DejaVuSansMono"))
    (folder / "linked.ttf").symlink_to(tmp_path / "elsewhere.ttf")
    assert sorted(font_files(folder)) == ["DejaVuSans", "DejaVuSerif", "again"]
    assert "left out font linked.ttf: is a link to outside the folder" in capsys.readouterr().err
