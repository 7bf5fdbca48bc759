"""Starts runs of several processes and machines, and plans what they take. In reading order:

commands      layouts, what a layout cannot do, and the commands that start it; the front door
launchers/    accelerate's configuration, a file for each strategy; and the text of the batch script
slurm         the same as a batch script
supervise     runs the commands of one machine to their end and turns it into a sentence and an exit code
hardware      figures of GPUs, and shapes of models
cost_model    seconds and memory of a step, for `rlif plan` and `rlif train --dry-run`
suggestions   changes that make a run fit
fit           refuses what cannot fit on this machine

It imports config, runs and what lies below; training, comparison and cli may import it. A new GPU or model is a row in
`hardware`. A new strategy is a file in launchers/, a line of `commands.STRATEGIES`, and its memory in `cost_model`.
"""
