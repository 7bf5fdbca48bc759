"""Exports the model of a run, with its card and its scores, to a folder or to the hub.

    folder    `rlif export`, the front door: the model as a plain folder, adapters merged on request
    card      the model card: where a model is from, what it scored, what it must not be used for
    hub       uploads that folder, by huggingface_hub
    results   scores as the JSON of lm-evaluation-harness

It imports config, runs, sampling and what lies below. Training writes the card; `rlif export` and `rlif eval` use the
rest. Nothing here trains or evaluates. Of a path on this machine, only the last part is written.
"""
