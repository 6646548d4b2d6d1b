"""Several people's answers as one: how much they agree, what each is worth, and one answer per question.

A question is an item whose value was asked, or a triplet's anchor with its two others. What a person is worth follows
from the questions that others answered too, by the one-coin model of Dawid and Skene (1979): everybody is right with a
probability of their own, and otherwise gives any other answer.
"""

from collections import defaultdict
from typing import NamedTuple

import numpy as np

from csn_jax.data.columns import Columns
from csn_jax.data.triplet_tables import ROLES

STEPS = 100  # of the estimate, which ends when it moves less than 1e-6
DOUBT = 1.0  # answers in each direction that are added to those of a person: nobody is always right
ENOUGH = 5  # questions with others, from which a person's worth is estimated; with fewer it is the others' mean


class Raters(NamedTuple):
    """weights: {name: from 0, as good as chance, to 1, the best of them}. alpha: Krippendorff's, for categories: 1 is
    full agreement, 0 is chance; None without shared questions. shared: questions of two people or more."""

    weights: dict[str, float]
    alpha: float | None
    shared: int

    def about(self) -> str:
        """One line for people."""
        if self.alpha is None:
            return f"{len(self.weights)} raters share no question, so that all count alike"
        worth = ", ".join(f"{name or 'without a name'} {weight:.2f}" for name, weight in self.weights.items())
        found = f"{len(self.weights)} raters share {self.shared:,} questions: Krippendorff's alpha {self.alpha:.2f}"
        return f"{found} (1: full agreement, 0: chance); weights: {worth}"


def weigh(question: np.ndarray, answer: np.ndarray, rater: np.ndarray, *, equal: bool = False) -> Raters:
    """Raters of A answers: question, answer and rater are int [A], str [A], str [A]. equal: give all the weight 1."""
    names, person = np.unique(rater, return_inverse=True)
    given: dict[int, list[int]] = defaultdict(list)
    for row, asked in enumerate(question.tolist()):
        given[asked].append(row)
    shared = [rows for rows in given.values() if len(set(person[rows].tolist())) > 1]
    _, code = np.unique(answer, return_inverse=True)
    alpha = _alpha([code[rows] for rows in shared])
    weights = np.ones(len(names))
    if shared and not equal:
        weights = _worth([(person[rows], code[rows]) for rows in shared], len(names), int(code.max()) + 1)
    return Raters(dict(zip(names.tolist(), weights.tolist(), strict=True)), alpha, len(shared))


def _alpha(units: list[np.ndarray]) -> float | None:
    """Krippendorff's alpha for categories, of units with two answers or more each."""
    if not units:
        return None
    total, apart = 0, 0.0
    counts: dict[int, int] = defaultdict(int)
    for codes in units:
        m, (values, times) = len(codes), np.unique(codes, return_counts=True)
        total += m
        apart += (m * m - np.square(times).sum()) / (m - 1)
        for value, n in zip(values.tolist(), times.tolist(), strict=True):
            counts[value] += n
    by_chance = total * total - sum(n * n for n in counts.values())
    return 1.0 if by_chance == 0 else float(1 - (total - 1) * apart / by_chance)


def _worth(units: list[tuple[np.ndarray, np.ndarray]], n_raters: int, n_answers: int) -> np.ndarray:
    """[R] from 0 to 1. units: (raters, answers) of each shared question."""
    right = np.full(n_raters, 0.8)
    asked = np.zeros(n_raters)
    for people, _ in units:
        np.add.at(asked, people, 1)
    choices = max(2, n_answers)
    for _ in range(STEPS):
        hits = np.full(n_raters, DOUBT)
        for people, codes in units:
            belief = _belief(people, codes, right, choices)
            np.add.at(hits, people, [belief[code] for code in codes.tolist()])
        new = hits / (asked + 2 * DOUBT)
        moved, right = np.abs(new - right).max(), new
        if moved < 1e-6:
            break
    right = np.where(asked >= ENOUGH, right, right[asked >= ENOUGH].mean() if (asked >= ENOUGH).any() else 1.0)
    worth = np.maximum(0, (right * choices - 1) / (choices - 1))  # above chance
    return worth / worth.max() if worth.max() > 0 else np.ones(n_raters)


def _belief(people: np.ndarray, codes: np.ndarray, right: np.ndarray, choices: int) -> dict[int, float]:
    """{answer: the probability that it is the right one}, of the answers that were given to a question."""
    odds = np.log(np.clip(right, 1e-3, 1 - 1e-3) * (choices - 1) / np.clip(1 - right, 1e-3, 1))
    score: dict[int, float] = defaultdict(float)
    for person, code in zip(people.tolist(), codes.tolist(), strict=True):
        score[code] += odds[person]
    most = max(score.values())
    total = sum(np.exp(value - most) for value in score.values())
    return {code: float(np.exp(value - most) / total) for code, value in score.items()}


def joined(question: np.ndarray, answer: np.ndarray, rater: np.ndarray, raters: Raters) -> np.ndarray:
    """The rows [K] of A answers that are kept, one per question: the answer with most weight behind it. A question is
    kept with the highest weight of those who gave that answer as its probability, by a fixed seed."""
    weight = np.array([raters.weights[name] for name in rater.tolist()])
    given: dict[int, list[int]] = defaultdict(list)
    for row, asked in enumerate(question.tolist()):
        given[asked].append(row)
    rng = np.random.default_rng(0)
    kept = []
    for rows in given.values():
        score: dict[str, float] = defaultdict(float)
        for row in rows:
            score[str(answer[row])] += weight[row]
        best = max(score, key=score.__getitem__)  # the first of equal ones
        first = max((row for row in rows if answer[row] == best), key=lambda row: weight[row])
        if rng.random() < weight[first]:
            kept.append(first)
    return np.sort(np.array(kept, int))


def questions_of_labels(ids: list[str], labels: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(question, answer) [A] of rows that give items their values."""
    return np.unique(np.array(ids), return_inverse=True)[1], np.array(labels)


def questions_of_triplets(columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    """(question, answer) [A] of rows of triplets: which of two others is more like the anchor, in that condition."""
    anchor, positive, negative = (np.array(columns.text[role]) for role in ROLES)
    condition = np.array(columns.text.get("condition", [""] * len(anchor)))
    swapped = positive > negative
    first, second = np.where(swapped, negative, positive), np.where(swapped, positive, negative)
    _, question = np.unique(np.stack([condition, anchor, first, second]), axis=1, return_inverse=True)
    return question.ravel(), swapped.astype(str)
