"""Computes the win rates of AlpacaEval 2: raw, and controlled for length.

    raw                 mean(preference) - 1, in %; preference is 1 where the baseline's output is better, 2 where the
                        model's is, 1.5 for a tie, anything between where a judge gave a probability
    length controlled   preference - 1 ~ sigmoid(a tanh(d) + b difficulty + c), averaged at d = 0, in %
                        (arXiv 2404.04475; d = (len_1 - len_2) / its standard deviation over the instructions,
                        lengths in characters, difficulty one published number per instruction)

The regression is fitted to the model's rows, weight 1, together with the rows of a verbose and a concise baseline,
weight 0.1 and without the c: they hold a and b to what is known of length. A probability p enters as two rows, one of
either outcome, with weights p and 1 - p. The penalty is L1; its C is the best of ten in five-fold cross-validation.

What to watch. Upstream gives row k the difficulty of instruction k: where a model lacks rows, every later row gets a
neighbour's. `difficulty="positional"` repeats that, to reproduce such published values; the default looks up by
instruction. Where two C are nearly equally good the choice moves the figure by 0.1 points. Unjudged rows are left out
of the mean and of the fit, and counted; the prediction is averaged over all rows, as upstream does. Checked to give the
same with scikit-learn 1.4.0, 1.5.2, 1.8.0 and 1.9.1.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from rlif.errors import DataError, MachineError, lookup
from rlif.files.tables import read_rows
from rlif.intervals import Interval, error_interval

HUB = "the data set tatsu-lab/alpaca_eval of the Hugging Face hub"
GAMED_WEIGHT = 0.1
POSITIONAL = {"instruction": False, "positional": True}
FOLDS = 5
BOOTSTRAP = 200  # samples
CLIP = 1e-15  # of probabilities, in the log loss
SMALL = 16  # quicksort leaves stretches of so many and fewer alone


@dataclass(frozen=True)
class Annotation:
    """Holds the judgement of one instruction."""

    index: int  # position of the instruction among the 805, from 0
    preference: float | None  # from 1, the baseline's output is better, to 2, the model's is; None where it is unjudged
    len_1: int  # characters of the baseline's output
    len_2: int  # characters of the model's


@dataclass(frozen=True)
class WinRate:
    """Holds a win rate in %."""

    share: Interval  # its mean, NaN where nothing is judged, with Student's interval; n counts the judged rows
    standard_error: float | None = None  # of the mean; None where it is unknown
    strength: float | None = None  # the C of the regression; None without one
    weights: Mapping[str, float] | None = None  # of length, difficulty and model in the regression


@dataclass(frozen=True)
class WinRates:
    """Holds both win rates of one model."""

    n: int  # rows
    unjudged: float  # the share of rows without a preference
    raw: WinRate
    length_controlled: WinRate
    difficulty: str  # how it was looked up
    baseline_length: float  # mean characters of the outputs
    model_length: float


def win_rates(annotations: Sequence[Annotation], difficulty: str = "instruction") -> WinRates:
    """Computes both win rates of one model, the unjudged share, and the lengths of the outputs.

    Example::

        win_rates(annotations).length_controlled.share.mean
    """
    n = len(annotations)
    controlled = length_controlled(annotations, difficulty)
    unjudged = sum(row.preference is None for row in annotations) / n
    lengths = sum(row.len_1 for row in annotations) / n, sum(row.len_2 for row in annotations) / n
    return WinRates(n, unjudged, raw_win_rate(annotations), controlled, difficulty, *lengths)


def raw_win_rate(annotations: Sequence[Annotation]) -> WinRate:
    """Computes the mean preference for the model in %, over the judged rows; no interval below two rows."""
    wins = np.array([row.preference - 1 for row in annotations if row.preference is not None])
    if not len(wins):
        return WinRate(Interval(0))
    error = 100 * float(wins.std(ddof=1)) / len(wins) ** 0.5 if len(wins) > 1 else None
    return WinRate(error_interval(len(wins), 100 * float(wins.mean()), error).within(0, 100), error)


def length_controlled(annotations: Sequence[Annotation], difficulty: str = "instruction") -> WinRate:
    """Predicts the win rate in % for outputs as long as the baseline's.

    The interval has the standard error of 200 bootstrap samples of the instructions at the chosen C. Against itself the
    baseline has 50 by definition.

    Args:
        annotations: one per instruction. Their order matters to "positional" alone.
        difficulty: "instruction" looks it up by `index`; "positional" by the row's place in the list, as upstream does.
    """
    if not annotations:
        raise DataError("there are no annotations to take a win rate of.")
    positional = lookup(POSITIONAL, difficulty, "difficulty")
    rows = list(annotations) if positional else sorted(annotations, key=lambda row: row.index)
    index, times = Counter(row.index for row in rows).most_common(1)[0]
    if times > 1:
        raise DataError(f"instruction {index} is annotated {times} times; expected one annotation each.")
    judged = sum(row.preference is not None for row in rows)
    if judged == 0:
        return WinRate(Interval(0))
    if all(row.len_1 == row.len_2 and row.preference in (1.5, None) for row in rows):
        return WinRate(Interval(judged, 50.0))
    return _regress(rows, judged, positional)


def _regress(rows: Sequence[Annotation], judged: int, positional: bool) -> WinRate:
    gamed = gamed_baselines()
    model_XN = features(rows, difficulties(), positional)
    known = np.array([row.preference is not None for row in rows])
    wins = np.array([row.preference - 1 for row in rows if row.preference is not None])
    table = Regression.of(gamed, model_XN[known], wins)
    strength = table.choose_strength()
    weights = table.fit(strength)

    rng, means = np.random.default_rng(0), []
    place = np.cumsum(known) - 1
    for _ in range(BOOTSTRAP):
        drawn = rng.integers(len(rows), size=len(rows))
        drawn_known = drawn[known[drawn]]
        again = Regression.of(gamed, model_XN[drawn_known], wins[place[drawn_known]])
        means.append(predicted_win_rate(model_XN[drawn], again.fit(strength)))
    error = 100 * float(np.std(means, ddof=1))
    named: dict[str, float] = dict(zip(("length", "difficulty", "model"), map(float, weights), strict=True))
    share = error_interval(judged, 100 * predicted_win_rate(model_XN, weights), error).within(0, 100)
    return WinRate(share, error, strength, named)


def features(rows: Sequence[Annotation], table: dict[int, float], positional: bool) -> np.ndarray:
    """Builds one row [tanh(d), difficulty, 1] per annotation, float64."""
    gap = np.array([row.len_1 - row.len_2 for row in rows], dtype=np.float64)
    spread = gap.std(ddof=1) if len(gap) > 1 else 0.0
    places = range(len(rows)) if positional else [row.index for row in rows]
    unknown = [place for place in places if place not in table]
    if unknown:
        raise DataError(f"instruction {unknown[0]} has no difficulty; the table has {len(table)}, counted from 0.")
    hardness = [table[place] for place in places]
    return np.column_stack([np.tanh(gap / spread if spread else gap * 0), hardness, np.ones(len(gap))])


def predicted_win_rate(rows_XN: np.ndarray, weights: np.ndarray) -> float:
    """Computes the mean probability of a win at equal length."""
    return float(np.mean(expit(rows_XN[:, 1:] @ weights[1:])))


@dataclass(frozen=True)
class Regression:
    """Holds rows of features, each with its probability of a win and its weight."""

    rows: np.ndarray
    wins: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, gamed: tuple[np.ndarray, np.ndarray], rows: np.ndarray, wins: np.ndarray) -> Regression:
        weight = np.concatenate([np.full(len(gamed[1]), GAMED_WEIGHT), np.ones(len(wins))])
        return cls(np.concatenate([gamed[0], rows]), np.concatenate([gamed[1], wins]), weight)

    def fit(self, strength: float) -> np.ndarray:
        """Fits the three weights at C = `strength`, by liblinear with an L1 penalty and no intercept."""
        logistic = _logistic(strength)
        outcome = np.repeat([1, 0], len(self.wins))
        likely = np.concatenate([self.wins * self.weight, (1 - self.wins) * self.weight])
        logistic.fit(np.concatenate([self.rows, self.rows]), outcome, sample_weight=likely)
        return logistic.coef_[0]

    def loss(self, weights: np.ndarray) -> float:
        """Computes the weighted log loss, averaged over the rows."""
        chance = np.clip(expit(self.rows @ weights), CLIP, 1 - CLIP)
        losses = self.wins * np.log(chance) + (1 - self.wins) * np.log(1 - chance)
        return -float(np.mean(self.weight * losses))

    def choose_strength(self) -> float:
        """Chooses the C of logspace(-4, 4, 10) with the least held-out loss over five folds."""
        fold = folds(len(self.wins))
        strengths = np.logspace(-4, 4, 10)
        parts = [(self._part(fold != k), self._part(fold == k)) for k in range(FOLDS)]
        losses = [np.mean([test.loss(train.fit(c)) for train, test in parts]) for c in strengths]
        return float(strengths[int(np.argmin(losses))])

    def _part(self, chosen: np.ndarray) -> Regression:
        return Regression(self.rows[chosen], self.wins[chosen], self.weight[chosen])


def folds(n: int) -> np.ndarray:
    """Assigns a fold, 0 to 4, to each of n rows, as GroupKFold did for the published values.

    Groups of one size are dealt in turn, in the reversed order in which an argsort leaves equal keys: that of a
    median-of-three quicksort (numpy's, before it had vector sorts; scikit-learn 1.9 sorts stably). The order
    decides which C wins where two are nearly equal: gpt-3.5-turbo-1106 comes to 19.30, as published, in this order and
    to 19.22 in a stable one.
    """
    order = np.arange(n)
    stretches = [(0, n - 1)]
    while stretches:
        low, high = stretches.pop()
        if high - low < SMALL:
            continue
        middle = low + (high - low) // 2
        order[[middle, high - 1]] = order[[high - 1, middle]]
        order[low + 1 : high - 1] = order[low + 1 : high - 1][::-1].copy()
        meet = (low + high) // 2
        order[[meet, high - 1]] = order[[high - 1, meet]]
        stretches += [(low, meet - 1), (meet + 1, high)]
    fold = np.empty(n, dtype=int)
    fold[order[::-1]] = np.arange(n) % FOLDS
    return fold


def gamed_baselines() -> tuple[np.ndarray, np.ndarray]:
    """Reads features (third one 0) and win probabilities of the verbose and concise baselines, 1,610 rows."""
    rows = _table("df_gamed.csv", "df_gamed_reconstructed.csv", ("preference", "std_delta_len"))
    numbers = np.array([[float(row["std_delta_len"]), float(row["instruction_difficulty"]), 0.0] for row in rows])
    numbers[:, 0] = np.tanh(numbers[:, 0])
    return numbers, np.array([float(row["preference"]) for row in rows])


def difficulties() -> dict[int, float]:
    """Reads the published difficulty of each instruction, by its index."""
    rows = _table("instruction_difficulty.csv", "instruction_difficulty_recovered.csv", ("instruction_difficulty",))
    return {int(next(iter(row.values()))): float(row["instruction_difficulty"]) for row in rows}


def _table(name: str, recovered: str, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Reads upstream's own file if it exists, else the one recovered from published values."""
    folder = os.environ.get("RLIF_DATA")
    if not folder:
        raise DataError(
            f"length control needs {name}, from {HUB}: put it into a folder alpaca_eval/ of the folder that the"
            " environment variable RLIF_DATA names."
        )
    home = Path(folder) / "alpaca_eval"
    for path in (home / name, home / recovered):
        if path.is_file():
            return read_rows(str(path), "test", columns)
    raise DataError(f"length control needs {home / name} (or {recovered} there); {name} is a file of {HUB}.")


def _logistic(strength: float) -> Any:
    try:
        import sklearn
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise MachineError("length control needs scikit-learn: pip install 'rlif[alpaca]'.") from error
    major, minor = (int(part) for part in sklearn.__version__.split(".")[:2])
    penalty: dict[str, Any] = {"l1_ratio": 1.0} if (major, minor) >= (1, 8) else {"penalty": "l1"}
    return LogisticRegression(C=strength, solver="liblinear", fit_intercept=False, random_state=123, **penalty)


def check_ready(difficulty: str = "instruction") -> None:
    """Checks, before a judge is paid, that both win rates can be computed here."""
    lookup(POSITIONAL, difficulty, "difficulty")
    _logistic(1.0)
    gamed_baselines()
    difficulties()
