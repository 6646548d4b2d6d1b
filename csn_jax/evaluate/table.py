"""Results as tables for people."""

from collections.abc import Sequence

from csn_jax.runtime.record import Results, at
from csn_jax.text import table


def results_table(results: Results) -> str:
    """All that was measured, in tables."""
    head = f"{results.variant} masks, {results.split} split, step {results.step:,}"
    parts = [f"{head}\n{table(_errors(results))}"]
    if results.against:
        parts.append(f"against {results.against['workdir']}\n{table(_against(results))}")
    if results.adapted:
        parts.append(table(_adapted(results)))
    if results.baselines:
        parts.append(table(_baselines(results)))
    if results.retrieval and results.retrieval["by_condition"]:
        parts.append(table(_retrieval(results)))
        if results.retrieval.get("seen_in_training"):
            parts.append("Training saw these items: triplets were split, not items (see config.data.split_by).")
    if results.leakage:
        parts.append(table(_leakage(results)))
    if results.off_task and results.off_task.get("by_label"):
        parts.append(table(_off_task(results)))
    return "\n\n".join(parts)


Rows = list[Sequence[str]]


def _errors(results: Results) -> Rows:
    rows: Rows = [("condition", "triplet error", "95 % interval", "triplets")]
    for name in (*results.conditions, "overall"):
        value, low, high, n = results.figure(name)
        rows.append((name, f"{value:.2%}", f"{low:.2%} to {high:.2%}", f"{n:,}"))
    return rows


def _against(results: Results) -> Rows:
    found = results.against
    rows: Rows = [("condition", "higher by", "95 % interval")]
    for name in (*results.conditions, "overall"):
        value, (low, high) = at(found["difference"], name), at(found["ci95"], name)
        rows.append((name, f"{value * 100:.2f} points", f"{low * 100:.2f} to {high * 100:.2f}"))
    return rows


def _adapted(results: Results) -> Rows:
    rows: Rows = [("learned by adapt", "error", "95 % interval", "unmasked", "triplets", "from")]
    for report in results.adapted:
        (low, high), plain = report["ci95"], report["unmasked"]["triplet_error"]
        figures = (f"{report['triplet_error']:.2%}", f"{low:.2%} to {high:.2%}", f"{plain:.2%}")
        rows.append((report["condition"], *figures, f"{report['n_triplets']:,}", report["learned_from"]))
    return rows


def _baselines(results: Results) -> Rows:
    rows: Rows = [("error under", "these masks", "raw Euclidean", "raw cosine", "linear probe")]
    measured = [results.triplet_error, *(results.baselines[name] for name in ("euclidean", "cosine", "linear_probe"))]
    for name in (*results.conditions, "overall"):
        values = (at(part, name) for part in measured)
        rows.append((name, *("-" if value is None else f"{value:.2%}" for value in values)))
    return rows


def _retrieval(results: Results) -> Rows:
    chance = results.retrieval.get("chance", {}).get("by_condition", {})  # older results have neither it nor precision
    rows: Rows = [("retrieval", "recall@1", "prec.@10", "by chance", "R-prec.", "MAP@R", "queries")]
    for name, values in results.retrieval["by_condition"].items():
        shown = (values["recall@1"], values.get("precision@10"), chance.get(name), values["r_precision"])
        figures = ("-" if value is None else f"{value:.2%}" for value in (*shown, values["map@r"]))
        rows.append((name, *figures, f"{results.retrieval['n_queries']['by_condition'][name]:,}"))
    return rows


def _leakage(results: Results) -> Rows:
    chance = results.leakage["chance"]["by_attribute"]
    rows: Rows = [("nearest is alike in", *chance)]
    for name, values in results.leakage["by_condition"].items():
        rows.append((f"by {name}", *(f"{values[attribute] + chance[attribute]:.1%}" for attribute in chance)))
    return [*rows, ("by chance", *(f"{value:.1%}" for value in chance.values()))]


def _off_task(results: Results) -> Rows:
    found = results.off_task
    rows: Rows = [("off-task probe", "top-1", "95 % interval", "chance", "items")]
    for name, value in found["by_label"].items():
        low, high = found["ci95"]["by_label"][name]
        chance, n = (found[part]["by_label"][name] for part in ("chance", "n_items"))
        rows.append((name, f"{value:.2%}", f"{low:.2%} to {high:.2%}", f"{chance:.2%}", f"{n:,}"))
    return rows
