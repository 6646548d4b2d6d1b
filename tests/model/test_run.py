"""A run finds its data: from another folder, after a move, and where --data.path says."""

import json
import os
import shutil
from pathlib import Path

import pytest
import tiny

from csn_jax import adapt, embed, evaluate, explore
from csn_jax.errors import UserError
from csn_jax.model.run import open_run
from csn_jax.runtime.record import read_record
from csn_jax.runtime.workdir import claim


@pytest.fixture
def project(on_vectors, tmp_path, monkeypatch):
    """A folder with a table at data/products.parquet and a run in runs/one, whose config names it from there."""
    folder = tmp_path / "project"
    (folder / "data").mkdir(parents=True)
    table = next(flag for flag in on_vectors if "data.path" in flag)
    shutil.copy(table.partition("=")[2], folder / "data" / "products.parquet")
    monkeypatch.chdir(folder)
    flags = [flag for flag in on_vectors if flag != table]
    config = tiny.config("--config.data.path=data/products.parquet", *flags)
    tiny.untrained(folder / "runs" / "one", config)
    shutil.copytree(folder / "runs" / "one", tmp_path / "far" / "one")
    (tmp_path / "other").mkdir()
    return folder


def other_table(path: Path) -> None:
    """Another table at a path."""
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pq.read_table("../project/data/products.parquet").slice(1), path)


def n_items(run: Path) -> int:
    return len(open_run(run).dataset().items.ids)


def test_a_relative_path_begins_where_training_was_started(project, tmp_path, monkeypatch):
    """Wherever the workdir lies, and also if the present folder has another table of that name."""
    assert read_record(project / "runs" / "one").folder == str(project)
    monkeypatch.chdir(tmp_path / "other")
    other_table(Path("data/products.parquet"))
    for run in (project / "runs" / "one", Path("../project/runs/one"), tmp_path / "far" / "one"):
        assert n_items(run) == 120
    monkeypatch.chdir(project)
    assert open_run("runs/one").placed() == open_run("runs/one").config  # as it was written, where it still holds


def test_a_project_that_moved_finds_its_data_above_the_workdir(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    project.rename(tmp_path / "moved")
    assert n_items(tmp_path / "moved" / "runs" / "one") == 120
    monkeypatch.chdir(tmp_path / "moved")
    assert n_items(tmp_path / "far" / "one") == 120  # here


def test_a_run_of_before_has_no_folder(project, tmp_path, monkeypatch):
    """Its paths begin here, or above the workdir."""
    path = project / "runs" / "one" / "data.json"
    raw = json.loads(path.read_text())
    del raw["folder"]
    path.write_text(json.dumps(raw))
    assert n_items(project / "runs" / "one") == 120
    monkeypatch.chdir(tmp_path / "other")
    assert n_items(project / "runs" / "one") == 120
    with pytest.raises(UserError, match="field is missing or of another type"):
        path.write_text(json.dumps(raw | {"folder": 3}))
        read_record(path.parent)


def test_data_that_is_gone_is_asked_for_and_other_data_refused(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "other")
    other_table(tmp_path / "other.parquet")
    shutil.move(project / "data" / "products.parquet", "here.parquet")
    run = project / "runs" / "one"
    with pytest.raises(UserError, match=f"trained on {project}/data/products.parquet, .* not there; .*--data.path"):
        open_run(run).dataset()
    assert len(open_run(run, "here.parquet").dataset().items.ids) == 120
    with pytest.raises(UserError, match="was trained on other data: items_sha256"):
        open_run(run, "../other.parquet").dataset()
    with pytest.raises(UserError, match="there.parquet is not there; give the place"):
        open_run(run, "there.parquet").dataset()


def test_training_again_from_another_folder_is_the_same_run(project, tmp_path, monkeypatch):
    """With the same table there. An absolute path needs no folder."""
    shutil.copytree(project / "data", tmp_path / "other" / "data")
    monkeypatch.chdir(tmp_path / "other")
    config = open_run(project / "runs" / "one").config
    from csn_jax.data.dataset import load_dataset

    again = load_dataset(config).record
    assert again.folder == str(tmp_path / "other")
    claim(project / "runs" / "one", config, again)
    assert read_record(project / "runs" / "one").folder == str(project)
    assert load_dataset(open_run(tmp_path / "far" / "one").placed()).record.folder is None


def test_triplets_move_with_the_data(project, tmp_path, monkeypatch):
    path = project / "runs" / "one" / "config.json"
    raw = json.loads(path.read_text())
    raw["data"]["triplets"] = "data/triplets"
    path.write_text(json.dumps(raw))
    (project / "data" / "triplets").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert open_run(path.parent).placed().data.triplets == str(project / "data" / "triplets")


COMMANDS = {
    "evaluate": (evaluate, []),
    "embed": (embed, ["--split=test", "--out=e.npz"]),
    "adapt": (adapt, ["--condition=size", "--out=adapted"]),
    "explore": (explore, ["--out=page"]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_reads_the_data_takes_its_place(name, finished_on_vectors, tmp_path, monkeypatch, capsys):
    command, flags = COMMANDS[name]
    run = shutil.copytree(finished_on_vectors, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    os.symlink(config["data"]["path"], tmp_path / "moved.parquet")
    config["data"]["path"] = "/gone/products.parquet"
    (run / "config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("csn_jax.explore.folder.page_files", lambda *_: {"index.html": b""})  # without t-SNE
    with pytest.raises(UserError, match="trained on /gone/products.parquet.*--data.path"):
        command.main(["--workdir=run", *flags])
    command.main(["--workdir=run", *flags, "--data.path=moved.parquet"])
    assert capsys.readouterr().out
    if name == "adapt":  # the new run knows the new place
        assert open_run("adapted").dataset().record.names == ("category", "colour", "size")


def test_embed_needs_no_place_for_a_table(capsys):
    with pytest.raises(UserError, match="--data.path is given without --split"):
        embed.main(["--workdir=run", "--table=t.csv", "--out=e.npz", "--data.path=t.csv"])
