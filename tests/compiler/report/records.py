"""Records of compilations, for tests of what is made of them."""

from __future__ import annotations

from compiler.report.entry import Entry
from compiler.report.record import Compilation, SourceFacts, WorstTensor
from compiler.targets.choosing import named_targets
from compiler.tune.candidate import Candidate, Quality, Round, Speed, Trial
from compiler.tune.choose import Load, choose
from compiler.tune.promise import make_promise

FIGURES = (
    ("as given", 0.0, 1.0, 253),
    ("output Q5_0", 0.02, 1.18, 284),
    ("output IQ4_NL", 0.048, 1.49, 266),
    ("output and embedding Q4_0", 0.093, 1.51, 169),
)


def speed(gain: float, *, predicted: bool) -> Speed:
    rates = {"decode@1": 70.0 * gain, "decode@16": 210.0 * gain, "prefill@512": 600.0}
    return Speed(rates, 0.25, 400.0, predicted)


def record(*, predicted: bool = False) -> Compilation:
    trials = []
    for number, (label, kl, gain, size) in enumerate(FIGURES):
        family = "reference" if number == 0 else "output"
        candidate = Candidate("llama.cpp", label, family, {"output": label}, {"threads": 2})
        quality = Quality(1536, kl, 8 * kl, 21.5 * (1 + kl), 1 + kl, 1 - 2 * kl)
        rounds = tuple(
            Round(speed(gain + drift, predicted=predicted), speed(1.0, predicted=predicted))
            for drift in (0.0, 0.01, -0.01)
        )
        trials.append(Trial(candidate, size << 20, f"{number:064x}", quality, rounds))
    ruined = Candidate("llama.cpp", "layers <Q4_0>", "whole", {"default": "Q4_0"}, {"threads": 2})
    said = "ruined, seen on a part of the texts: mean KL divergence is 0.449"
    trials.append(Trial(ruined, 158 << 20, "f" * 64, Quality(512, 0.449), (), said, True))
    promise, load = make_promise("balanced"), Load(1)
    choice = choose(trials, promise, load)
    return Compilation(
        source=SourceFacts("gemma.gguf", "a" * 64, 253 << 20, "llama.cpp"),
        target=named_targets()["x86-64-v4-vnni"],
        machine="A Processor",
        promise=promise,
        load=load.label,
        load_rates=("decode@1",),
        loss="Mean KL divergence",
        chosen=choice.chosen.candidate.digest,
        reference=trials[0].candidate.digest,
        front=tuple(one.candidate.digest for one in choice.front),
        candidates=tuple(Entry.of(one) for one in trials),
        worst=(WorstTensor("blk.0.attn_v.weight", "Q4_0", 0.11, 40_000),),
        context={"versions": {"casemate": "0.1.0"}, "evaluation_sha256": "b" * 64},
        command=("casemate", "compile", "gemma.gguf", "--max-kl", "0.07"),
        seconds=812.4,
        budget_seconds=1200.0,
        notes=("final rounds: 2 candidates were timed less often for time",),
    )
