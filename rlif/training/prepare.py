"""Prepares a run: reads and checks all that can be read or refused before a model is loaded.

The checks of a recipe, in this order; each refuses in one sentence:

    keys        `Recipe`                         types, and keys that contradict each other, when the file is read
    names       `check_names`                    task, prompt, rewards and what these ask of the rest (`check_terms`)
    options     `check_training` of the engine   TRL's options, whole batches (`Recipe.accumulation`), vLLM's
    data        `check_gold`                     gold answers for rewards that read them, a sandbox for programs
    model       `check_annotator`                a frozen start that something holds; then tokenizer and prompts
    steps       `plan_steps`                     enough problems, steps that are rewarded, checkpoints between rollouts
    machines    `launching.check_layout`         for `rlif launch` and `rlif plan`
"""

from dataclasses import dataclass
from typing import Any

from rlif import progress
from rlif.config.recipe import Recipe
from rlif.config.steps import Plan, check_annotator, plan_steps
from rlif.errors import ModelError, RecipeError
from rlif.rewards.terms import check_gold, check_terms
from rlif.runs.paths import with_absolute_paths
from rlif.sampling.loading import load_config, load_tokenizer
from rlif.tasks import Task, check_sources, find_task, source_of
from rlif.tasks.prompts import Prompt, find_prompt
from rlif.types import Problem


@dataclass(frozen=True)
class PreparedRun:
    """A checked recipe with its problems and tokenizer."""

    recipe: Recipe
    task: Task
    prompt: Prompt
    tokenizer: Any
    problems: list[Problem]
    too_long: int
    plan: Plan
    held_out: dict[str, list[Problem]]
    options: dict[str, Any]  # for the config of the engine's trainer

    def prompts(self) -> list[Any]:
        """Returns what the trainer gets of the problems: conversations or texts, and nothing else."""
        render = self.prompt.messages if self.recipe.chat else self.prompt.text
        return [render(problem.text) for problem in self.problems]


def check_names(recipe: Recipe) -> tuple[Task, Prompt]:
    """Returns the task and the prompt that a recipe names; looks up every other name as well.

    Raises:
        RlifError: an unknown name; the nearest is suggested. Rewards that contradict the rest of the recipe.
    """
    task = find_task(recipe.task)
    check_terms(recipe, task)
    check_sources(recipe.evaluate.sources, [find_task(name) for name in recipe.evaluate.tasks])
    return task, find_prompt(recipe.prompt or task.protocol.prompt)


def check_settings(recipe: Recipe, processes: int) -> tuple[Task, Prompt, dict[str, Any]]:
    """Checks all that needs neither data nor a model; returns task, prompt and the options for TRL's config."""
    from rlif.engines.trl.setup import check_training

    return *check_names(recipe), check_training(recipe, processes)


@progress.task("reading problems and tokenizer")
def prepare(recipe: Recipe, processes: int = 1) -> PreparedRun:
    """Reads problems and tokenizer and checks that they make a run.

    Raises:
        RlifError: anything in the recipe, the data or the tokenizer that would stop the run.
    """
    from rlif.tasks.rendering import render

    recipe = with_absolute_paths(recipe)
    task, prompt, options = check_settings(recipe, processes)
    problems = task.load(recipe.split, source=recipe.source, limit=recipe.limit, seed=recipe.seed)
    looked_at = {name: find_task(name) for name in recipe.evaluate.tasks}
    held_out = {
        name: each.load("test", source=source_of(each, recipe.evaluate.sources), limit=recipe.evaluate.limit)
        for name, each in looked_at.items()
    }
    check_gold(recipe, task, problems)
    check_annotator(recipe, load_config(recipe))
    tokenizer = load_tokenizer(recipe)
    chat = recipe.chat_template
    short = [p for p in problems if len(render(tokenizer, prompt, p.text, chat)) <= recipe.max_prompt_tokens]
    if not all(render(tokenizer, prompt, p.text, chat) for p in short[:1]):
        raise ModelError(
            f"the tokenizer of {recipe.model!r} gives no tokens for the first prompt; is it the model's own?"
        )
    if not short:
        raise RecipeError(
            f"all {len(problems)} prompts are longer than max_prompt_tokens ({recipe.max_prompt_tokens}); raise it."
        )
    plan = plan_steps(recipe, len(short), processes)
    return PreparedRun(recipe, task, prompt, tokenizer, short, len(problems) - len(short), plan, held_out, options)
