"""Loads models and samples completions outside a trainer.

    sampler          the front door: `Decoding`, `Completion`, the `Sampler` protocol, and sampling by transformers
    sources          models by a short name; GGUF weights made into an ordinary folder
    loading          finds a model and tokenizer, checks them, loads them
    limits           says first what a model cannot do
    protocol         a task's protocol for a model: prompt, decoding, marked records
    early_stop       stops a trace that gets too unsure (DeepConf online)
    vllm_sampler     samples by vLLM
    vllm_capture     measures self-certainty inside vLLM, `vllm_capture_v2` in its V2 model runner

Selection, runs and the folders above them may import this one. It loads no trainer. A new engine is
a class like `sampler.Sampler`, named in `rlif.evaluation.grid.samplers` for `rlif eval --engine`. It must draw the same
distribution for the same `Decoding`, and repeat for the same seed.
"""
