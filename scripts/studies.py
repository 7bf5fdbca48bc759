"""Runs the studies of results/: the paper in miniature, other bases, the floor, other cures, rounds.

    python scripts/studies.py miniature
    python scripts/studies.py wrong-and-sure    # needs the other base, see pretrain_reasoner.py
    python scripts/studies.py bases             # confidence against length, on the bases tiny-short and tiny-equal
    python scripts/studies.py bases-rest        # the other methods on them
    python scripts/studies.py floor
    python scripts/studies.py floor-long        # the signals of confidence, ten times the steps to the peak and more
    python scripts/studies.py relatives         # training in rounds beside online training, see relatives_results.py
    python scripts/studies.py cures             # what is said to prevent collapse, ten times the steps to the peak
    python scripts/studies.py cures-long        # likelihood, the floor and a falling rate, apart and together
    python scripts/studies.py cures-elsewhere   # all three on other bases, rates and temperatures; needs the other base
    python scripts/studies.py cures-real        # some of them on SmolLM2; needs real_base.py
    python scripts/studies.py frozen-miniature  # online against frozen annotator; needs a base of pretrain_reasoner.py
    python scripts/studies.py frozen-slow       # the same at a third of the rate
    python scripts/studies.py frozen            # the same on SmolLM2; needs frozen_base.py

A study has rows of overrides of the recipe miniature.yaml, or of a shipped recipe. Each row is run on each seed, with
all else equal. All rows of one seed run before the next seed, one run at a time. A finished run is not repeated,
nor is a cure's that results/cures.json has, unless `--again` asks for it. An unfinished one starts anew.
"""

from __future__ import annotations

import argparse
import re
import shutil
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cures_results
from refusals import call, missing_base
from rich.console import Console

import rlif
from rlif.errors import nearest

RECIPE = Path(__file__).with_name("miniature.yaml")
WORDS = Path("runs/words")
METHODS = {
    "intuitor": (),
    "grpo-gold": ("reward=accuracy",),
    "grpo-pv": ("reward=plurality_vote",),
    "negative-entropy": ("reward=negative_entropy",),
    "likelihood": ("reward=likelihood",),
    "self-consistency": ("reward=self_consistency",),
    "format": ("reward=format",),
    "random": ("reward=random",),
    "offline": ("annotator=offline",),
    "group-confidence": ("reward=mean_token_confidence",),
    "group-confidence-tail": ("reward=tail_confidence", "confidence_window=8"),
    "group-confidence-lowest": ("reward=lowest_window_confidence", "confidence_window=8"),
    "group-confidence-bottom": ("reward=bottom_window_confidence", "confidence_window=8"),
    "negative-entropy-sum": ("reward=negative_entropy_sum",),
    "likelihood-sum": ("reward=likelihood_sum",),
    "seed-grpo": ("reward=seed_grpo",),
    "semantic-entropy": ("reward=semantic_entropy", f"equivalence={{embedding: {WORDS}, threshold: 0.99}}"),
    "length": ("reward=length",),
    "shortness": ("reward=shortness",),
}
KL = {"intuitor-beta-0": ("training.beta=0",), "intuitor-beta-0.005": ("training.beta=0.005",)}
BASES = ("tiny-short", "tiny-equal")
CORE = ("intuitor", "grpo-gold", "length", "shortness", "random", "grpo-pv", "likelihood", "format")
FLOOR_SIGNALS = (
    "self_certainty",
    "likelihood",
    "negative_entropy",
    "mean_token_confidence",
    "self_consistency",
    "plurality_vote",
    "negative_entropy_sum",
    "likelihood_sum",
)
# Steps of training. Each signal has its peak at about step 20.
LONG = {"self_certainty": 350, "likelihood": 200, "negative_entropy": 200, "mean_token_confidence": 200}
FORMS = ("group_std", "group_std_floor")
TWICE = "training.num_iterations=2"  # kl_cov acts from the second update of a rollout on
SAVED = ("training.save_strategy=steps", "training.save_steps=10")
PULL_STOPS = "guard={policy: stop, kl: null, kl_slope: null}"  # the signs that do not depend on the rate are left
FLOOR = ("normalisation=group_std_floor",)
LIKELIHOOD = ("reward={likelihood: 1, accuracy: 0}",)
COSINE = ("training.lr_scheduler_type=cosine",)  # as in the paper; the rate ends at 0
KL_COV = (TWICE, "token_update={kind: kl_cov, share: 0.1}")
# Each changes the paper's form, reward self_certainty with group_std, by what it is named after. Those with another
# reward, two updates of a rollout or gold answers have a control beside them.
CURES = {
    "floor": FLOOR,
    "paper": (),
    "cosine": COSINE,
    "floor-cosine": (*FLOOR, *COSINE),
    "votes": ("reward={self_certainty: 1, self_consistency: 1, accuracy: 0}",),
    "rank": ("normalisation=group_rank",),
    "mask-answer": ("mask_answer=true",),
    "mask-answer-consensus": ("reward={self_consistency: 1, accuracy: 0}", "mask_answer=true"),
    "consensus": ("reward={self_consistency: 1, accuracy: 0}",),
    "few-32": ("limit=32",),
    "few-128": ("limit=128",),
    "few-512": ("limit=512",),
    "lagged": ("annotator=lagged",),
    "ema": ("annotator=ema",),
    "clip-cov": ("token_update=clip_cov",),
    "clip-cov-0.1": ("token_update={kind: clip_cov, share: 0.1}",),
    "two-updates": (TWICE,),
    "kl-cov": (TWICE, "token_update=kl_cov"),
    "kl-cov-0.1": KL_COV,
    "votes-kl-cov": (TWICE, "token_update=kl_cov", "reward={self_certainty: 1, self_consistency: 1, accuracy: 0}"),
    "guard-stop": ("guard.policy=stop",),
    "guard-stop-pull": (PULL_STOPS,),
    "floor-guard-stop-pull": (*FLOOR, PULL_STOPS),
    "likelihood": LIKELIHOOD,
    "likelihood-floor": (*LIKELIHOOD, *FLOOR),
    "guard-rollback": ("guard.policy=rollback", *SAVED),
    # gold first, so that each look follows five steps of confidence
    "alternate-gold": ("reward={self_certainty: {cycle: [[5, 0], [5, 1]]}, accuracy: {cycle: [[5, 1], [5, 0]]}}",),
    "gold": ("reward={accuracy: 1}",),
}
CURES_LONG = {
    "likelihood-floor-cosine": (*LIKELIHOOD, *FLOOR, *COSINE),
    "likelihood-floor": (*LIKELIHOOD, *FLOOR),
    "likelihood-cosine": (*LIKELIHOOD, *COSINE),
    "likelihood": LIKELIHOOD,
    "floor-cosine": (*FLOOR, *COSINE),
    "cosine": COSINE,
    "floor": FLOOR,
    "paper": (),
    "kl-cov-0.1": KL_COV,
}
CURES_STEPS = 100  # ten times the steps to the peak on tiny-equal
# Each changes one thing of the recipe that keeps its gain on tiny-equal: base, rate (3e-4) or temperature (1). Then
# come controls: the paper's form with a smaller rate, constant and falling.
SMALLER = ("training.learning_rate=1e-4",)
ELSEWHERE = {
    name: (*CURES_LONG["likelihood-floor-cosine"], change)
    for name, change in {
        "tiny-reasoner": "model=tiny-reasoner",
        "tiny-short": "model=tiny-short",
        "wrong-and-sure-base": "model=runs/wrong-and-sure-base",
        "rate-1e-3": "training.learning_rate=1e-3",
        "rate-1e-4": "training.learning_rate=1e-4",
        "temperature-0.7": "training.temperature=0.7",
        "temperature-1.3": "training.temperature=1.3",
    }.items()
} | {"paper-rate-1e-4": SMALLER, "cosine-rate-1e-4": (*COSINE, *SMALLER)}
# The advice on SmolLM2: five times the updates of the study of the real model, of half as many completions.
REAL_RECIPE = RECIPE.with_name("real.yaml")
REAL_COMMON = (
    "task=easy/story.alone",
    "reward={self_certainty: 1, accuracy: 0}",
    "normalisation=group_std",
    "problems_per_update=2",
    "training.per_device_train_batch_size=16",
    "training.max_steps=40",
    "training.save_strategy=no",
    "evaluate={tasks: [easy/story.alone], limit: 64, every: 10, batch_size: 64}",
)
THIRD = ("training.learning_rate=3e-4",)
RANDOM = ("reward={random: 1, accuracy: 0}",)  # what such updates do by themselves
CURES_REAL = {
    name: (*REAL_COMMON, *row)
    for name, row in {
        "paper": (),
        "floor-cosine": (*FLOOR, *COSINE),
        "paper-3e-4": THIRD,
        "floor-cosine-3e-4": (*FLOOR, *COSINE, *THIRD),
        "gold": ("reward={accuracy: 1}",),
        "random": RANDOM,
        "likelihood-floor-cosine-3e-4": (*LIKELIHOOD, *FLOOR, *COSINE, *THIRD),
        "random-3e-4": (*RANDOM, *THIRD),
        "floor": FLOOR,
        "kl-cov-0.1": KL_COV,
        "floor-cosine-1e-4": (*FLOOR, *COSINE, *SMALLER),
        "paper-1e-4": SMALLER,
        **{cure: CURES[cure] for cure in ("rank", "votes", "few-32", "mask-answer", "guard-stop")},
        "guard-rollback": ("guard.policy=rollback", SAVED[0], "training.save_steps=5"),
        "clip-cov-0.1": CURES["clip-cov-0.1"],
        "likelihood-floor-cosine": (*LIKELIHOOD, *FLOOR, *COSINE),
        **{cure: CURES[cure] for cure in ("alternate-gold", "lagged", "ema")},
        "votes-kl-cov-0.1": (*CURES["votes"], *KL_COV),
        **{cure: CURES[cure] for cure in ("two-updates", "cosine")},
    }.items()
}
LONG_CLOCK = f"{Path(__file__).with_name('long_clock.py')}:LongClock"
FROZEN_COMMON = (
    "model=runs/goes-on-base",
    f"task={LONG_CLOCK}",
    "reward={self_certainty: 1, accuracy: 0}",
    "training.max_completion_length=112",
    "training.beta=0.005",
    "training.max_steps=30",
    f"evaluate={{tasks: ['{LONG_CLOCK}'], limit: 128, every: 5, batch_size: 128}}",
)
SLOWLY = ("training.learning_rate=1e-4", "training.max_steps=100")
FROZEN_MINIATURE = {"online": FROZEN_COMMON, "offline": (*FROZEN_COMMON, "annotator=offline")}
FROZEN_SLOW = {name: (*row, *SLOWLY) for name, row in FROZEN_MINIATURE.items()}
# The paper's Fig. 7, on a real model that can go on after its answer.
FROZEN = {"online": (), "offline": ("annotator=offline",)}
FROZEN_RECIPE = RECIPE.with_name("frozen.yaml")


@dataclass(frozen=True)
class Study:
    """Names rows of overrides, each run on each seed."""

    rows: Mapping[str, tuple[str, ...]]
    seeds: range
    shipped: Mapping[str, str | Path] = field(default_factory=dict)  # rows that change another recipe, not RECIPE
    fewer: Mapping[str, Sequence[int]] = field(default_factory=dict)  # the seeds of rows that have not all of them

    def recipe(self, row: str) -> str | Path:
        """Returns the recipe that a row changes."""
        return self.shipped.get(row, RECIPE)


def floor_rows(steps: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    """Makes two rows for each signal, one per normalisation. Accuracy is logged and never rewarded.

    Args:
        steps: how long to train on each signal.
    """
    return {
        f"{signal}-{form}": (
            f"reward={{{signal}: 1, accuracy: 0}}",
            f"normalisation={form}",
            f"training.max_steps={length}",
            "evaluate={tasks: [clock], limit: 256, every: 20, batch_size: 256}",
        )
        for signal, length in steps.items()
        for form in FORMS
    }


# Each method samples 8 completions of 400 problems: 50 updates of 8 problems online, or five rounds of 80 problems. All
# have tiny-reasoner, temperature 1, and learning rate 3e-4 but for what `RELATIVES` says.
LOOKS = "evaluate={tasks: [clock, cups], limit: 256, every: 10, batch_size: 256}"
ROUNDS = (
    "rounds.number=5",
    "rounds.problems=80",
    "problems_per_update=8",
    "training.per_device_train_batch_size=8",
    LOOKS,
)
ONLINE = ("normalisation=group_std_floor", "training.max_steps=50", LOOKS)
RELATIVES = {
    "intuitor": ONLINE,
    "grpo-pv": ("reward=plurality_vote", *ONLINE),
    "grpo-gold": ("reward=accuracy", *ONLINE),
    "best-of-n-sft": ROUNDS,
    "best-of-n-sft-borda": ("rounds.choose=borda", *ROUNDS),
    "dpo-rlif": ROUNDS,
    "star": ROUNDS,
    "star-plurality": ROUNDS,
    "spin": ("rounds.samples=8", *ROUNDS),
    "genius": ("rounds.number=5", "rounds.problems=40", *ROUNDS[2:]),
    "genius-sigmoid": ("rounds.loss=sigmoid", "rounds.number=5", "rounds.problems=40", *ROUNDS[2:]),
    "hybrid": ("rounds.number=2", *ROUNDS[1:], "online.problems_per_update=8", "online.training.max_steps=30"),
    "hybrid-periodic": ("rounds.number=2", *ROUNDS[1:], "online.problems_per_update=8", "online.training.max_steps=15"),
}

OF_RECIPE = {name: name for name in RELATIVES if not name.startswith(("intuitor", "grpo"))}
OF_RECIPE |= {"best-of-n-sft-borda": "best-of-n-sft", "genius-sigmoid": "genius"}


def base_rows(methods: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Makes a row for each method on each base; a base has its own folder of runs."""
    return {f"{base}/{name}": (f"model={base}", *METHODS[name]) for name in methods for base in BASES}


def cure_rows(rows: Mapping[str, tuple[str, ...]], steps: int) -> dict[str, tuple[str, ...]]:
    """Makes the rows of the cures, each after what all have in common."""
    common = (
        "model=tiny-equal",
        "reward={self_certainty: 1, accuracy: 0}",
        f"training.max_steps={steps}",
        "evaluate={tasks: [clock], limit: 256, every: 10, batch_size: 256}",
    )
    return {name: (*common, *row) for name, row in rows.items()}


STUDIES = {
    "miniature": Study({**METHODS, **KL}, seeds=range(3)),
    "wrong-and-sure": Study(
        {name: ("model=runs/wrong-and-sure-base", *row) for name, row in METHODS.items()}, seeds=range(3)
    ),
    "bases": Study(base_rows(CORE), seeds=range(3)),
    "bases-rest": Study(base_rows(name for name in METHODS if name not in CORE), seeds=range(3)),
    "floor": Study(floor_rows(dict.fromkeys(FLOOR_SIGNALS, 100)), seeds=range(5)),
    "floor-long": Study(floor_rows(LONG), seeds=range(5)),
    "relatives": Study(RELATIVES, seeds=range(3), shipped=OF_RECIPE),
    "cures": Study(cure_rows(CURES, CURES_STEPS), seeds=range(5)),
    "cures-long": Study(
        cure_rows(CURES_LONG, 2 * CURES_STEPS),
        seeds=range(11, 21),
        fewer=dict.fromkeys([row for row in CURES_LONG if row != "likelihood-floor-cosine"], (11, 12)),
    ),
    "cures-elsewhere": Study(cure_rows(ELSEWHERE, 2 * CURES_STEPS), seeds=range(11, 13)),
    "cures-real": Study(CURES_REAL, seeds=range(2), shipped=dict.fromkeys(CURES_REAL, REAL_RECIPE)),
    "frozen-miniature": Study(FROZEN_MINIATURE, seeds=range(3)),
    "frozen-slow": Study(FROZEN_SLOW, seeds=range(3, 9)),
    "frozen": Study(FROZEN, seeds=range(3), shipped=dict.fromkeys(FROZEN, FROZEN_RECIPE)),
}


def save_words(folder: Path) -> None:
    """Saves the embedding model of the semantic-entropy row. It counts words, so the same words mean the same."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import BoW

    solutions = [problem.solution or "" for problem in rlif.TASKS["clock"].load("train", limit=500)]
    words = {word for solution in solutions for word in re.findall(r"[^\s.,]+", solution)}
    SentenceTransformer(modules=[BoW(vocab=sorted(words))], device="cpu").save(str(folder))


def kept_cures(study: str) -> set[tuple[str, int]]:
    """Names the rows and seeds of a study that the results keep, whether or not their run folders are there."""
    kept = cures_results.kept_runs(Path(__file__).parents[1] / "results/cures.json")
    return {(run["row"], run["seed"]) for run in kept if run["study"] == study}


def run_rows(
    rows: Mapping[str, tuple[str, ...]],
    seeds: Iterable[int],
    runs: Path,
    study: Study | None = None,
    kept: Collection[tuple[str, int]] = (),
) -> None:
    """Trains those runs of a study that its folder lacks, without those that are named as kept."""
    quiet = Console(quiet=True)
    for seed in seeds:
        for row, overrides in rows.items():
            path = runs / f"{row}-seed{seed}"
            if (path / "summary.json").is_file():
                continue
            if (row, seed) in kept:
                print(f"{path.name} is in results/cures.json; --again trains it again", flush=True)
                continue
            shutil.rmtree(path, ignore_errors=True)
            started = time.time()
            base = RECIPE if study is None else study.recipe(row)
            recipe = rlif.load_recipe(base, [*overrides, f"seed={seed}", f"name={path.name}", f"output={path.parent}"])
            rlif.train(recipe, console=quiet)
            print(f"{time.strftime('%H:%M:%S')} {path.name}: {time.time() - started:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of run folders")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: all of the study")
    parser.add_argument("--rows", nargs="+", help="default: all of the study")
    parser.add_argument("--again", action="store_true", help="train what results/cures.json keeps, too")
    args = parser.parse_args()
    study = STUDIES[args.study]
    if unknown := [name for name in args.rows or () if name not in study.rows]:
        parser.error(f"no row is called {unknown[0]!r}; {nearest(unknown[0], study.rows)}")
    rows = {name: row for name, row in study.rows.items() if not args.rows or name in args.rows}
    if missing := missing_base(rlif.load_recipe(study.recipe(name), row).model for name, row in rows.items()):
        parser.error(missing)
    if not WORDS.is_dir() and any(str(WORDS) in override for row in rows.values() for override in row):
        save_words(WORDS)
    runs = args.runs / args.study.removesuffix("-rest")
    kept = set() if args.again else kept_cures(runs.name)
    for seed in args.seeds or study.seeds:
        now = rows if args.seeds else {row: rows[row] for row in rows if seed in study.fewer.get(row, study.seeds)}
        run_rows(now, [seed], runs, study, kept)


if __name__ == "__main__":
    call(main)
