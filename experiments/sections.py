"""The sections of docs/RESULTS.md: text and tables of each experiment, in Markdown, from the files of its runs."""

import statistics
from collections.abc import Callable
from pathlib import Path

from evidence import Runs, bullets, claim, count, estimate, markdown, minus, verdict
from plan import (
    ABLATIONS,
    CONDITIONS,
    EXPERIMENTS,
    IN_BATCH_STEPS,
    LONGER,
    NEW,
    PRETRAINED_STEPS,
    SHOES,
    STEPS,
    TRIPLETS,
    VARIANTS,
)
from vector_sections import taught, vectors, vectors_ablations, vectors_new

from csn_jax.config import Config
from csn_jax.core.masks import Use, initial_masks, use_of

CONFIG = Config()
DIMENSIONS = CONFIG.backbone.embedding_dim
PAPER = {"standard": 23.72, "specialists": 11.35, "fixed": 10.79, "learned": 10.73}  # the paper's table 1, in %
DOCS = Path(__file__).resolve().parents[1] / "docs"
PICTURES = {  # file name: (text in place of the picture, caption)
    "errors": ("triplet errors", "Triplet error: small marks are seeds, large marks are means."),
    "masks": ("masks", "Masks of the first seed."),
    "map_character": ("map by character", "Map under the condition character: close glyphs show similar characters."),
    "map_font": ("map by font", "Map under the condition font: close glyphs belong to similar fonts."),
}
TITLES = {"fonts": "Fonts", "footwear": "Shoes", "emoji": "Emoji"}
LOWER_THAN = (  # the claims about the variants: the first has a lower overall error than the second
    ("learned", "standard"),
    ("specialists", "standard"),
    ("fixed", "specialists"),
    ("learned", "fixed"),
    ("learned_disjoint", "fixed"),
    ("learned", "learned_disjoint"),
)
OPENING = """\
Read this page to see which of the paper's claims hold in our experiments, by how much, and how to repeat each one.

`experiments/write.py` writes every table and verdict from the result files of the runs, which are kept in
[results/runs](results/runs). No figure of ours is typed by hand."""
HOW_TO_READ = f"""\
How to read the tables:

- **Triplet error** is the share of test triplets in which the negative is not farther from the anchor than the
  positive, under the triplet's condition. Lower is better, and guessing gives 50 %. *Overall* covers the triplets of
  all conditions, the same number of each.
- **Rows**: *standard* is one space for all conditions. *specialists* is one network per condition. *fixed*, *learned*
  and *learned_disjoint* are one network with one mask per condition ([variants](variants.md)).
- **Training**, unless a row says otherwise: network `small`, 32 pixels, {DIMENSIONS} dimensions, {STEPS:,} steps of
  {CONFIG.batch_size} triplets, Adam at {CONFIG.learning_rate:g} with a cosine to 0. Batch norm is by role on fonts,
  and shared by the three roles on shoes and emoji. The best checkpoint on validation is tested. The paper's networks,
  data sets and training lengths need a GPU, so compare the order of rows with the paper's table 1, not the values.
- **Intervals** are 95 % Student intervals over training seeds (initial weights, masks, batch order). Split, triplets
  and test set are the same for all seeds and rows.
- **Claims**: a claim *holds* if the interval of its differences, taken seed by seed, lies above 0. *The reverse
  holds* if the interval lies below 0. Otherwise the claim *is not settled*. Differences are in percentage points, and
  a difference above 0 favours the claim. Nothing is corrected for the number of claims: of twenty claims without a
  real difference, about one would look settled.
- **Time** is how long the commands took from scratch, beside other jobs. Trainings that sections share are counted in
  each section.

The data sets are not ours to distribute. Each is a folder or a table (`python experiments/run.py --help`). Each
condition has {CONFIG.data.train_triplets:,} triplets for training, {CONFIG.data.validation_triplets:,} for validation
and {CONFIG.data.test_triplets:,} for the test.

- **Fonts**: 2,297 Latin subsets in WOFF2 from npm's `@fontsource/*` packages. 2,073 of them are usable and different.
  With 62 characters each they make 128,526 items. Training has seen other characters of the fonts in the test set.
- **Shoes**: the 9,222 rows of footwear in the public set Fashion Product Images (Small), 60 x 80 pixels. In its
  `styles.csv`, category is `articleType` and colour is `baseColour`.
- **Emoji**: 1,053 emoji (identity) by seven vendors (style), drawn at 64 x 64 pixels. Group and subgroup are
  Unicode's. The vendors are npm's `@iconify-json/*` sets noto, noto-v1, twemoji, emojione, fluent-emoji,
  fluent-emoji-flat and fluent-emoji-high-contrast."""


def table1(source: str) -> Callable[[Runs], list[str]]:
    """The section that compares the five variants on one data set."""

    def section(runs: Runs) -> list[str]:
        names = (*CONDITIONS[source], "overall")
        errors = {v: {name: runs.errors(f"{source}/{v}", runs.seeds, name) for name in names} for v in VARIANTS}
        rows = [[variant, *(str(estimate(errors[variant][name])) for name in names)] for variant in VARIANTS]
        overall = {variant: errors[variant]["overall"] for variant in VARIANTS}
        claims = [claim(f"*{a}* is lower than *{b}*", minus(overall[b], overall[a])) for a, b in LOWER_THAN]
        by_condition = ", ".join(
            f"{name} {estimate(minus(errors['specialists'][name], errors['fixed'][name]))}"
            for name in CONDITIONS[source]
        )
        lows, highs = zip(*(runs.results(f"{source}/{v}_0")["ci95"]["overall"] for v in VARIANTS), strict=True)
        test = 100 * statistics.fmean(minus(highs, lows)) / 2
        paper = ", ".join(f"{name} {value}" for name, value in PAPER.items())
        longer = f" (see *Longer training* for {STEPS:,} steps per specialist)" if source in LONGER else ""
        pictures = [name for name in PICTURES if (DOCS / f"results/{source}/{name}.png").is_file()]
        workdirs = f"runs/experiments/{source}/{{{','.join(VARIANTS)}}}_[0-9]"
        return [
            f"Triplet error on the test split in %; mean and interval over {count(runs.seeds)}.",
            markdown(["variant", *names], rows),
            f"Each row is trained for {STEPS:,} steps in total. Each specialist gets "
            f"{STEPS // len(CONDITIONS[source]):,} of these steps{longer}. Another test set of this size would move "
            f"all rows together by about ±{test:.1f} points overall (bootstrap over anchors, one seed).",
            "Claims about the overall error:",
            bullets(claims),
            f"Error of *specialists* minus error of *fixed*, by condition, in points: {by_condition}.",
            *(
                [
                    "The paper's table 1 uses another set of shoes (UT-Zappos50K), four conditions, a pretrained "
                    f"ResNet and 112 pixels. Its errors are {paper} %. Only the order of rows can be compared."
                ]
                if source == "footwear"
                else []
            ),
            *(f"![{PICTURES[n][0]}](results/{source}/{n}.png)\n\n*{PICTURES[n][1]}*" for n in pictures),
            *([f"To draw the pictures:\n\n```bash\ncsn_jax report {workdirs} --out=report\n```"] if pictures else []),
        ]

    return section


def summary(runs: Runs) -> list[str]:
    """The claims of the table 1 sections, side by side."""
    errors = {source: {v: runs.errors(f"{source}/{v}", runs.seeds) for v in VARIANTS} for source in TITLES}

    def cell(source: str, a: str, b: str) -> str:
        word, gap = verdict(minus(errors[source][b], errors[source][a]))
        return f"{word} ({100 * gap.mean:.2f})"

    rows = [[f"*{a}* is lower than *{b}*", *(cell(source, a, b) for source in TITLES)] for a, b in LOWER_THAN]
    return [
        "In short: which [variant](variants.md) has the lower overall error? The difference in points is in brackets.",
        markdown(["claim", *TITLES.values()], rows),
    ]


def in_batch(runs: Runs) -> list[str]:
    rows, errors = [], {}
    images = 3 * CONFIG.batch_size
    for name, label in (
        ("learned", f"triplets, {STEPS:,} steps of {images} images"),
        ("in_batch", f"in-batch, {IN_BATCH_STEPS:,} steps of {images} images"),
    ):
        errors[name] = runs.errors(f"fonts/{name}", runs.seeds)
        # Other jobs on the machine only add time, so the fastest seed is the best estimate.
        seconds = min(runs.took(f"fonts/{name}_{seed}")["seconds"] for seed in runs.seeds)
        rows.append([label, str(estimate(errors[name])), f"{seconds:.0f} s"])
    return [
        "Learned masks on fonts, trained on the paper's triplets or on all triplets inside batches of labelled items; "
        f"{count(runs.seeds)}.",
        markdown(["training", "overall error, %", "whole command, fastest seed"], rows),
        claim("In-batch learning has the lower error", minus(errors["learned"], errors["in_batch"])),
    ]


def new_condition(runs: Runs) -> list[str]:
    names = {variant: f"footwear/without_{NEW}_{variant}" for variant in ("standard", "learned")}
    probes = {
        variant: [runs.results(f"{name}_{seed}", "full.json")["off_task"] for seed in runs.few]
        for variant, name in names.items()
    }
    correct = {variant: [probe["by_label"][NEW] for probe in by_seed] for variant, by_seed in probes.items()}
    pixels = runs.results(f"{names['learned']}_{runs.few[0]}", "pixels.json")["off_task"]
    low, high = pixels["ci95"]["by_label"][NEW]
    rows = [["pixels", f"{100 * pixels['by_label'][NEW]:.2f}"]]
    rows += [[f"embedding, {variant}", str(estimate(values))] for variant, values in correct.items()]
    rows.append(["nothing: always the most frequent value", f"{100 * pixels['chance']['by_label'][NEW]:.2f}"])
    few = [runs.results(f"{names['learned']}_{seed}", "few_triplets.json") for seed in runs.few]
    unmasked = [report["unmasked"] for report in few]

    def row(label: str, errors: list[float], hurt: str = "") -> list[str]:
        return [label, str(estimate(errors)), str(estimate(minus(unmasked, errors))), hurt]

    errors = [["no mask", str(estimate(unmasked)), "", ""]]
    for k in few[0]["of_triplets"]:
        draws = [report["of_triplets"][k] for report in few]
        worse = sum(error > without for of_seed, without in zip(draws, unmasked, strict=True) for error in of_seed)
        means = [*map(statistics.fmean, draws)]
        errors.append(row(f"{int(k):,} triplets", means, f"{worse} of {sum(map(len, draws))}"))
    errors.append(row("all labels", [report["all_labels"] for report in few]))
    errors.append(row(f"training with `{NEW}` from the start", runs.errors("footwear/learned", runs.few, NEW)))
    return [
        f"The networks learned {', '.join(name for name in SHOES if name != NEW)} of the shoes; {count(runs.few)}. "
        f"`{NEW}` was not a condition in training.",
        f"First question: how often does a linear probe predict the `{NEW}` of a test item? Higher is better. The test "
        f"set has {pixels['n_items']['by_label'][NEW]:,} shoes, which alone makes each row uncertain by about "
        f"±{50 * (high - low):.1f} points. There is no pretrained network for comparison.",
        markdown(["linear probe on", "correct, %"], rows),
        claim(
            f"An embedding with masks predicts `{NEW}` better than one without",
            minus(correct["learned"], correct["standard"]),
        ),
        f"Second question: what is the triplet error of `{NEW}` with a new mask over the frozen embedding (learned "
        f"masks)? The mask is fitted to k triplets of `{NEW}`. Each row is the mean of {len(draws[0])} draws, the same "
        "for all seeds. Without a mask, all dimensions count equally.",
        markdown(
            [f"mask of `{NEW}` from", "error, %", "below no mask, points", "draws that raised the error"],
            errors,
        ),
    ]


def frozen(runs: Runs) -> list[str]:
    names = {
        "from scratch": "learned",
        "frozen: only the last layer and the masks train": "frozen",
        "tuned: everything trains": "tuned",
    }
    errors = {name: runs.errors(f"footwear/{name}", runs.few) for name in names.values()}
    claims = [
        ("*tuned* is lower than *frozen*", "tuned", "frozen"),
        ("*tuned* is lower than *from scratch*", "tuned", "learned"),
    ]
    return [
        "Learned masks on shoes, from a new network or from a network that one standard training on emoji produced; "
        f"{count(runs.few)}, equal steps. The emoji network is the same for all seeds, so the intervals do not include "
        "how such networks vary. The equal steps do not include its own training.",
        markdown(["network", "overall error, %"], [[k, str(estimate(errors[v]))] for k, v in names.items()]),
        bullets([claim(text, minus(errors[b], errors[a])) for text, a, b in claims]),
    ]


def pretrained(runs: Runs) -> list[str]:
    variants = ("learned_disjoint", "fixed", "specialists")
    rows, claims = [], []
    for what, folder in (
        ("from scratch, 32 pixels, everything trains", "footwear/"),
        ("frozen ImageNet weights, 112 pixels", "pretrained_footwear/frozen_"),
    ):
        errors = {variant: runs.errors(f"{folder}{variant}", runs.few) for variant in variants}
        rows.append([what, *(str(estimate(errors[variant])) for variant in variants), ""])
        ours, blocks, alone = errors.values()
        claims.append((f"{what}: *learned* is lower than *specialists*, as many steps together", minus(alone, ours)))
        claims.append((f"{what}: *learned* is lower than *fixed*", minus(blocks, ours)))
    longer = runs.errors("pretrained_footwear/frozen_specialists_longer", runs.few)
    rows[-1][-1] = str(estimate(longer))
    claims.append((f"{what}: *learned* is lower than *specialists*, as many steps each", minus(longer, ours)))
    return [
        "Masks and specialists over EfficientNet-Lite0 with ImageNet weights, on shoes, and the networks of table 1 "
        f"beside them; overall error in %, {count(runs.few)}, one split. Over the frozen network, the last linear "
        f"layer and the masks train, {PRETRAINED_STEPS:,} steps of 128 triplets. *Learned* starts from disjoint masks. "
        "Maps on such features, of 224 pixels and other splits, are under [Vectors of frozen "
        "networks](#vectors-of-frozen-networks). What fine-tuning gave is on the page on [encoders](encoders.md).",
        markdown(["network", "learned", "fixed", "specialists, as many steps together", "as many steps each"], rows),
        bullets([claim(text, gaps) for text, gaps in claims]),
    ]


def mixtures(runs: Runs) -> list[str]:
    precisions = {
        variant: [runs.results(f"footwear/{variant}_{s}", "mixtures.json")["precision@10"] for s in runs.few]
        for variant in ("learned", "standard")
    }
    rows, over_one, over_standard = [], [], []  # the last two by pair, then by seed
    for pair, first in precisions["learned"][0].items():
        a, b = (name for name in first if name not in ("mixture", "chance"))
        mixture, *alone = ([by_pair[pair][name] for by_pair in precisions["learned"]] for name in ("mixture", a, b))
        standard = [by_pair[pair]["mixture"] for by_pair in precisions["standard"]]
        over_one.append(minus(mixture, [*map(max, *alone)]))
        over_standard.append(minus(mixture, standard))
        columns = (mixture, *alone, standard)
        rows.append([pair, *map(str, map(estimate, columns)), f"{100 * first['chance']:.2f}"])

    def on_all_pairs(text: str, gaps: list[list[float]]) -> str:
        settled = sum(verdict(of_pair)[0] == "holds" for of_pair in gaps)
        mean = [*map(statistics.fmean, zip(*gaps, strict=True))]
        return f"{claim(text, mean)} Pair by pair, it holds for {settled} of {len(gaps)}."

    return [
        "How many of the ten nearest test shoes share *both* values with the query, in %? Higher is better; "
        f"{count(runs.few)}, the same queries. *mixture* is the sum of both conditions of learned masks. *first* and "
        "*second* are one of these conditions alone. *standard* is the one space of the standard network.",
        markdown(["pair", "mixture", "first", "second", "standard", "chance"], rows),
        "On the mean of all pairs:",
        bullets(
            [
                on_all_pairs("*mixture* is higher than the better of *first* and *second* (per pair, seed)", over_one),
                on_all_pairs("*mixture* is higher than *standard*", over_standard),
            ]
        ),
    ]


def leakage(runs: Runs) -> list[str]:
    parts = [
        "How often does the nearest other test item share a value with the query? The rows are the spaces of "
        "conditions, the columns are attributes. The figures are points above chance, which is the share of all other "
        "items with the value. One seed, so differences of about 2 points on shoes and 1 on fonts are noise.",
        "Compare within a column. If a space knows its own condition best, the highest figure of a column is in the "
        "row with the same name. If two attributes are correlated, every space that shows one also shows the other.",
    ]
    for source in ("fonts", "footwear"):
        for variant in ("standard", "learned", "learned_disjoint"):
            spaces = runs.results(f"{source}/{variant}_0", "full.json")["leakage"]["by_condition"]
            if variant == "standard":
                spaces = {"all": next(iter(spaces.values()))}
            rows = [[name, *(f"{100 * value:.1f}" for value in shares.values())] for name, shares in spaces.items()]
            parts += [f"{TITLES[source]}, {variant}:", markdown(["space of", *next(iter(spaces.values()))], rows)]
    return parts


def masks(runs: Runs) -> list[str]:
    rows, columns = [], []
    for source, title in TITLES.items():
        for variant in ("learned", "learned_disjoint"):
            shape = len(CONDITIONS[source]), DIMENSIONS
            uses: dict[int, list[Use]] = {0: [use_of(initial_masks(variant, *shape, seed).beta) for seed in runs.seeds]}
            for seed in runs.seeds:
                for entry in runs.log(f"{source}/{variant}_{seed}"):
                    if "masks/used" in entry:
                        use = Use(entry["masks/used"], entry["masks/shared"])
                        uses.setdefault(entry["step"], []).append(use)
            means = (map(statistics.fmean, zip(*of_step, strict=True)) for of_step in uses.values())
            columns.append(list(uses))
            rows.append([f"{title}, {variant}", *(f"{used:.0f} / {shared:.0f}" for used, shared in means)])
    assert all(steps == columns[0] for steps in columns), "logs of different steps"
    return [
        f"Each cell is *used / shared*: how many of the {DIMENSIONS} dimensions at least one mask uses, and how many "
        f"at least two masks use. The columns are training steps; means of {count(runs.seeds)}. A mask uses a "
        "dimension if its weight is above 0, however small. Masks from disjoint blocks start with 0.1 outside their "
        "own block, so at step 0 all dimensions are shared. The last claim of each table 1 section shows what "
        "disjointness costs.",
        markdown(["masks", *(f"{step:,}" for step in columns[0])], rows),
    ]


def more_steps(runs: Runs) -> list[str]:
    rows, claims = [], []
    for source in LONGER:
        title, n = TITLES[source], len(CONDITIONS[source])
        errors = {
            (variant, longer): runs.errors(f"{source}/{variant}{longer}", runs.few)
            for variant in ("learned", "specialists")
            for longer in ("", "_longer")
        }
        for longer, steps in (("", STEPS), ("_longer", n * STEPS)):
            each = f"{title}, {steps:,} steps in total, {steps // n:,} per specialist"
            rows.append([each, *(str(estimate(errors[variant, longer])) for variant in ("learned", "specialists"))])
        text = f"{title}: *learned* is lower than *specialists*, both with {n * STEPS:,} steps in total"
        claims.append((text, minus(errors["specialists", "_longer"], errors["learned", "_longer"])))
        text = f"{title}: *learned* with {STEPS:,} steps is lower than {n} *specialists* with {STEPS:,} each"
        claims.append((text, minus(errors["specialists", "_longer"], errors["learned", ""])))
    return [
        "Overall error in %. In the longer rows, each specialist gets as many steps as the one network has in table 1, "
        f"and the one network gets as many as all specialists together; {count(runs.few)}.",
        markdown(["training", "learned", "specialists"], rows),
        bullets([claim(text, gaps) for text, gaps in claims]),
    ]


def fewer_triplets(runs: Runs) -> list[str]:
    variants, rows = ("specialists", "fixed", "learned"), []
    errors: dict[int, dict[str, list[float]]] = {}  # by triplets of both conditions, then by variant
    for n in TRIPLETS[-2:] if runs.places.tiny else TRIPLETS:
        of_n = "" if n == TRIPLETS[-1] else f"_{n}"
        errors[2 * n] = {variant: runs.errors(f"fonts/{variant}{of_n}", runs.few) for variant in variants}
        rows.append([f"{2 * n:,}", *(str(estimate(errors[2 * n][variant])) for variant in variants)])
    most = 2 * TRIPLETS[-1]
    goal = statistics.fmean(errors[most]["specialists"])
    enough = {v: next((n for n in errors if statistics.fmean(errors[n][v]) <= goal), None) for v in variants}
    needed = ", ".join(f"{v} {f'{n:,}' if n else f'more than {most:,}'}" for v, n in enough.items())
    few, least = f"With {min(errors):,} triplets", errors[min(errors)]
    lower_than = (("learned", "specialists"), ("fixed", "specialists"), ("learned", "fixed"))
    return [
        "Fonts: overall error in % by the number of training triplets of both conditions together; "
        f"{count(runs.few)}, equal steps. The triplets are drawn from all training items.",
        markdown(["triplets", *variants], rows),
        f"Smallest tested number of triplets with a mean error not above that of specialists with {most:,}: {needed}. "
        "Where intervals overlap, such differences may be chance.",
        bullets([claim(f"{few}, *{a}* is lower than *{b}*", minus(least[b], least[a])) for a, b in lower_than]),
    ]


def ablations(runs: Runs) -> list[str]:
    plain = {source: runs.errors(f"{source}/learned", runs.few) for source in ("fonts", "footwear")}
    default = {
        "loss.embedding_weight": CONFIG.loss.embedding_weight,
        "loss.mask_weight": CONFIG.loss.mask_weight,
        "backbone.embedding_dim": DIMENSIONS,
        "loss.margin": CONFIG.loss.margin,
    }
    rows = [[f"all defaults, on {TITLES[s].lower()}", str(estimate(errors)), ""] for s, errors in plain.items()]
    settled: dict[str, list[str]] = {"holds": [], "the reverse holds": [], "is not settled": []}
    for title, (source, field, values) in ABLATIONS.items():
        usual = f" (default {default[field]:g})" if field in default else ""
        for value in values[:1] if runs.places.tiny else values:
            errors = runs.errors(f"{source}/{field}_{value}", runs.few)
            more = minus(errors, plain[source])
            rows.append([f"{title}: {value}{usual}", str(estimate(errors)), str(estimate(more))])
            settled[verdict(more)[0]].append(f"{title}: {value}")
    return [
        "Learned masks with one setting changed at a time; overall error, on fonts unless the row says shoes; "
        f"{count(runs.few)}.",
        markdown(["setting", "error, %", "above the defaults, points"], rows),
        "Settled differences, each tested alone:",
        bullets(
            [
                f"Lower error: {'; '.join(settled['the reverse holds']) or 'none'}.",
                f"Higher error: {'; '.join(settled['holds']) or 'none'}.",
            ]
        ),
    ]


SECTIONS: dict[str, tuple[str, Callable[[Runs], list[str]]]] = {
    **{
        f"table1_{source}": (f"{title}: the rows of the paper's table 1", table1(source))
        for source, title in TITLES.items()
    },
    "masks": ("Dimensions in use during training", masks),
    "more_steps": ("Longer training", more_steps),
    "in_batch": ("In-batch learning", in_batch),
    "new_condition": ("A condition added after training", new_condition),
    "frozen": ("Masks over frozen features", frozen),
    "pretrained": ("From ImageNet weights", pretrained),
    "mixtures": ("Two conditions at once", mixtures),
    "leakage": ("What each space reveals about other attributes", leakage),
    "fewer_triplets": ("Fewer triplets", fewer_triplets),
    "ablations": ("Ablations", ablations),
    "vectors": ("Vectors of frozen networks", vectors),
    "vectors_new": ("A condition added to vectors", vectors_new),
    "vectors_ablations": ("Ablations of maps", vectors_ablations),
    "taught": ("Conditions that people teach by hand", taught),
}
assert SECTIONS.keys() == EXPERIMENTS.keys()
