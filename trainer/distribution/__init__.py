"""Ranks: who they are, how they share work, and what happens when one is lost.

`environment` finds out who this process is (torchrun, srun, mpirun, or alone), `group`
connects the ranks, `wrap` and `gradients` make one network of many copies or shards,
`watch` notices a rank that died or hangs, `launch` starts ranks on one machine.
"""
