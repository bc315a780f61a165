"""Work in processes of its own: its memory, its crashes and its prints stay there.

    program.py     run_program: any command, bounded in time and in what it says
    job.py         run_child: a function of ours, JSON in, progress and a reply out
    worker.py      the main module of such a child
    parent.py      what a child does first: die with the one that started it

Two protocols, because there are two kinds of children. Ours get JSON and answer in JSON
lines on a descriptor of their own. Programs that are not ours (llama.cpp's converter, the
appliance's recorder of probes) know no protocol: their exit status, and the last line that
they print to stderr, is all that is taken of them.

What is the same for both: an environment that is made here from nothing, an empty folder
for current directory and temporary files, which goes with the child; no terminal and no
inherited descriptors; an end, with all that it started, at a time limit, when the call is
interrupted, and, by the kernel, when this process dies.
"""
