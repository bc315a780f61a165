"""How weights move: optimizers, learning-rate schedules, early stopping.

optimizers   parameter groups, AdamW, SGD, and Muon with AdamW, behind one object
schedule     the learning rate of every step, a pure function
stopping     when validation no longer improves
"""
