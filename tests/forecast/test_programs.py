"""The programs that a config implies, against the functions that its phases call."""

import runpy
import types

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from sleep_jax.config import read
from sleep_jax.data.examples import Examples
from sleep_jax.dreaming import importance
from sleep_jax.dreaming.importance import MEASURES, Candidates
from sleep_jax.evals import adapted
from sleep_jax.evals.adapted import AdaptedModels
from sleep_jax.evals.continuations import scored_continuations
from sleep_jax.evals.items import Item
from sleep_jax.evals.scorers import FREE_TEXT_SCORERS, make_scorer
from sleep_jax.forecast.programs import programs_of
from sleep_jax.interop.tiny import byte_tokenizer
from sleep_jax.models.sharding import AXES
from sleep_jax.phases.registry import PHASES
from sleep_jax.programs.sizes import SENTENCE, expected_sizes
from sleep_jax.rewards import yes_no
from sleep_jax.rl.algorithms import ALGORITHMS
from sleep_jax.sampling.sampler import sample
from sleep_jax.seeding.rollout_scores import score_rows

MESH = AbstractMesh((1, 1, 1), AXES, (AxisType.Auto,) * len(AXES))


def programs(preset="sleep_tiny", **changes):
    """Programs by name; changes are fields, `section__field=value`."""
    config = runpy.run_path(f"configs/{preset}.py")["get_config"]()
    config.model.name = "tiny"
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    documents, chunk = (4 if preset == "seal" else 2), config.data.chunk_tokens
    sizes = expected_sizes(read(config), documents, chunk + 32, documents * chunk // SENTENCE)
    return {p.name: p for p in programs_of(config, MESH, sizes)}


@pytest.mark.parametrize("measure", MEASURES)
def test_select_lists_the_function_of_its_measure(measure, monkeypatch):
    ran = []

    def gram_matrices(cfg, microbatch, variables, lora, dreams, targets, is_last_only):
        ran.append(("gram_matrices", is_last_only))
        return np.ones((len(targets.tokens), *2 * (1 + dreams.tokens.shape[1],)))

    def dream_losses(cfg, microbatch, variables, dreams):
        ran.append(("dream_losses", None))
        return np.ones(len(dreams.tokens))

    monkeypatch.setattr(importance, "gram_matrices", gram_matrices)
    monkeypatch.setattr(importance, "dream_losses", dream_losses)
    dreams, targets = (Examples(*3 * [np.ones(s)]) for s in ((2, 1, 8), (1, 1, 8)))
    candidates = Candidates([0, 0], ["a b", "c"], dreams, ["a"], targets)
    importance.importance(measure, None, 1, None, None, candidates, step=1.0, seed=(0, 0))
    program = programs(dreaming__measure=measure).get("select: importance")
    listed = []
    if program is not None:
        name = program.function.__name__
        listed.append((name, program.args[6] if name == "gram_matrices" else None))
        program.function.trace(*program.args)
    assert listed == ran


@pytest.mark.parametrize("name", FREE_TEXT_SCORERS)
def test_try_lists_the_functions_of_its_scorer(name):
    asked = []

    class Models:
        tokenizer = byte_tokenizer()

        def replies(self, prompts):
            asked.append(sample)
            return [["a"]]

        def log_likelihoods(self, sequences):
            asked.append(adapted.score_tokens)
            return [np.ones((1, 2))]

    def marker(replies, items):
        asked.append(yes_no.logit_gaps)
        return np.ones(1)

    make_scorer(name, lambda: marker)(Models(), [[Item(0, "q", ("a",))]])
    listed = programs(dreaming__scorer=name)
    rewarding = [listed[x] for x in ("try: score", "try: judge") if x in listed]
    assert [p.function for p in rewarding] == asked
    for program in rewarding:
        program.function.trace(*program.args)


def test_try_scores_as_many_models_at_a_time_as_adapted_puts_together(monkeypatch):
    """SEAL: four documents, five dreams of each, three trials of a dream, two questions."""
    dealt = []

    def generate(cfg, how, variables, prompts, rng, *, width, batch):
        dealt.append((variables["lora"].shape[1], len(prompts), how.max_new_tokens))
        return [[types.SimpleNamespace(tokens=())] for _ in prompts]

    monkeypatch.setattr(adapted, "generate", generate)
    models = AdaptedModels(None, {}, byte_tokenizer(), np.zeros((1, 60)), max_new_tokens=40)
    models.replies([[[1]] * 4] * 60)
    assert len(set(dealt)) == 1 < len(dealt)

    listed = programs("seal")
    program = listed["try: score"]
    rows, sampling = program.args[3].shape[0], program.args[1]
    adapters = jax.tree.leaves(program.args[2]["lora"])
    assert {(x.shape[1], rows, sampling.max_new_tokens) for x in adapters} == set(dealt)
    assert program.calls == len(dealt) and listed["try: score untrained"].calls == 1


def test_programs_of_the_seal_preset():
    listed = programs("seal")
    dreaming = [x for x in listed if x.partition(":")[0] in ("write", "select", "try", "learn")]
    assert dreaming == [
        "write: read",
        "write: sample from prompts",
        "try: train",
        "try: score untrained",
        "try: score",
        "learn: read",
        *(x for x in dreaming if x.startswith("learn: teach")),
        "learn: update",
        "learn: anchors",
    ]
    write = listed["write: sample from prompts"]
    assert write.args[6] is None  # no context
    # A passage of 256 tokens after a prompt of 128 is in the prompt: the bucket of 384.
    assert write.args[3].shape[1] == 384
    # Of a dream of 96 tokens four lines, each a row of its own, and the passage.
    assert listed["try: train"].args[4].tokens.shape == (4 * 5, 4 + 1, 384)


def test_write_lists_a_program_for_each_kind_of_template():
    listed = programs(
        dreaming__instructions=("facts", "rewrite", "self-qa"),
        dreaming__top_p=0.9,
        dreaming__random_expert=True,
    )
    with_context, without = listed["write: sample"], listed["write: sample from prompts"]
    assert with_context.args[6] is not None and without.args[6] is None
    assert (with_context.args[3].shape[0], without.args[3].shape[0]) == (2, 4)
    assert {p.args[1].top_p for p in (with_context, without)} == {0.9}
    # The key of the random expert.
    assert all(p.args[7] is not None for p in (with_context, without))
    assert programs()["write: sample"].args[7] is None


def test_learn_lists_the_updates_that_draw_each_dream_twice():
    config = runpy.run_path("configs/sleep_tiny.py")["get_config"]()
    config.dreaming.steps = 20
    d, shape = config.dreaming, read(config).seeding.shape
    few, many = (
        next(
            p
            for p in programs_of(config, MESH, expected_sizes(read(config), n, 128, n))
            if p.name == "learn: update"
        )
        for n in (1, 100)
    )
    assert few.calls == d.steps
    dreams = 100 * min(d.keep_top + d.keep_random, d.num_generations)
    # Twice each to write it and to know it, in turn with a document that was studied.
    scored = 2 * 2 * dreams * (d.max_new_tokens + config.data.chunk_tokens)
    assert many.calls >= scored / (shape.batch_size * shape.max_target_length) > d.steps


@pytest.mark.parametrize("estimator", ["rest_em", *ALGORITHMS])
def test_learn_scores_its_dreams_first_under_a_policy_gradient(estimator):
    listed = programs(dreaming__estimator=estimator, seeding__batch_size=2)
    names = list(listed)
    assert ("learn: rescore" in listed) == (estimator != "rest_em")
    if "learn: rescore" in listed:
        rescore = listed["learn: rescore"]
        assert rescore.function is score_rows and rescore.calls == 2  # four dreams, one a row
        assert names.index("learn: rescore") < names.index("learn: update")
        assert (rescore.args[3] is not None) == (estimator == "ppo")
    assert (listed["learn: update"].args[5].critic is not None) == (estimator == "ppo")


def test_consolidate_rescores_the_rollouts_of_every_round():
    # Four updates share one round, whose rollouts fill the four rows of a batch at most.
    assert programs()["consolidate: rescore"].calls == 1
    assert programs(seeding__batch_size=2)["consolidate: rescore"].calls == 2
    ppo = programs(seeding__estimator="ppo")
    assert ppo["consolidate: rescore"].args[3] is not None
    assert ppo["consolidate: update"].args[5].critic is not None
    # And by the reference.
    both = programs(seeding__importance_cap=2.0, seeding__kl_coef=0.1)
    assert both["consolidate: rescore"].calls == 2
    assert programs(seeding__kl_coef=0.1)["consolidate: rescore"].calls == 2
    with_values = programs(seeding__estimator="ppo", seeding__kl_coef=0.1)
    assert with_values["consolidate: rescore reference"].args[3] is None


def test_try_trains_passages_alone_beside_the_dreams():
    # Two documents, of each two dreams.
    with_passages, without = (programs(dreaming__baseline=x) for x in ("passage", "untrained"))
    assert with_passages["try: train"].args[4].tokens.shape[0] == 4 + 2
    assert without["try: train"].args[4].tokens.shape[0] == 4


def test_consolidate_without_imitation_rolls_nothing_out():
    assert "consolidate: roll out" in programs(seeding__alpha=1.0, seeding__lam=0.5)
    alone = programs(seeding__alpha=1.0, seeding__lam=0.0, seeding__estimator="ppo")
    assert "consolidate: roll out" not in alone and "consolidate: rescore" not in alone


def test_consolidate_lists_an_update_for_each_stage():
    listed = programs(seeding__mode="staged", seeding__distill_fraction=0.75, seeding__lam=0.0)
    updates = {n: p for n, p in listed.items() if n.startswith("consolidate: update")}
    assert {n: (p.args[1].alpha, p.calls) for n, p in updates.items()} == {
        "consolidate: update to distil": (1.0, 3),
        "consolidate: update to imitate": (0.0, 1),
    }
    assert listed["consolidate: roll out"].calls == 1


def test_consolidate_lists_a_judging_model_and_a_router():
    listed = programs(
        seeding__judge="model", memory__router="sigmoid", memory__top_k=1, memory__layers="all"
    )
    judge = listed["consolidate: judge"]
    assert judge.function is yes_no.logit_gaps
    # Four updates' dreams in groups of two, in both orders, eight texts at a time.
    assert judge.calls == 2 * 4 * 2 // 8
    for program in (judge, listed["consolidate: aim"]):
        program.function.trace(*program.args)
    assert not {"consolidate: judge", "consolidate: aim"} & set(programs())


def test_updates_of_a_slot_kept_out_of_the_known_list_its_basis():
    listed = programs(seeding__null_space=0.9, study__rehearsals=1)
    for phase in ("consolidate", "learn"):
        moments, basis = listed[f"{phase}: known inputs"], listed[f"{phase}: null space"]
        for program in (moments, basis, listed[f"{phase}: update"]):
            program.function.trace(*program.args)
    assert not [name for name in programs() if "known inputs" in name or "null space" in name]


def test_slots_that_begin_as_their_sender_list_the_choice_of_units():
    listed = programs("ladder", seeding__slot_init="sender")
    for name in ("consolidate: units", "consolidate: largest units"):
        listed[name].function.trace(*listed[name].args)
    assert not [name for name in programs("ladder") if "units" in name]


def test_known_sequences_are_taught_from_a_trunk_without_memory():
    listed = programs(memory__layers="last_quarter", study__rehearsals=1)
    program = listed["consolidate: teach from the trunk"]
    program.function.trace(*program.args)
    assert "consolidate: teach from the trunk" not in programs(study__rehearsals=1)


def test_consolidate_lists_what_contrast_keys_are_made_of():
    router = {"memory__router": "sigmoid", "memory__router_key": "contrast"}
    listed = programs(**router, study__rehearsals=1)
    for name in ("consolidate: aim", "consolidate: tell apart"):
        listed[name].function.trace(*listed[name].args)
    mean = programs(memory__router="sigmoid", study__rehearsals=1)
    assert listed["consolidate: aim"].function is not mean["consolidate: aim"].function
    assert "consolidate: tell apart" not in mean


def test_study_samples_texts_without_room_for_a_thought():
    at_once = programs()
    listed = programs(model__thinking=True, model__thought_tokens=100)
    new = {name: p.args[1].max_new_tokens for name, p in listed.items() if "rehearse" in name}
    assert new == {"study: rehearse": 108, "study: rehearse texts": 8}
    assert listed["study: answer"].args[1].max_new_tokens == 108
    assert "study: rehearse texts" not in at_once
    assert listed["write: sample"].args[1].max_new_tokens == 116


def test_questions_about_rehearsals_and_free_texts_are_listed():
    listed = programs(study__rehearsals=1, study__readings=2, study__free_texts=130)
    new = ("questions", "reading", "free texts")
    for name in new:
        program = listed[f"study: rehearse {name}"]
        program.function.trace(*program.args)
    # 40 replies, two questions each, and 130 texts; 64 at a time.
    assert [listed[f"study: rehearse {name}"].calls for name in new] == [2, 2, 3]
    at_once = programs(study__rehearsals=1)
    assert not [name for name in at_once if name.removeprefix("study: rehearse ") in new]


def test_study_lists_the_screening_of_every_sentence():
    # Two documents of 128 tokens, 24 a sentence: ten sentences, twice; eight to a call.
    listed = programs(study__is_screened=True, data__chunk_tokens=128)
    screening = listed["study: screen"]
    assert screening.function is scored_continuations and screening.calls == 3
    screening.function.trace(*screening.args)
    assert "study: screen" not in programs()


def test_nothing_is_studied_or_dreamt_where_the_context_never_sleeps():
    config = runpy.run_path("configs/ladder.py")["get_config"]()
    assert not read(config).memory.from_context
    listed = programs("ladder")
    phases = {program.phase for program in listed.values()}
    assert phases == {"wake", "consolidate", "evaluate"}
    assert {"consolidate: update", "consolidate: rehearse"} <= set(listed)
    assert "consolidate: rehearse" not in programs(study__rehearsals=0)


def test_wake_lists_skimming_or_learning():
    listed = programs()
    assert "wake: skim" in listed and "wake: learn" not in listed
    assert listed["wake: skim"].calls == 2  # documents, one at a time
    learning = {name.partition(" (")[0] for name in programs("ladder")}
    assert "wake: learn" in learning and "wake: skim" not in learning


def test_consolidate_teaches_its_rollouts():
    # Rows of a prompt of 128, a sentence of 24 and a rollout of 8 before the teacher: a bucket of
    # 160; the eight rollouts of the only round fit one call.
    taught = programs()["consolidate: teach rollouts"]
    assert (taught.args[2].shape, taught.calls) == ((8, 160), 1)
    assert "consolidate: teach rollouts" not in programs(seeding__alpha=1.0, seeding__lam=0.0)


@pytest.mark.parametrize("preset", ["sleep_tiny", "ladder", "seal"])
def test_programs_are_named_after_the_phase_that_lists_them(preset):
    phases = [program.phase for program in programs(preset).values()]
    order = list(PHASES)
    assert set(phases) <= set(order)
    assert phases == sorted(phases, key=order.index)
