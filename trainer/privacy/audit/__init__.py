"""What an attacker learns of a finished model: an empirical check of its privacy claim.

    canaries, insertion   random records, planted by secret coins before training
    scoring               how well a model knows each record
    one_run               a lower bound on epsilon out of guessed coins
    planning              how many canaries could show how much
    exposure, membership  how far canaries and real records give themselves away
    run, result           all of it for one checkpoint

An audit can contradict a claim and never prove one: a weak attack finds little in a leaky
model. The claim rests on the mechanism and its accounting.
"""
