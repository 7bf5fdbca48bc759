"""Compares outputs pairwise by a language model as judge, and computes AlpacaEval's win rates.

In reading order:

    judge         asks one judge about one pair, over any OpenAI-compatible endpoint
    annotations   asks about all pairs, keeps the answers on disk; reads recorded annotations; the front door
    win_rate      computes the raw and the length-controlled win rate from annotations

Evaluation and the command line may import this folder. It imports types, errors, intervals and files only. Another
prompt is a file for `JudgePrompt.read`, another judge a name and an endpoint: neither needs code here. A key is read
from the environment and never written.
"""
