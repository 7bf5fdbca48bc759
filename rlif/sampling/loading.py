"""Finds a model and its tokenizer, checks them before weights are loaded, and loads them outside a trainer."""

from importlib import resources
from pathlib import Path
from typing import Any

from rlif import progress
from rlif.config.recipe import Recipe
from rlif.errors import MachineError, ModelError, first_line

SHIPPED = {"tiny-reasoner": "models/tiny-reasoner"}
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")


def model_path(recipe: Recipe) -> str:
    """Returns what from_pretrained takes: a folder's absolute path, or a hub name.

    Raises:
        ModelError: a folder without a model, or pickled weights that were not allowed.
    """
    if recipe.model in SHIPPED:
        return str(Path(str(resources.files("rlif"))) / SHIPPED[recipe.model])
    folder = Path(recipe.model).expanduser()
    if not folder.exists():
        if recipe.model.startswith((".", "/", "~")) or recipe.model.count("/") > 1:
            raise ModelError(f"no such model folder: {recipe.model}.")
        return recipe.model
    if (folder / "adapter_config.json").is_file():
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


def load_kwargs(recipe: Recipe) -> dict[str, Any]:
    """Returns the arguments of from_pretrained, for the policy and for the reference model."""
    kwargs: dict[str, Any] = {"dtype": recipe.dtype, "use_safetensors": None if recipe.allow_pickle else True}
    return kwargs | ({"revision": recipe.revision} if recipe.revision else {})


def load_config(recipe: Recipe) -> Any:
    """Loads the model's configuration.

    Raises:
        ModelError: it is neither on this machine nor on the hub.
    """
    from transformers import AutoConfig

    path = model_path(recipe)
    try:
        return AutoConfig.from_pretrained(path, revision=recipe.revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"cannot load the model {recipe.model!r}: {first_line(error)}") from error


def load_tokenizer(recipe: Recipe) -> Any:
    """Loads the tokenizer, with a pad token and padding on the left.

    Raises:
        ModelError: there is none, it has no end-of-sequence token, or no chat template where the recipe needs one.
    """
    from transformers import AutoTokenizer

    path = model_path(recipe)
    if Path(path).is_dir() and not any((Path(path) / name).is_file() for name in TOKENIZERS):
        raise ModelError(f"{recipe.model} has no tokenizer: none of {', '.join(TOKENIZERS)} is there.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path, revision=recipe.revision, trust_remote_code=False, padding_side="left"
        )
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
    """Loads the model in evaluation mode; a LoRA adapter with its base.

    Args:
        device: the GPU if there is one, else the CPU, if left out.

    Raises:
        ModelError: it is neither on this machine nor on the hub, or its weights cannot be read.
        MachineError: it is a LoRA adapter and peft is not installed.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    path = model_path(recipe)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    loader: Any = AutoModelForCausalLM
    if (Path(path) / "adapter_config.json").is_file():
        try:
            from peft import AutoPeftModelForCausalLM

            loader = AutoPeftModelForCausalLM
        except ImportError as error:
            raise MachineError(f"{recipe.model} is a LoRA adapter; pip install 'rlif[lora]'.") from error
    try:
        model = loader.from_pretrained(path, trust_remote_code=False, **load_kwargs(recipe))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"cannot load the model {recipe.model!r}: {first_line(error)}") from error
    return model.to(device).eval()
