"""Results as tables for people."""

from collections.abc import Iterator

from csn_jax.runtime.record import Results, at
from csn_jax.text import table


def results_table(results: Results) -> str:
    """All that was measured, in tables."""
    return "\n\n".join(_tables(results))


def _tables(results: Results) -> Iterator[str]:
    names = (*results.conditions, "overall")
    rows = [("condition", "triplet error", "95 % interval", "triplets")]
    for name in names:
        value, low, high, n = results.figure(name)
        rows.append((name, f"{value:.2%}", _range(low, high), f"{n:,}"))
    yield f"{results.variant} masks, {results.split} split, step {results.step:,}\n{table(rows)}"
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
        errors = [results.triplet_error, *(results.baselines[key] for key in ("euclidean", "cosine", "linear_probe"))]
        head = ("error under", "these masks", "raw Euclidean", "raw cosine", "linear probe")
        yield table([head, *((name, *(_percent(at(part, name)) for part in errors)) for name in names)])
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


def _range(low: float, high: float) -> str:
    return f"{low:.2%} to {high:.2%}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"
