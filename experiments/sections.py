"""What docs/RESULTS.md says of each experiment: text and tables, in Markdown, from the files of its runs."""

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
    SHOES,
    STEPS,
    TRIPLETS,
    VARIANTS,
)

from csn_jax.config import Config
from csn_jax.core.masks import Use, initial_masks, use_of

CONFIG = Config()
DIMENSIONS = CONFIG.backbone.embedding_dim
PAPER = {"standard": 23.72, "specialists": 11.35, "fixed": 10.79, "learned": 10.73}  # table 1, in per cent
DOCS = Path(__file__).resolve().parents[1] / "docs"
PICTURES = {
    "errors": "triplet errors: each seed small, the mean of seeds large",
    "masks": "masks of the first seed",
    "map_character": "glyphs, near where they are alike by character",
    "map_font": "glyphs, near where they are alike by font",
}
TITLES = {"fonts": "Fonts", "footwear": "Shoes", "emoji": "Emoji"}
INTRODUCTION = f"""\
Every table and verdict on this page was written by `experiments/write.py` from files that runs left, which are kept in
[results/runs](results/runs), and the pictures by the commands under them; no figure of ours is typed by hand.

- **Triplet error**: the share of test triplets whose unlike item is not farther from the anchor than the alike one,
  under the triplet's condition. Lower is better, and guessing has 50 %. *Overall* is over all conditions' triplets,
  as many of each.
- **Rows**: *standard* is one space for all notions, *specialists* a network for each condition, *fixed*, *learned*
  and *learned_disjoint* one network with a mask for each condition ([variants](../README.md#variants)).
- **Training**, where a row says nothing else: the network `small` on 32 pixels, {DIMENSIONS} dimensions, {STEPS:,}
  steps of {CONFIG.batch_size} triplets, Adam at {CONFIG.learning_rate:g} with a cosine to 0; batch norm by role on
  fonts, over all three roles on shoes and emoji; the best on validation is tested. This is no recipe of the paper,
  whose networks, sets and lengths want a GPU: compare the order of rows with its table 1, not values.
- **Intervals** are Student's, of 95 %, over seeds of training (initial weights, masks, order of batches). Split,
  triplets and test are the same for all seeds and rows.
- **A claim** *holds* where the interval of its differences, seed by seed, lies above 0; *the reverse holds* where it
  lies below; else it *is not settled*. Differences are in points, above 0 in favour of the claim. Nothing is
  corrected for the number of claims: of twenty without any difference behind them, about one would look settled.
- **Data**, none of it ours to give; each is a folder or a table, as `python experiments/run.py --help` says. Of each
  condition there are {CONFIG.data.train_triplets:,} triplets for training, {CONFIG.data.validation_triplets:,} for
  validation and {CONFIG.data.test_triplets:,} for the test.
  - Fonts: a folder of 2,297 Latin subsets in WOFF2 from npm's `@fontsource/*` packages, of which 2,073 are usable and
    different; 62 characters of each are 128,526 items, and test glyphs are of fonts that training saw by other
    characters.
  - Shoes: the 9,222 rows of footwear in the public set Fashion Product Images (Small), 60 x 80 pixels; in its
    `styles.csv`, category is `articleType` and colour `baseColour`.
  - Emoji: 1,053 emoji (identity) by seven vendors (style), which are npm's `@iconify-json/*` sets noto, noto-v1,
    twemoji, emojione, fluent-emoji, fluent-emoji-flat and fluent-emoji-high-contrast, drawn at 64 x 64 pixels; group
    and subgroup are Unicode's.
- **Time** is what the commands took from nothing, beside other work; trainings that sections share are counted in
  each."""


def table1(source: str) -> Callable[[Runs], list[str]]:
    def section(runs: Runs) -> list[str]:
        names = (*CONDITIONS[source], "overall")
        found = {v: {name: runs.errors(f"{source}/{v}", runs.seeds, name) for name in names} for v in VARIANTS}
        rows = [[variant, *(str(estimate(found[variant][name])) for name in names)] for variant in VARIANTS]
        overall = {variant: found[variant]["overall"] for variant in VARIANTS}
        claims = [
            ("One network with learned masks errs less than one without", "learned", "standard"),
            ("A network for each condition errs less than one without masks", "specialists", "standard"),
            ("One network with fixed masks errs less than a network for each condition", "fixed", "specialists"),
            ("Masks learned from a random start err less than fixed ones", "learned", "fixed"),
            ("Masks learned from disjoint blocks err less than fixed ones", "learned_disjoint", "fixed"),
            ("Masks learned from a random start err less than from disjoint blocks", "learned", "learned_disjoint"),
        ]
        told = [claim(text, minus(overall[b], overall[a])) for text, a, b in claims]
        by_condition = ", ".join(
            f"{name} {estimate(minus(found['specialists'][name], found['fixed'][name]))}" for name in CONDITIONS[source]
        )
        lows, highs = zip(*(runs.results(f"{source}/{v}_0")["ci95"]["overall"] for v in VARIANTS), strict=True)
        test = 100 * statistics.fmean(minus(highs, lows)) / 2
        paper = ", ".join(f"{name} {value}" for name, value in PAPER.items())
        longer = " (*Longer training*, below, gives each all of them)" if source in LONGER else ""
        pictures = [name for name in PICTURES if (DOCS / f"results/{source}/{name}.png").is_file()]
        workdirs = f"runs/experiments/{source}/{{{','.join(VARIANTS)}}}_[0-9]"
        return [
            f"Triplet error on the test split in per cent; mean and interval over {count(runs.seeds)}. All rows are "
            f"trained for {STEPS:,} steps in all: each specialist takes {STEPS // len(CONDITIONS[source]):,} of "
            f"them{longer}. Another test of this size would move all rows together by about ±{test:.1f} points "
            "overall (bootstrap over anchors, one seed).",
            markdown(["masks", *names], rows),
            "Overall:",
            bullets(told),
            f"By condition, fixed masks err less than specialists by {by_condition} points.",
            *(
                [
                    "(The paper's table 1 is of another set of shoes, UT-Zappos50K, with four conditions, a pretrained "
                    f"ResNet and 112 pixels: {paper} %. Only the order of rows can be compared.)"
                ]
                if source == "footwear"
                else []
            ),
            *(f"![{PICTURES[name]}](results/{source}/{name}.png)" for name in pictures),
            *(
                [f"The pictures are those of\n\n```bash\npython -m csn_jax.report {workdirs} --out=report\n```"]
                if pictures
                else []
            ),
        ]

    return section


def in_batch(runs: Runs) -> list[str]:
    rows, errors = [], {}
    for name, label in (
        ("learned", f"triplets, {STEPS:,} steps of {3 * CONFIG.batch_size} images"),
        ("in_batch", f"in-batch, {IN_BATCH_STEPS:,} steps of as many"),
    ):
        errors[name] = runs.errors(f"fonts/{name}", runs.seeds)
        # Others' work only adds to it.
        seconds = min(runs.took(f"fonts/{name}_{seed}")["seconds"] for seed in runs.seeds)
        rows.append([label, str(estimate(errors[name])), f"{seconds:.0f} s"])
    return [
        "Learned masks on fonts, from the paper's triplets and from all triplets inside batches of labelled items; "
        f"{count(runs.seeds)}.",
        markdown(["learning", "overall error, %", "the whole command, fastest seed"], rows),
        claim("In-batch learning errs less", minus(errors["learned"], errors["in_batch"])),
    ]


def new_condition(runs: Runs) -> list[str]:
    names = {variant: f"footwear/without_{NEW}_{variant}" for variant in ("standard", "learned")}
    probes = {
        variant: [runs.results(f"{name}_{seed}", "full.json")["off_task"] for seed in runs.few]
        for variant, name in names.items()
    }
    right = {variant: [one["by_label"][NEW] for one in found] for variant, found in probes.items()}
    pixels = runs.results(f"{names['learned']}_{runs.few[0]}", "pixels.json")["off_task"]
    low, high = pixels["ci95"]["by_label"][NEW]
    rows = [["pixels", f"{100 * pixels['by_label'][NEW]:.2f}"]]
    rows += [[f"embedding, {variant}", str(estimate(values))] for variant, values in right.items()]
    rows.append(["always the most frequent value", f"{100 * pixels['chance']['by_label'][NEW]:.2f}"])
    few = [runs.results(f"{names['learned']}_{seed}", "few_triplets.json") for seed in runs.few]
    unmasked = [one["unmasked"] for one in few]

    def row(label: str, errors: list[float], hurt: str = "") -> list[str]:
        return [label, str(estimate(errors)), str(estimate(minus(unmasked, errors))), hurt]

    errors = [["no mask", str(estimate(unmasked)), "", ""]]
    for k in few[0]["of_triplets"]:
        draws = [one["of_triplets"][k] for one in few]
        worse = sum(error > none for some, none in zip(draws, unmasked, strict=True) for error in some)
        means = [*map(statistics.fmean, draws)]
        errors.append(row(f"{int(k):,} triplets", means, f"{worse} of {sum(map(len, draws))}"))
    errors.append(row("all labels", [one["all_labels"] for one in few]))
    errors.append(row("a training with it", runs.errors("footwear/learned", runs.few, NEW)))
    return [
        f"Trained on {', '.join(name for name in SHOES if name != NEW)} of the shoes, {count(runs.few)}; `{NEW}` was "
        f"never a condition. How often does a linear probe name the `{NEW}` of a test item rightly? Higher is better; "
        f"by the test alone, of {pixels['n_items']['by_label'][NEW]:,} shoes, a row is uncertain by about "
        f"±{50 * (high - low):.1f} points. No pretrained network stands beside them.",
        markdown(["linear probe on", "right, %"], rows),
        claim("An embedding with masks tells more of it than one without", minus(right["learned"], right["standard"])),
        f"Triplet error of `{NEW}` with a mask of its own, fitted to k of its triplets over the frozen embedding of "
        f"learned masks, the mean of {len(draws[0])} draws, which are the same for all seeds. Without a mask all "
        "dimensions count alike.",
        markdown([f"the mask of `{NEW}` is from", "error, %", "less than no mask, points", "draws that hurt"], errors),
    ]


def frozen(runs: Runs) -> list[str]:
    names = {
        "from scratch": "learned",
        "frozen: a last layer and masks over it": "frozen",
        "tuned: all of it trains on": "tuned",
    }
    found = {name: runs.errors(f"footwear/{name}", runs.few) for name in names.values()}
    claims = [
        ("Tuning all of it errs less than masks over frozen features", "tuned", "frozen"),
        ("Tuning from the network of emoji errs less than starting from nothing", "tuned", "learned"),
    ]
    return [
        "Learned masks on shoes, over a network that one standard training on emoji left, and over a new one; "
        f"{count(runs.few)}, equal steps. The emoji network is the same for all seeds, so intervals leave out how such "
        "networks differ, and its own training comes on top.",
        markdown(["the network", "overall error, %"], [[k, str(estimate(found[v]))] for k, v in names.items()]),
        bullets([claim(text, minus(found[b], found[a])) for text, a, b in claims]),
    ]


def mixtures(runs: Runs) -> list[str]:
    found = {
        variant: [runs.results(f"footwear/{variant}_{s}", "mixtures.json")["precision@10"] for s in runs.few]
        for variant in ("learned", "standard")
    }
    rows, over_one, over_standard = [], [], []  # the last two by pair, then by seed
    for pair, first in found["learned"][0].items():
        a, b = (name for name in first if name not in ("mixture", "chance"))
        mixture, *alone = ([one[pair][which] for one in found["learned"]] for which in ("mixture", a, b))
        standard = [one[pair]["mixture"] for one in found["standard"]]
        over_one.append(minus(mixture, [*map(max, *alone)]))
        over_standard.append(minus(mixture, standard))
        columns = (mixture, *alone, standard)
        rows.append([pair, *map(str, map(estimate, columns)), f"{100 * first['chance']:.2f}"])

    def told(text: str, gaps: list[list[float]]) -> str:
        settled = sum(verdict(of_pair)[0] == "holds" for of_pair in gaps)
        mean = [*map(statistics.fmean, zip(*gaps, strict=True))]
        return f"{claim(text, mean)} It holds for {settled} of the {len(gaps)} pairs alone."

    return [
        "Of the ten nearest test shoes, how many share *both* values with the query, in per cent; higher is better; "
        f"{count(runs.few)}, the same queries: under the sum of both conditions of learned masks, under each alone, "
        "and in the one space of the standard network.",
        markdown(["pair", "mixture", "the first alone", "the second alone", "standard", "by chance"], rows),
        "On the mean of all pairs:",
        bullets(
            [
                told(
                    "A mixture finds more than the better of its conditions, picked for each pair and seed",
                    over_one,
                ),
                told("A mixture finds more than one space for all", over_standard),
            ]
        ),
    ]


def leakage(runs: Runs) -> list[str]:
    parts = [
        "How often the nearest other test item in the space of a condition shares a value with the query, in points "
        "above chance (the share of all other items that do); one seed, so that differences of about 2 points on shoes "
        "and 1 on fonts are noise. Compare down a column: where a space knows its own notion best, the column's "
        "highest figure is that of its own row. Of two notions that go together, each tells of the other in any space."
    ]
    for source in ("fonts", "footwear"):
        for variant in ("standard", "learned", "learned_disjoint"):
            found = runs.results(f"{source}/{variant}_0", "full.json")["leakage"]["by_condition"]
            if variant == "standard":
                found = {"all": next(iter(found.values()))}
            rows = [[name, *(f"{100 * value:.1f}" for value in one.values())] for name, one in found.items()]
            parts += [f"{TITLES[source]}, {variant}:", markdown(["space of", *next(iter(found.values()))], rows)]
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
            means = (map(statistics.fmean, zip(*those, strict=True)) for those in uses.values())
            columns.append(list(uses))
            rows.append([f"{title}, {variant}", *(f"{used:.0f} / {shared:.0f}" for used, shared in means)])
    assert all(steps == columns[0] for steps in columns), "logs of different steps"
    return [
        f"Of {DIMENSIONS} dimensions, how many at least one mask uses, and after the stroke how many at least two do, "
        f"by training step; means of {count(runs.seeds)}. A weight counts where it is above 0, however small: masks "
        "from disjoint blocks start with 0.1 outside their own, so that at step 0 all are shared. What disjointness "
        "costs is the last claim of each table 1.",
        markdown(["masks", *(f"{step:,}" for step in columns[0])], rows),
    ]


def more_steps(runs: Runs) -> list[str]:
    rows, claims = [], []
    for source in LONGER:
        title, n = TITLES[source], len(CONDITIONS[source])
        found = {
            (variant, longer): runs.errors(f"{source}/{variant}{longer}", runs.few)
            for variant in ("learned", "specialists")
            for longer in ("", "_longer")
        }
        for longer, steps in (("", STEPS), ("_longer", n * STEPS)):
            each = f"{title}, {steps:,} steps in all, {steps // n:,} each specialist"
            rows.append([each, *(str(estimate(found[variant, longer])) for variant in ("learned", "specialists"))])
        text = f"{title}: learned masks err less than specialists, both with {n * STEPS:,} steps in all"
        claims.append((text, minus(found["specialists", "_longer"], found["learned", "_longer"])))
        text = f"{title}: one network of {STEPS:,} steps errs less than {n} specialists of {STEPS:,} each"
        claims.append((text, minus(found["specialists", "_longer"], found["learned", ""])))
    return [
        f"Overall error in per cent where each specialist takes as many steps as the one network has in table 1, and "
        f"the one network as many as they have together; {count(runs.few)}.",
        markdown(["training", "learned", "specialists"], rows),
        bullets([claim(*one) for one in claims]),
    ]


def fewer_triplets(runs: Runs) -> list[str]:
    variants, rows = ("specialists", "fixed", "learned"), []
    found: dict[int, dict[str, list[float]]] = {}  # by triplets of both conditions, then by variant
    for n in TRIPLETS[-2:] if runs.places.tiny else TRIPLETS:
        of_n = "" if n == TRIPLETS[-1] else f"_{n}"
        found[2 * n] = {variant: runs.errors(f"fonts/{variant}{of_n}", runs.few) for variant in variants}
        rows.append([f"{2 * n:,}", *(str(estimate(found[2 * n][variant])) for variant in variants)])
    most = 2 * TRIPLETS[-1]
    goal = statistics.fmean(found[most]["specialists"])
    enough = {v: next((n for n in found if statistics.fmean(found[n][v]) <= goal), None) for v in variants}
    needed = ", ".join(f"{v} {f'{n:,}' if n else f'more than {most:,}'}" for v, n in enough.items())
    few, least = f"From {min(found):,} triplets", found[min(found)]
    return [
        "Fonts: overall error in per cent against the number of training triplets of both conditions together, which "
        f"are drawn from all training items; {count(runs.few)}, equal steps.",
        markdown(["triplets", *variants], rows),
        f"The fewest of them from which the mean error is no higher than that of specialists from {most:,}: {needed}. "
        "Where intervals overlap, such differences may be chance.",
        bullets(
            [
                claim(f"{few}, learned masks err less than specialists", minus(least["specialists"], least["learned"])),
                claim(f"{few}, fixed masks err less than specialists", minus(least["specialists"], least["fixed"])),
                claim(f"{few}, learned masks err less than fixed ones", minus(least["fixed"], least["learned"])),
            ]
        ),
    ]


def ablations(runs: Runs) -> list[str]:
    plain = {source: runs.errors(f"{source}/learned", runs.few) for source in ("fonts", "footwear")}
    default = {
        "loss.embedding_weight": CONFIG.loss.embedding_weight,
        "loss.mask_weight": CONFIG.loss.mask_weight,
        "backbone.embedding_dim": DIMENSIONS,
        "loss.margin": CONFIG.loss.margin,
    }
    rows = [[f"the defaults, on {TITLES[s].lower()}", str(estimate(errors)), ""] for s, errors in plain.items()]
    settled: dict[str, list[str]] = {"holds": [], "the reverse holds": [], "is not settled": []}
    for title, (source, field, values) in ABLATIONS.items():
        usual = f" (default {default[field]:g})" if field in default else ""
        for value in values[:1] if runs.places.tiny else values:
            errors = runs.errors(f"{source}/{field}_{value}", runs.few)
            more = minus(errors, plain[source])
            rows.append([f"{title}: {value}{usual}", str(estimate(errors)), str(estimate(more))])
            settled[verdict(more)[0]].append(f"{title}: {value}")
    return [
        f"Learned masks, one setting changed at a time, overall error; on fonts, where a row says no other; "
        f"{count(runs.few)}.",
        markdown(["setting", "error, %", "more than the defaults, points"], rows),
        f"Settled, each for itself: less error by {'; '.join(settled['the reverse holds']) or 'none'}. More error by "
        f"{'; '.join(settled['holds']) or 'none'}.",
    ]


SECTIONS: dict[str, tuple[str, Callable[[Runs], list[str]]]] = {
    **{
        f"table1_{source}": (f"{title}: the rows of the paper's table 1", table1(source))
        for source, title in TITLES.items()
    },
    "masks": ("Masks in training", masks),
    "more_steps": ("Longer training", more_steps),
    "in_batch": ("In-batch learning", in_batch),
    "new_condition": ("A notion nobody trained for", new_condition),
    "frozen": ("Masks over frozen features", frozen),
    "mixtures": ("Two notions at once", mixtures),
    "leakage": ("What a space tells of other notions", leakage),
    "fewer_triplets": ("Fewer triplets", fewer_triplets),
    "ablations": ("Ablations", ablations),
}
assert SECTIONS.keys() == EXPERIMENTS.keys()
