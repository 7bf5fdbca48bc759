"""Prepares a run: reads and checks all that can be read or refused before a model is loaded.

The checks of a recipe, in this order; each refuses in one sentence:

    keys        `Recipe`                         types, and keys that contradict each other, when the file is read
    names       `check_names`                    task, prompt, rewards and what these ask of the rest (`check_terms`)
    options     `check_training` of the engine   TRL's options, whole batches (`Recipe.accumulation`), vLLM's
    data        `check_gold`, `check_labels`     gold answers for rewards that read them, a sandbox for programs
    model       `check_annotator`                a frozen start that something holds; then tokenizer and prompts
    sampling    `check_generation`               options of sampling, tried on a tiny model
    lengths     `check_fit`                      prompts and completions within the model's positions and embeddings
    steps       `plan_steps`                     enough problems, steps that are rewarded, checkpoints between rollouts
    machines    `launching.check_layout`         for `rlif launch` and `rlif plan`
    memory      `launching.fit.check_memory`     of this machine, for `rlif train`
    the rest    `rehearse`                       for `--dry-run`, which loads no model: weights, adapters, models of
                                                 rewards, TRL's config and what it leaves to a trainer
"""

from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

from rlif import progress
from rlif.config.recipe import Recipe
from rlif.config.rounds import in_rounds, online_recipe, recipes_of
from rlif.config.steps import Plan, check_annotator, plan_rounds, plan_steps
from rlif.errors import ModelError, RecipeError
from rlif.files import own
from rlif.files.own import is_own
from rlif.rewards.terms import check_gold, check_labels, check_terms, reads_problems
from rlif.runs import fingerprint
from rlif.runs.environment import environment
from rlif.runs.folder import Run
from rlif.runs.paths import code_of, with_absolute_paths
from rlif.sampling.loading import (
    check_adapter,
    is_adapter,
    load_config,
    load_generation_config,
    load_tokenizer,
    model_path,
)
from rlif.sampling.sources import weights_of
from rlif.tasks import Task, by_id, check_sources, find_task, of_task
from rlif.tasks.labels import hide_labels, in_stages, is_labelled
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
    held_out_tasks: dict[str, Task]
    options: dict[str, Any]  # for the config of the engine's trainer
    rewarded: list[Problem]  # the problems as rewards see them, without the gold answers that `labels` hides
    config: Any  # transformers' configuration of the model

    @property
    def notes(self) -> list[str]:
        """What is to be said of the prompts: how many are left out, and how many are equal to an earlier one."""
        prompts = [repr(prompt) for prompt in self.prompts()]
        found, repeated = [], len(prompts) - len(set(prompts))
        if self.too_long:
            found.append(f"{self.too_long} problems left out: prompts above {self.recipe.max_prompt_tokens} tokens")
        if repeated:
            found.append(f"{repeated} of {len(prompts)} prompts are equal to an earlier one; each counts as a problem")
        return found

    def prompts(self) -> list[Any]:
        """Returns what the trainer gets of the problems: conversations or texts, and nothing else."""
        render = self.prompt.messages if self.recipe.chat else self.prompt.text
        return [render(problem.prompt) for problem in self.problems]


def check_names(recipe: Recipe) -> tuple[Task, Prompt]:
    """Returns the task and the prompt that a recipe names; looks up every other name as well."""
    task = find_task(recipe.task).reading(recipe.columns)
    check_terms(recipe, task)
    held_out = _held_out(recipe)
    check_sources(recipe.evaluate.sources, [*held_out.values()])
    check_sources(recipe.evaluate.columns, [*held_out.values()], "a mapping of columns")
    return task, find_prompt(recipe.prompt or task.protocol.prompt)


def _held_out(recipe: Recipe) -> dict[str, Task]:
    tasks: dict[str, Task] = {}
    for name in recipe.evaluate.tasks:
        task = find_task(name)
        title = task.name if is_own(name) or task.alias else name  # of one's own not the path, which would name files
        if tasks.setdefault(title, task) is not task and is_own(name):
            raise RecipeError(f"evaluate.tasks has two tasks called {title}; give one another `name`, or name it once.")
    return {name: task.reading(of_task(task, recipe.evaluate.columns) or {}) for name, task in tasks.items()}


def check_settings(recipe: Recipe, processes: int) -> tuple[Task, Prompt, dict[str, Any]]:
    """Checks all that needs neither data nor a model; returns task, prompt and the options for TRL's config."""
    for key, off in {"eval_strategy": ("no", False), "eval_on_start": (False,)}.items():
        if recipe.training.get(key, off[0]) not in off:
            raise RecipeError(f"training.{key} needs a data set of TRL's; use evaluate.tasks and evaluate.every.")
    named = check_names(recipe)
    if recipe.engine == "verl":
        from rlif.engines.verl.options import check_recipe_for_verl

        return *named, check_recipe_for_verl(recipe, processes)
    if not in_rounds(recipe):
        from rlif.engines.trl.setup import check_training

        return *named, check_training(recipe, processes)
    from rlif.engines.rounds import trainers as rounds

    options = rounds.check_training(recipe)
    recipe.accumulation(processes)  # refuses several
    if (online := online_recipe(recipe)) is not None:
        check_settings(online, processes)
    return *named, options


@progress.task("reading problems and tokenizer")
def prepare(recipe: Recipe, processes: int = 1) -> PreparedRun:
    """Reads problems and tokenizer and checks that they make a run."""
    from rlif.sampling.limits import check_fit, check_generation, check_trainable
    from rlif.sampling.protocol import render_problems
    from rlif.tasks.rendering import render_all

    recipe = with_absolute_paths(recipe)
    task, prompt, options = check_settings(recipe, processes)
    problems = task.load(recipe.split, source=recipe.source, limit=recipe.limit, seed=recipe.seed)
    looked_at = _held_out(recipe)
    held_out = {
        name: each.load("test", source=of_task(each, recipe.evaluate.sources), limit=recipe.evaluate.limit)
        for name, each in looked_at.items()
    }
    for found in held_out.values():
        by_id(found)  # refuses two of the same id
    check_gold(recipe, task, problems)
    config = load_config(recipe)
    check_trainable(recipe.model, config, adapters=check_adapter(recipe))
    check_annotator(recipe, config)
    text = config.get_text_config()
    if options.get("router_aux_loss_coef") and not hasattr(text, "output_router_logits"):
        raise RecipeError(f"training.router_aux_loss_coef is for a mixture of experts, and {recipe.model} has none.")
    if not (options.get("use_vllm") or options.get("use_transformers_continuous_batching")):
        check_generation(recipe.model, load_generation_config(recipe), options, text.vocab_size)
    tokenizer = load_tokenizer(recipe)
    chat = recipe.chat_template
    rendered = render_all(tokenizer, prompt, [problem.prompt for problem in problems], chat)
    fits = [len(ids) <= recipe.max_prompt_tokens for ids in rendered]
    short, ids = list(compress(problems, fits)), list(compress(rendered, fits))
    if not all(ids[:1]):
        raise ModelError(
            f"the tokenizer of {recipe.model!r} gives no tokens for the first prompt; is it the model's own?"
        )
    if not short:
        raise RecipeError(
            f"all {len(problems)} prompts are longer than max_prompt_tokens ({recipe.max_prompt_tokens}); raise it."
        )
    short, rewarded = arrange(recipe, task, short)
    longest = options["max_completion_length"]
    check_fit(recipe.model, config, tokenizer, ids, longest)
    for name, each in looked_at.items():
        own = find_prompt(recipe.prompt or each.protocol.prompt)
        ids = render_problems(tokenizer, own, held_out[name], chat, each)
        check_fit(recipe.model, config, tokenizer, ids, min(each.protocol.max_tokens, longest))
    if in_rounds(recipe):
        plan = check_rounds(recipe, task, rewarded, options)
    else:
        plan = plan_steps(recipe, len(short), processes)
    left_out = len(problems) - len(short)
    return PreparedRun(
        recipe, task, prompt, tokenizer, short, left_out, plan, held_out, looked_at, options, rewarded, config
    )


def check_rounds(recipe: Recipe, task: Task, problems: list[Problem], options: dict[str, Any]) -> Plan:
    """Refuses problems that a method of rounds cannot work with, and what TRL refuses of its options; counts steps."""
    from rlif.engines.rounds.choices import CHOICES, most_of
    from rlif.engines.rounds.trainers import trainer_config

    assert recipe.rounds is not None
    by_id(problems)  # refuses two of the same id
    trainer_config(recipe, options, recipe.output)
    if (check := CHOICES[recipe.rounds.choose].check) is not None:
        check(recipe, task, problems)
    return plan_rounds(recipe, len(problems), most_of(recipe))


def arrange(recipe: Recipe, task: Task, problems: list[Problem]) -> tuple[list[Problem], list[Problem]]:
    """Puts problems into the order of the recipe; returns them, and the same as rewards see them."""
    rewarded = hide_labels(problems, recipe.labels, recipe.seed)
    labelled = [is_labelled(task, problem) for problem in rewarded]
    check_labels(recipe, task, labelled)
    if recipe.order == "shuffled":  # by the engine
        return problems, rewarded
    places = in_stages(labelled, recipe.order == "labelled_first", recipe.seed)
    return [problems[i] for i in places], [rewarded[i] for i in places]


def rehearse(recipe: Recipe, processes: int = 1, *, here: bool = True) -> Plan:
    """Prepares a run and returns its plan; reads local weights a tensor at a time, loads no model, writes nothing.

    Args:
        here: whether it will run on this machine, which must then have vLLM if the recipe uses it.

    Raises:
        RlifError: what would stop the run, as far as that can be seen before it starts.
    """
    if recipe.engine == "verl":
        return _rehearse_verl(recipe, processes)
    from rlif.engines.rounds import trainers as rounds
    from rlif.engines.trl.setup import build_reward, check_lora, read_lora, trainer_config
    from rlif.sampling.loading import check_whole
    from rlif.sampling.vllm_sampler import require_vllm

    lora = read_lora(recipe)
    prepared, path = prepare(recipe, processes), Path(model_path(recipe))
    options = dict(prepared.options)
    if here and options.get("use_vllm"):
        require_vllm()
    for key in ("per_device_train_batch_size", "per_device_eval_batch_size"):  # of all processes, in this one
        options[key] = options.get(key, 8) * processes
    if processes > 1:  # which this process cannot start
        options = {key: value for key, value in options.items() if not key.startswith(("ddp_", "deepspeed", "fsdp"))}
    if in_rounds(recipe):
        rounds.trainer_config(prepared.recipe, options, prepared.recipe.output)
    else:
        trainer_config(prepared.recipe, options, prepared.recipe.output)
    build_reward(prepared.recipe, prepared.task, None, prepared.prompts()[0], device="meta")
    _check_files(recipe)
    model = check_whole(recipe) if path.is_dir() else None
    if model is not None and lora is not None and not is_adapter(path):
        check_lora(model, lora)
    if (online := online_recipe(recipe)) is not None:
        rehearse(online, processes, here=here)
    return prepared.plan


def _rehearse_verl(recipe: Recipe, processes: int) -> Plan:
    """Prepares a run of the engine verl; asks verl as well, where it is installed."""
    from rlif.engines.verl import checks, options
    from rlif.rewards.equivalence import load_equivalence
    from rlif.rewards.terms import recipe_terms

    prepared = prepare(recipe, processes)
    recipe_terms(prepared.recipe, prepared.prompts()[0], device="meta")
    if recipe.equivalence is not None:
        load_equivalence(recipe.equivalence, "meta")
    _check_files(recipe)
    translated = options.translate(prepared.recipe, options.Machines(processes), Path(recipe.output) / "run")
    if checks.is_installed():
        checks.check_config(checks.compose(translated), prepared.recipe)
    return prepared.plan


def _check_files(recipe: Recipe) -> None:
    from rlif.sampling.limits import check_files

    path = Path(model_path(recipe))
    rewards = [name for each in recipes_of(recipe) for name in each.weights]
    for name in (recipe.model, *rewards):
        check_files(name, path if name == recipe.model else Path(name))


def facts_of(prepared: PreparedRun) -> dict[str, Any]:
    """Computes what `begun.json` holds of a run, see `rlif.runs.fingerprint`."""
    recipe = prepared.recipe
    columns = any(reads_problems(each) for each in recipes_of(recipe))
    facts = fingerprint.compute(prepared.problems, prepared.held_out, model_path(recipe), columns=columns)
    if code := own.code_hashes(code_of(recipe)):
        facts["code"] = code
    if weights := weights_of(recipe.model):
        facts["weights"] = weights
    return facts


def changes_since(prepared: PreparedRun, resume: Run, facts: dict[str, Any]) -> list[str]:
    """Notes what is not as when the run began.

    Raises:
        DataError: the problems or the model changed.
    """
    recipe = prepared.recipe
    problems = f"the problems of {recipe.task} ({recipe.source or 'its own source'}, {recipe.split})"
    named = {"problems": problems, "columns": f"a column of {problems}", "model": f"the model {recipe.model}"}
    fingerprint.check(resume.fingerprint(), facts, resume.path, named)
    notes = []
    if changed := ", ".join(fingerprint.differences(resume.environment(), environment())):
        notes.append(f"not what it was started with: {changed}; the run goes on, but not as if nothing had happened")
    if changed := ", ".join(fingerprint.changed_code(resume.fingerprint(), facts)):
        notes.append(f"not the code that it was started with: {changed}; the steps from here on are by the new code")
    return notes
