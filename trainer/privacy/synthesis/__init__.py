"""Private text generation: texts like the private ones, for tests of a site.

    source.py         a checkpoint whose claim holds, opened; or a refusal
    prompts.py        what texts begin with, and which texts are written together
    settings.py       how tokens are drawn
    drawing.py        one token of each text, from logits
    continuation.py   the network after a prompt, one token at a time
    writing.py        whole texts, batch after batch
    record.py         the claim that goes with the samples
    checking.py       whether samples, claim and model belong together
    sample_file.py    both files, whole or not at all
    run.py            all of it

Why the samples carry the claim of the model: differential privacy is closed under
post-processing. Whatever is computed from the weights alone, without another look at the
private data, reveals no more of it than the weights do (Dwork and Roth, "The algorithmic
foundations of differential privacy", 2014, proposition 2.1). Any number of texts has the
same epsilon. The one way to break this is to look at the data again: a prompt that is
taken from private records is such a look, so prompts count as public, and are written down.
"""
