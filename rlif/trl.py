"""GRPOTrainer and RLOOTrainer for scripts written for TRL: `reward_funcs` takes the names of signals.

    from trl import GRPOConfig
    from rlif.trl import GRPOTrainer

    trainer = GRPOTrainer(model=..., reward_funcs=["self_certainty"], args=GRPOConfig(...), train_dataset=...)

`labelled("accuracy")` and `unlabelled("self_certainty")` reward only rows with a gold answer, and rows without one.
`InternalFeedback` adds the same to a subclass of one's own: `class Mine(InternalFeedback, MyTrainer)`.
"""

from rlif.engines.trl.measuring.annotator import Annotator
from rlif.engines.trl.names import labelled, unlabelled
from rlif.engines.trl.trainer import GRPOTrainer, InternalFeedback, RLOOTrainer
from rlif.guard.limits import Guard

__all__ = ["Annotator", "GRPOTrainer", "Guard", "InternalFeedback", "RLOOTrainer", "labelled", "unlabelled"]
