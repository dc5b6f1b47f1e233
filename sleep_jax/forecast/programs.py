"""Every program of a run, as its phases list them, and what they cost.

Left out: the sentence encoder of the judges `embedding` and `cosine` (22M parameters) and the edit
distances of Eq. 4, small beside a decoder; further teachers (`seeding.teachers`); consolidations
between two levels and merges, whose programs are those of the first level at another one; how well
earlier documents are answered (`dreaming.curriculum`), which is `try: score untrained` for more of
them.
"""

import collections
from collections.abc import Sequence

import jax

from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.phases.registry import PHASES
from sleep_jax.programs.abstract import AbstractRun
from sleep_jax.programs.program import Program
from sleep_jax.programs.sizes import Sizes
from sleep_jax.runtime.hardware import model_flops


def programs_of(config, mesh, sizes: Sizes, platform: str = "tpu") -> list[Program]:
    """Every program of a run on a mesh, in the order of a day.

    Args:
      config: of the run.
      mesh: that it is on.
      sizes: of its documents.
      platform: of the mesh's devices.
    """
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        run = AbstractRun(config, mesh, sizes, platform)
        return [program for phase in PHASES.values() for program in phase.programs(run)]


def flops_of(program: Program, cfg: DecoderConfig) -> float:
    """FLOPs that the model needs for one call."""
    return model_flops(
        cfg,
        tokens=program.tokens,
        keys=program.keys,
        scored=program.scored,
        passes=program.passes,
    )


def work_by_kind(
    programs: Sequence[Program], cfg: DecoderConfig, seedings: float = 1.0
) -> collections.Counter:
    """FLOPs of a day and its night, by the name of the function that they are spent in.

    Args:
      programs: of the day.
      cfg: of the decoder.
      seedings: slots that are seeded in it; each costs a consolidation and its rehearsals.
    """
    work = collections.Counter()
    for program in programs:
        times = seedings if is_of_seeding(program) else 1.0
        work[program.function.__name__] += times * program.calls * flops_of(program, cfg)
    return work


def is_of_seeding(program: Program) -> bool:
    """Whether every slot that is seeded calls it, not the study of the day alone."""
    return program.phase == "consolidate" or program.name.startswith("study: rehearse")
