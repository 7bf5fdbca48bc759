"""Finds a model and its tokenizer, checks them before weights are loaded, and loads them.

A model is a hub name, a folder, a folder with a LoRA adapter, whose base it names, a GGUF file or a folder with one, or
a name of `rlif.sampling.sources`, which also dequantises GGUF.
"""

import warnings
from pathlib import Path
from typing import Any, cast

from rlif import progress
from rlif.config.loading import check_recipe
from rlif.config.recipe import Recipe
from rlif.errors import MachineError, ModelError, RecipeError, first_line
from rlif.files.atomic import read_object
from rlif.files.yaml import read_yaml
from rlif.sampling.sources import NAMED, SHIPPED, dequantised, find_named, gguf_file, shipped_folder
from rlif.tasks.chat_template import OPEN, Chat

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")


def model_path(recipe: Recipe) -> str:
    """Returns what from_pretrained takes: a folder's absolute path, or a hub name; refuses pickles not allowed."""
    if not recipe.model.strip():
        raise ModelError("the model has no name; give a folder or a hub name.")
    if recipe.model in SHIPPED:
        return str(shipped_folder(recipe.model))
    if recipe.model in NAMED:
        return str(find_named(recipe.model, recipe.revision))
    folder = Path(recipe.model).expanduser()
    if not folder.exists():
        if recipe.model.startswith((".", "/", "~")) or recipe.model.count("/") > 1:
            raise ModelError(f"no such model folder: {recipe.model}.")
        return recipe.model
    if (file := gguf_file(folder)) is not None:
        return str(dequantised(file.resolve()))
    if is_adapter(folder):
        return str(folder.resolve())
    if not (folder / "config.json").is_file():
        raise ModelError(f"{recipe.model} is not a model folder: it has no config.json.")
    if not any(folder.glob("*.safetensors")):
        pickles = [path.name for pattern in PICKLES for path in folder.glob(pattern)]
        if not pickles:
            raise ModelError(f"{recipe.model} has a config.json but no weights (*.safetensors).")
        if not recipe.allow_pickle:
            raise ModelError(
                f"the weights in {recipe.model} are pickled ({pickles[0]}) and loading them can run code; convert them"
                " to safetensors, or set allow_pickle=true if you trust their author."
            )
    return str(folder.resolve())


def run_of(path: Path) -> Path | None:
    """Returns the run folder that contains a model."""
    place = {"model": path.parent, "checkpoints": path.parent.parent}
    run = place.get(path.name) or place.get(path.parent.name)
    return run if run and path.is_dir() and (run / "recipe.yaml").is_file() else None


def trained_with(model: str) -> Chat:
    """Returns how prompts were rendered where a model was trained, if its folder is that of a run."""
    run = run_of(Path(model).expanduser())
    if run is None or not (run / "environment.json").is_file():  # any folder may hold a recipe.yaml of its owner's
        return OPEN
    return check_recipe(read_yaml(run / "recipe.yaml")).chat_template


def is_adapter(path: str | Path) -> bool:
    """Tells whether a folder holds an adapter and not a whole model."""
    return (Path(path) / "adapter_config.json").is_file()


def adapter_settings(path: str | Path) -> dict[str, Any]:
    """Reads what an adapter is, without peft."""
    settings, folder = read_object(Path(path) / "adapter_config.json"), Path(path)
    if settings.get("peft_type") != "LORA" or not settings.get("base_model_name_or_path"):
        raise ModelError(f"{path} holds a {settings.get('peft_type')} adapter; rlif reads LoRA adapters with a base.")
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(f"{path} has an adapter_config.json but no weights (adapter_model.safetensors).")
    return settings


def base_of(path: str | Path) -> tuple[str, str | None]:
    """Returns the base that an adapter names, and the base's revision where it was trained on a certain one."""
    settings = adapter_settings(path)
    return settings["base_model_name_or_path"], settings.get("revision")


def check_adapter(recipe: Recipe) -> bool:
    """Tells whether a recipe trains adapters; refuses one whose `lora` contradicts the adapter that is its model."""
    path = model_path(recipe)
    if not is_adapter(path):
        return recipe.lora is not None
    settings = adapter_settings(path)
    for key, value in (recipe.lora or {}).items():
        found = settings.get(key)
        same = sorted(value) == sorted(found or []) if isinstance(value, list) else value == found
        if not same:
            raise RecipeError(
                f"{recipe.model} is an adapter with {key} {found!r}, but lora.{key} is {value!r}; leave lora out to"
                " train this adapter on, or merge it into its base first to train a new one."
            )
    return True


def load_kwargs(recipe: Recipe) -> dict[str, Any]:
    """Returns the arguments of from_pretrained, for the policy and for the reference model."""
    kwargs: dict[str, Any] = {"dtype": recipe.dtype, "use_safetensors": None if recipe.allow_pickle else True}
    return kwargs | ({"revision": recipe.revision} if recipe.revision else {})


def load_config(recipe: Recipe) -> Any:
    """Loads the model's configuration."""
    from transformers import AutoConfig

    from rlif.sampling.limits import check_kind

    path, revision = model_path(recipe), recipe.revision
    if is_adapter(path):
        path, revision = base_of(path)
    try:
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"cannot load the model {recipe.model!r}: {first_line(error)}") from error
    check_kind(recipe.model, config)
    return config


def load_generation_config(recipe: Recipe) -> Any:
    """Loads the model's own settings of sampling; those of transformers where it has none."""
    from transformers import GenerationConfig

    path, options = model_path(recipe), cast(dict[str, Any], {"revision": recipe.revision or "main"})
    if is_adapter(path):
        path, options = adapter_settings(path)["base_model_name_or_path"], {}
    try:
        return GenerationConfig.from_pretrained(path, **options)
    except OSError:
        return GenerationConfig()
    except (ValueError, TypeError) as error:
        raise ModelError(f"cannot read generation_config.json of {recipe.model!r}: {first_line(error)}") from error


def load_tokenizer(recipe: Recipe) -> Any:
    """Loads the tokenizer, with a pad token and padding on the left."""
    from transformers import AutoTokenizer

    path, revision = model_path(recipe), recipe.revision
    if is_adapter(path) and not any((Path(path) / name).is_file() for name in TOKENIZERS):
        path, revision = base_of(path)
    if Path(path).is_dir() and not any((Path(path) / name).is_file() for name in TOKENIZERS):
        raise ModelError(f"{recipe.model} has no tokenizer: none of {', '.join(TOKENIZERS)} is there.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False, padding_side="left")
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"cannot load the tokenizer of {recipe.model!r}: {first_line(error)}") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of {recipe.model!r} has no end-of-sequence token, so nothing ends a completion."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if recipe.chat and tokenizer.chat_template is None:
        raise ModelError(f"the tokenizer of {recipe.model!r} has no chat template; set chat=false for plain prompts.")
    return tokenizer


@progress.task("loading the model")
def load_model(recipe: Recipe, device: str | None = None) -> Any:
    """Loads the model in evaluation mode, to the GPU if there is one; a LoRA adapter with its base."""
    import torch
    from safetensors import SafetensorError

    from rlif.sampling.limits import check_finite

    load_config(recipe)  # which refuses other kinds
    path = model_path(recipe)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model = load_adapter(recipe, path, trained_on=False) if is_adapter(path) else load_weights(recipe, path)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"cannot load the model {recipe.model!r}: {first_line(error)}") from error
    check_finite(recipe.model, model.named_parameters())
    return model.to(device).eval()


def load_weights(recipe: Recipe, path: str, **options: Any) -> Any:
    """Loads a whole model, or the base of an adapter.

    Args:
        options: more arguments of from_pretrained.

    Raises:
        ModelError: a tensor is missing, which transformers fills with random numbers, or has another shape.
    """
    from transformers import AutoModelForCausalLM

    options |= load_kwargs(recipe) | {"trust_remote_code": False, "output_loading_info": True}
    options["ignore_mismatched_sizes"] = True  # they are refused here
    if is_adapter(path):
        path, options["revision"] = base_of(path)  # the recipe's revision is the adapter's
    loaded: Any = AutoModelForCausalLM.from_pretrained(path, **options)
    model, report = loaded
    for name, found, expected in sorted(report["mismatched_keys"]):
        shapes = f"{tuple(found)}, but {tuple(expected)} by config.json"
        raise ModelError(f"in the weights of {path}, {name} has the shape {shapes}; get the model anew.")
    if missing := sorted(report["missing_keys"]):
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise ModelError(f"the weights of {path} lack {missing[0]}{more}, which would be random; get the model anew.")
    return model


def check_whole(recipe: Recipe) -> Any:
    """Refuses weights that lack a tensor, by the names in their files; quantised ones are not looked at.

    Returns:
        The model without its weights, or None for a quantised one.

    Raises:
        ModelError: names the first such tensor, or says why transformers cannot load the model.
    """
    from safetensors import SafetensorError
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    if getattr(load_config(recipe), "quantization_config", None) or is_deepspeed_zero3_enabled():  # not without memory
        return None
    try:
        return load_weights(recipe, model_path(recipe), device_map="meta")
    except (OSError, ImportError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"cannot load the model {recipe.model!r}: {first_line(error)}") from error


def load_adapter(recipe: Recipe, path: str, trained_on: bool) -> Any:
    """Loads a LoRA adapter with its base.

    Args:
        trained_on: it is to be trained further.

    Raises:
        ModelError: its folder is not whole.
        MachineError: peft is not installed.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MachineError(f"{recipe.model} is a LoRA adapter; pip install 'rlif[lora]'.") from error
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Found missing adapter keys")
        try:
            return PeftModel.from_pretrained(load_weights(recipe, path), path, is_trainable=trained_on)
        except UserWarning as warning:
            raise ModelError(f"the weights of {recipe.model} are not whole: {first_line(warning)}") from warning
