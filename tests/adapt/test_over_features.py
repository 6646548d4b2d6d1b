"""adapt on a run of masks over a file of its features: the result has maps over these. The oracle is the run itself."""

import dataclasses
import json

import numpy as np
import pytest
import shop
from test_adapt import N, folder, known_run, learn, triplets_of_colour, write_triplets  # noqa: F401  (a fixture)

import csn_jax
from csn_jax import adapt, embed, search
from csn_jax.adapt import over_features
from csn_jax.backbones.plain import PROJECTION_SCALE
from csn_jax.config import DataConfig
from csn_jax.core.steps import initial_state
from csn_jax.model.network import network_of
from csn_jax.model.run import open_run
from csn_jax.runtime.record import read_record
from csn_jax.runtime.whole import write_run


@pytest.fixture(scope="module")
def masked(folder, tmp_path_factory):  # noqa: F811
    """A run with masks over five dimensions, in which little of the colour is left, and its features of the shop."""
    counts = {"train_triplets": 400, "validation_triplets": 100, "test_triplets": 300}
    path, names = str(folder / "products.parquet"), ("category", "tags")
    data = DataConfig("table", path, conditions=names, vectors="vector", **counts)
    known = open_run(known_run(tmp_path_factory.mktemp("known") / "run", data))
    config = dataclasses.replace(known.config, backbone=dataclasses.replace(known.config.backbone, embedding_dim=5))
    network, (_, state) = network_of(config, known.record), known.restore()
    rng = np.random.default_rng(1)
    kernel = rng.normal(0, 1, (12, 5)).astype(np.float32) / PROJECTION_SCALE
    kernel[4:7] /= 100  # the colour
    params = {"fc": {"kernel": kernel, "bias": rng.normal(0, 1, 5).astype(np.float32)}}
    params = network.state.params["backbone"] | params
    beta = np.array([[1, 0.5, 0, -1, 2], [0.3, 0, 1, 1, 0.7]], np.float32)
    workdir = tmp_path_factory.mktemp("masked") / "run"
    write_run(workdir, config, known.record, initial_state(params, state.statistics, beta, network.optimizer))
    features = workdir.with_name("features.parquet")
    embed.main([f"--workdir={workdir}", "--split=all", f"--out={features}", "--features"])
    return workdir, features


@pytest.fixture(scope="module")
def adapted(masked, tmp_path_factory):
    """(workdir, model, report) with colour, from the labels in the file of features."""
    workdir, features = masked
    out = tmp_path_factory.mktemp("over") / "new"
    before = features.read_bytes()
    model, report = learn(workdir, out, f"--index={features}")
    assert features.read_bytes() == before
    return out, model, report


def test_the_old_conditions_have_the_same_distances(masked, adapted):
    old, (_, new, _) = csn_jax.load(masked[0]), adapted
    vectors = shop.vectors(shop.columns(N))
    features = old.features(vectors)
    embedded = old.embed(vectors)
    assert new.conditions == (*old.conditions, "colour") and new.input_shape == (12,)
    assert new.embed(features).tobytes() == features.tobytes()
    for name in old.conditions:
        here = np.linalg.norm((embedded[:100] - embedded[100:200]) * old.mask(name), axis=1)
        view = features.astype(np.float64) @ new.maps.matrix[new.mask(name) > 0].T.astype(np.float64)
        np.testing.assert_allclose(np.linalg.norm(view[:100] - view[100:200], axis=1), here, rtol=2e-5, atol=2e-5)
    far = np.random.default_rng(0).normal(0, 5, (2, 12)).astype(np.float32)  # in no direction of the shop's
    left, right = old.embed(far), new.distance(*old.features(far), "tags")
    assert right == pytest.approx(np.linalg.norm((left[0] - left[1]) * old.mask("tags")), rel=1e-4)


def test_the_new_condition_uses_what_the_embedding_has_lost(masked, adapted, tmp_path):
    _, _, report = adapted
    _, masked_report = learn(masked[0], tmp_path / "masks")
    assert report["triplet_error"] < 0.1 < masked_report["triplet_error"] - report["triplet_error"]
    assert report["form"] in ("map", "diagonal") and not report["own_data"]


def test_the_file_of_features_is_searched_as_it_is(masked, adapted, capsys):
    (_, features), (out, *_) = masked, adapted
    capsys.readouterr()
    search.main(
        [
            f"--index={features}",
            f"--workdir={out}",
            f"--id={shop.columns(N)['image'][7]}",
            "--json",
            "--condition=colour",
        ]
    )
    hits = json.loads(capsys.readouterr().out)["hits"]
    colours = dict(zip(shop.columns(N)["image"], shop.columns(N)["colour"], strict=True))
    query = colours[shop.columns(N)["image"][7]]
    assert [colours[hit["id"]] for hit in hits].count(query) >= 9


def test_one_more_condition_after_it(masked, adapted, tmp_path):
    """From triplets; the condition before keeps its bits."""
    (_, features), (out, model, _) = masked, adapted
    path = write_triplets(tmp_path / "people.csv", triplets_of_colour(60))
    new, report = learn(out, tmp_path / "more", f"--table={path}", f"--index={features}", condition="hue")
    assert report["n_triplets"] == 60 and new.conditions[-2:] == ("colour", "hue")
    for name in model.conditions:
        rows = [part.maps.matrix[part.mask(name) > 0].tobytes() for part in (model, new)]
        assert rows[0] == rows[1]


def test_what_the_masks_cannot_say_is_refused(masked, tmp_path):
    """Features given to a search under masks, and a run in which a condition keeps the raw vectors."""
    workdir, features = masked
    flags = (f"--index={features}", f"--workdir={workdir}", "--id=x", "--condition=tags")
    with pytest.raises(csn_jax.UserError, match="holds features of this run's network"):
        search.main(flags)
    old = open_run(workdir)
    record = dataclasses.replace(old.record, raw={"unit": False, "conditions": ["tags"], "scale": 1.0})
    write_run(tmp_path / "raw", old.config, record, old.restore()[1])
    out = tmp_path / "raw.parquet"
    embed.main([f"--workdir={tmp_path / 'raw'}", "--split=all", f"--out={out}", "--features"])
    flags = (f"--workdir={tmp_path / 'raw'}", "--condition=colour", f"--index={out}", f"--out={tmp_path / 'no'}")
    with pytest.raises(csn_jax.UserError, match="'tags' .* keeps the raw vectors"):
        adapt.main(flags)
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("n, width", [(40, 17), (4, 17), (40, 3)])
def test_axes_begin_with_the_principal_ones_and_span_the_layer(n, width, monkeypatch):
    """Orthogonal, of one length; also with fewer vectors than numbers, and with vectors of a plane."""
    monkeypatch.setattr(over_features, "AXES", 5)
    rng = np.random.default_rng(0)
    layer = rng.normal(0, 1, (2, width))
    vectors = rng.normal(0, 1, (n, 2)) @ rng.normal(0, 1, (2, width)) if n == 40 else rng.normal(0, 1, (n, width))
    _, rows = over_features.axes_with(layer, vectors.astype(np.float32))
    size = np.square(rows[0]).sum()
    np.testing.assert_allclose(rows.astype(float) @ rows.T / size, np.eye(len(rows)), atol=1e-4)
    np.testing.assert_allclose(layer @ rows.T @ rows / size, layer, atol=1e-4)
    assert len(rows) == min(width, min(5, n - 1) + 2)
    centred = vectors - vectors.mean(axis=0)
    spread = np.linalg.svd(centred, compute_uv=False)
    np.testing.assert_allclose(np.linalg.norm(centred @ rows[0]) / np.sqrt(size), spread[0], rtol=1e-3)


def test_other_files_are_read_as_before(masked, tmp_path):
    """A run's own embeddings stay embeddings."""
    workdir, _ = masked
    out = tmp_path / "embedded.parquet"
    embed.main([f"--workdir={workdir}", "--split=all", f"--out={out}"])
    model, _ = learn(workdir, tmp_path / "new", f"--index={out}")
    assert model.maps is None and read_record(tmp_path / "new").names == ("category", "tags", "colour")
