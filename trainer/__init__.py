"""Pretraining, finetuning and private finetuning. Nothing is here yet: the first
release serves models that were trained elsewhere."""
