"""What docs/RESULTS.md rests on: every experiment as a list of runs, each a real command with its arguments."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from csn_jax.config import Config

VARIANTS = ("standard", "specialists", "fixed", "learned", "learned_disjoint")
SEEDS = (0, 1, 2, 3, 4)
FEW = (0, 1, 2)  # seeds where many settings are compared
TRIPLETS = (2_500, 12_500, 50_000, Config().data.train_triplets)  # for each condition; the last one is table 1's
SHOES = ("category", "gender", "colour", "season", "usage")
EMOJI = ("identity", "style", "group", "subgroup")
CONDITIONS = {"fonts": ("character", "font"), "footwear": SHOES, "emoji": EMOJI}
STEPS = Config().steps  # of the specialists all together
IN_BATCH_STEPS = 800
LONGER = ("fonts", "footwear")  # the sets of the longer training
NEW = "usage"  # the notion of the shoes that is kept from some trainings
ABLATIONS = {  # what, on which set, by which field, and its values
    "lambda 1, on the embeddings' norm": ("fonts", "loss.embedding_weight", (0.0, 5e-4, 5e-2)),
    "lambda 2, on the masks' norm": ("fonts", "loss.mask_weight", (0.0, 5e-3, 5e-2)),
    "dimensions": ("fonts", "backbone.embedding_dim", (16, 32, 128, 256)),
    "margin": ("fonts", "loss.margin", (0.05, 0.5, 1.0)),
    "batch norm of the three roles": ("fonts", "batch_statistics", ("shared",)),
    "batch norm of the three roles, on shoes": ("footwear", "batch_statistics", ("by_role",)),
}


@dataclass(frozen=True)
class Run:
    """name: its folder, below that of all runs; verb and flags: of csn_jax, or a script of this folder and its flags;
    out: the file in that folder that is there when it is done; printed: whether that file holds what the command
    prints."""

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


def _run(
    places: Places,
    source: str,
    variant: str,
    seed: int,
    name: str = "",
    flags: Sequence[str] = (),
    conditions: Sequence[str] | None = None,
) -> Run:
    """A training at 32 pixels. All variants learn from as many triplets: each network of the specialists takes its
    condition's share of the steps."""
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
    if places.tiny:
        flags += tuple(f"--config.data.{split}_triplets=200" for split in ("train", "validation", "test"))
        flags += (
            "--config.feed=device",
            "--config.batch_size=48",
            "--config.eval_every=2",
            "--config.checkpoint_every=2",
        )
    return flags


def masks(places: Places) -> list[Run]:
    """How many dimensions the masks of table 1 use, from the start to the end of training."""
    runs = [run for source in CONDITIONS for run in table1(source)(places)]
    return [run for run in runs if run.name.rpartition("/")[2].startswith("learned")]


def table1(source: str) -> Callable[[Places], list[Run]]:
    """The five kinds of masks, five seeds each, on one set."""
    return lambda places: [_run(places, source, variant, seed) for seed in SEEDS for variant in VARIANTS]


def more_steps(places: Places) -> list[Run]:
    """One network at as many times the steps as there are conditions, and specialists of as many each as it has."""
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
    """configs/glyphs.py:in_batch on all fonts, beside the learned masks of table 1."""
    flags = ("--config.loss.name=batch_all", "--config.batch_size=384")
    if not places.tiny:
        flags += (f"--config.steps={IN_BATCH_STEPS}",)
    return [
        run
        for s in SEEDS
        for run in (_run(places, "fonts", "learned", s), _run(places, "fonts", "learned", s, "in_batch", flags))
    ]


def new_condition(places: Places) -> list[Run]:
    """Four notions trained; what the embedding knows of the fifth, by a probe and by a mask of its own."""
    runs, known = [], [name for name in SHOES if name != NEW]
    for seed in FEW:
        for variant in ("standard", "learned"):
            run = _run(places, "footwear", variant, seed, f"without_{NEW}_{variant}", conditions=known)
            workdir = f"--workdir={places.runs / run.name}"
            runs += [run, Run(run.name, "evaluate", (workdir, "--full", "--json"), "full.json", printed=True)]
        few = (workdir, f"--condition={NEW}")
        runs.append(Run(run.name, "few_triplets.py", few, "few_triplets.json", printed=True))
        if seed == FEW[0]:  # the same for all
            runs.append(Run(run.name, "pixel_probe.py", (workdir,), "pixels.json", printed=True))
        runs.append(_run(places, "footwear", "learned", seed))
    return runs


def frozen(places: Places) -> list[Run]:
    """Shoes on a network that learned emoji: masks and a last layer over it as it is, or all of it tuned."""
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


def mixtures(places: Places) -> list[Run]:
    """Search under two notions at once, in runs of table 1."""
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
    """What the space of each condition tells of the others, in runs of table 1."""
    runs = []
    for source in ("fonts", "footwear"):
        for variant in ("standard", "learned", "learned_disjoint"):
            run = _run(places, source, variant, SEEDS[0])
            flags = (f"--workdir={places.runs / run.name}", "--full", "--json")
            runs += [run, Run(run.name, "evaluate", flags, "full.json", printed=True)]
    return runs


def ablations(places: Places) -> list[Run]:
    runs = []
    for seed in FEW:
        for source, field, values in ABLATIONS.values():
            runs.append(_run(places, source, "learned", seed))
            for value in values[:1] if places.tiny else values:
                runs.append(_run(places, source, "learned", seed, f"{field}_{value}", (f"--config.{field}={value}",)))
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
    "mixtures": mixtures,
    "leakage": leakage,
    "fewer_triplets": fewer_triplets,
    "ablations": ablations,
}


def seed_of(run: Run) -> int:
    """The seed at the end of a run's name."""
    return int(run.name.rpartition("_")[2])


def recipe(run: Run, places: Places) -> str:
    """A run's flags, without where the data and the runs lie: what a kept result must have come from."""
    text = " ".join(run.flags)
    for name in ("runs", "fonts", "footwear", "emoji"):
        text = text.replace(f"{getattr(places, name)}", name.upper()) if getattr(places, name).name else text
    return text


def planned(places: Places, only: Sequence[str]) -> list[Run]:
    """The runs of some experiments, each once: all of the first seed before any of the second; of tiny only those."""
    runs = dict.fromkeys(run for name in only for run in EXPERIMENTS[name](places))
    return sorted((run for run in runs if not places.tiny or seed_of(run) == 0), key=seed_of)
