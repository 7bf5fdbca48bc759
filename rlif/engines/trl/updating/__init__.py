"""Changes the update of single tokens: the keys `token_update` and `mask_answer` of a recipe.

In reading order:

    covariance.py    which tokens kl_cov and clip_cov choose
    weights.py       how much each token counts in a form of TRL's loss
    by_token.py      front door: the mixin over a TRL trainer

Neither copies TRL's loss. The policy gradient of a token is switched off by an advantage of 0, since TRL takes an
advantage for each token. A penalty is added to TRL's loss with TRL's own weights of tokens. The trainer imports this
folder; the keys and their refusals are in `rlif.config.token_update`.
"""
