"""The experiments behind docs/RESULTS.md: each is a list of runs, and each run is a real command with its flags."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from csn_jax.config import Config

VARIANTS = ("standard", "specialists", "fixed", "learned", "learned_disjoint")
SEEDS = (0, 1, 2, 3, 4)
FEW = (0, 1, 2)  # the seeds of experiments that compare many settings
TRIPLETS = (2_500, 12_500, 50_000, Config().data.train_triplets)  # per condition; the last is that of table 1
SHOES = ("category", "gender", "colour", "season", "usage")
EMOJI = ("identity", "style", "group", "subgroup")
VECTORS = {  # features of frozen networks (make_features.py): conditions of each set
    "footwear": SHOES,
    "emoji": EMOJI,
    "glyphs": ("character", "font"),
    "names": ("script", "category", "direction"),
}
CONDITIONS = {"fonts": ("character", "font"), "footwear": SHOES, "emoji": EMOJI}
STEPS = Config().steps  # per run; all specialists of a run share them
IN_BATCH_STEPS = 800
LONGER = ("fonts", "footwear")  # the data sets of the longer training
PRETRAINED_STEPS = 1_500  # of 128 triplets
NEW = "usage"  # the condition of the shoes that some trainings leave out
ABLATIONS = {  # title: (data set, field of Config, values)
    "lambda 1, weight of the embedding norm": ("fonts", "loss.embedding_weight", (0.0, 5e-4, 5e-2)),
    "lambda 2, weight of the mask norm": ("fonts", "loss.mask_weight", (0.0, 5e-3, 5e-2)),
    "embedding dimensions": ("fonts", "backbone.embedding_dim", (16, 32, 128, 256)),
    "margin": ("fonts", "loss.margin", (0.05, 0.5, 1.0)),
    "batch norm over the roles": ("fonts", "batch_statistics", ("shared",)),
    "batch norm over the roles, on shoes": ("footwear", "batch_statistics", ("by_role",)),
}
MAP_ABLATIONS = {  # of maps on the features of shoes: title: (field of Config, values)
    "rows of a map, r": ("maps.rank", (8, 16, 64)),
    "principal axes, k": ("maps.axes", (64, 128, 512)),
    "pull towards the raw geometry": ("maps.pulls", (1e-4, 1e-3, 1e-2)),
}


TAUGHT = (  # source, condition, ask, answers
    ("footwear", "usage", "values", 200),
    ("footwear", "colour", "values", 200),
    ("footwear", "usage", "grid", 60),
)
WRONG = (0.0, 0.1)  # shares of wrong answers of simulated people


@dataclass(frozen=True)
class Run:
    """One command, and the file that shows that it is done.

    name: its folder, inside the folder of all runs.
    verb, flags: a command of csn_jax, or a script of this folder, and its flags.
    out: the file in the run's folder that exists when the command is done.
    printed: whether that file holds what the command prints.
    """

    name: str
    verb: str
    flags: tuple[str, ...]
    out: str = "results.json"
    printed: bool = False


@dataclass(frozen=True)
class Places:
    """The paths of the data and the runs. tiny: plan few runs that take seconds, for tests."""

    runs: Path
    fonts: Path
    footwear: Path
    emoji: Path
    vectors: Path
    tiny: bool = False


def _run(
    places: Places,
    source: str,
    variant: str,
    seed: int,
    name: str = "",
    flags: Sequence[str] = (),
    conditions: Sequence[str] | None = None,
) -> Run:
    """A training at 32 pixels.

    All variants take the same number of steps in total: each specialist takes its condition's share of them.
    """
    conditions = CONDITIONS[source] if conditions is None else conditions
    steps = 4 if places.tiny else STEPS
    if variant == "specialists":
        steps //= min(len(conditions), steps)
    name = f"{source}/{name or variant}_{seed}"
    own = (f"--config.variant={variant}", f"--config.seed={seed}", f"--config.steps={steps}")
    workdir = f"--workdir={places.runs / name}"
    return Run(name, "train", (*_data(places, source, conditions), *own, *flags, workdir))


def _data(places: Places, source: str, conditions: Sequence[str]) -> tuple[str, ...]:
    if source == "fonts":
        flags = () if places.tiny else ("--config.data.source=fonts", f"--config.data.path={places.fonts}")
    else:
        flags = (
            "--config=configs/table.py",
            f"--config.data.path={getattr(places, source)}",
            "--config.preprocess.size=32",
            "--config.data.conditions",
            *conditions,
        )
    return flags + _brief(places)


def _brief(places: Places) -> tuple[str, ...]:
    """Flags of a tiny run."""
    if not places.tiny:
        return ()
    return (
        *(f"--config.data.{split}_triplets=200" for split in ("train", "validation", "test")),
        "--config.feed=device",
        "--config.batch_size=48",
        "--config.eval_every=2",
        "--config.checkpoint_every=2",
    )


def _on_vectors(places: Places, name: str, split: int, flags: Sequence[str] = (), source: str = "footwear") -> Run:
    """A training on feature vectors with the defaults of configs/features.py, with a split of its own."""
    own = ("--config=features", f"--config.data.path={places.vectors / source}.parquet", f"--config.data.seed={split}")
    if not any(flag == "--config.data.conditions" for flag in flags):
        flags = ("--config.data.conditions", *VECTORS[source], *flags)
    steps = ("--config.steps=4",) if places.tiny else ()
    name = f"vectors_{source}/{name}_{split}"
    return Run(name, "train", (*own, *_brief(places), *steps, *flags, f"--workdir={places.runs / name}"))


def masks(places: Places) -> list[Run]:
    """How many dimensions the masks of table 1 use, from start to end of training."""
    runs = [run for source in CONDITIONS for run in table1(source)(places)]
    return [run for run in runs if run.name.rpartition("/")[2].startswith("learned")]


def table1(source: str) -> Callable[[Places], list[Run]]:
    """The five variants, five seeds each, on one data set."""
    return lambda places: [_run(places, source, variant, seed) for seed in SEEDS for variant in VARIANTS]


def more_steps(places: Places) -> list[Run]:
    """Learned masks with C times the steps of table 1 for C conditions, and specialists with all its steps each."""
    runs = []
    for source in LONGER:
        for seed in FEW:
            for variant in ("learned", "specialists"):
                n = len(CONDITIONS[source]) if variant == "learned" else 1
                steps = f"--config.steps={n * (4 if places.tiny else STEPS)}"
                runs.append(_run(places, source, variant, seed))
                runs.append(_run(places, source, variant, seed, f"{variant}_longer", (steps,)))
    return runs


def fewer_triplets(places: Places) -> list[Run]:
    """Specialists, fixed and learned masks with fewer training triplets, on fonts."""
    runs = []
    for seed in FEW:
        for variant in ("specialists", "fixed", "learned"):
            for n in TRIPLETS[-2:] if places.tiny else TRIPLETS:
                if n == TRIPLETS[-1]:
                    runs.append(_run(places, "fonts", variant, seed))
                else:
                    flags = () if places.tiny else (f"--config.data.train_triplets={n}",)
                    runs.append(_run(places, "fonts", variant, seed, f"{variant}_{n}", flags))
    return runs


def in_batch(places: Places) -> list[Run]:
    """configs/glyphs.py:in_batch on all fonts, compared with the learned masks of table 1."""
    flags = ("--config.loss.name=batch_all", "--config.batch_size=384")
    if not places.tiny:
        flags += (f"--config.steps={IN_BATCH_STEPS}",)
    return [
        run
        for s in SEEDS
        for run in (_run(places, "fonts", "learned", s), _run(places, "fonts", "learned", s, "in_batch", flags))
    ]


def new_condition(places: Places) -> list[Run]:
    """Train four conditions, then measure the fifth: with a linear probe and with a new mask."""
    runs, known = [], [name for name in SHOES if name != NEW]
    for seed in FEW:
        for variant in ("standard", "learned"):
            run = _run(places, "footwear", variant, seed, f"without_{NEW}_{variant}", conditions=known)
            workdir = f"--workdir={places.runs / run.name}"
            runs += [run, Run(run.name, "evaluate", (workdir, "--full", "--json"), "full.json", printed=True)]
        few = (workdir, f"--condition={NEW}")
        runs.append(Run(run.name, "few_triplets.py", few, "few_triplets.json", printed=True))
        if seed == FEW[0]:  # pixels do not depend on the seed
            runs.append(Run(run.name, "pixel_probe.py", (workdir,), "pixels.json", printed=True))
        runs.append(_run(places, "footwear", "learned", seed))
    return runs


def frozen(places: Places) -> list[Run]:
    """Shoes on a network that learned emoji: train only the masks and the last layer, or tune everything."""
    teacher = _run(places, "emoji", "standard", SEEDS[0])
    exported = places.runs / teacher.name / "exported"
    flags = ("export", f"--workdir={places.runs / teacher.name}", f"--out={exported}")
    runs = [teacher, Run(teacher.name, "port", flags, "exported/model.safetensors")]
    init = f"--config.backbone.init={exported / 'model.safetensors'}"
    for seed in FEW:
        runs.append(_run(places, "footwear", "learned", seed))
        runs.append(_run(places, "footwear", "learned", seed, "frozen", (init, "--config.backbone.freeze=all")))
        runs.append(_run(places, "footwear", "learned", seed, "tuned", (init,)))
    return runs


def pretrained(places: Places) -> list[Run]:
    """Masks and specialists over a frozen network with ImageNet weights, at 112 pixels, and the same from scratch.

    All take the same number of triplets in total; `specialists_longer` as many each.
    """
    runs, network = [], ("--config.preprocess.size=112",)
    if places.tiny:
        network = ("--config.preprocess.size=32", "--config.backbone.name=small", "--config.backbone.init=")
    for seed in FEW:
        for variant in ("specialists", "fixed", "learned_disjoint", "specialists_longer"):
            variant, longer, _ = variant.partition("_longer")
            name = f"pretrained_footwear/frozen_{variant}{longer}_{seed}"
            steps = 4 if places.tiny else PRETRAINED_STEPS
            if variant == "specialists" and not longer:
                steps //= min(len(SHOES), steps)
            flags = (
                "--config=table_pretrained:frozen",
                f"--config.data.path={places.footwear}",
                "--config.data.conditions",
                *SHOES,
                *network,
                *_brief(places),
                "--config.feed=device",
                f"--config.variant={variant}",
                f"--config.seed={seed}",
                f"--config.steps={steps}",
            )
            runs.append(Run(name, "train", (*flags, f"--workdir={places.runs / name}")))
            if not longer:
                runs.append(_run(places, "footwear", variant, seed))
    return runs


def mixtures(places: Places) -> list[Run]:
    """Search under two conditions at once, with runs of table 1."""
    runs = []
    for seed in FEW:
        for variant in ("standard", "learned"):
            run = _run(places, "footwear", variant, seed)
            index = f"{places.runs / run.name}/test.npz"
            embed = (f"--workdir={places.runs / run.name}", "--split=test", f"--out={index}")
            search = (f"--index={index}", "--conditions", *SHOES)
            runs += [run, Run(run.name, "embed", embed, "test.npz")]
            runs.append(Run(run.name, "mixtures.py", search, "mixtures.json", printed=True))
    return runs


def leakage(places: Places) -> list[Run]:
    """What the space of each condition reveals about other attributes, with runs of table 1."""
    runs = []
    for source in ("fonts", "footwear"):
        for variant in ("standard", "learned", "learned_disjoint"):
            run = _run(places, source, variant, SEEDS[0])
            flags = (f"--workdir={places.runs / run.name}", "--full", "--json")
            runs += [run, Run(run.name, "evaluate", flags, "full.json", printed=True)]
    return runs


def ablations(places: Places) -> list[Run]:
    """Learned masks with one setting changed at a time."""
    runs = []
    for seed in FEW:
        for source, field, values in ABLATIONS.values():
            runs.append(_run(places, source, "learned", seed))
            for value in values[:1] if places.tiny else values:
                runs.append(_run(places, source, "learned", seed, f"{field}_{value}", (f"--config.{field}={value}",)))
    return runs


def vectors(places: Places) -> list[Run]:
    """Maps on the features of frozen networks, five splits of each set."""
    return [_on_vectors(places, "maps", split, source=source) for split in SEEDS for source in VECTORS]


def vectors_new(places: Places) -> list[Run]:
    """A new condition on runs of vectors that were trained without it: beside maps, and beside masks."""
    runs, known = [], ("--config.data.conditions", *(name for name in SHOES if name != NEW))
    for split in FEW:
        for variant in ("maps", "learned"):
            flags = (f"--config.variant={variant}",)
            run = _on_vectors(places, f"without_{NEW}_{variant}", split, (*known, *flags))
            few = (f"--workdir={places.runs / run.name}", f"--condition={NEW}", *(("--tiny",) if places.tiny else ()))
            runs += [run, Run(run.name, "few_triplets_vectors.py", few, "few_triplets.json", printed=True)]
            runs.append(_on_vectors(places, variant, split, () if variant == "maps" else flags))
    return runs


def vectors_ablations(places: Places) -> list[Run]:
    """Maps on the features of shoes, with one setting changed at a time."""
    runs = []
    for split in FEW:
        runs.append(_on_vectors(places, "maps", split))
        for field, values in MAP_ABLATIONS.values():
            for value in values[:1] if places.tiny else values:
                runs.append(_on_vectors(places, f"{field}_{value}", split, (f"--config.{field}", str(value))))
    return runs


def taught(places: Places) -> list[Run]:
    """Simulated people who answer the page of csn_jax teach, on the features of shoes."""
    runs = []
    for source, condition, ask, answers in TAUGHT:
        for wrong in WRONG:
            size = ("--answers=25", "--runs=1") if places.tiny else (f"--answers={answers}", "--runs=20")
            flags = (f"--table={places.vectors / source}.parquet", f"--condition={condition}", f"--ask={ask}")
            name = f"taught/{condition}_{ask}_{wrong:g}_{SEEDS[0]}"
            runs.append(Run(name, "teach.py", (*flags, f"--wrong={wrong:g}", *size), "taught.json", printed=True))
    return runs


EXPERIMENTS: dict[str, Callable[[Places], list[Run]]] = {
    "table1_fonts": table1("fonts"),
    "table1_footwear": table1("footwear"),
    "table1_emoji": table1("emoji"),
    "masks": masks,
    "more_steps": more_steps,
    "in_batch": in_batch,
    "new_condition": new_condition,
    "frozen": frozen,
    "pretrained": pretrained,
    "mixtures": mixtures,
    "leakage": leakage,
    "fewer_triplets": fewer_triplets,
    "ablations": ablations,
    "vectors": vectors,
    "vectors_new": vectors_new,
    "vectors_ablations": vectors_ablations,
    "taught": taught,
}


def seed_of(run: Run) -> int:
    """The seed of a run, which its name ends with."""
    return int(run.name.rpartition("_")[2])


def recipe(run: Run, places: Places) -> str:
    """The flags of a run with names in place of local paths. A kept result must have the planned recipe."""
    text = " ".join(run.flags)
    for name in ("runs", "vectors", "fonts", "footwear", "emoji"):
        text = text.replace(f"{getattr(places, name)}", name.upper()) if getattr(places, name).name else text
    return text


def planned(places: Places, only: Sequence[str]) -> list[Run]:
    """The runs of the experiments, each once, ordered by seed. A tiny plan has the first seed only."""
    runs = dict.fromkeys(run for name in only for run in EXPERIMENTS[name](places))
    return sorted((run for run in runs if not places.tiny or seed_of(run) == 0), key=seed_of)
