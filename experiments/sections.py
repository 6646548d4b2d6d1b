"""What docs/RESULTS.md says of each experiment: text and tables, in Markdown, from the files of its runs."""

import statistics
from collections.abc import Callable

from evidence import Runs, claim, count, estimate, markdown
from plan import ABLATIONS, CONDITIONS, EXPERIMENTS, NEW, SHOES, TRIPLETS, VARIANTS

from csn_jax.core.masks import Use, initial_masks, use_of

PAPER = {"standard": 23.72, "specialists": 11.35, "fixed": 10.79, "learned": 10.73}  # table 1, shoes, in per cent
DIMENSIONS = 64
_ALL = {"errors": "triplet errors with intervals", "masks": "masks of the first seed"}
PICTURES = {
    "fonts": _ALL | {f"map_{name}": f"glyphs, near where they are alike by {name}" for name in CONDITIONS["fonts"]},
    "footwear": _ALL,  # the photos are not ours to show
    "emoji": _ALL,
}
TITLES = {"fonts": "Fonts", "footwear": "Shoes", "emoji": "Emoji"}


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
            ("Learned masks err less than fixed ones", "learned", "fixed"),
            ("Learned masks that may share dimensions err less than disjoint ones", "learned", "learned_disjoint"),
        ]
        workdirs = f"runs/experiments/{source}/{{{','.join(VARIANTS)}}}_[0-9]"
        told = ["- " + claim(text, overall[a], overall[b]) for text, a, b in claims]
        paper = ", ".join(f"{name} {value}" for name, value in PAPER.items())
        return [
            "Triplet error on the test split in per cent, lower is better; mean and 95 % interval over "
            f"{count(runs.seeds)}, which share one test. All variants learn from as many triplets; each network of "
            "the specialists sees those of its condition.",
            markdown(["masks", *names], rows),
            "\n".join(told),
            f"(The paper, on shoes: {paper} %.)",
            *(f"![{told}](results/{source}/{name}.png)" for name, told in PICTURES[source].items()),
            f"The pictures are those of\n\n```bash\npython -m csn_jax.report {workdirs} --out=report\n```",
        ]

    return section


def in_batch(runs: Runs) -> list[str]:
    rows = []
    for label, name in (("triplets, 1,200 steps", "fonts/learned"), ("in-batch, 800 steps", "fonts/in_batch")):
        errors = runs.errors(name, runs.seeds)
        seconds = min(runs.seconds[f"{name}_{seed}", "train"] for seed in runs.seeds)  # others' work only adds to it
        rows.append([label, str(estimate(errors)), f"{seconds:.0f} s"])
    told = claim(
        "In-batch learning errs less", *(runs.errors(f"fonts/{name}", runs.seeds) for name in ("in_batch", "learned"))
    )
    return [
        "Learned masks on fonts, from the paper's triplets and from all triplets inside batches of labelled items.",
        markdown(["learning", "overall error, %", "time, of the fastest seed"], rows),
        told,
    ]


def new_condition(runs: Runs) -> list[str]:
    names = {variant: f"footwear/without_{NEW}_{variant}" for variant in ("standard", "learned")}
    probes = {
        variant: [runs.results(f"{name}_{seed}", "full.json", "evaluate")["off_task"] for seed in runs.few]
        for variant, name in names.items()
    }
    pixels = runs.results(f"{names['learned']}_{runs.few[0]}", "pixels.json", "pixel_probe.py")["off_task"]
    rows = [["pixels", f"{100 * pixels['by_label'][NEW]:.2f}"]]
    for variant, found in probes.items():
        rows.append([f"embedding, {variant}", str(estimate([one["by_label"][NEW] for one in found]))])
    rows.append(["always the most frequent value", f"{100 * pixels['chance']['by_label'][NEW]:.2f}"])
    few = [runs.results(f"{names['learned']}_{s}", "few_triplets.json", "few_triplets.py") for s in runs.few]
    errors = [["no mask", str(estimate([one["unmasked"] for one in few])), ""]]
    for k in few[0]["of_triplets"]:
        draws = [one["of_triplets"][k] for one in few]
        worst = max(error for some in draws for error in some)
        errors.append([f"{int(k):,} triplets", str(estimate([*map(statistics.fmean, draws)])), f"{100 * worst:.2f}"])
    errors.append(["all labels", str(estimate([one["all_labels"] for one in few])), ""])
    errors.append(["a training with it", str(estimate(runs.errors("footwear/learned", runs.few, NEW))), ""])
    return [
        f"Trained on {', '.join(name for name in SHOES if name != NEW)} of the shoes, {count(runs.few)}; `{NEW}` was "
        f"never a condition. Of what does a linear probe tell the `{NEW}` of a test item?",
        markdown(["linear probe on", "top-1, %"], rows),
        claim(
            "An embedding with masks tells more of it than one without",
            *([one["by_label"][NEW] for one in probes[variant]] for variant in ("standard", "learned")),
        ),
        f"Triplet error of `{NEW}` with a mask of its own, fitted to k of its triplets over the frozen embedding of "
        f"learned masks: the mean of {len(draws[0])} draws with its interval over seeds, and the worst draw.",
        markdown([f"the mask of `{NEW}` is from", "error, %", "worst"], errors),
    ]


def frozen(runs: Runs) -> list[str]:
    names = {
        "frozen: a last layer and masks over it": "frozen",
        "tuned: all of it trains on": "tuned",
        "from scratch": "learned",
    }
    found = {name: runs.errors(f"footwear/{name}", runs.few) for name in names.values()}
    return [
        "Learned masks on shoes, over a network that a standard training on emoji left, and over a new one; "
        f"{count(runs.few)}, equal steps.",
        markdown(["the network", "overall error, %"], [[k, str(estimate(found[v]))] for k, v in names.items()]),
        "- " + claim("Tuning errs less than masks over frozen features", found["tuned"], found["frozen"]),
        "- " + claim("What emoji taught helps with shoes", found["tuned"], found["learned"]),
    ]


def mixtures(runs: Runs) -> list[str]:
    found = {
        variant: [
            runs.results(f"footwear/{variant}_{s}", "mixtures.json", "mixtures.py")["precision@10"] for s in runs.few
        ]
        for variant in ("learned", "standard")
    }
    rows = []
    for pair, first in found["learned"][0].items():
        a, b = (name for name in first if name not in ("mixture", "chance"))
        columns = [[one[pair][which] for one in found["learned"]] for which in ("mixture", a, b)]
        columns.append([one[pair]["mixture"] for one in found["standard"]])
        rows.append([pair, *map(str, map(estimate, columns)), f"{100 * first['chance']:.2f}"])
    mean = {
        variant: [statistics.fmean(pair["mixture"] for pair in one.values()) for one in those]
        for variant, those in found.items()
    }
    alone = [
        statistics.fmean(
            max(v for name, v in pair.items() if name not in ("mixture", "chance")) for pair in one.values()
        )
        for one in found["learned"]
    ]
    return [
        f"Of the ten nearest test shoes, how many share *both* values with the query, in per cent, {count(runs.few)}: "
        "under the sum of both conditions of learned masks, under each alone, and in the one space of the standard "
        "network.",
        markdown(["pair", "mixture", "the first alone", "the second alone", "standard", "by chance"], rows),
        "- " + claim("A mixture finds more than the better of its two conditions", alone, mean["learned"]),
        "- " + claim("A mixture finds more than one space for all", mean["standard"], mean["learned"]),
    ]


def leakage(runs: Runs) -> list[str]:
    parts = [
        "What neighbours in the space of one condition tell of another: R-precision above chance, in per cent, of one"
        " seed. A diagonal that stands out is a space that knows its own notion."
    ]
    for source in ("fonts", "footwear"):
        for variant in ("standard", "learned", "learned_disjoint"):
            found = runs.results(f"{source}/{variant}_0", "full.json", "evaluate")["leakage"]["by_condition"]
            rows = [[name, *(f"{100 * value:.1f}" for value in one.values())] for name, one in found.items()]
            parts += [f"{TITLES[source]}, {variant}:", markdown(["space of", *next(iter(found.values()))], rows)]
    return parts


def masks(runs: Runs) -> list[str]:
    rows, steps = [], []
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
            steps = list(uses)
            rows.append([f"{title}, {variant}", *(f"{used:.0f}, {shared:.0f}" for used, shared in means)])
    return [
        f"How many of {DIMENSIONS} dimensions some mask weighs, and how many of them several masks do, by training "
        f"step; means of {count(runs.seeds)}.",
        markdown(["masks", *(f"{step:,}" for step in steps)], rows),
    ]


def more_steps(runs: Runs) -> list[str]:
    rows = []
    for label, name in (("equal triplets", ""), ("twice as many", "_longer")):
        found = [runs.errors(f"fonts/{variant}{name}", runs.few) for variant in ("learned", "specialists")]
        rows.append([label, *map(str, map(estimate, found))])
    names = [f"fonts/{variant}_longer" for variant in ("learned", "specialists")]
    return [
        "Fonts: overall error in per cent when all training is twice as long, so that each specialist takes as many "
        f"steps as one network does in table 1; {count(runs.few)}.",
        markdown(["training", "learned", "specialists"], rows),
        claim(
            "Learned masks err less than specialists, both at twice the training",
            *(runs.errors(name, runs.few) for name in names),
        ),
    ]


def fewer_triplets(runs: Runs) -> list[str]:
    rows = []
    for n in TRIPLETS[-2:] if runs.places.tiny else TRIPLETS:
        names = [f"fonts/{v}" if n == TRIPLETS[-1] else f"fonts/{v}_{n}" for v in ("specialists", "fixed", "learned")]
        rows.append([f"{2 * n:,}", *(str(estimate(runs.errors(name, runs.few))) for name in names)])
    return [
        "Fonts: overall error in per cent against the number of training triplets of both conditions, "
        f"{count(runs.few)}, equal steps.",
        markdown(["triplets", "specialists", "fixed", "learned"], rows),
    ]


def ablations(runs: Runs) -> list[str]:
    plain = runs.errors("fonts/learned", runs.few)
    rows = [["the defaults", str(estimate(plain)), ""]]
    for title, settings in ABLATIONS.items():
        for field, value in settings[:1] if runs.places.tiny else settings:
            errors = runs.errors(f"fonts/{field}_{value}", runs.few)
            more = estimate([ours - theirs for ours, theirs in zip(errors, plain, strict=True)])
            rows.append([f"{title}: {value}", str(estimate(errors)), str(more)])
    return [
        f"Learned masks on fonts, {count(runs.few)}, one setting changed at a time.",
        markdown(["setting", "overall error, %", "more than the defaults"], rows),
    ]


SECTIONS: dict[str, tuple[str, Callable[[Runs], list[str]]]] = {
    **{f"table1_{source}": (f"{title}: the paper's table 1", table1(source)) for source, title in TITLES.items()},
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
