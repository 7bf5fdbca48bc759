"""Loads models, renders problems and samples completions outside a trainer.

Read in this order:

    loading.py          finds a model and tokenizer, checks them, loads them
    sampler.py          the front door: `Decoding`, `Completion`, the `Sampler` protocol, and sampling by transformers
    protocol.py         a task's protocol for a model: decoding, prompts as token ids, marked records
    early_stop.py       stops a trace that gets too unsure (DeepConf online)
    vllm_sampler.py     the same protocol by vLLM
    vllm_capture.py     measures self-certainty inside vLLM; imported in vLLM's process
    vllm_capture_v2.py  the same for vLLM's V2 model runner

Prompts become token ids in `rlif.tasks.rendering`, which training and graders use too. Evaluation, selection, training
and the command line import this folder. It imports tasks, config, scoring and signals, and no trainer.

A new engine is a class with `tokenizer`, `batch_size`, `sample` and `close`, see `sampler.Sampler`. Name it in
`rlif.evaluation.grid.samplers` for `rlif eval --engine`. It must draw the same distribution for the same `Decoding`,
and repeat for the same seed.
"""
