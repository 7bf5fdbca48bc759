"""The recipe: all that a run is, checked before anything is loaded. In reading order:

recipe        the keys, their types, what contradicts what, and what follows from them; the front door is `Recipe`
loading       finds a recipe by name or path, applies overrides and checks it: `load_recipe`, `check_recipe`
defaults      the paper's training values, the algorithms in TRL's options, the options that rlif sets itself
inheritance   `base:` merges a recipe over another; old names of keys and rewards, which go on working
rounds        training in rounds, and online training after them
schedule      weights of rewards by step
token_update  the keys that change the update of single tokens
passes        which forward pass gives the statistics that rewards read: one table for engine, plan and refusals
steps         steps and completions of a run, and the memory of an annotator's copy
about         what a recipe says of its source: published scores, hardware, where each value is from

It imports types, errors, files, signals and guard; everything above graders may import it. No file here imports a
trainer. A new key is a field of `Recipe` with its docstring, a check where it can contradict another, and a test. A
key that is renamed gets a line in `inheritance`.
"""
