"""The run configs of the arms that sleep: `configs/sleep_smollm2.py`, shortened, with five dreams a
passage, of which three are tried.
"""

import pathlib
import runpy

import ml_collections

ROOT = pathlib.Path(__file__).parents[2]
TOPICS = 8  # rehearsed every night
# Days of a stream, at least: two slots are routed to, and a random expert needs a third filled one.
FEWEST_DAYS = 4

BASE = "base"
FULL, NO_DREAMS = "sleep", "sleep, no dreaming"
NO_SELECTION, NO_EXPERT = "sleep, no gradient selection", "sleep, no random expert"
NO_ROUTER = "sleep, no router"


def after_a_passage() -> ml_collections.ConfigDict:
    """The config of one night, after one passage."""
    c = runpy.run_path(str(ROOT / "configs" / "sleep_smollm2.py"))["get_config"]()
    c.memory.slots = (1,)
    c.study.rehearsals = 1
    c.seeding.steps = 24
    c.seeding.batch_size = 2
    c.seeding.num_generations = 4
    c.dreaming.instructions = ("implications",)
    c.dreaming.num_generations = 5
    c.dreaming.max_new_tokens = 128
    c.dreaming.keep_top, c.dreaming.keep_random = 2, 1
    c.dreaming.steps = 10
    c.dreaming.trial.microbatch = 3
    c.evaluation.max_new_tokens = 64
    return c


def after_many(days: int) -> ml_collections.ConfigDict:
    """The config of a night after each of several days; the router picks two slots, and from the
    fourth day on there are other filled ones, from which the writer's random expert is drawn.
    """
    c = after_a_passage()
    c.data.episodes = days
    c.data.chunk_tokens = 200  # a passage, and as many of the dreams about it
    c.study.rehearsals = 4  # with 1, a night cost the anchors 12 % and was rolled back
    c.memory.slots = (days,)
    c.memory.router, c.memory.top_k = "sigmoid", 2
    c.seeding.steps = 60
    c.dreaming.keep_top, c.dreaming.keep_random = 1, 1
    c.dreaming.trial.microbatch = 4
    c.dreaming.random_expert = True
    c.gate.divergence = 1.0  # slots compete for top_k; whatever a night gains is kept
    return c


def single_day(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config with one day, to load the model with; days are set later (`with_days`)."""
    c = c.copy_and_resolve_references()
    c.data.episodes, c.dreaming.random_expert = 1, False
    return c


def variant(arm: str, c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config of one arm."""
    c = c.copy_and_resolve_references()
    if arm == NO_SELECTION:
        c.dreaming.measure = "random"
        c.dreaming.keep_top, c.dreaming.keep_random = (
            0,
            c.dreaming.keep_top + c.dreaming.keep_random,
        )
    if arm == NO_EXPERT:
        c.dreaming.random_expert = False
    if arm == NO_DREAMS:
        c.dreaming.steps = 0
    if arm == NO_ROUTER:  # every slot is on, so that there is none to draw
        c.memory.router, c.memory.top_k = "none", 0
        c.dreaming.random_expert = False
    return c
