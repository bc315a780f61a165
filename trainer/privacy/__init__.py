"""Differentially private finetuning: what a model can at most reveal, and the proof of it.

One plan decides everything (`plan`): the sampler, the clipping, the noise, what a sum is
divided by, and the event that is accounted for. A ledger is written before each update.
"""
