"""embed: folders, tables and splits become one file. Bad images are named, and a killed command resumes."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import shop
import tiny
from PIL import Image
from test_cli import assert_message, run

from csn_jax import cli, embed, load, search, train
from csn_jax.data import to_embed
from csn_jax.data.dataset import load_dataset
from csn_jax.model.model import Model
from csn_jax.runtime.workdir import locked, read_config
from csn_jax.search.sheet import read_pictures
from csn_jax.store.vector_file import read_embeddings

N = 60  # products in the shop
VECTORS = shop.vectors(shop.columns())


@pytest.fixture(autouse=True)
def cache(shop_runs, monkeypatch):
    monkeypatch.setenv("CSN_JAX_CACHE", str(shop_runs / "cache"))


@pytest.fixture(scope="module")
def of_pictures(shop_runs):
    """(workdir, model) of an untrained network, whose embeddings serve these tests as well as trained ones."""
    return shop_runs / "pictures", load(shop_runs / "pictures")


@pytest.fixture(scope="module")
def of_vectors(shop_runs):
    return shop_runs / "vectors", load(shop_runs / "vectors")


def embedded(*argv: str):
    embed.main(argv)
    return read_embeddings(Path(next(word for word in argv if word.startswith("--out=")).removeprefix("--out=")))


def pixels_of(path: Path, size: int = 16) -> np.ndarray:
    """The reference's arithmetic, written down again: shorter side to size, then the central square."""
    image = Image.open(path).convert("RGB")
    short = min(image.size)
    image = image.resize([int(size * side / short) for side in image.size], Image.Resampling.BILINEAR)
    left, top = ((side - size) / 2 for side in image.size)
    left, top = round(left), round(top)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def assert_vectors(embeddings, model, inputs) -> None:
    expected = model.embed(np.stack(inputs))
    np.testing.assert_allclose(embeddings.vectors, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    assert len(np.unique(embeddings.vectors.round(6), axis=0)) > len(inputs) / 2  # the order matters


def test_a_folder_of_images(of_pictures, shop_runs, tmp_path, capsys):
    """Ids are paths. Hidden and other files are skipped. Bad files and links to the outside are named, and the command
    succeeds."""
    workdir, model = of_pictures
    photos, images = tmp_path / "photos", shop_runs / "images"
    shutil.copytree(images, photos / "deep" / "er")
    (photos / "a.PNG").write_bytes((images / "000.png").read_bytes())
    (photos / "broken.jpg").write_bytes((images / "001.jpg").read_bytes()[:300])
    (photos / "text.webp").write_text("hello")
    (photos / "bomb.png").write_bytes(shop.bomb(30_000, 30_000))
    for hidden in (".hidden.jpg", ".cache/x.jpg", "notes.txt"):
        (photos / hidden).parent.mkdir(exist_ok=True)
        (photos / hidden).write_text("x")
    (photos / "inside.jpg").symlink_to("deep/er/001.jpg")
    (photos / "outside.jpg").symlink_to(images / "004.jpg")
    (photos / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(photos / "pipe.jpg")
    (photos / "elsewhere").symlink_to(images)
    (Path(os.fsencode(photos).decode()) / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"")
    out = tmp_path / "out.parquet"
    embeddings = embedded(f"--workdir={workdir}", f"--images={photos}", f"--out={out}")
    good = ["a.PNG", *sorted(f"deep/er/{path.name}" for path in images.iterdir()), "inside.jpg"]
    assert sorted(embeddings.ids) == sorted(good) and len(embeddings.ids) == N + 2
    assert_vectors(embeddings, model, [pixels_of(photos / name) for name in embeddings.ids])
    printed = capsys.readouterr()
    for name, reason in {
        "broken.jpg": "truncated or damaged",
        "text.webp": "is not a JPEG, PNG, WEBP",
        "bomb.png": "is ",
        "outside.jpg": "is a link to outside the folder",
        "loop.jpg": "is a link to outside the folder|Too many levels",
        "pipe.jpg": "is not a file",
        r"b'caf\\xe9.jpg'": "not UTF-8",
    }.items():
        name = re.escape(name) if name[1] != "'" else name
        assert re.search(rf"left out {name}, which .*{reason}", printed.err), name
    assert "skipped 2 files" in printed.err and "elsewhere, which is a link to a folder" in printed.err
    assert f"holds {N + 2} vectors of 6 dimensions" in printed.out and f"7 of {N + 9} could not be read" in printed.out
    assert printed.err.splitlines()[-1].endswith(f"search --index={out} --id=a.PNG --condition=category")
    assert sorted(os.listdir(tmp_path)) == ["out.parquet", "photos"]
    assert embeddings.pictures == {"kind": "folder", "root": str(photos)} and embeddings.columns == {}
    pictures = read_pictures(embeddings, [0, len(embeddings.ids) - 1], 12)
    assert [picture.shape for picture in pictures] == [(10, 12, 3), (10, 12, 3)]


def test_a_table_of_images(of_pictures, shop_runs, tmp_path, capsys):
    """Every other column is an attribute. A row without a usable image is named and left out."""
    workdir, model = of_pictures
    columns = shop.columns(N)
    columns["sku"] = [f"s{i}" for i in range(N)]
    columns["image"][4], columns["image"][9], columns["image"][11] = "images/none.png", "", "../../x.png"
    table = shop.write(tmp_path / "mine" / "t.csv", columns)
    shutil.copytree(shop_runs / "images", table.parent / "images")
    out = f"--out={tmp_path / 'e.npz'}"
    embeddings = embedded(f"--workdir={workdir}", f"--table={table}", "--id=sku", out, "--by_condition")
    kept = [row for row in range(N) if row not in (4, 9, 11)]
    assert embeddings.ids.tolist() == [f"s{row}" for row in kept]
    assert_vectors(embeddings, model, [pixels_of(table.parent / columns["image"][row]) for row in kept])
    assert set(embeddings.columns) == set(columns) - {"sku"}
    for name in ("category", "colour", "product", "title", "image"):
        assert embeddings.columns[name].tolist() == [columns[name][row] for row in kept]
    printed = capsys.readouterr().err
    assert "left out s4, which is missing" in printed and "left out s9, which has no image" in printed
    assert "left out s11, which has an image '../../x.png' that lies outside" in printed
    assert [name for name, _ in embeddings.conditions] == ["category", "colour"]
    np.testing.assert_array_equal(embeddings.masks, model.masks)
    assert embeddings.model_sha256 == model.sha256
    assert embeddings.pictures == {"kind": "table", "root": str(table.parent), "image": "image"}
    (table.parent / "images" / "000.png").unlink()
    assert [picture is None for picture in read_pictures(embeddings, [0, 1], 50)] == [True, False]
    with np.load(tmp_path / "e.npz") as arrays:
        assert arrays["vec_colour"].shape == (N - 3, (model.masks[1] > 0).sum())


def test_pictures_inside_a_table(of_pictures, shop_runs, tmp_path, capsys):
    """As Hugging Face stores them: embedded like files, searched by id, and drawn."""
    workdir, model = of_pictures
    columns = shop.columns(N)
    files = [shop_runs / name for name in columns["image"]]
    columns["image"] = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    columns["image"][6] = {"bytes": b"PK\3\4", "path": "zipped.jpg"}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    out = tmp_path / "e.parquet"
    embeddings = embedded(f"--workdir={workdir}", f"--table={tmp_path / 't.parquet'}", f"--out={out}")
    kept = [row for row in range(N) if row != 6]
    assert embeddings.ids.tolist() == [files[row].name for row in kept]
    assert_vectors(embeddings, model, [pixels_of(files[row]) for row in kept])
    assert "left out zipped.jpg, which is not a JPEG" in capsys.readouterr().err
    assert embeddings.pictures == {"kind": "bytes", "root": str(tmp_path / "t.parquet"), "image": "image"}
    for found, row in zip(read_pictures(embeddings, [0, 30], 24), (0, 31), strict=True):
        with Image.open(files[row]) as image:
            np.testing.assert_array_equal(found, image.convert("RGB"))
    search.main([f"--index={out}", f"--id={files[9].name}", "--condition=colour", "--json", f"--save={tmp_path}/s.png"])
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["hits"]) == 10 and "image" not in answer["hits"][0]["columns"]
    with Image.open(tmp_path / "s.png") as sheet:
        pixels = np.asarray(sheet)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 300  # pictures, not frames that say there are none


def test_a_padded_picture_is_the_same_in_training_embed_and_search(shop_runs, tmp_path, capsys):
    """A copy of an item's picture finds that item at distance 0."""
    flags = ("--config=table:tiny", f"--config.data.path={shop_runs / 'products.csv'}", "--config.preprocess.size=16")
    flags += ("--config.preprocess.fit=pad", "--config.data.conditions", "category", "colour")
    config = cli.parse(train.Args, flags).config
    model, items = tiny.untrained(tmp_path / "run", config), load_dataset(config).items
    assert (items.inputs[:, 0] == 255).all()  # the pictures are wide: white lies above
    out = tmp_path / "e.parquet"
    embeddings = embedded(f"--workdir={tmp_path / 'run'}", f"--table={shop_runs / 'products.csv'}", f"--out={out}")
    assert_vectors(embeddings, model, items.inputs)
    assert model.sha256 != load(shop_runs / "pictures").sha256
    shutil.copy(shop_runs / embeddings.ids[12], tmp_path / "copy.png")
    argv = (f"--index={out}", f"--workdir={tmp_path / 'run'}", f"--image={tmp_path / 'copy.png'}", "--condition=colour")
    capsys.readouterr()
    search.main([*argv, "--json"])
    nearest = json.loads(capsys.readouterr().out)["hits"][0]
    assert nearest["id"] == embeddings.ids[12] and nearest["distance"] < 1e-3


def test_the_runs_own_items(of_pictures, shop_runs, tmp_path):
    """One split, or all with a column `split`: the pixels and the order of training, with pictures from the files."""
    workdir, model = of_pictures
    items = load_dataset(read_config(workdir)).items
    for split in ("test", "all"):
        embeddings = embedded(f"--workdir={workdir}", f"--split={split}", f"--out={tmp_path / split}.parquet")
        rows = np.flatnonzero((items.split == split) | (split == "all"))
        assert embeddings.ids.tolist() == items.ids[rows].tolist()
        assert_vectors(embeddings, model, items.inputs[rows])
        assert embeddings.columns["tags"].tolist() == [shop.columns()["tags"][i] for i in rows]  # the text of the table
        assert ("split" in embeddings.columns) == (split == "all")
    assert embeddings.columns["split"].tolist() == items.split.tolist()
    assert embeddings.pictures == {"kind": "table", "root": str(shop_runs)}
    assert read_pictures(embeddings, [0], 24)[0].shape == (20, 24, 3)


def test_glyphs_have_the_pictures_of_their_run(finished, glyph_index, tmp_path):
    embeddings, items = read_embeddings(glyph_index), load_dataset(read_config(finished)).items
    picture = read_pictures(embeddings, [5, 6], 100)[0]
    assert embeddings.pictures == {"kind": "split", "root": str(finished)} and picture.shape == (32, 32, 3)
    np.testing.assert_array_equal(picture[..., 1], items.inputs[items.ids.tolist().index(embeddings.ids[5]), ..., 0])
    gone = embeddings._replace(pictures={"kind": "split", "root": str(tmp_path / "gone")})
    assert read_pictures(gone, [5], 100) == [None]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-6), ("float16", 2e-3), ("int8", 0.51 / 127)], ids=lambda value: str(value)
)
def test_a_model_of_vectors(of_vectors, shop_runs, tmp_path, dtype, tolerance):
    """The table holds the vectors in a column, or names a file beside it."""
    workdir, model = of_vectors
    argv = (f"--workdir={workdir}", f"--dtype={dtype}")
    embeddings = embedded(*argv, f"--table={shop_runs / 'products.parquet'}", f"--out={tmp_path / 'a.parquet'}")
    assert embeddings.vectors.dtype == ("float32" if dtype == "int8" else dtype)
    assert embeddings.ids.tolist() == shop.columns()["image"]
    assert embeddings.pictures == {"kind": "table", "root": str(shop_runs)}  # kept beside the vectors
    expected = model.embed(VECTORS)
    np.testing.assert_allclose(embeddings.vectors, expected, atol=tolerance * np.abs(expected).max())
    np.save(tmp_path / "v.npy", VECTORS)
    beside = f"--table={shutil.copy(shop_runs / 'products.csv', tmp_path)}"
    other = embedded(*argv, beside, "--vectors=v.npy", f"--out={tmp_path / 'b.parquet'}")
    np.testing.assert_array_equal(other.vectors, embeddings.vectors)


def test_features_are_vectors_to_train_on(of_pictures, tmp_path, capsys):
    """The preset `features` reads the file, with the split of the run that it is from."""
    workdir, model = of_pictures
    out = tmp_path / "features.parquet"
    embeddings = embedded(f"--workdir={workdir}", "--split=all", f"--out={out}", "--features")
    items = load_dataset(read_config(workdir)).items
    np.testing.assert_allclose(embeddings.vectors, model.features(np.asarray(items.inputs)), atol=1e-4)
    assert embeddings.conditions == () and embeddings.vectors.shape == (N, 2 * 2 * 128)
    flags = ("--config=features", f"--config.data.path={out}")
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"train {' '.join(flags)}")
    again = load_dataset(cli.parse(train.Args, [*flags, "--config.data.conditions=colour"], "train").config).items
    assert again.ids.tolist() == items.ids.tolist() and again.split.tolist() == items.split.tolist()
    np.testing.assert_array_equal(again.inputs, embeddings.vectors)


class Died(BaseException):
    """No part of the code catches it."""


def test_a_command_that_died_after_any_chunk_resumes_to_the_same_bytes(
    of_pictures, shop_runs, tmp_path, monkeypatch, capsys
):
    """Only missing chunks are embedded, and the final name does not exist before the end."""
    monkeypatch.setattr(to_embed, "CHUNK", 16)
    photos, unbroken, broken = tmp_path / "photos", tmp_path / "unbroken.parquet", tmp_path / "broken.parquet"
    shutil.copytree(shop_runs / "images", photos)
    (photos / "005.webp").write_text("no image")
    argv = [f"--workdir={of_pictures[0]}", f"--images={photos}"]
    embed.main([*argv, f"--out={unbroken}"])
    sizes: list[int] = []
    whole = Model.embed

    def counted(self, inputs):
        if len(sizes) == limit:
            raise Died
        sizes.append(len({picture.tobytes() for picture in inputs}))  # padding repeats pictures
        return whole(self, inputs)

    monkeypatch.setattr(Model, "embed", counted)
    limit, chunks = 0, -(-N // 16)
    while limit < chunks:
        with pytest.raises(Died):
            embed.main([*argv, f"--out={broken}"])
        assert not broken.exists()
        limit += 1
    capsys.readouterr()
    embed.main([*argv, f"--out={broken}"])
    assert sum(sizes) == N - 1 and max(sizes) == 16 and len(sizes) == chunks
    printed = capsys.readouterr().err
    assert f"resuming after 48 of {N}" in printed and "left out 005.webp" in printed
    assert broken.read_bytes() == unbroken.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["broken.parquet", "photos", "unbroken.parquet"]


def test_a_file_that_exists(of_vectors, shop_runs, tmp_path, monkeypatch, capsys):
    """The same command does nothing. Another request, a damaged file and a file of another program need --rebuild."""
    out = tmp_path / "e.parquet"
    argv = [f"--workdir={of_vectors[0]}", f"--table={shop_runs / 'products.parquet'}", f"--out={out}"]
    embed.main(argv)
    whole, before = out.read_bytes(), tiny.contents(tmp_path)
    capsys.readouterr()
    embed.main(argv)
    assert "nothing to embed" in capsys.readouterr().out and tiny.contents(tmp_path) == before
    (tmp_path / ".e.parquet.parts").mkdir()  # a kill left it, just after the file was whole
    (tmp_path / ".e.parquet.parts" / "000000.npz").write_bytes(b"")
    embed.main(argv)
    assert tiny.contents(tmp_path) == before and os.listdir(tmp_path) == ["e.parquet"]
    for flag in ("--dtype=float16", "--by_condition", "--features"):
        assert_message(*run(embed, monkeypatch, capsys, *argv, flag), 2, str(out), "with other flags", "--rebuild")
    out.write_bytes(whole[: len(whole) // 2])
    assert_message(*run(embed, monkeypatch, capsys, *argv), 2, str(out), "half-written or damaged", "--rebuild")
    embed.main([*argv, "--rebuild"])
    assert out.read_bytes() == whole
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), out)
    assert_message(*run(embed, monkeypatch, capsys, *argv), 2, str(out), "not written by csn_jax embed", "--rebuild")
    assert os.listdir(tmp_path) == ["e.parquet"]


# Flags, and words of the message. The model is that of images, or of vectors after MODEL.
MISTAKES = {
    "nothing": ((), ("nothing to embed", "--images=FOLDER")),
    "two sources": (("--images=a", "--split=test"), ("--images and --split", "give one")),
    "split": (("--split=tset",), ("did you mean test?", "choose one of")),
    "suffix": (("--split=test", "--out=e.csv"), ("--out=", "e.csv", ".parquet or .npz")),
    "no folder for the file": (("--split=test", "--out=nowhere/e.npz"), ("does not exist", "nowhere")),
    "no folder of images": (("--images=nowhere",), ("--images=nowhere is not a folder",)),
    "empty folder": (("--images=empty",), ("holds no file that ends in .jpg",)),
    "bad images": (("--images=bad",), ("none of the 2 images could be read",)),
    "no table": (("--table=nowhere.csv",), ("--table=nowhere.csv is not a file",)),
    "no table, but a file": (("--table=nowhere.csv", "--out=before.npz"), ("--table=nowhere.csv is not a file",)),
    "no column of images": (("--table=products.csv", "--image=photo"), ("no column 'photo'", "--image", "category")),
    "no column of ids": (("--table=products.csv", "--id=sku"), ("no column 'sku'", "--id")),
    "ids that repeat": (("--table=products.csv", "--id=category"), ("the same category as row", "--id")),
    "reserved column": (("--table=reserved.csv", "--id=title"), ("column 'vector'", "rename")),
    "no rows": (("--table=empty.csv",), ("has no row",)),
    "the table itself": (("--table=products.parquet", "--out=products.parquet"), ("is the table itself",)),
    "features by condition": (("--split=test", "--features", "--by_condition"), ("--by_condition", "--features")),
    "features as int8": (("--split=test", "--features", "--dtype=int8"), ("--dtype=int8", "--features")),
    "features to Qdrant": (("--split=test", "--features", "--to_qdrant=q"), ("--to_qdrant", "--features")),
    "collection": (("--split=test", "--collection=c"), ("--collection", "--to_qdrant")),
    "no run": (("--split=test", "--workdir=empty"), ("has no config.json",)),
    "images for vectors": (("MODEL", "--images=bad"), ("embeds vectors of 12 numbers", "--table")),
    "no column of vectors": (("MODEL", "--table=products.csv"), ("no column 'vector'", "--vectors")),
    "no file of vectors": (("MODEL", "--table=products.csv", "--vectors=v.npy"), ("--vectors names", "v.npy")),
    "length": (("MODEL", "--table=products.csv", "--vectors=w.npy"), ("vectors of 5 numbers", "takes 12")),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(of_pictures, of_vectors, shop_runs, tmp_path, monkeypatch, capsys, name):
    """One sentence, exit status 2, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    for file in ("products.csv", "products.parquet"):
        shutil.copy(shop_runs / file, file)
    shop.write(Path("reserved.csv"), shop.columns() | {"vector": shop.columns()["title"]})
    np.save("w.npy", np.zeros((N, 5), np.float32))
    with open("empty.csv", "w") as file:
        csv.writer(file).writerow(["image"])
    Path("before.npz").write_bytes(b"")
    Path("empty").mkdir()
    Path("bad").mkdir()
    for file in ("a.jpg", "b.png"):
        Path("bad", file).write_text("x")
    before = tiny.contents(tmp_path)
    argv, words = MISTAKES[name]
    usual = {"--workdir": (of_vectors if "MODEL" in argv else of_pictures)[0], "--out": tmp_path / "e.parquet"}
    argv = [word for word in argv if word != "MODEL"]
    argv += [f"{flag}={value}" for flag, value in usual.items() if not any(word.startswith(flag) for word in argv)]
    assert_message(*run(embed, monkeypatch, capsys, *argv), 2, *words)
    assert tiny.contents(tmp_path) == before and not list(tmp_path.glob(".*"))


def test_a_failed_vector_leaves_parts_only_if_a_rerun_needs_them(of_vectors, shop_runs, tmp_path, monkeypatch, capsys):
    argv = (f"--workdir={of_vectors[0]}", f"--table={shop_runs / 'products.parquet'}", f"--out={tmp_path / 'e.npz'}")
    for value, dtype, status, words in (
        (1e5, "float16", 2, ("--dtype=float16", "65,504")),
        (np.nan, "float32", 1, ("images/000.png is not finite",)),
    ):
        monkeypatch.setattr(Model, "embed", lambda self, inputs, value=value: np.full((len(inputs), 6), value, "f4"))
        assert_message(*run(embed, monkeypatch, capsys, *argv, f"--dtype={dtype}"), status, *words)
        assert os.listdir(tmp_path) == ([] if status == 2 else [".e.npz.parts"])


def test_two_commands_at_once(of_pictures, tmp_path, monkeypatch, capsys):
    parts = tmp_path / ".e.npz.parts"
    parts.mkdir()
    argv = (f"--workdir={of_pictures[0]}", "--split=test", f"--out={tmp_path / 'e.npz'}")
    with locked(parts):
        assert_message(*run(embed, monkeypatch, capsys, *argv), 2, "in use by process", "another --out")
