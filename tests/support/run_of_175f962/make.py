"""Makes the run folder beside it with an earlier commit of rlif; README.md has the command."""

import shutil
from pathlib import Path

from rich.console import Console
from support.models import byte_tokenizer, tiny_model

import rlif

OVERRIDES = [
    "model=model",
    "output=.",
    "name=run",
    "reward={self_certainty: 1.0, group_confidence_tail: 0.5}",
    "limit=64",
    "problems_per_update=2",
    "max_prompt_tokens=1024",
    "keep_completions=0",
    "evaluate.tasks=[]",
    "guard.prompt_check=0",
    "training.num_generations=4",
    "training.per_device_train_batch_size=8",
    "training.max_completion_length=8",
    "training.max_steps=4",
    "training.save_steps=2",
    "training.warmup_steps=0",
    "training.learning_rate=1e-3",
    "training.log_level=error",
]

folder = Path.cwd()
model = tiny_model(
    hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
    tie_word_embeddings=True,
)  # fmt: skip
model.save_pretrained(folder / "model")
byte_tokenizer().save_pretrained(folder / "model")
run = rlif.train(rlif.load_recipe("demo", OVERRIDES), console=Console(quiet=True))
for left_out in ("checkpoints/checkpoint-4", "model", "completions"):
    shutil.rmtree(run.path / left_out, ignore_errors=True)
for left_out in ("summary.json", ".lock"):
    (run.path / left_out).unlink(missing_ok=True)
for path in (run.path / "environment.json", run.path / "recipe.yaml"):
    path.write_text(path.read_text().replace(str(folder), "/before"))
