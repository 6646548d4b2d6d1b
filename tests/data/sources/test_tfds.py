"""TFDS both ways: any of its sets as a source, under its own mocking and from files made here; and our two builders."""

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
from csn_jax.data.decode import resize_and_crop
from csn_jax.data.sources import fonts, zappos50k
from csn_jax.data.sources import tfds as module
from csn_jax.errors import UserError

# TFDS under protobuf 6.33, the newest that Beam takes
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
    """Seconds to import, so not while tests are collected."""
    return module._tensorflow_datasets()


def config(name: str, size: int = 16, channels: int = 3, **data) -> Config:
    grey = (0.5,) * channels
    data = {"train_triplets": 100, "validation_triplets": 50, "test_triplets": 50} | data
    return Config(
        data=DataConfig(source="tfds", name=name, **data),
        preprocess=PreprocessConfig(size=size, mean=grey, std=grey),
        batch_size=16,
    )


def test_celeb_a_under_mocking(tfds):
    """Pixels by resize_and_crop, nested attributes under their own names, true and false, all other labels besides."""
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


def test_any_set_trains_from_one_command(tfds, tmp_path, capsys, monkeypatch):
    """`--config.data.name=celeb_a --config.data.conditions Male Smiling`."""
    monkeypatch.setattr("csn_jax.pictures.sheets.QUERIES", 1)
    monkeypatch.setattr("csn_jax.pictures.sheets.NEIGHBOURS", 1)
    preset = Path(__file__).parents[2] / "configs/tfds.py"
    flags = "--config.data.name=celeb_a --config.data.conditions Male Smiling --config.feed=device"
    with tfds.testing.mock_data(num_examples=60):
        train.main([f"--config={preset}:tiny", *flags.split(), f"--workdir={tmp_path / 'run'}"])
    assert "Male" in capsys.readouterr().out
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["conditions"] == ["Male", "Smiling"]
    assert list(results["retrieval"]["by_condition"]) == ["Male", "Smiling"]


@pytest.fixture(scope="session")
def sets(tfds):
    """Small sets registered with TFDS: with every kind of label, three splits or two; some cannot be used."""

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
    """The folder in which these sets are prepared."""
    folder = tmp_path_factory.mktemp("tfds")
    for name in ("three", "two"):
        tfds.builder(f"made/{name}", data_dir=folder).download_and_prepare()
    return folder


def made(prepared, name: str, **data) -> Config:
    return config(f"made/{name}", path=str(prepared), **({"image": "photo"} | data))


def test_every_kind_of_label(sets, prepared):
    """Class labels, booleans, numbers, texts, sequences, nested features and what is ignored; unknown stays unknown."""
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
    found = {by_photo[pixels.tobytes()]: row for row, pixels in enumerate(rows.inputs)}
    assert sorted(found) == list(range(60))
    for i, row in found.items():
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
    """As for a table, also that of a class label."""
    rows = module.read(made(prepared, "two", kinds=("count=categorical", "right.size=numeric", "kind=set")))
    kinds = dict(rows.conditions)
    assert (kinds["count"], kinds["right.size"], kinds["kind"]) == ("categorical", "numeric", "set")


def test_its_own_splits_are_honoured_where_there_are_three(prepared):
    """train, val and test stand, a fourth is left out; of two, all items are split by ours."""
    dataset = load_dataset(made(prepared, "three", conditions=("kind", "maker")))
    items = dataset.items
    assert dataset.record.items == {"train": 40, "validation": 20, "test": 20}
    own = np.array([one.split("/")[0] for one in items.ids.tolist()])
    assert set(zip(own.tolist(), items.split.tolist(), strict=True)) == {
        ("train", "train"),
        ("val", "validation"),
        ("test", "test"),
    }
    two = load_dataset(made(prepared, "two", conditions=("kind",)))
    assert two.record.items == {"train": 42, "validation": 6, "test": 12}
    assert {"train", "test"} == {one.split("/")[0] for one in two.items.ids[two.items.split == "test"].tolist()}


def test_the_second_time_reads_the_cache(prepared, monkeypatch):
    """No picture is decoded again; other settings decode anew."""
    first = module.read(made(prepared, "two"))

    def refuse(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(module, "resize_and_crop", refuse)
    again = module.read(made(prepared, "two"))
    np.testing.assert_array_equal(again.inputs, first.inputs)
    assert isinstance(again.inputs, np.memmap) and again.ids.tolist() == first.ids.tolist()
    for name, column in first.labels.items():
        assert again.labels[name].tolist() == column.tolist()
    with pytest.raises(AssertionError):
        module.read(made(prepared, "two", image="mask"))


def test_a_feature_called_id_names_the_items(tfds, prepared):
    """Where it is all different; another is taken by its name."""
    with tfds.testing.mock_data(num_examples=12):
        ids = module.read(config("cifar10", kinds=("label=set",), conditions=("label",))).ids
        assert len(set(ids)) == 12 and not ids[0].startswith("train/")
    rows = module.read(made(prepared, "two"))
    assert rows.ids[:2].tolist() == ["train/0", "train/1"] and rows.ids[40] == "test/0"
    with pytest.raises(UserError, match="has the same day as row"):
        module.read(made(prepared, "two", id="day"))


MISTAKES = {
    "no name": ({"name": ""}, r"config.data.name is empty; give the name"),
    "a typo": ({"name": "celeb_b"}, r"'celeb_b', which is no TFDS set \(did you mean celeb_a\?\)"),
    "a form": ({"name": "a b"}, r"'a b', which TFDS cannot open"),
    "a config": ({"name": "made/four"}, r"'made/four', which TFDS cannot open"),
    "no image": ({"name": "made/imageless"}, r"has no image feature; it has kind"),
    "images": ({"name": "made/two"}, r"several images; name one with --config.data.image: photo, mask"),
    "no label": ({"name": "made/unlabelled"}, r"no feature that could be a label; it has photo, box"),
    "floats": ({"name": "made/floats"}, r"hold float32; only 8 and 16 bits"),
    "broken": ({"name": "made/broken"}, r"cannot be prepared by TFDS \(OSError: .*the server is gone"),
    "a condition": (
        {"name": "made/two", "image": "photo", "conditions": ("knd",)},
        r"no column 'knd' \(did you mean kind\?\)",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told(mistake, sets, prepared):
    """Each in one sentence that names the field and the remedy."""
    data, message = MISTAKES[mistake]
    with pytest.raises(UserError, match=message) as caught:
        module.read(config(path=str(prepared), **data))
    assert "\n" not in str(caught.value)


def test_one_image_needs_no_name(sets, prepared):
    """Whatever it is called; grey pictures for one channel."""
    assert module.read(config("made/pictured", path=str(prepared), channels=1)).inputs.shape == (60, 16, 16, 1)


def test_tensorflow_is_imported_late():
    """Neither the sources nor their modules import it until a TFDS set is read."""
    code = "import sys, csn_jax.data.dataset; print('tensorflow' in sys.modules, 'tensorflow_datasets' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False False\n", done.stderr


@pytest.fixture(scope="session")
def font_folder(tmp_path_factory):
    """Three fonts, one of them twice, and a file that is none."""
    folder = tmp_path_factory.mktemp("fonts")
    for name in ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono"):
        shutil.copy(MATPLOTLIB / f"{name}.ttf", folder)
    shutil.copy(MATPLOTLIB / "DejaVuSans.ttf", folder / "Twin.ttf")
    (folder / "broken.ttf").write_bytes(b"no font")
    return folder


def build(tfds, name: str, data_dir: Path, manual_dir: Path):
    import csn_jax.data.sources.tfds_builders  # noqa: F401  (registers them)

    builder = tfds.builder(name, data_dir=data_dir)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual_dir))
    return builder


def test_fonts_builder_has_the_rows_of_the_source(tfds, font_folder, tmp_path):
    """The same images and labels, without twins and broken files; versioned, with the digest of the files."""
    builder = build(tfds, "fonts/32", tmp_path / "tfds", font_folder)
    rows = fonts.read(Config(data=DataConfig(source="fonts", path=str(font_folder))))
    examples = {example["id"].decode(): example for example in tfds.as_numpy(builder.as_dataset(split="train"))}
    assert sorted(examples) == sorted(rows.ids.tolist()) and len(examples) == 3 * 62
    for i, one in enumerate(rows.ids.tolist()):
        np.testing.assert_array_equal(examples[one]["image"], rows.inputs[i])
        assert fonts.CHARACTERS[examples[one]["character"]] == rows.labels["character"][i]
        assert examples[one]["font"].decode() == rows.labels["font"][i]
    assert str(builder.version) == "1.0.0" and builder.info.features["image"].shape == (32, 32, 1)
    # Letters of two fonts may be as good as equal; they are split as the source `fonts` splits them, each on its own.
    assert rows.together is None and module.read(config("fonts/32", path=str(tmp_path / "tfds"))).together is None
    digest = tfds.builder("fonts/32", data_dir=tmp_path / "tfds").info.metadata["sha256"]
    assert len(digest) == 64
    shutil.copytree(font_folder, tmp_path / "other")
    (tmp_path / "other/broken.ttf").write_bytes(b"no font either")
    assert build(tfds, "fonts/32", tmp_path / "tfds2", tmp_path / "other").info.metadata["sha256"] != digest


@needs_beam
def test_fonts_on_beam_are_the_same(tfds, font_folder, tmp_path):
    """Rendered by Beam's direct runner: the same examples."""
    builders = [build(tfds, name, tmp_path / "tfds", font_folder) for name in ("fonts/64", "fonts/64_beam")]
    here, beam = (
        {example["id"]: example for example in tfds.as_numpy(builder.as_dataset(split="train"))} for builder in builders
    )
    assert here.keys() == beam.keys()
    for one, example in here.items():
        assert example["character"] == beam[one]["character"] and example["font"] == beam[one]["font"]
        np.testing.assert_array_equal(example["image"], beam[one]["image"])


def test_the_steps_of_the_beam_pipeline(font_folder):
    """Without Beam: batches render to pixels keyed by their digest, and the least number of twins is kept."""
    pytest.importorskip("tensorflow_datasets")
    from csn_jax.data.sources import tfds_builders

    files = fonts.font_files(font_folder)
    numbered = [(number, name, str(path)) for number, (name, path) in enumerate(files.items())]
    faces: dict[bytes, tuple] = {}
    for start in range(0, len(numbered), 2):
        for digest, face in tfds_builders._render_batch((numbered[start : start + 2], 32)):
            faces[digest] = min(face, faces.get(digest, face))
    examples = dict(one for _, name, pixels in faces.values() for one in tfds_builders.glyph_examples(name, pixels))
    rows = fonts.read(Config(data=DataConfig(source="fonts", path=str(font_folder))))
    assert sorted(examples) == sorted(rows.ids.tolist())
    for i, one in enumerate(rows.ids.tolist()):
        np.testing.assert_array_equal(examples[one]["image"], rows.inputs[i])


def test_zappos_builder_has_the_rows_of_the_source(tfds, tmp_path):
    """The same labels, the files' own bytes; and source tfds reads them back as source zappos50k does."""
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
    order = {one: i for i, one in enumerate(theirs.ids.tolist())}
    rows = [order[one] for one in ours.ids.tolist()]
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
    """The command line of TFDS, as the module's docstring gives it."""
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
