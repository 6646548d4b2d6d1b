"""Results as tables for people."""

import textwrap
from collections.abc import Iterator

from csn_jax.runtime.record import Results, at
from csn_jax.text import WIDTH, shortened, table

# The rungs of the ladder as columns and as rows.
COLUMNS = {"euclidean": "Euclidean", "cosine": "cosine", "prototypes": "4 examples", "linear_probe": "linear probe"}
ROWS = {"euclidean": "raw Euclidean", "cosine": "raw cosine", "prototypes": "4 examples per value"}
ROWS |= {"linear_probe": "linear probe", "run": "this run"}
RAW = {
    "vectors": "Euclidean and cosine are of the raw vectors, as they are in your file.",
    "features": "All but this run are measured on the features before the network's last layer.",
}


def results_table(results: Results, ladder: bool = False) -> str:
    """All that was measured, in tables. `ladder`: with intervals and retrieval of each rung."""
    return "\n\n".join(_tables(results, ladder))


def _tables(results: Results, ladder: bool) -> Iterator[str]:
    names = (*results.conditions, "overall")
    rows = [("condition", "triplet error", "95 % interval", "triplets")]
    for name in names:
        value, low, high, n = results.figure(name)
        rows.append((name, f"{value:.2%}", _range(low, high), f"{n:,}"))
    masks = "maps" if results.variant == "maps" else f"{results.variant} masks"
    yield f"{masks}, {results.split} split, step {results.step:,}\n{table(rows)}"
    if results.against:
        rows = [("condition", "higher by", "95 % interval")]
        for name in names:
            value, (low, high) = (at(results.against[part], name) for part in ("difference", "ci95"))
            rows.append((name, f"{value * 100:.2f} points", f"{low * 100:.2f} to {high * 100:.2f}"))
        yield f"against {results.against['workdir']}\n{table(rows)}"
    if results.adapted:
        rows = [("learned by adapt", "error", "95 % interval", "unmasked", "triplets", "from")]
        for report in results.adapted:
            figures = (_percent(report["triplet_error"]), _range(*report["ci95"]))
            plain = _percent(report["unmasked"]["triplet_error"])
            rows.append((report["condition"], *figures, plain, f"{report['n_triplets']:,}", report["learned_from"]))
        yield table(rows)
    if results.baselines:
        errors = {"this run": results.triplet_error}
        errors |= {head: results.baselines[rung] for rung, head in COLUMNS.items() if rung in results.baselines}
        rows = [(name, *(_percent(at(part, name)) for part in errors.values())) for name in names]
        raw = RAW[results.ladder["raw"] if results.ladder else "vectors"]
        yield f"{table([('error under', *errors), *rows])}\n{raw}"
    if results.ladder and ladder:
        yield from _rungs(results)
    if results.verdict:
        first = min(max(map(len, results.verdict)), 20)
        yield "\n".join(
            textwrap.fill(
                sentence,
                WIDTH,
                initial_indent=f"{shortened(name, first):<{first}}  ",
                subsequent_indent="  " + " " * first,
            )
            for name, sentence in results.verdict.items()
        )
    if results.retrieval and results.retrieval["by_condition"]:
        found = results.retrieval
        chance = found.get("chance", {}).get("by_condition", {})  # older results have neither it nor precision
        rows = [("retrieval", "recall@1", "prec.@10", "by chance", "R-prec.", "MAP@R", "queries")]
        for name, values in found["by_condition"].items():
            shown = (values["recall@1"], values.get("precision@10"), chance.get(name), values["r_precision"])
            rows.append((name, *map(_percent, (*shown, values["map@r"])), f"{at(found['n_queries'], name):,}"))
        yield table(rows)
        if found.get("seen_in_training"):
            yield "Training saw these items: triplets were split, not items (see config.data.split_by)."
    if results.leakage:
        chance = results.leakage["chance"]["by_attribute"]
        rows = [("nearest is alike in", *chance)]
        for name, values in results.leakage["by_condition"].items():
            rows.append((f"by {name}", *(f"{values[attribute] + chance[attribute]:.1%}" for attribute in chance)))
        yield table([*rows, ("by chance", *(f"{value:.1%}" for value in chance.values()))])
    if results.off_task and results.off_task.get("by_label"):
        rows = [("off-task probe", "top-1", "95 % interval", "chance", "items")]
        for name, value in results.off_task["by_label"].items():
            ends, chance, n = (results.off_task[part]["by_label"][name] for part in ("ci95", "chance", "n_items"))
            rows.append((name, _percent(value), _range(*ends), _percent(chance), f"{n:,}"))
        yield table(rows)


def _rungs(results: Results) -> Iterator[str]:
    """A table per condition."""
    for name in results.conditions:
        rows = [(shortened(name, 20), "error", "95 % interval", "recall@1", "prec.@10")]
        for rung, parts in results.ladder["rungs"].items():
            value = at(parts["triplet_error"], name)
            found = parts["retrieval"]["by_condition"].get(name, {})
            ends = "-" if value is None else _range(*at(parts["ci95"], name))
            rows.append(
                (ROWS[rung], _percent(value), ends, *(_percent(found.get(k)) for k in ("recall@1", "precision@10")))
            )
        yield table(rows)
    n = results.ladder["n_queries"]["by_condition"].values()
    if n:
        yield (f"Retrieval here: up to {max(n):,} queries per condition among {results.ladder['n_gallery']:,} items.")


def _range(low: float, high: float) -> str:
    return f"{low:.2%} to {high:.2%}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"
