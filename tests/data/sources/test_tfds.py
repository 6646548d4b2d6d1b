"""TFDS as a source, with mocked data sets and with data sets made here; and our two builders for TFDS."""

import dataclasses
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from csn_jax import train
from csn_jax.config import Config, DataConfig, PreprocessConfig
from csn_jax.data.dataset import load_dataset
from csn_jax.data.images import resize_and_crop
from csn_jax.data.sources import fonts, zappos50k
from csn_jax.data.sources import tfds as module
from csn_jax.data.sources.font_faces import Face
from csn_jax.errors import UserError

# From TFDS under protobuf 6.33, the newest that Beam supports.
pytestmark = pytest.mark.filterwarnings("ignore:label\\(\\) is deprecated")
MATPLOTLIB = Path(matplotlib.get_data_path()) / "fonts/ttf"
needs_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None, reason="apache_beam is not installed (extra `beam`)"
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CSN_JAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def tfds():
    """Imported late: it takes seconds."""
    return module._tensorflow_datasets()


def config(name: str, size: int = 16, channels: int = 3, **data) -> Config:
    grey = (0.5,) * channels
    data = {"train_triplets": 100, "validation_triplets": 50, "test_triplets": 50} | data
    return Config(
        data=DataConfig(source="tfds", name=name, **data),
        preprocess=PreprocessConfig(size=size, mean=grey, std=grey),
        batch_size=16,
    )


def test_celeb_a_mocked(tfds):
    """Pixels by resize_and_crop. Nested attributes have their own names and the values true and false."""
    with tfds.testing.mock_data(num_examples=30):
        rows = module.read(config("celeb_a"))
        examples = list(tfds.as_numpy(tfds.load("celeb_a", split="train")))
    assert rows.inputs.shape == (30, 16, 16, 3) and rows.split is None and len(set(rows.ids)) == 30
    for i, example in enumerate(examples):
        np.testing.assert_array_equal(rows.inputs[i], resize_and_crop(Image.fromarray(example["image"]), 16, 3))
        for name, value in example["attributes"].items():
            assert rows.labels[name][i] == ("true" if value else "false")
        assert rows.labels["nose_x"][i] == str(example["landmarks"]["nose_x"])
    kinds = dict(rows.conditions)
    assert kinds["Male"] == kinds["Smiling"] == "categorical" and kinds["nose_x"] == "numeric"


@pytest.mark.slow
def test_one_command_trains_on_a_data_set(tfds, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("csn_jax.pictures.sheets.QUERIES", 1)
    monkeypatch.setattr("csn_jax.pictures.sheets.NEIGHBOURS", 1)
    preset = Path(__file__).parents[3] / "configs/tfds.py"
    flags = "--config.data.name=celeb_a --config.data.conditions Male Smiling"
    small = "--config.feed=device --config.steps=2 --config.batch_size=16"
    with tfds.testing.mock_data(num_examples=60):
        train.main([f"--config={preset}:tiny", *flags.split(), *small.split(), f"--workdir={tmp_path / 'run'}"])
    assert "Male" in capsys.readouterr().out
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["conditions"] == ["Male", "Smiling"]
    assert list(results["retrieval"]["by_condition"]) == ["Male", "Smiling"]


@pytest.fixture(scope="session")
def sets(tfds):
    """Small data sets registered with TFDS: every kind of label, three splits or two, and some that cannot be used."""
    corners = tfds.features.BBox(0.0, 0.0, 1.0, 1.0)

    def examples(start: int, n: int):
        for i in range(start, start + n):
            pixels = np.random.default_rng(i).integers(256, size=(20 + i % 3, 24, 3), dtype=np.uint8)
            many = [i % 3, (i + 1) % 3][: i % 3]
            yield (
                i,
                {
                    "photo": pixels,
                    "mask": pixels[..., :1],
                    "kind": ("a", "b", "c")[i % 3] if i % 7 else -1,
                    "day": bool(i % 2),
                    "count": i % 4,
                    "price": float("nan") if i == 5 else i * 1.5,
                    "maker": f" maker {i % 2} " if i else "",
                    "left": {"size": i % 2, "place": "here"},
                    "right": {"size": i % 5, "colours": many},
                    "parts": [{"what": name, "box": corners} for name in ("x", "y;z")[: i % 3]],
                    "box": corners,
                },
            )

    box, label = tfds.features.BBoxFeature(), tfds.features.ClassLabel(names=["a", "b", "c"])
    features = {
        "photo": tfds.features.Image(shape=(None, None, 3)),
        "mask": tfds.features.Image(shape=(None, None, 1)),
        "kind": label,
        "day": np.bool_,
        "count": np.int32,
        "price": np.float32,
        "maker": tfds.features.Text(),
        "left": {"size": np.int64, "place": tfds.features.Text()},
        "right": {"size": np.int64, "colours": tfds.features.Sequence(label)},
        "parts": tfds.features.Sequence({"what": tfds.features.Text(), "box": box}),
        "box": box,
    }

    class Made(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS = [
            tfds.core.BuilderConfig(name=name)
            for name in ("three", "two", "imageless", "unlabelled", "floats", "broken", "pictured")
        ]

        def _info(self):
            chosen = {
                "imageless": ["kind"],
                "unlabelled": ["photo", "box"],
                "floats": ["kind"],
                "pictured": ["mask", "kind"],
            }.get(self.builder_config.name, features)
            chosen = {name: features[name] for name in chosen}
            if self.builder_config.name == "floats":
                chosen["photo"] = tfds.features.Image(shape=(None, None, 1), dtype=np.float32)
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(chosen))

        def _split_generators(self, dl_manager):
            if self.builder_config.name == "broken":
                raise OSError("the server\nis gone.")
            sizes = {"train": 40, "val": 20, "test": 20, "extra": 3}
            if self.builder_config.name != "three":
                del sizes["val"], sizes["extra"]
            starts = np.cumsum([0, *sizes.values()]).tolist()
            return {name: self._generate_examples(starts[i], n) for i, (name, n) in enumerate(sizes.items())}

        def _generate_examples(self, start, n):
            for key, example in examples(start, n):
                if self.builder_config.name == "floats":
                    example["photo"] = np.zeros((4, 4, 1), np.float32)
                yield key, {name: example[name] for name in self.info.features}

    return dict(examples(0, 83))


@pytest.fixture(scope="session")
def prepared(tfds, sets, tmp_path_factory):
    """The folder with the two prepared data sets."""
    folder = tmp_path_factory.mktemp("tfds")
    for name in ("three", "two"):
        tfds.builder(f"made/{name}", data_dir=folder).download_and_prepare()
    return folder


def made(prepared, name: str, **data) -> Config:
    return config(f"made/{name}", path=str(prepared), **({"image": "photo"} | data))


def test_every_kind_of_label(sets, prepared):
    """Class labels, booleans, numbers, texts, sequences, nested features, and features that are ignored. Unknown values
    stay unknown."""
    rows = module.read(made(prepared, "two"))
    assert len(rows.ids) == 60 and rows.split is None
    assert dict(rows.conditions) == {
        "kind": "categorical",
        "day": "categorical",
        "count": "ordinal",
        "price": "numeric",
        "maker": "categorical",
        "left.size": "categorical",
        "right.size": "ordinal",
        "colours": "set",
        "what": "set",
    }
    by_photo = {resize_and_crop(Image.fromarray(example["photo"]), 16, 3).tobytes(): i for i, example in sets.items()}
    row_of = {by_photo[pixels.tobytes()]: row for row, pixels in enumerate(rows.inputs)}
    assert sorted(row_of) == list(range(60))
    for i, row in row_of.items():
        labels = {name: column[row] for name, column in rows.labels.items()}
        colours = ["abc"[c] for c in (i % 3, (i + 1) % 3)[: i % 3]]
        assert labels == {
            "kind": "abc"[i % 3] if i % 7 else "",
            "day": "true" if i % 2 else "false",
            "count": str(i % 4),
            "price": "" if i == 5 else f"{i * 1.5:g}",
            "maker": f"maker {i % 2}" if i else "",
            "left.size": str(i % 2),
            "place": "here",
            "right.size": str(i % 5),
            "colours": ";".join(sorted(colours)),
            "what": ("", "x", "x;y,z")[i % 3],
        }


def test_a_kind_can_be_overridden(prepared):
    """Also that of a class label."""
    rows = module.read(made(prepared, "two", kinds=("count=categorical", "right.size=numeric", "kind=set")))
    kinds = dict(rows.conditions)
    assert (kinds["count"], kinds["right.size"], kinds["kind"]) == ("categorical", "numeric", "set")


def test_a_data_set_with_three_splits_keeps_them(prepared):
    """A fourth split is left out. The items of a data set with two splits are split anew."""
    dataset = load_dataset(made(prepared, "three", conditions=("kind", "maker")))
    items = dataset.items
    assert dataset.record.items == {"train": 40, "validation": 20, "test": 20}
    own = np.array([name.split("/")[0] for name in items.ids.tolist()])
    assert set(zip(own.tolist(), items.split.tolist(), strict=True)) == {
        ("train", "train"),
        ("val", "validation"),
        ("test", "test"),
    }
    two = load_dataset(made(prepared, "two", conditions=("kind",)))
    assert two.record.items == {"train": 42, "validation": 6, "test": 12}
    assert {"train", "test"} == {name.split("/")[0] for name in two.items.ids[two.items.split == "test"].tolist()}


def test_pictures_are_decoded_once(prepared, monkeypatch):
    """Then they come from the cache, unless the settings change."""
    first = module.read(made(prepared, "two"))

    def refuse(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(module, "to_square", refuse)
    again = module.read(made(prepared, "two"))
    np.testing.assert_array_equal(again.inputs, first.inputs)
    assert isinstance(again.inputs, np.memmap) and again.ids.tolist() == first.ids.tolist()
    for name, column in first.labels.items():
        assert again.labels[name].tolist() == column.tolist()
    with pytest.raises(AssertionError):
        module.read(made(prepared, "two", image="mask"))


def test_a_feature_called_id_names_the_items(tfds, prepared):
    """If its values differ. Another feature must be named."""
    with tfds.testing.mock_data(num_examples=12):
        ids = module.read(config("cifar10", kinds=("label=set",), conditions=("label",))).ids
        assert len(set(ids)) == 12 and not ids[0].startswith("train/")
    rows = module.read(made(prepared, "two"))
    assert rows.ids[:2].tolist() == ["train/0", "train/1"] and rows.ids[40] == "test/0"
    with pytest.raises(UserError, match="has the same day as row"):
        module.read(made(prepared, "two", id="day"))


# (settings, words of the message)
MISTAKES = {
    "no name": ({"name": ""}, ["config.data.name is empty", "--config.data.name=celeb_a"]),
    "typo": ({"name": "celeb_b"}, ["'celeb_b'", "not a TFDS data set (did you mean celeb_a?)"]),
    "malformed": ({"name": "a b"}, ["'a b'", "cannot open", "NAME/CONFIG"]),
    "config": ({"name": "made/four"}, ["'made/four'", "cannot open"]),
    "no image": ({"name": "made/imageless"}, ["no image feature", "it has kind"]),
    "images": ({"name": "made/two"}, ["several images", "--config.data.image", "photo, mask"]),
    "no label": ({"name": "made/unlabelled"}, ["no feature that can be a label", "photo, box"]),
    "floats": ({"name": "made/floats"}, ["float32", "8 or 16 bits"]),
    "broken": ({"name": "made/broken"}, ["cannot prepare", "OSError: ", "the server is gone"]),
    "condition": (
        {"name": "made/two", "image": "photo", "conditions": ("knd",)},
        ["no column 'knd' (did you mean kind?)"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named(mistake, sets, prepared):
    data, words = MISTAKES[mistake]
    with pytest.raises(UserError) as error:
        module.read(config(path=str(prepared), **data))
    assert [word for word in words if word not in str(error.value)] == []
    assert "\n" not in str(error.value)


def test_the_only_image_needs_no_name(sets, prepared):
    """It may have any name. One channel gives grey pictures."""
    assert module.read(config("made/pictured", path=str(prepared), channels=1)).inputs.shape == (60, 16, 16, 1)


def test_tensorflow_is_imported_late():
    """Only when a TFDS data set is read."""
    code = "import sys, csn_jax.data.dataset; print('tensorflow' in sys.modules, 'tensorflow_datasets' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False False\n", done.stderr


@pytest.fixture(scope="session")
def font_folder(tmp_path_factory):
    """Three fonts, a copy of the first, and a broken font."""
    folder = tmp_path_factory.mktemp("fonts")
    for name in ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono"):
        shutil.copy(MATPLOTLIB / f"{name}.ttf", folder)
    shutil.copy(MATPLOTLIB / "DejaVuSans.ttf", folder / "Twin.ttf")
    (folder / "broken.ttf").write_bytes(b"not a font")
    return folder


@pytest.fixture(scope="session")
def font_rows(font_folder, tmp_path_factory):
    """The items of source `fonts`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CSN_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        return fonts.read(Config(data=DataConfig(source="fonts", path=str(font_folder))))


def build(tfds, name: str, data_dir: Path, manual_dir: Path):
    import csn_jax.data.sources.tfds_builders  # noqa: F401  (registers the builders)

    builder = tfds.builder(name, data_dir=data_dir)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual_dir))
    return builder


def test_the_fonts_builder_has_the_items_of_the_source(tfds, font_folder, font_rows, tmp_path):
    """The same images and labels, without copies and broken files. The data set has a version and a digest of the
    files."""
    builder, rows = build(tfds, "fonts/32", tmp_path / "tfds", font_folder), font_rows
    examples = {example["id"].decode(): example for example in tfds.as_numpy(builder.as_dataset(split="train"))}
    assert sorted(examples) == sorted(rows.ids.tolist()) and len(examples) == 3 * 62
    for i, name in enumerate(rows.ids.tolist()):
        np.testing.assert_array_equal(examples[name]["image"], rows.inputs[i])
        assert fonts.CHARACTERS[examples[name]["character"]] == rows.labels["character"][i]
        assert examples[name]["font"].decode() == rows.labels["font"][i]
    assert str(builder.version) == "1.0.0" and builder.info.features["image"].shape == (32, 32, 1)
    # Letters of two fonts may be nearly equal. As in source `fonts`, each item is split on its own.
    assert rows.together is None and module.read(config("fonts/32", path=str(tmp_path / "tfds"))).together is None
    digest = tfds.builder("fonts/32", data_dir=tmp_path / "tfds").info.metadata["sha256"]
    assert len(digest) == 64
    shutil.copytree(font_folder, tmp_path / "other")
    (tmp_path / "other/broken.ttf").write_bytes(b"another broken font")
    assert build(tfds, "fonts/32", tmp_path / "tfds2", tmp_path / "other").info.metadata["sha256"] != digest


@needs_beam
def test_beam_renders_the_same_examples(tfds, font_folder, tmp_path):
    builders = [build(tfds, name, tmp_path / "tfds", font_folder) for name in ("fonts/64", "fonts/64_beam")]
    here, beam = (
        {example["id"]: example for example in tfds.as_numpy(builder.as_dataset(split="train"))} for builder in builders
    )
    assert here.keys() == beam.keys()
    for name, example in here.items():
        assert example["character"] == beam[name]["character"] and example["font"] == beam[name]["font"]
        np.testing.assert_array_equal(example["image"], beam[name]["image"])


def test_the_steps_of_the_beam_pipeline(font_folder, font_rows):
    """Without Beam: batches render to pixels under their digest, and the first of several equal fonts is kept."""
    pytest.importorskip("tensorflow_datasets")
    from csn_jax.data.sources import tfds_builders

    files = fonts.font_files(font_folder)
    numbered = [(number, name, Face(str(path))) for number, (name, path) in enumerate(files.items())]
    faces: dict[bytes, tuple] = {}
    for start in range(0, len(numbered), 3):
        for digest, face in tfds_builders._render_batch((numbered[start : start + 3], 32)):
            faces[digest] = min(face, faces.get(digest, face))
    examples = {}
    for _, name, pixels in faces.values():
        examples |= dict(tfds_builders.glyph_examples(name, pixels))
    assert sorted(examples) == sorted(font_rows.ids.tolist())
    for name, pixels in zip(font_rows.ids.tolist(), font_rows.inputs, strict=True):
        np.testing.assert_array_equal(examples[name]["image"], pixels)


def test_the_zappos_builder_has_the_items_of_the_source(tfds, tmp_path):
    """The same labels and the bytes of the files. Source tfds reads them as source zappos50k does."""
    from test_zappos50k import make_tree

    tree = tmp_path / "zappos"
    tree.mkdir()
    make_tree(tree)
    builder = build(tfds, "zappos50k", tmp_path / "tfds", tree)
    raw = builder.as_dataset(split="train", decoders={"image": tfds.decode.SkipDecoding()})
    for example in tfds.as_numpy(raw):
        assert example["image"] == (tree / zappos50k.IMAGES / example["id"].decode()).read_bytes()
    assert len(builder.info.metadata["sha256"]) == 64
    ours = zappos50k.read(dataclasses.replace(config(""), data=DataConfig(source="zappos50k", path=str(tree))))
    theirs = module.read(config("zappos50k", path=str(tmp_path / "tfds")))
    order = {name: i for i, name in enumerate(theirs.ids.tolist())}
    rows = [order[name] for name in ours.ids.tolist()]
    assert len(order) == len(rows) == 160
    for name, column in ours.labels.items():
        assert theirs.labels[name][rows].tolist() == column.tolist(), name
    kinds = dict(theirs.conditions)
    assert all(kinds[name] == kind for name, kind in ours.conditions)
    difference = np.abs(theirs.inputs[rows].astype(int) - ours.inputs)
    assert difference.mean() < 2  # two JPEG decoders


@pytest.mark.slow
@needs_beam
def test_tfds_build(font_folder, tmp_path):
    """The command in the docstring of tfds_builders."""
    command = [
        "-m",
        "tensorflow_datasets.scripts.cli.main",
        "build",
        "fonts",
        "--imports=csn_jax.data.sources.tfds_builders",
    ]
    folders = [f"--manual_dir={font_folder}", f"--data_dir={tmp_path}"]
    done = subprocess.run([sys.executable, *command, "--config=32", *folders], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "fonts/32/1.0.0/dataset_info.json").read_text())["splits"][0]["shardLengths"] == [
        "186"
    ]
