"""Results as tables for people."""

from collections.abc import Iterator
from typing import Any

from csn_jax.runtime.record import Results, at
from csn_jax.text import table

Rows = Iterator[tuple[str, ...]]


def results_table(results: Results) -> str:
    """All that was measured, in tables."""
    parts = [f"{results.variant} masks, {results.split} split, step {results.step:,}\n{table([*_errors(results)])}"]
    if results.against:
        parts.append(f"against {results.against['workdir']}\n{table([*_against(results)])}")
    if results.adapted:
        parts.append(table([*_adapted(results)]))
    if results.baselines:
        parts.append(table([*_baselines(results)]))
    if results.retrieval and results.retrieval["by_condition"]:
        parts.append(table([*_retrieval(results.retrieval)]))
        if results.retrieval.get("seen_in_training"):
            parts.append("Training saw these items: triplets were split, not items (see config.data.split_by).")
    if results.leakage:
        parts.append(table([*_leakage(results.leakage)]))
    if results.off_task and results.off_task.get("by_label"):
        parts.append(table([*_off_task(results.off_task)]))
    return "\n\n".join(parts)


def _errors(results: Results) -> Rows:
    yield "condition", "triplet error", "95 % interval", "triplets"
    for name in (*results.conditions, "overall"):
        value, low, high, n = results.figure(name)
        yield name, f"{value:.2%}", f"{low:.2%} to {high:.2%}", f"{n:,}"


def _against(results: Results) -> Rows:
    yield "condition", "higher by", "95 % interval"
    for name in (*results.conditions, "overall"):
        value, (low, high) = (at(results.against[part], name) for part in ("difference", "ci95"))
        yield name, f"{value * 100:.2f} points", f"{low * 100:.2f} to {high * 100:.2f}"


def _adapted(results: Results) -> Rows:
    yield "learned by adapt", "error", "95 % interval", "unmasked", "triplets", "from"
    for report in results.adapted:
        (low, high), plain = report["ci95"], report["unmasked"]["triplet_error"]
        figures = (f"{report['triplet_error']:.2%}", f"{low:.2%} to {high:.2%}", f"{plain:.2%}")
        yield report["condition"], *figures, f"{report['n_triplets']:,}", report["learned_from"]


def _baselines(results: Results) -> Rows:
    yield "error under", "these masks", "raw Euclidean", "raw cosine", "linear probe"
    measured = [results.triplet_error, *(results.baselines[name] for name in ("euclidean", "cosine", "linear_probe"))]
    for name in (*results.conditions, "overall"):
        yield name, *(_percent(at(part, name)) for part in measured)


def _retrieval(found: dict[str, Any]) -> Rows:
    yield "retrieval", "recall@1", "prec.@10", "by chance", "R-prec.", "MAP@R", "queries"
    chance = found.get("chance", {}).get("by_condition", {})  # older results have neither it nor precision
    for name, values in found["by_condition"].items():
        shown = (values["recall@1"], values.get("precision@10"), chance.get(name), values["r_precision"])
        yield name, *map(_percent, (*shown, values["map@r"])), f"{found['n_queries']['by_condition'][name]:,}"


def _leakage(found: dict[str, Any]) -> Rows:
    chance = found["chance"]["by_attribute"]
    yield "nearest is alike in", *chance
    for name, values in found["by_condition"].items():
        yield f"by {name}", *(f"{values[attribute] + chance[attribute]:.1%}" for attribute in chance)
    yield "by chance", *(f"{value:.1%}" for value in chance.values())


def _off_task(found: dict[str, Any]) -> Rows:
    yield "off-task probe", "top-1", "95 % interval", "chance", "items"
    for name, value in found["by_label"].items():
        (low, high), chance, n = (found[part]["by_label"][name] for part in ("ci95", "chance", "n_items"))
        yield name, f"{value:.2%}", f"{low:.2%} to {high:.2%}", f"{chance:.2%}", f"{n:,}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"
