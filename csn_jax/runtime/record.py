"""data.json and results.json: what a run says of its data and its measurements, each a dataclass with one JSON form."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from csn_jax.errors import UserError

# Names that results and workdirs use; a specialist's run lies in a folder of its condition's name.
RESERVED = ("overall", "checkpoints", "config.json", "data.json", "results.json", "metrics.jsonl", "timing.jsonl")


NUMBERS = ("numeric", "rank", "ordinal")  # kinds whose labels are numbers
GAPS = ("numeric", "rank")  # of these, those with a gap that is small or large


class Condition(NamedTuple):
    """A condition, and what makes two items alike under it.

    kind: `categorical`: equal values; `numeric`: a small gap between numbers; `rank`: few items with a number between
    theirs; `ordinal`: few levels between them, the labels being numbers in the levels' order; `set`: a shared member,
    with `;` between the members; `triplets`: what people said in triplets of their own, without labels.
    """

    name: str
    kind: str


class _Form:
    """The one JSON form of a dataclass: its fields in their order, without those that are None or empty tuples."""

    def as_object(self) -> dict[str, Any]:
        """The JSON object of the file."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: _plain(value) for name, value in values.items() if value is not None and value != ()}

    @classmethod
    def from_object(cls, raw: dict[str, Any]) -> Self:
        """What `as_object` gave, without fields that this version does not know. Anything else raises KeyError,
        TypeError, ValueError or AttributeError."""
        fields = {field.name: raw[field.name] for field in dataclasses.fields(cls) if field.name in raw}
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})


def _plain(value: Any) -> Any:
    if not isinstance(value, tuple):
        return value
    return [part._asdict() if isinstance(part, Condition) else part for part in value]


@dataclass(frozen=True, kw_only=True)
class Record(_Form):
    """data.json: what a run was trained on.

    checkpoint, checkpoint_sha256, rectified: of a model that csn_jax.port imported.
    conditions: in the order of the masks' rows.
    split_unit: what the split keeps together: `item`, `triplet`, or a column's name.
    input_shape: of one input: [H, W, ch] or [F].
    items, triplets: their number per split.
    items_sha256, triplets_sha256: digests, of the triplets per split.
    init_sha256: of the weight file that training started from.
    init_licence: of the package that holds these weights, if it states one.
    folder: where training was started, if the config has relative paths: they begin there.
    adapted: what csn_jax.adapt reported of each condition that it added.
    maps: of the variant maps, the MapsPlan's `axes`, `rank` and `pulls`.
    raw: the vectors' raw geometry, for runs on vectors: whether it is of `unit` vectors and, after training, the
        `conditions` that it serves best, and its `scale` beside the other conditions.
    """

    source: str
    checkpoint: str | None = None
    checkpoint_sha256: str | None = None
    conditions: tuple[Condition, ...]
    split_unit: str | None = None
    input_shape: tuple[int, ...]
    items: dict[str, int]
    triplets: dict[str, int]
    items_sha256: str | None = None
    triplets_sha256: dict[str, str] | None = None
    rectified: bool | None = None
    init_sha256: str | None = None
    init_licence: str | None = None
    folder: str | None = None
    adapted: tuple[dict[str, Any], ...] = ()
    maps: dict[str, Any] | None = None
    raw: dict[str, Any] | None = None

    @classmethod
    def from_object(cls, raw: dict[str, Any]) -> "Record":
        conditions = [Condition(condition["name"], condition["kind"]) for condition in raw["conditions"]]
        record = super().from_object(raw | {"conditions": conditions})
        names, numbers = [*record.names, record.folder or ""], [*record.input_shape]
        numbers += [*record.triplets.values(), *record.items.values()]
        if not all(isinstance(name, str) for name in names) or not all(isinstance(n, int) for n in numbers):
            raise TypeError("a name is not text, or a number is not an integer")
        if not all(isinstance(report["own_data"], bool) for report in record.adapted):
            raise TypeError("own_data is not a truth value")
        return record

    @property
    def names(self) -> tuple[str, ...]:
        """The conditions' names."""
        return tuple(condition.name for condition in self.conditions)

    def check(self, new: "Record", workdir: Path) -> None:
        """Refuse data other than this record's: a UserError names the first field that differs, digests first. `new`
        may leave fields out; where it lies does not matter. Conditions that csn_jax.adapt learned from other data are
        not part of the run's own."""
        foreign = {report["condition"] for report in self.adapted if not report["own_data"]}
        own = tuple(condition for condition in self.conditions if condition.name not in foreign)
        old, now = (json.loads(to_json(part.as_object())) for part in (dataclasses.replace(self, conditions=own), new))
        for name in ("folder", "raw"):  # where the data lies, and what training found about it
            now.pop(name, None)
        for name in sorted(now, key=lambda name: "sha256" not in name):
            if old.get(name) != now[name]:
                raise UserError(
                    f"{workdir} was trained on other data: {name} is {old.get(name)} in its data.json and {now[name]} "
                    "now; bring back the data it was trained on, or train in a new --workdir."
                )


class Figure(NamedTuple):
    """A measured value with its 95 % interval, and the number of triplets or queries behind it."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Results(_Form):
    """results.json: what was measured on one split. A part that is None was not measured.

    triplet_error, ci95, n_triplets: {"overall": x, "by_condition": {name: x}}; ci95 holds [low, high].
    baselines: the same triplets under raw vectors, four examples per value, and linear probes.
    ladder: these and the run, with intervals, retrieval, and differences to the run.
    verdict: {condition: whether the run is worth having, in one sentence}.
    retrieval, leakage, off_task: as csn_jax/evaluate measures them.
    adapted: what csn_jax.adapt reported of the conditions that it added.
    against: the errors of another run, minus these.
    """

    variant: str
    conditions: tuple[str, ...]
    split: str
    step: int
    triplet_error: dict[str, Any]
    ci95: dict[str, Any]
    n_triplets: dict[str, Any]
    baselines: dict[str, Any] | None = None
    ladder: dict[str, Any] | None = None
    verdict: dict[str, str] | None = None
    primary_metric: dict[str, Any] | None = None
    retrieval: dict[str, Any] | None = None
    leakage: dict[str, Any] | None = None
    off_task: dict[str, Any] | None = None
    adapted: tuple[dict[str, Any], ...] = ()
    against: dict[str, Any] | None = None

    @classmethod
    def from_object(cls, raw: dict[str, Any]) -> "Results":
        results = super().from_object(raw)
        for condition in (*results.conditions, "overall"):
            results.figure(condition)
        return results

    def figure(self, condition: str, measure: str = "triplet_error") -> Figure:
        """A measure, `triplet_error` or one of retrieval's, such as `recall@1`, under a condition, or for the triplet
        error `overall`. A KeyError if it was not measured."""
        if measure == "triplet_error":
            value, (low, high), n = (at(part, condition) for part in (self.triplet_error, self.ci95, self.n_triplets))
        else:
            found = self.retrieval or {}
            value, (low, high) = (at(part, condition)[measure] for part in (found, found["ci95"]))
            n = at(found["n_queries"], condition)
        return Figure(float(value), float(low), float(high), int(n))


def at(part: dict[str, Any], condition: str) -> Any:
    """A value of {"overall": x, "by_condition": {name: x}}."""
    return part["overall"] if condition == "overall" else part["by_condition"][condition]


def to_json(value: dict[str, Any]) -> bytes:
    """The form of every JSON file that a command writes."""
    return (json.dumps(value, indent=2) + "\n").encode()


def check_name(name: str) -> None:
    """Refuse, by a UserError, a name that a condition cannot have: it names neighbours_<name>.png, and the folder of a
    specialist beside the workdir's own files."""
    if not name or not name.isprintable() or "/" in name or name.startswith(".") or len(name.encode()) > 200:
        raise UserError(f"condition {name!r} cannot name a file, as its pictures need; rename it.")
    if name in RESERVED:
        raise UserError(f"condition {name!r} has a name that results and workdirs use; rename it.")


def read_record(workdir: Path) -> Record:
    """data.json of a run; a UserError if it is missing or damaged."""
    path = workdir / "data.json"
    if not path.is_file():
        raise UserError(f"{workdir} has no data.json: its training never began; run the same command again.")
    record = _read(path, Record)
    for name in record.names:  # in an untrusted folder, names may lead anywhere
        try:
            check_name(name)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    return record


def read_results(workdir: Path) -> Results | None:
    """results.json of a finished run, or None while the run is not finished; a UserError if it is damaged."""
    path = workdir / "results.json"
    return _read(path, Results) if path.is_file() else None


def _read(path: Path, kind: type[_Form]) -> Any:
    problem: object = "it does not hold an object"
    try:
        raw = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raw, problem = None, error
    if isinstance(raw, dict):
        try:
            return kind.from_object(raw)
        except (KeyError, TypeError, ValueError, AttributeError):
            problem = "a field is missing or of another type"
    raise UserError(f"{path} is damaged ({problem}); restore it from a copy.")
