"""What docs/RESULTS.md rests on: every experiment as a list of runs, each a real command with its arguments."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

VARIANTS = ("standard", "specialists", "fixed", "learned", "learned_disjoint")
SEEDS = (0, 1, 2, 3, 4)
FEW = (0, 1, 2)  # seeds where many settings are compared
TRIPLETS = (2_500, 12_500, 50_000, 200_000)  # for each condition; the last one is the default
SHOES = ("category", "gender", "colour", "season", "usage")
EMOJI = ("identity", "style", "group", "subgroup")
NEW = "usage"  # the notion of the shoes that is kept from some trainings
ABLATIONS = {
    "lambda 1, on the embeddings' norm": [("loss.embedding_weight", value) for value in (0.0, 5e-4, 5e-2)],
    "lambda 2, on the masks' norm": [("loss.mask_weight", value) for value in (0.0, 5e-3, 5e-2)],
    "dimensions": [("backbone.embedding_dim", value) for value in (16, 32, 128, 256)],
    "margin": [("loss.margin", value) for value in (0.05, 0.5, 1.0)],
    "batch norm over the three roles": [("batch_statistics", "shared")],
}


@dataclass(frozen=True)
class Run:
    """name: its folder, below that of all runs; verb and flags: of csn_jax; out: the file in that folder that is there
    when it is done; printed: whether that file holds what the command prints."""

    name: str
    verb: str
    flags: tuple[str, ...]
    out: str = "results.json"
    printed: bool = False


@dataclass(frozen=True)
class Places:
    """Where the data lie, and the runs. tiny: few runs of seconds, for tests."""

    runs: Path
    fonts: Path
    footwear: Path
    emoji: Path
    tiny: bool = False


def _data(places: Places, source: str, conditions: Sequence[str] = ()) -> tuple[str, ...]:
    """Flags that choose a set, all at 32 pixels."""
    if source == "fonts":
        flags = () if places.tiny else ("--config.data.source=fonts", f"--config.data.path={places.fonts}")
    else:
        flags = (
            "--config=configs/table.py",
            f"--config.data.path={getattr(places, source)}",
            "--config.preprocess.size=32",
        )
        flags += ("--config.data.conditions", *conditions)
    if places.tiny:
        flags += tuple(f"--config.data.{split}_triplets=200" for split in ("train", "validation", "test"))
        flags += (
            "--config.feed=device",
            "--config.batch_size=48",
            "--config.steps=4",
            "--config.eval_every=2",
            "--config.checkpoint_every=2",
        )
    return flags


def _train(places: Places, name: str, flags: Sequence[str], variant: str, seed: int) -> Run:
    own = (f"--config.variant={variant}", f"--config.seed={seed}", f"--workdir={places.runs / name}")
    return Run(name, "train", (*flags, *own))


def table1(source: str, conditions: Sequence[str] = ()) -> Callable[[Places], list[Run]]:
    """The five kinds of masks, five seeds each, on one set."""

    def runs(places: Places) -> list[Run]:
        flags = _data(places, source, conditions)
        return [
            _train(places, f"{source}/{variant}_{seed}", flags, variant, seed) for seed in SEEDS for variant in VARIANTS
        ]

    return runs


def fewer_triplets(places: Places) -> list[Run]:
    runs, flags = [], _data(places, "fonts")
    for seed in FEW:
        for variant in ("specialists", "fixed", "learned"):
            for n in TRIPLETS[-2:] if places.tiny else TRIPLETS:
                name = f"fonts/{variant}_{seed}" if n == TRIPLETS[-1] else f"fonts/{variant}_{n}_{seed}"
                more = (f"--config.data.train_triplets={n}",) if n != TRIPLETS[-1] and not places.tiny else ()
                runs.append(_train(places, name, (*flags, *more), variant, seed))
    return runs


def in_batch(places: Places) -> list[Run]:
    """configs/glyphs.py:in_batch on all fonts, beside the learned masks of table 1."""
    flags = ("--config.loss.name=batch_all", "--config.batch_size=384", "--config.steps=800", *_data(places, "fonts"))
    own = [_train(places, f"fonts/in_batch_{seed}", flags, "learned", seed) for seed in SEEDS]
    return own + [run for run in table1("fonts")(places) if "/learned_" in run.name and "disjoint" not in run.name]


def new_condition(places: Places) -> list[Run]:
    """Four notions trained; what the embedding knows of the fifth, by a probe and by a mask of its own."""
    runs, flags = [], _data(places, "footwear", [name for name in SHOES if name != NEW])
    for seed in FEW:
        for variant in ("standard", "learned"):
            name = f"footwear/without_{NEW}_{variant}_{seed}"
            workdir = f"--workdir={places.runs / name}"
            runs.append(_train(places, name, flags, variant, seed))
            runs.append(Run(name, "evaluate", (workdir, "--full", "--json"), "full.json", printed=True))
        adapted = f"footwear/adapted_{seed}"
        runs.append(Run(adapted, "adapt", (workdir, f"--condition={NEW}", f"--out={places.runs / adapted}")))
    whole = [run for run in table1("footwear", SHOES)(places) if run.name.rpartition("_")[0] == "footwear/learned"]
    return runs + whole[: len(FEW)]


def leakage(places: Places) -> list[Run]:
    """What the space of each condition tells of the others, in runs of table 1."""
    runs = []
    for source, conditions in (("fonts", ()), ("footwear", SHOES)):
        for run in table1(source, conditions)(places):
            if run.name.endswith(("/standard_0", "/learned_0", "/learned_disjoint_0")):
                flags = (f"--workdir={places.runs / run.name}", "--full", "--json")
                runs += [run, Run(run.name, "evaluate", flags, "full.json", printed=True)]
    return runs


def ablations(places: Places) -> list[Run]:
    runs, flags = [], _data(places, "fonts")
    for seed in FEW:
        runs.append(_train(places, f"fonts/learned_{seed}", flags, "learned", seed))
        for settings in ABLATIONS.values():
            for field, value in settings[:1] if places.tiny else settings:
                more = (*flags, f"--config.{field}={value}")
                runs.append(_train(places, f"fonts/{field}_{value}_{seed}", more, "learned", seed))
    return runs


EXPERIMENTS: dict[str, Callable[[Places], list[Run]]] = {
    "table1_fonts": table1("fonts"),
    "table1_footwear": table1("footwear", SHOES),
    "table1_emoji": table1("emoji", EMOJI),
    "in_batch": in_batch,
    "new_condition": new_condition,
    "leakage": leakage,
    "fewer_triplets": fewer_triplets,
    "ablations": ablations,
}


def seed_of(run: Run) -> int:
    """The seed at the end of a run's name."""
    return int(run.name.rpartition("_")[2])


def planned(places: Places, only: Sequence[str]) -> list[Run]:
    """The runs of some experiments, each once: all of the first seed before any of the second; of tiny only those."""
    runs = dict.fromkeys(run for name in only for run in EXPERIMENTS[name](places))
    return sorted((run for run in runs if not places.tiny or seed_of(run) == 0), key=seed_of)
