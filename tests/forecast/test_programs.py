"""The programs that a config implies, against those that its phases call."""

import runpy
import types

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from sleep_jax.config import read
from sleep_jax.data.batches import bucket
from sleep_jax.data.examples import Examples
from sleep_jax.dreaming import importance
from sleep_jax.dreaming.importance import MEASURES, Candidates
from sleep_jax.evals import adapted
from sleep_jax.evals.adapted import AdaptedModels
from sleep_jax.evals.items import Item
from sleep_jax.evals.scorers import FREE_TEXT_SCORERS, make_scorer
from sleep_jax.forecast.program import SENTENCE, Sizes
from sleep_jax.forecast.programs import programs_of
from sleep_jax.interop.tiny import byte_tokenizer
from sleep_jax.models.sharding import AXES
from sleep_jax.rewards import yes_no
from sleep_jax.rl.algorithms import ALGORITHMS
from sleep_jax.sampling.sampler import sample
from sleep_jax.seeding.rollouts import score_rows

MESH = AbstractMesh((1, 1, 1), AXES, (AxisType.Auto,) * len(AXES))


def programs(preset="sleep_tiny", **changes):
    """Programs by name; changes are fields, `section__field=value`."""
    config = runpy.run_path(f"configs/{preset}.py")["get_config"]()
    config.model.name = "tiny"
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    documents, chunk = (4 if preset == "seal" else 2), config.data.chunk_tokens
    sizes = Sizes(documents, bucket(chunk + 32), documents * chunk // SENTENCE)
    return {p.name: p for p in programs_of(config, MESH, sizes)}


@pytest.mark.parametrize("measure", MEASURES)
def test_selection_compiles_what_its_measure_runs(measure, monkeypatch):
    ran = []

    def gram_matrices(cfg, chunk, variables, lora, dreams, targets, is_last_only):
        ran.append(("gram_matrices", is_last_only))
        return np.ones((len(targets.tokens), *2 * (1 + dreams.tokens.shape[1],)))

    def losses(cfg, chunk, variables, dreams):
        ran.append(("losses", None))
        return np.ones(len(dreams.tokens))

    monkeypatch.setattr(importance, "gram_matrices", gram_matrices)
    monkeypatch.setattr(importance, "dream_losses", losses)
    dreams, targets = (Examples(*3 * [np.ones(s)]) for s in ((2, 1, 8), (1, 1, 8)))
    those = Candidates([0, 0], ["a b", "c"], dreams, ["a"], targets)
    importance.importance(measure, None, 1, None, None, those, step=1.0, seed=(0, 0))
    found = programs(dreaming__measure=measure).get("dream: select")
    listed = []
    if found is not None:
        name = found.function.__name__
        listed.append((name, found.args[6] if name == "gram_matrices" else None))
        found.function.trace(*found.args)
    assert listed == ran


@pytest.mark.parametrize("name", FREE_TEXT_SCORERS)
def test_rewards_compile_what_their_scorer_asks_of_the_models(name):
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
        asked.append(yes_no.lean_rows)
        return np.ones(1)

    make_scorer(name, lambda: marker)(Models(), [[Item(0, "q", ("a",))]])
    found = programs(dreaming__scorer=name)
    rewarding = [found[x] for x in ("dream: reward", "dream: judge") if x in found]
    assert [p.function for p in rewarding] == asked
    for program in rewarding:
        program.function.trace(*program.args)


def test_adapted_models_answer_as_many_at_a_time_as_they_are_put_together(monkeypatch):
    """SEAL: four documents, five dreams of each, three trials of a dream, two questions."""
    dealt = []

    def generate(cfg, how, variables, prompts, rng, *, width, batch):
        dealt.append((variables["lora"].shape[1], len(prompts), how.max_new_tokens))
        return [[types.SimpleNamespace(tokens=())] for _ in prompts]

    monkeypatch.setattr(adapted, "generate", generate)
    models = AdaptedModels(None, {}, byte_tokenizer(), np.zeros((1, 60)), max_new_tokens=40)
    models.replies([[[1]] * 4] * 60)
    assert len(set(dealt)) == 1 < len(dealt)

    found = programs("seal")["dream: reward"]
    rows, how = found.args[3].shape[0], found.args[1]
    adapters = jax.tree.leaves(found.args[2]["lora"])
    assert {(x.shape[1], rows, how.max_new_tokens) for x in adapters} == set(dealt)
    assert found.calls == 1 + len(dealt)  # and one of the model as it is


def test_the_programs_of_seal():
    found = programs("seal")
    assert [name for name in found if name.startswith("dream")] == [
        "dream: write from prompts",
        "dream: try",
        "dream: reward",
        "dream: learn",
    ]
    write = found["dream: write from prompts"]
    assert write.args[6] is None  # no context
    # A passage of 256 tokens after a prompt of 128 is in the prompt: the bucket of 384.
    assert write.args[3].shape[1] == 384
    # Of a dream of 96 tokens four lines, each a row of its own, and the passage.
    assert found["dream: try"].args[4].tokens.shape == (4 * 5, 4 + 1, 384)


def test_templates_of_both_kinds_are_written_apart():
    found = programs(
        dreaming__instructions=("facts", "rewrite", "self-qa"),
        dreaming__top_p=0.9,
        dreaming__random_expert=True,
    )
    beside, whole = found["dream: write"], found["dream: write from prompts"]
    assert beside.args[6] is not None and whole.args[6] is None
    assert (beside.args[3].shape[0], whole.args[3].shape[0]) == (2, 4)
    assert {p.args[1].top_p for p in (beside, whole)} == {0.9}
    assert all(len(p.args) == 8 for p in (beside, whole))  # the key of the random expert
    assert len(programs()["dream: write"].args) == 7


def test_many_dreams_take_the_updates_that_draw_each_of_them_twice():
    config = runpy.run_path("configs/sleep_tiny.py")["get_config"]()
    config.dreaming.steps = 20
    d, shape = config.dreaming, read(config).seeding.shape
    few, many = (
        next(p for p in programs_of(config, MESH, Sizes(n, 128, n)) if p.name == "dream: learn")
        for n in (1, 100)
    )
    assert few.calls == d.steps
    dreams = 100 * min(d.top + d.random, d.count)
    # Twice each to write it and to know it, in turn with a document that was studied.
    scored = 2 * 2 * dreams * (d.max_new_tokens + config.data.chunk_tokens)
    assert many.calls >= scored / (shape.batch_size * shape.max_target_length) > d.steps


@pytest.mark.parametrize("estimator", ["rest_em", *ALGORITHMS])
def test_a_writer_that_learns_by_policy_gradient_is_scored_first(estimator):
    found = programs(dreaming__estimator=estimator, seeding__rows=2)
    names = list(found)
    assert ("dream: rescore" in found) == (estimator != "rest_em")
    if "dream: rescore" in found:
        rescore = found["dream: rescore"]
        assert rescore.function is score_rows and rescore.calls == 2  # four dreams, one a row
        assert names[-2:] == ["dream: rescore", "dream: learn"]
        assert (rescore.args[3] is not None) == (estimator == "ppo")
    assert (found["dream: learn"].args[5].critic is not None) == (estimator == "ppo")


def test_rollouts_are_scored_before_the_updates_that_learn_from_them():
    # Four updates that share one round, a batch each, by the student.
    assert programs()["consolidate: rescore"].calls == 4
    ppo = programs(seeding__estimator="ppo")
    assert ppo["consolidate: rescore"].args[3] is not None
    assert ppo["consolidate: update"].args[5].critic is not None
    # And by the reference.
    both = programs(seeding__importance_cap=2.0, seeding__penalty_weight=0.1)
    assert both["consolidate: rescore"].calls == 2 * 4
    assert programs(seeding__penalty_weight=0.1)["consolidate: rescore"].calls == 2 * 4


def test_trials_of_the_passages_alone_are_compiled_beside_those_of_the_dreams():
    # Two documents, of each two dreams.
    with_passages, without = (programs(dreaming__baseline=x) for x in ("passage", "untrained"))
    assert with_passages["dream: try"].args[4].tokens.shape[0] == 4 + 2
    assert without["dream: try"].args[4].tokens.shape[0] == 4


def test_without_imitation_nothing_is_rolled_out():
    assert "consolidate: roll out" in programs(seeding__alpha=1.0, seeding__lam=0.5)
    alone = programs(seeding__alpha=1.0, seeding__lam=0.0, seeding__estimator="ppo")
    assert "consolidate: roll out" not in alone and "consolidate: rescore" not in alone


def test_stages_are_a_program_each():
    found = programs(seeding__mode="staged", seeding__stage=0.75, seeding__lam=0.0)
    updates = {n: p for n, p in found.items() if "update" in n}
    assert {n: (p.args[1].alpha, p.calls) for n, p in updates.items()} == {
        "consolidate: update to distil": (1.0, 3),
        "consolidate: update to imitate": (0.0, 1),
    }
    assert found["consolidate: roll out"].calls == 1


def test_a_judging_model_and_a_router_are_compiled():
    found = programs(
        seeding__judge="model", memory__router="sigmoid", memory__top_k=1, memory__layers="all"
    )
    judge = found["consolidate: judge"]
    assert judge.function is yes_no.lean_rows
    # Four updates' dreams in groups of two, in both orders, eight texts at a time.
    assert judge.calls == 2 * 4 * 2 // 8
    assert "consolidate: aim" in found
    for program in (judge, found["consolidate: aim"]):
        program.function.trace(*program.args)
    assert not {"consolidate: judge", "consolidate: aim"} & set(programs())


def test_what_continues_a_text_is_sampled_without_room_to_think():
    at_once = programs()
    found = programs(model__thinking=True, model__thought_tokens=100)
    new = {name: p.args[1].max_new_tokens for name, p in found.items() if "rehearse" in name}
    assert new == {"consolidate: rehearse": 108, "consolidate: rehearse texts": 8}
    assert found["consolidate: answer"].args[1].max_new_tokens == 108
    assert "consolidate: rehearse texts" not in at_once
    assert found["dream: write"].args[1].max_new_tokens == 116


def test_nothing_is_studied_or_dreamt_where_the_context_never_sleeps():
    found = programs("ladder")
    config = runpy.run_path("configs/ladder.py")["get_config"]()
    assert not read(config).memory.from_context
    assert not [name for name in found if name.startswith("dream")]
    assert "consolidate: ask" not in found and "consolidate: update" in found
    assert "consolidate: rehearse" in found
    assert "consolidate: rehearse" not in programs(study__rehearsals=0)


def test_every_day_skims_or_learns_what_it_reads_and_rollouts_are_taught():
    found = programs()
    assert "wake: skim" in found and "wake: learn" not in found
    assert found["wake: skim"].calls == 2  # documents, one at a time
    # Rows of a prompt of 128, a dream of 24 and a rollout of 8 before the teacher: a bucket of 160
    # and 8 more; the eight rollouts of the only round fit one call.
    taught = found["consolidate: teach rollouts"]
    assert (taught.args[2].shape, taught.calls) == ((8, 192), 1)
    assert "consolidate: teach rollouts" not in programs(seeding__alpha=1.0, seeding__lam=0.0)
    learning = programs("ladder")
    assert "wake: learn" in learning and "wake: skim" not in learning
