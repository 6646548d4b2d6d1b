"""Kill long work other than training at random moments, give it again until it ends, and compare with an unbroken one.

    python experiments/reliability/kill_work.py --work=embed --kills=40

embed: a folder of images to an index; update, vectors: the same after a third of the images, or of a table's vectors,
changed, with the old index in place; qdrant, postgres: uploads of such a change; fonts: rendering a folder of fonts;
table: decoding a table's images. The moments come from the seed: at a random second, or when some more pieces are
there. After a kill there is nothing under the final name (or the old file) or the whole of it, and in a store every row
is an old or a new one; each life goes on after the pieces that are there; the end has the bytes of an unbroken one, and
a store its rows. Ends with one line of JSON; exits 1 otherwise.
"""

import argparse
import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import lives
import shop
import tiny
import uploads

CHUNK = 8  # items that embed takes at a time here
KILLS_A_RUN = 4


class Work(NamedTuple):
    """work(place): what a life does, with all its files in a folder; final: patterns of the names that must be whole or
    absent, or nothing where all contents must; done(place): how many pieces are there; resumed: the pattern of what a
    life prints when it finds pieces; old: what may be there instead, from before the work; contents(place): what there
    is, by name."""

    work: Callable[[Path], Callable[[], None]]
    final: tuple[str, ...]
    done: Callable[[Path], int]
    resumed: str
    old: Collection[Any] = ()
    contents: Callable[[Path], dict[str, Any]] = lambda place: {
        path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()
    }


def embedding(folder: Path) -> Work:
    import numpy as np
    from PIL import Image

    images = folder / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for i in range(150 * CHUNK):
        Image.fromarray(rng.integers(0, 256, (32, 32), np.uint8)).save(images / f"{i:04}.png")
    return index_of(folder, f"--images={images}", *tiny.ARGUMENTS)


def index_of(folder: Path, items: str, *run: str) -> Work:
    """embed of the items that a flag names, by the model of a tiny run."""
    workdir = folder / "model"
    lives.lived(lives.command("train", [*run, "--config.feed=device", f"--workdir={workdir}"]), folder / "log")

    def work(place: Path, *flags: str):
        def run() -> None:
            from csn_jax.data import to_embed

            to_embed.CHUNK = CHUNK
            lives.command("embed", [f"--workdir={workdir}", items, f"--out={place / 'index.parquet'}", *flags])()

        return run

    def done(place: Path) -> int:
        return CHUNK * len(list(place.glob(".index.parquet.parts/[0-9]*.npz")))

    return Work(work, ("*.parquet",), done, r"resuming after ([\d,]+) of")


def updated(folder: Path, made: Work, change: Callable[[], None]) -> Work:
    """embed --update after a change of the items."""
    before = folder / "before"
    before.mkdir()
    lives.lived(made.work(before), folder / "log")
    old = (before / "index.parquet").read_bytes()
    change()

    def work(place: Path):
        def run() -> None:
            if not (place / "index.parquet").exists():
                (folder / "copy").write_bytes(old)
                os.replace(folder / "copy", place / "index.parquet")
            made.work(place, "--update")()

        return run

    return made._replace(work=work, old=(old,))


def update(folder: Path) -> Work:
    import numpy as np
    from PIL import Image

    def change() -> None:
        images = sorted((folder / "images").iterdir())
        for i, path in enumerate(random.Random(1).sample(images, len(images) // 3)):
            path.unlink()
            if i % 3:
                name = path if i % 3 == 1 else path.with_name(f"new {path.name}")
                Image.fromarray(np.random.default_rng(i).integers(0, 256, (32, 32), np.uint8)).save(name)

    return updated(folder, embedding(folder), change)


def vectors(folder: Path) -> Work:
    columns = shop.columns(150 * CHUNK)
    table, values = folder / "items.parquet", shop.vectors(columns)
    shop.write(table, columns, vector=values)

    def change() -> None:
        values[::3] += 1
        new = {name: cells[9:] for name, cells in columns.items()} | {
            "image": [f"new/{i}" for i in range(9, len(values))]
        }
        new["image"][30:] = columns["image"][39:]
        shop.write(table, new, vector=values[9:])

    run = lives.tiny_run("vectors", folder)
    return updated(folder, index_of(folder, f"--table={table}", *run), change)


def upload(folder: Path, store: uploads.Qdrant | uploads.Postgres) -> Work:
    """Bringing a store that holds other items to these."""
    first, then = uploads.before(), uploads.after()
    wanted, old = uploads.digests(then), folder / "old"
    old.mkdir()
    lives.lived(lambda: store.send(old, first), folder / "log")

    def work(place: Path):
        def run() -> None:
            began = (place / "began").exists()
            if not began:
                store.send(place, first)
                (place / "began").touch()
            sent = store.send(place, then)
            if began:
                print(f"goes on after {len(then.ids) - sent}", flush=True)

        return run

    done = lambda place: len(wanted & store.digests(place)) if (place / "began").exists() else 0  # noqa: E731
    return Work(work, (), done, r"goes on after (\d+)", [*store.contents(old).values()], store.contents)


def dataset(argv: list[str]) -> Work:
    """Reading a source into the cache."""

    def work(place: Path):
        def run() -> None:
            from csn_jax import cli, train
            from csn_jax.data import cache, dataset

            os.environ["CSN_JAX_CACHE"] = str(place)
            made = cache._made

            def spoken(*arguments):
                found = made(*arguments)
                print(f"goes on after {len(found[0])}", flush=True)
                return found

            cache._made = spoken
            few = [f"--config.data.{split}_triplets=200" for split in ("train", "validation", "test")]
            dataset.load_dataset(cli.parse(train.Args, [*argv, *few], "train").config)

        return run

    def done(place: Path) -> int:
        return sum(path.read_bytes().count(b"\n") for path in place.glob("*.made"))

    return Work(work, ("*.npy",), done, r"goes on after (\d+)")


def fonts(folder: Path) -> Work:
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return dataset(["--config.data.source=fonts", f"--config.data.path={path}"])


def table(folder: Path) -> Work:
    import numpy as np
    from PIL import Image

    rng, rows = np.random.default_rng(0), ["image,colour"]
    for i in range(300):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
        coarse.resize((800, 600), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg")
        rows.append(f"{i}.jpg,{'red' if i % 2 else 'blue'}")
    (folder / "items.csv").write_text("\n".join(rows))
    mean = ["--config.preprocess.mean", "0.5", "0.5", "0.5", "--config.preprocess.std", "0.3", "0.3", "0.3"]
    return dataset(["--config.data.source=table", f"--config.data.path={folder / 'items.csv'}", *mean])


WORKS = {"embed": embedding, "update": update, "vectors": vectors, "fonts": fonts, "table": table}
WORKS |= {
    "qdrant": lambda folder: upload(folder, uploads.Qdrant()),
    "postgres": lambda folder: upload(folder, uploads.Postgres()),
}


def contest(name: str, kills: int, seed: int, folder: Path) -> dict:
    """Run until enough lives were killed: the report."""
    rng, log, faults = random.Random(seed), folder / "log", []
    work = WORKS[name](folder)
    whole = folder / "whole"
    whole.mkdir()
    began = time.monotonic()
    status = lives.lived(work.work(whole), log)
    took = time.monotonic() - began
    expected = work.contents(whole)
    if status != 0 or not (any(whole.glob(work.final[0])) if work.final else expected.get("head")):
        return {"work": name, "faults": ["the unbroken work failed", log.read_text(errors="replace")[-5000:]]}
    done, runs, resumed = 0, 0, 0
    while done < kills:
        place, killed, ended = folder / f"run{runs}", 0, False
        place.mkdir()
        while not ended:
            before, told = work.done(place), folder / "told"
            told.unlink(missing_ok=True)
            child = lives.begin(work.work(place), told)
            if done < kills and killed < KILLS_A_RUN:
                wait(lambda place=place, before=before: work.done(place) - before, rng, took)
                os.kill(child, signal.SIGKILL)
            status = lives.end(child)
            ended = status == 0
            done, killed = done + (status == -signal.SIGKILL), killed + (status == -signal.SIGKILL)
            if status not in (0, -signal.SIGKILL):
                faults.append(f"run {runs}: a life ended {status}: {told.read_text(errors='replace')[-2000:]}")
                break
            standing = {path.name: path.read_bytes() for pattern in work.final for path in place.glob(pattern)}
            for piece, content in (standing if work.final else work.contents(place)).items():
                if content not in (expected.get(piece), *work.old):
                    faults.append(f"run {runs}: {piece} stands there and is not whole")
            said = re.search(work.resumed, told.read_text(errors="replace"))
            after = int(said[1].replace(",", "")) if said else None
            if after is not None and after != before:
                faults.append(f"run {runs}: {before} pieces were there and a life went on after {after}")
            resumed += bool(after)
        if ended and (content := work.contents(place)) != expected:
            faults.append(f"run {runs} ended with {sorted(content)[:9]} or other bytes")
        runs += 1
        shutil.rmtree(place)
    return {
        "work": name,
        "seed": seed,
        "kills": done,
        "runs": runs,
        "went_on": resumed,
        "seconds_unbroken": round(took, 1),
        "minutes": round((time.monotonic() - began) / 60, 1),
        "faults": faults,
    }


def wait(pieces: Callable[[], int], rng: random.Random, took: float) -> None:
    """Wait for the moment of a kill, as long as a whole unbroken work at most."""
    began, wanted = time.monotonic(), rng.choice((0, 1, 5, 20))
    second = took if wanted else rng.uniform(0, took)
    while time.monotonic() - began < second and not (wanted and pieces() >= wanted):
        time.sleep(0.002)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", choices=sorted(WORKS), default="embed")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    return lives.contested("kill_work", lambda folder: contest(args.work, args.kills, args.seed, folder))


if __name__ == "__main__":
    sys.exit(main())
