"""One command trains, whatever happens to it; what it leaves is what the documentation says."""

import json
import os
import shutil

import numpy as np
import pytest
import tiny

import csn_jax
from csn_jax import evaluate
from csn_jax.config import VARIANTS


def test_the_automatic_feed_changes_no_byte(on_vectors, finished_on_vectors, tmp_path):
    tiny.train(tmp_path, *on_vectors, "--config.feed=auto")
    ours, theirs = tiny.fingerprint(tmp_path), tiny.fingerprint(finished_on_vectors)
    assert ours.pop("config.json") != theirs.pop("config.json")
    assert ours == theirs


def test_a_run_leaves_the_documented_files(finished):
    results = json.loads((finished / "results.json").read_text())
    assert results["variant"] == "learned" and results["split"] == "test"
    assert results["conditions"] == ["character", "font"] and results["step"] in (8, 16, 24)
    for name in ("triplet_error", "ci95", "n_triplets"):
        assert set(results[name]) == {"overall", "by_condition"}
        assert set(results[name]["by_condition"]) == {"character", "font"}
    assert results["n_triplets"] == {"overall": 120, "by_condition": {"character": 60, "font": 60}}
    for value, (low, high) in zip(
        [results["triplet_error"]["overall"], *results["triplet_error"]["by_condition"].values()],
        [results["ci95"]["overall"], *results["ci95"]["by_condition"].values()],
        strict=True,
    ):
        assert 0 <= low <= value <= high <= 1
    overall = results["triplet_error"]["overall"]
    assert overall == pytest.approx(np.mean(list(results["triplet_error"]["by_condition"].values())))
    for name in ("config.json", "data.json", "masks.png", "neighbours_character.png", "neighbours_font.png"):
        assert (finished / name).stat().st_size > 100
    assert [name for name in os.listdir(finished) if name.startswith("events.out.tfevents.")]
    assert sorted(os.listdir(finished / "checkpoints")) == sorted({"20", "24", str(results["step"])})


def test_the_metrics_log_is_json_lines_without_a_clock(finished):
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == tiny.LINES
    trained = [line["step"] for line in lines if "train/loss" in line]
    validated = [line["step"] for line in lines if "validation/triplet_error/overall" in line]
    assert trained == list(range(2, 25, 2)) and validated == [8, 16, 24]
    words = " ".join(name for line in lines for name in line)
    assert not any(word in words for word in ("second", "time", "rate"))
    for line in lines:  # masks that are trained tell how many dimensions they use
        if "masks/used" in line:
            assert line["step"] in validated and 0 <= line["masks/shared"] <= line["masks/used"] <= 64
    assert sum("masks/used" in line for line in lines) == len(validated)
    for name in ("loss", "triplet", "embedding", "mask", "accuracy", "gradient_norm"):
        assert all(np.isfinite(line[f"train/{name}"]) for line in lines if "train/loss" in line)
    timing = [json.loads(line) for line in (finished / "timing.jsonl").read_text().splitlines()]
    assert [line["step"] for line in timing] == trained and all(line["images_per_second"] > 0 for line in timing)
    assert all(0 <= line["waiting_for_feed"] < 1 for line in timing)


def test_the_best_checkpoint_is_the_one_with_the_lowest_validation_error(finished):
    """Recomputed from the log: the first of the lowest, as a tie is no improvement."""
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    key = "validation/triplet_error/overall"
    errors = {line["step"]: line[key] for line in lines if key in line}
    assert csn_jax.load(finished).step == min(errors, key=errors.get)


def test_resuming_a_finished_run_changes_no_byte(finished, tmp_path):
    """Not even the time of a file; the lock file counts, too."""
    workdir = shutil.copytree(finished, tmp_path / "run")
    before = tiny.contents(workdir)
    results = tiny.train(workdir)
    assert results == json.loads((finished / "results.json").read_text())
    assert tiny.contents(workdir) == before


def test_a_run_killed_before_its_results_ends_with_the_same_bytes(finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    for name in ("results.json", "masks.png", "neighbours_font.png"):
        (workdir / name).unlink()
    (workdir / ".results.json.123.tmp").write_text("half of")
    tiny.train(workdir, pictures=True)
    assert tiny.fingerprint(workdir) == tiny.fingerprint(finished)
    assert set(tiny.contents(workdir)) >= {"masks.png", "neighbours_font.png"}
    assert ".results.json.123.tmp" not in tiny.contents(workdir)


D, F = 1024, 12  # of tiny.on_vectors


@pytest.fixture(scope="module")
def specialists_on_vectors(on_vectors, tmp_path_factory):
    """The workdir of finished tiny specialists on vectors. Copy it to change it."""
    workdir = tmp_path_factory.mktemp("specialists_on_vectors") / "run"
    tiny.train(workdir, *on_vectors, "--config.variant=specialists")
    return workdir


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains_and_evaluate_agrees(
    variant, on_vectors, finished_on_vectors, specialists_on_vectors, maps_on_vectors, tmp_path, capsys
):
    ready = {"learned": finished_on_vectors, "specialists": specialists_on_vectors, "maps": maps_on_vectors}
    workdir, flags = ready.get(variant, tmp_path / "run"), tiny.MAPS if variant == "maps" else ()
    results = tiny.train(workdir, *on_vectors, f"--config.variant={variant}", *flags)
    assert json.loads((workdir / "results.json").read_text()) == results and results["variant"] == variant
    capsys.readouterr()
    evaluate.main([f"--workdir={workdir}", "--json=True"])
    assert json.loads(capsys.readouterr().out) == results
    evaluate.main([f"--workdir={workdir}", "--split=validation"])
    assert f"{variant}{' masks' * (variant != 'maps')}, validation split" in capsys.readouterr().out
    evaluate.main([f"--workdir={workdir}", f"--against={finished_on_vectors}", "--json"])
    there = json.loads((finished_on_vectors / "results.json").read_text())
    against = json.loads(capsys.readouterr().out)["against"]
    for name, error in results["triplet_error"]["by_condition"].items():
        higher = there["triplet_error"]["by_condition"][name] - error
        assert against["difference"]["by_condition"][name] == pytest.approx(higher, abs=1e-12)
    assert (against["difference"]["overall"] == 0) == (workdir == finished_on_vectors)

    model = csn_jax.load(workdir)
    masks = model.masks
    assert model.conditions == ("category", "colour") and masks.dtype == np.float32 and (masks >= 0).all()
    if variant == "specialists":
        parts = [csn_jax.load(workdir / name) for name in model.conditions]
        widths = [part.masks.shape[1] for part in parts]
        assert masks.shape == (2, sum(widths)) and set(widths) <= {D, D + F}
        assert not masks[0, widths[0] :].any() and not masks[1, : widths[0]].any()
        vectors = np.random.default_rng(0).normal(size=(3, F)).astype(np.float32)
        np.testing.assert_array_equal(parts[1].embed(vectors), model.embed(vectors)[:, widths[0] :])
        x, y = model.embed(vectors[:2])
        alone = parts[1].distance(x[widths[0] :], y[widths[0] :], "colour")
        np.testing.assert_allclose(model.distance(x, y, "colour"), alone, rtol=1e-6)
        assert not (workdir / "colour" / "results.json").exists()
        assert set(results["baselines"]) == {"euclidean", "cosine", "prototypes", "linear_probe"}
        return
    served = np.isin(model.conditions, json.loads((workdir / "data.json").read_text())["raw"]["conditions"])
    raw, masks = masks[:, D:], masks[:, :D]  # where nothing that was learned is better
    if variant == "maps":
        assert model.maps.matrix.shape == (model.masks.shape[1], F) and 0 < len(np.unique(model.masks)) <= 2
        return
    assert raw.shape == (2, F * served.any()) and (raw == served[:, None]).all() and not masks[served].any()
    if variant == "standard":
        assert (masks[~served] == 1).all()
    elif variant == "fixed":
        assert (masks[~served] == np.repeat(np.eye(2), D // 2, axis=1)[~served]).all()
    else:
        assert served.all() or len(np.unique(masks[~served])) > 2


def test_specialists_resume_after_a_kill_in_the_second(on_vectors, specialists_on_vectors, tmp_path):
    """A first specialist that is whole is not trained again, and the end is that of an unbroken run."""
    workdir = shutil.copytree(specialists_on_vectors, tmp_path / "run")
    (workdir / "results.json").unlink()
    for step in (tiny.STEPS, 20):
        shutil.rmtree(workdir / "colour" / "checkpoints" / str(step))
    saved = {name: value for name, value in tiny.contents(workdir / "category").items() if "checkpoints" in name}
    tiny.train(workdir, *on_vectors, "--config.variant=specialists")
    now = tiny.contents(workdir / "category")
    assert {name: now[name] for name in saved} == saved
    for name in ("results.json", "data.json", "category/metrics.jsonl", "colour/metrics.jsonl", "colour/config.json"):
        assert (workdir / name).read_bytes() == (specialists_on_vectors / name).read_bytes()


def test_the_batch_an_item_is_embedded_in_does_not_matter(finished):
    """Also for sizes that no device count divides, and for none at all."""
    model = csn_jax.load(finished)
    images = np.random.default_rng(0).integers(0, 256, (13, 32, 32, 1), np.uint8)
    together = model.embed(images)
    assert together.shape == (13, 8) and together.dtype == np.float32
    scale = np.abs(together).max()
    for i in (0, 5, 12):
        np.testing.assert_allclose(model.embed(images[i : i + 1])[0], together[i], atol=1e-6 * scale)
    for size in (2, 3, 7):
        np.testing.assert_allclose(model.embed(images[:size]), together[:size], atol=1e-6 * scale)
    assert model.embed(images[:0]).shape == (0, 8)
    many = np.tile(images, (50, 1, 1, 1))
    np.testing.assert_allclose(model.embed(many), np.tile(together, (50, 1)), atol=1e-6 * scale)


def test_floats_are_taken_as_already_normalised(finished):
    model = csn_jax.load(finished)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), np.uint8)
    settings = tiny.config().preprocess
    normalised = ((images.astype(np.float32) / 255) - settings.mean[0]) / settings.std[0]
    expected = model.embed(images)
    np.testing.assert_allclose(model.embed(normalised), expected, atol=1e-5 * np.abs(expected).max())
    for pixels in (images.astype(np.float32), images / np.float32(255)):
        with pytest.raises(csn_jax.UserError, match="give pixels as uint8"):
            model.embed(pixels)


def test_distance_is_the_norm_of_the_masked_difference(finished):
    """Against NumPy, in float64, for single embeddings and for batches."""
    model = csn_jax.load(finished)
    x, y = model.embed(np.random.default_rng(0).integers(0, 256, (10, 32, 32, 1), np.uint8)).reshape(2, 5, 8)
    mask = model.masks[1].astype(np.float64)
    expected = np.sqrt(((x * mask - y * mask + 1e-6) ** 2).sum(-1))
    np.testing.assert_allclose(model.distance(x, y, "font"), expected, rtol=1e-5)
    assert model.distance(x[0], y[0], "font").shape == ()
    np.testing.assert_allclose(model.distance(x[0], y, "font")[0], expected[0], rtol=1e-5)
    assert not np.allclose(model.distance(x, y, "character"), expected)


def test_an_unknown_condition_is_refused_with_the_valid_ones(finished):
    model = csn_jax.load(str(finished))
    with pytest.raises(csn_jax.UserError, match=r"'fnot' \(did you mean font\?\); this model has character, font"):
        model.distance(model.masks[0], model.masks[1], "fnot")


@pytest.mark.slow
def test_the_paper_s_exact_schedule_and_a_bfloat16_network_train(tmp_path):
    """The settings that the quickstart does not use."""
    results = tiny.train(
        tmp_path, "--config.schedule=exponential", "--config.backbone.dtype=bfloat16", "--config.data.split_by=font"
    )
    assert 0 < results["triplet_error"]["overall"] < 1
    record = json.loads((tmp_path / "data.json").read_text())
    assert record["split_unit"] == "font"


def test_a_specialist_is_a_run_of_its_own(specialists_on_vectors, capsys):
    """Its folder is evaluated as any other, on its condition's triplets."""
    joined = csn_jax.load(specialists_on_vectors)
    evaluate.main([f"--workdir={specialists_on_vectors / 'colour'}", "--json"])
    alone = json.loads(capsys.readouterr().out)
    evaluate.main([f"--workdir={specialists_on_vectors}", "--json"])
    both = json.loads(capsys.readouterr().out)
    assert alone["conditions"] == ["colour"] and joined.conditions == ("category", "colour")
    assert alone["triplet_error"]["overall"] == both["triplet_error"]["by_condition"]["colour"]


def test_a_home_folder_is_found(finished_on_vectors, monkeypatch, capsys):
    """No shell expands what follows `--workdir=`."""
    monkeypatch.setenv("HOME", str(finished_on_vectors.parent))
    evaluate.main([f"--workdir=~/{finished_on_vectors.name}", f"--against=~/{finished_on_vectors.name}", "--json"])
    assert json.loads(capsys.readouterr().out)["against"]["difference"]["overall"] == 0
