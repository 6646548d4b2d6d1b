"""embed: folders, tables and splits to one file; bad images named, a killed command resumed to the same bytes."""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import shop
import tiny
from PIL import Image
from test_cli import assert_told, run

from csn_jax import cli, embed, train
from csn_jax.data import to_embed
from csn_jax.data.dataset import load_dataset
from csn_jax.model.model import Model
from csn_jax.runtime.workdir import read_config
from csn_jax.search.thumbnails import read_pictures
from csn_jax.store.vector_file import read_embeddings

CONFIGS = Path(__file__).parent.parent / "configs"
N = 60  # products in the shop


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CSN_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The shop as CSV with pictures and as Parquet with vectors."""
    folder, columns = tmp_path_factory.mktemp("shop"), shop.columns(N)
    shop.write(folder / "products.csv", columns, pictures=True)
    shop.write(folder / "products.parquet", columns, vector=shop.vectors(columns))
    np.save(folder / "v.npy", shop.vectors(columns))
    return folder


def config_of(preset, folder, table, *more):
    argv = [f"--config={CONFIGS / preset}:tiny", f"--config.data.path={folder / table}", *more]
    small = ("--config.backbone.embedding_dim=6", "--config.data.conditions", "category", "colour")
    return cli.parse(train.Args, [*argv, *small], "train").config


@pytest.fixture(scope="module")
def of_pictures(folder, tmp_path_factory):
    """(workdir, model) of untrained nets, whose embeddings are as good for these tests as any."""
    workdir = tmp_path_factory.mktemp("pictures") / "run"
    return workdir, tiny.untrained(
        workdir, config_of("table.py", folder, "products.csv", "--config.preprocess.size=16")
    )


@pytest.fixture(scope="module")
def of_vectors(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("vectors") / "run"
    return workdir, tiny.untrained(workdir, config_of("features.py", folder, "products.parquet"))


def embedded(*argv: str):
    embed.main(argv)
    return read_embeddings(Path(next(word for word in argv if word.startswith("--out=")).removeprefix("--out=")))


def pixels_of(path: Path, size: int = 16) -> np.ndarray:
    """The reference's way to pixels, written down again: shorter side to size, central square."""
    image = Image.open(path).convert("RGB")
    short = min(image.size)
    image = image.resize([int(size * side / short) for side in image.size], Image.Resampling.BILINEAR)
    left, top = ((side - size) / 2 for side in image.size)
    left, top = round(left), round(top)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def assert_vectors(found, model, inputs) -> None:
    expected = model.embed(np.stack(inputs))
    np.testing.assert_allclose(found.vectors, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    assert len(np.unique(found.vectors.round(6), axis=0)) > len(inputs) / 2  # else any order would do


def test_a_folder_with_all_that_lies_in_folders(of_pictures, folder, tmp_path, capsys):
    """Ids are paths; hidden and other files are left alone, bad ones and links that lead outside named; exit 0."""
    workdir, model = of_pictures
    photos = tmp_path / "photos"
    shutil.copytree(folder / "images", photos / "deep" / "er")
    (photos / "a.PNG").write_bytes((folder / "images" / "000.png").read_bytes())
    (photos / "broken.jpg").write_bytes((folder / "images" / "001.jpg").read_bytes()[:300])
    (photos / "text.webp").write_text("hello")
    (photos / "bomb.png").write_bytes(shop.bomb(30_000, 30_000))
    for hidden in (".hidden.jpg", ".cache/x.jpg", "notes.txt"):
        (photos / hidden).parent.mkdir(exist_ok=True)
        (photos / hidden).write_text("x")
    (photos / "inside.jpg").symlink_to("deep/er/001.jpg")
    (photos / "outside.jpg").symlink_to(folder / "images" / "004.jpg")
    (photos / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(photos / "pipe.jpg")
    (photos / "elsewhere").symlink_to(folder / "images")
    (Path(os.fsencode(photos).decode()) / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"")
    out = tmp_path / "out.parquet"
    found = embedded(f"--workdir={workdir}", f"--images={photos}", f"--out={out}")
    good = ["a.PNG", *sorted(f"deep/er/{path.name}" for path in (folder / "images").iterdir()), "inside.jpg"]
    assert sorted(found.ids) == sorted(good) and len(found.ids) == N + 2
    assert_vectors(found, model, [pixels_of(photos / name) for name in found.ids])
    told = capsys.readouterr()
    for name, why in {
        "broken.jpg": "truncated or damaged",
        "text.webp": "is not a JPEG, PNG or WEBP",
        "bomb.png": "is ",
        "outside.jpg": "is a link to outside the folder",
        "loop.jpg": "is a link to outside the folder|Too many levels",
        "pipe.jpg": "is not a file",
        r"b'caf\\xe9.jpg'": "no UTF-8",
    }.items():
        assert re.search(rf"left out {re.escape(name) if name[1] != chr(39) else name}, which .*{why}", told.err), name
    assert "left alone 2 files" in told.err and "elsewhere is a link to a folder" in told.err
    assert f"holds {N + 2} vectors of 6 dimensions" in told.out and f"7 of {N + 9} could not be read" in told.out
    assert sorted(os.listdir(tmp_path)) == ["out.parquet", "photos"]
    assert found.pictures == {"kind": "folder", "root": str(photos)} and found.columns == {}
    pictures = read_pictures(found, [0, len(found.ids) - 1], 12)
    assert [picture.shape for picture in pictures] == [(10, 12, 3), (10, 12, 3)]


def test_a_table_of_pictures(of_pictures, folder, tmp_path, capsys):
    """Every other column is an attribute; a row without a usable picture is named and left out."""
    workdir, model = of_pictures
    columns = shop.columns(N)
    columns["sku"] = [f"s{i}" for i in range(N)]
    columns["image"][4], columns["image"][9], columns["image"][11] = "images/none.png", "", "../../x.png"
    table = shop.write(tmp_path / "mine" / "t.csv", columns)
    shutil.copytree(folder / "images", table.parent / "images")
    out = f"--out={tmp_path / 'e.npz'}"
    found = embedded(f"--workdir={workdir}", f"--table={table}", "--id=sku", out, "--by_condition")
    kept = [row for row in range(N) if row not in (4, 9, 11)]
    assert found.ids.tolist() == [f"s{row}" for row in kept]
    assert_vectors(found, model, [pixels_of(table.parent / columns["image"][row]) for row in kept])
    assert set(found.columns) == set(columns) - {"sku"}
    for name in ("category", "colour", "product", "title", "image"):
        assert found.columns[name].tolist() == [columns[name][row] for row in kept]
    told = capsys.readouterr()
    assert "left out s4, which is missing" in told.err and "left out s9, which has no image" in told.err
    assert "left out s11, which has its image '../../x.png' outside" in told.err
    assert [name for name, _ in found.conditions] == ["category", "colour"]
    np.testing.assert_array_equal(found.masks, model.masks)
    assert found.model_sha256 == model.sha256
    assert found.pictures == {"kind": "table", "root": str(table.parent), "image": "image"}
    (table.parent / "images" / "000.png").unlink()
    assert [one is None for one in read_pictures(found, [0, 1], 50)] == [True, False]
    with np.load(tmp_path / "e.npz") as arrays:
        assert arrays["vec_colour"].shape == (N - 3, (model.masks[1] > 0).sum())


def test_the_runs_own_items(of_pictures, folder, tmp_path):
    """A split, or all with their split; from pixels that training saw, in its order, with pictures from the files."""
    workdir, model = of_pictures
    items = load_dataset(read_config(workdir)).items
    for split in ("test", "all"):
        found = embedded(f"--workdir={workdir}", f"--split={split}", f"--out={tmp_path / split}.parquet")
        rows = np.flatnonzero((items.split == split) | (split == "all"))
        assert found.ids.tolist() == items.ids[rows].tolist()
        assert_vectors(found, model, items.inputs[rows])
        assert found.columns["tags"].tolist() == items.labels["tags"][rows].tolist()
        assert ("split" in found.columns) == (split == "all")
    assert found.columns["split"].tolist() == items.split.tolist()
    assert found.pictures == {"kind": "table", "root": str(folder)}
    assert read_pictures(found, [0], 24)[0].shape == (20, 24, 3)


def test_glyphs_have_the_pictures_of_their_run(finished, tmp_path):
    found = embedded(f"--workdir={finished}", "--split=validation", f"--out={tmp_path / 'e.parquet'}")
    items = load_dataset(read_config(finished)).items
    row = found.ids.tolist()[5]
    picture = read_pictures(found, [5, 6], 100)[0]
    assert found.pictures == {"kind": "split", "root": str(finished)} and picture.shape == (32, 32, 3)
    np.testing.assert_array_equal(picture[..., 1], items.inputs[items.ids.tolist().index(row), ..., 0])
    gone = found._replace(pictures={"kind": "split", "root": str(tmp_path / "gone")})
    assert read_pictures(gone, [5], 100) == [None]


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_a_model_of_vectors(of_vectors, folder, tmp_path, dtype):
    """A table of them, in its column or a file beside it."""
    workdir, model = of_vectors
    vectors = shop.vectors(shop.columns(N))
    argv = (f"--workdir={workdir}", f"--dtype={dtype}")
    found = embedded(*argv, f"--table={folder / 'products.parquet'}", f"--out={tmp_path / 'a.parquet'}")
    assert (
        found.vectors.dtype == ("float32" if dtype == "int8" else dtype)
        and found.ids.tolist() == shop.columns(N)["image"]
    )
    expected = model.embed(vectors)
    tolerance = {"float32": 1e-6, "float16": 2e-3, "int8": 0.51 / 127}[dtype]
    np.testing.assert_allclose(found.vectors, expected, atol=tolerance * np.abs(expected).max())
    assert found.pictures == {}
    other = embedded(*argv, f"--table={folder / 'products.csv'}", "--vectors=v.npy", f"--out={tmp_path / 'b.parquet'}")
    np.testing.assert_array_equal(other.vectors, found.vectors)


def test_features_are_vectors_to_train_on(of_pictures, folder, tmp_path):
    """The file goes into the real training command, with the split of the run that it is from."""
    workdir, model = of_pictures
    out = tmp_path / "features.parquet"
    found = embedded(f"--workdir={workdir}", "--split=all", f"--out={out}", "--features")
    items = load_dataset(read_config(workdir)).items
    np.testing.assert_allclose(found.vectors, model.features(np.asarray(items.inputs)), atol=1e-4)
    assert found.conditions == () and found.vectors.shape == (N, 2 * 2 * 128)
    done = tiny.command(
        "train",
        f"--config={CONFIGS / 'features.py'}:tiny",
        f"--config.data.path={out}",
        "--config.data.vectors=vector",
        "--config.data.conditions=colour",
        f"--workdir={tmp_path / 'run'}",
    )
    assert done.returncode == 0, done.stderr
    again = load_dataset(read_config(tmp_path / "run")).items
    assert again.ids.tolist() == items.ids.tolist() and again.split.tolist() == items.split.tolist()
    np.testing.assert_array_equal(again.inputs, found.vectors)


class Died(BaseException):
    """What no part of the code catches."""


def test_stopped_after_any_chunk_it_goes_on_to_the_same_bytes(of_pictures, folder, tmp_path, monkeypatch, capsys):
    """Only missing chunks are embedded; nothing lies under the final name before; chunks bound the memory."""
    monkeypatch.setattr(to_embed, "CHUNK", 16)
    workdir, _ = of_pictures
    photos = tmp_path / "photos"
    shutil.copytree(folder / "images", photos)
    (photos / "005.webp").write_text("no image")
    unbroken, broken = tmp_path / "unbroken.parquet", tmp_path / "broken.parquet"
    argv = [f"--workdir={workdir}", f"--images={photos}"]
    embed.main([*argv, f"--out={unbroken}"])
    sizes: list[int] = []
    whole = Model.embed

    def counted(self, inputs):
        if len(sizes) == limit:
            raise Died
        sizes.append(len(inputs))
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
    told = capsys.readouterr().err
    assert f"going on after 48 of {N}" in told and "left out 005.webp" in told
    assert broken.read_bytes() == unbroken.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["broken.parquet", "photos", "unbroken.parquet"]


def test_a_damaged_part_is_embedded_again_and_parts_of_another_plan_are_dropped(
    of_pictures, folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(to_embed, "CHUNK", 16)
    workdir, _ = of_pictures
    out = tmp_path / "e.parquet"
    argv = [f"--workdir={workdir}", f"--images={folder / 'images'}", f"--out={out}"]
    embed.main(argv)
    expected = out.read_bytes()
    out.unlink()
    parts, write = tmp_path / ".e.parquet.parts", "csn_jax.store.vector_file.write_embeddings"
    for dtype in ("float16", "float32"):
        with monkeypatch.context() as patch, pytest.raises(Died):
            patch.setattr(write, lambda *_, **__: (_ for _ in ()).throw(Died))
            embed.main([*argv, f"--dtype={dtype}"])
        assert len(list(parts.glob("*.npz"))) == 4
    part = parts / "000002.npz"
    raw = bytearray(part.read_bytes())
    raw[200] ^= 1
    part.write_bytes(raw)
    embed.main(argv)
    assert out.read_bytes() == expected and not parts.exists()


@pytest.mark.slow
def test_killed_ten_times_it_gives_the_same_bytes(of_pictures, folder, tmp_path):
    """The real command under SIGKILL at random moments: no partial file is seen, and the end is the unbroken one's."""
    workdir, _ = of_pictures
    code = "import sys, csn_jax.data.to_embed as t; t.CHUNK = 1; from csn_jax import embed; embed.main(sys.argv[1:])"
    argv = [sys.executable, "-c", code, f"--workdir={workdir}", f"--images={folder / 'images'}"]
    subprocess.run([*argv, f"--out={tmp_path / 'unbroken.npz'}"], check=True, capture_output=True)
    rng, out, kills = np.random.default_rng(0), tmp_path / "broken.npz", 0
    parts = tmp_path / ".broken.npz.parts"
    while kills < 10:
        process = subprocess.Popen([*argv, f"--out={out}"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        goal = len(list(parts.glob("*.npz"))) + rng.integers(4)
        while process.poll() is None and not (parts.is_dir() and len(list(parts.glob("*.npz"))) >= goal):
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        if process.returncode == 0:
            assert out.read_bytes() == (tmp_path / "unbroken.npz").read_bytes()
            out.unlink()
        else:
            assert not out.exists() or out.read_bytes() == (tmp_path / "unbroken.npz").read_bytes()
    subprocess.run([*argv, f"--out={out}"], check=True, capture_output=True)
    assert out.read_bytes() == (tmp_path / "unbroken.npz").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["broken.npz", "unbroken.npz"]


def test_a_file_that_is_there(of_pictures, folder, tmp_path, monkeypatch, capsys):
    """The same command again does nothing; another one, and a half-written file, ask for --rebuild, which replaces."""
    workdir, _ = of_pictures
    out = tmp_path / "e.parquet"
    argv = [f"--workdir={workdir}", f"--images={folder / 'images'}", f"--out={out}"]
    embed.main(argv)
    before = tiny.contents(tmp_path)
    capsys.readouterr()
    embed.main(argv)
    assert "nothing to embed" in capsys.readouterr().out and tiny.contents(tmp_path) == before
    (tmp_path / ".e.parquet.parts").mkdir()  # left by a kill just after the file was whole
    (tmp_path / ".e.parquet.parts" / "000000.npz").write_bytes(b"")
    embed.main(argv)
    assert tiny.contents(tmp_path) == before and os.listdir(tmp_path) == ["e.parquet"]
    for more in (["--dtype=float16"], ["--by_condition"], ["--features"]):
        assert_told(*run(embed, monkeypatch, capsys, *argv, *more), 2, str(out), "with other flags", "--rebuild")
    whole = out.read_bytes()
    out.write_bytes(whole[: len(whole) // 2])
    assert_told(*run(embed, monkeypatch, capsys, *argv), 2, str(out), "half-written or damaged", "--rebuild")
    embed.main([*argv, "--rebuild"])
    assert out.read_bytes() == whole
    out.write_text("my notes")
    assert_told(*run(embed, monkeypatch, capsys, *argv), 2, str(out), "--rebuild")
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), out)
    assert_told(*run(embed, monkeypatch, capsys, *argv), 2, str(out), "no file of embed's", "--rebuild")
    assert os.listdir(tmp_path) == ["e.parquet"]


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        ((), ("nothing to embed", "--images=FOLDER")),
        (("--images=a", "--split=test"), ("--images and --split", "give one")),
        (("--split=tset",), ("invalid choice", "did you mean test?")),
        (("--split=test", "--out=e.csv"), ("--out=", "'.csv'", ".parquet or .npz")),
        (("--split=test", "--out=nowhere/e.npz"), ("no folder", "nowhere")),
        (("--images=nowhere",), ("--images=nowhere is no folder",)),
        (("--images=empty",), ("holds no file that ends in .jpg",)),
        (("--images=bad",), ("none of the 2 images could be read",)),
        (("--table=nowhere.csv",), ("--table=nowhere.csv is no file",)),
        (("--table=nowhere.csv", "--out=before.npz"), ("--table=nowhere.csv is no file",)),
        (("--table=products.csv", "--image=photo"), ("no column 'photo'", "--image", "category")),
        (("--table=products.csv", "--id=sku"), ("no column 'sku'", "--id")),
        (("--table=products.csv", "--id=category"), ("the same category as row", "--id")),
        (("--table=vector.csv", "--id=title"), ("called 'vector'", "rename")),
        (("--table=products.parquet", "--out=products.parquet"), ("is the table itself",)),
        (("--split=test", "--features", "--by_condition"), ("--by_condition", "--features")),
        (("--split=test", "--features", "--dtype=int8"), ("--dtype=int8", "--features")),
    ],
    ids=str,
)
def test_mistakes_with_pictures(of_pictures, folder, tmp_path, monkeypatch, capsys, argv, parts):
    monkeypatch.chdir(tmp_path)
    for name in ("products.csv", "products.parquet"):
        shutil.copy(folder / name, name)
    columns = shop.columns(N)
    shop.write(Path("vector.csv"), columns | {"vector": columns["title"]})
    Path("before.npz").write_bytes(b"")
    Path("empty").mkdir()
    Path("bad").mkdir()
    for name in ("a.jpg", "b.png"):
        Path("bad", name).write_text("x")
    before = tiny.contents(tmp_path)
    out = () if any(word.startswith("--out") for word in argv) else (f"--out={tmp_path / 'e.parquet'}",)
    assert_told(*run(embed, monkeypatch, capsys, f"--workdir={of_pictures[0]}", *argv, *out), 2, *parts)
    assert tiny.contents(tmp_path) == before and not list(tmp_path.glob(".*"))


def test_mistakes_with_vectors_and_workdirs(of_vectors, folder, tmp_path, monkeypatch, capsys):
    workdir, _ = of_vectors
    out = f"--out={tmp_path / 'e.npz'}"

    def told(*argv):
        return run(embed, monkeypatch, capsys, *argv, out)

    argv = (f"--workdir={workdir}", f"--table={folder / 'products.csv'}")
    assert_told(*told(f"--workdir={workdir}", f"--images={folder}"), 2, "embeds vectors of 12 numbers", "--table")
    assert_told(*told(*argv), 2, "no column 'vector'", "--vectors")
    assert_told(*told(*argv, "--vectors=w.npy"), 2, "--vectors names", "w.npy")
    np.save(tmp_path / "w.npy", np.zeros((N, 5), np.float32))
    shutil.copy(folder / "products.csv", tmp_path)
    moved = f"--table={tmp_path / 'products.csv'}"
    assert_told(*told(argv[0], moved, "--vectors=w.npy"), 2, "vectors of 5 numbers", "takes 12")
    assert_told(*told(f"--workdir={tmp_path}", "--split=test"), 2, "has no config.json")
    with open(tmp_path / "none.csv", "w") as file:
        csv.writer(file).writerow(["image"])
    assert_told(*told(argv[0], f"--table={tmp_path / 'none.csv'}"), 2, "has no row")
    assert not (tmp_path / "e.npz").exists()


def test_values_that_do_not_fit(of_vectors, folder, tmp_path, monkeypatch, capsys):
    """Vectors beyond float16 are the user's choice of type; what is not finite is the model's failure."""
    argv = (f"--workdir={of_vectors[0]}", f"--table={folder / 'products.parquet'}", f"--out={tmp_path / 'e.npz'}")
    for value, dtype, status, parts in (
        (1e5, "float16", 2, ("--dtype=float16", "65,504")),
        (np.nan, "float32", 1, ("images/000.png is not finite",)),
    ):
        monkeypatch.setattr(Model, "embed", lambda self, inputs, value=value: np.full((len(inputs), 6), value, "f4"))
        assert_told(*run(embed, monkeypatch, capsys, *argv, f"--dtype={dtype}"), status, *parts)
        assert not (tmp_path / "e.npz").exists()


def test_two_at_once(of_pictures, folder, tmp_path, monkeypatch, capsys):
    from csn_jax.runtime.workdir import locked

    parts = tmp_path / ".e.npz.parts"
    parts.mkdir()
    argv = (f"--workdir={of_pictures[0]}", "--split=test", f"--out={tmp_path / 'e.npz'}")
    with locked(parts):
        assert_told(*run(embed, monkeypatch, capsys, *argv), 2, "in use by process", "another --out")
