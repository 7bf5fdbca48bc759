"""What leaves a run: the card of its model, a folder or a repository of the hub, scores in a format that others read.

card      the model card: where a model is from, what it scored, what it must not be used for
folder    `rlif export`: the model as a plain folder, adapters merged on request; the front door
hub       uploads that folder, by huggingface_hub
results   scores as the JSON of lm-evaluation-harness

It imports config, runs, sampling and what lies below. Training writes the card; `rlif export` and `rlif eval` use the
rest. Nothing here trains or evaluates. Paths of this machine do not leave: only the last part of each does.
"""
