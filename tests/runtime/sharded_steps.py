"""Run by test_mesh: what the steps of a run return on 8 CPU devices, as JSON.

Arguments: `update` (of the slot) or `all` (also PPO, writing, reading, trials, adapted models);
then meshes, `none` or such as `2,2,2`. With PROCESS=ADDRESS,INDEX in the environment it is one of
two processes, with 4 of the devices each.
"""

import contextlib
import dataclasses
import json
import os
import runpy
import sys

import jax

if process := os.environ.get("PROCESS"):
    address, index = process.split(",")
    jax.config.update("jax_num_cpu_devices", 4)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, num_processes=2, process_id=int(index))
else:
    jax.config.update("jax_num_cpu_devices", 8)

import numpy as np

from sleep_jax import config as settings
from sleep_jax.data.examples import make_examples
from sleep_jax.dreaming.adapters import init_lora
from sleep_jax.dreaming.gradients import gram_matrices
from sleep_jax.dreaming.trial import train_adapters
from sleep_jax.evals.adapted import AdaptedModels
from sleep_jax.interop.tiny import tiny_model
from sleep_jax.memory.slots import init_memory, put_slot, take_slot, unlock
from sleep_jax.models.sharding import place, to_host
from sleep_jax.rl.algorithms import surrogate
from sleep_jax.runtime.mesh import make_mesh
from sleep_jax.sampling.generate import generate
from sleep_jax.sampling.sampler import SamplingConfig
from sleep_jax.seeding.rollout_buffer import written_widths
from sleep_jax.seeding.rollouts import collect_rollouts
from sleep_jax.seeding.sequences import (
    BatchShape,
    Exchange,
    HiddenStates,
    Teacher,
    make_batch,
    pack_exchanges,
    teacher_hidden,
)
from sleep_jax.seeding.step import init_critic, init_state, seeding_step
from sleep_jax.seeding.transaction import MemoryState
from sleep_jax.wake.context import read
from sleep_jax.wake.stream import init_wake, read_episode


def tiny_config():
    c = runpy.run_path("configs/sleep_tiny.py")["get_config"]()
    c.seeding.batch_size, c.seeding.accumulate = 16, 2
    c.memory.periods, c.memory.slots, c.memory.learning_rates = (64, 0), (2, 2), (0.5, 0.0)
    c.memory.unit, c.memory.stride, c.memory.from_context = "tokens", 32, False
    c.wake.context = 64
    c.dreaming.trial.rank = 8
    return c


def words(rng, n):
    return tuple(int(t) for t in rng.integers(0, 200, n))


def steps(config, is_all):
    """Losses, tokens and gradients of one of each step."""
    rng = np.random.default_rng(0)
    memory = settings.read(config).memory
    cfg, params, tokenizer = tiny_model(
        dtype="float32", memory=memory, lora=settings.read(config).dreaming.lora, remat="full"
    )
    initial, slots = init_memory(jax.random.key(1), memory, layers=cfg.layers, width=cfg.width)
    slots, index = unlock(slots, 1)
    loud = jax.tree.map(
        lambda x: rng.normal(size=x.shape).astype(np.float32), take_slot(initial, 1, index)
    )
    params = place(params, "params")
    teacher = MemoryState(put_slot(initial, 1, index, loud), slots).variables(params)
    student = MemoryState(initial, slots).variables(params)
    context = read(cfg, teacher, [words(rng, 20), words(rng, 9), ()])[0]

    exchanges = [
        Exchange(int(rng.integers(0, 2)), words(rng, 5), words(rng, 7), words(rng, 11), "answer")
        for _ in range(14)
    ]
    rollouts = [
        Exchange(
            0, words(rng, 5), words(rng, 7), words(rng, 8), "rollout", on_policy=True,
            advantage=float(a), log_probs=np.full(8, -5.0, np.float32),
            old_log_probs=np.full(8, -5.0, np.float32),
        )
        for a in (1.0, -1.0)
    ]  # fmt: skip
    exchanges += rollouts
    shape = BatchShape(batch_size=16, max_length=24, max_target_length=16)
    states = [HiddenStates(hidden) for hidden in teacher_hidden(cfg, teacher, context, exchanges)]
    seeding = settings.read(config).seeding
    optimizer = seeding.optimizer()
    state = place(init_state(take_slot(initial, 1, index), optimizer), "learner")
    batch = make_batch(exchanges, states, pack_exchanges(exchanges, shape), shape)
    out = {"losses": [], "norms": []}
    for _ in range(3):
        state, metrics = seeding_step(
            cfg, seeding.objective, optimizer, 1, np.int32(index), state, student, batch
        )
        out["losses"].append(float(metrics["loss"]))
        out["norms"].append(float(metrics["gradient_norm"]))
    out["programs"] = seeding_step._cache_size()
    out["slot"] = [float(np.abs(x).sum()) for x in jax.tree.leaves(to_host(state.slot))]

    if not is_all:
        return out

    policy = surrogate("ppo")
    critic = init_critic(cfg.width, policy.value_learning_rate)
    learner = init_state(take_slot(initial, 1, index), optimizer).replace(critic=critic)
    learner = place(learner, "learner")
    scored, states, _ = collect_rollouts(
        cfg,
        tokenizer,
        None,
        dataclasses.replace(seeding.imitation, surrogate=policy),
        shape,
        student=student,
        initial=student,
        teachers=[Teacher(cfg, teacher, context)],
        dreams=(),
        rng=None,
        widths=written_widths(rollouts, shape, len(rollouts)),
        value_head=learner.value_head,
        written=rollouts,
    )
    for name in ("old_log_probs", "old_values", "advantage"):
        out[name] = [getattr(e, name).tolist() for e in scored]
    objective = dataclasses.replace(seeding.objective, surrogate=policy)
    batch = make_batch(scored, states, pack_exchanges(scored, shape), shape)
    out["ppo"] = []
    for _ in range(3):
        learner, metrics = seeding_step(
            cfg, objective, optimizer, 1, np.int32(index), learner, student, batch
        )
        figures = ("loss", "policy_loss", "policy_value", "gradient_norm")
        out["ppo"].append([float(metrics[name]) for name in figures])
    out["critic"] = to_host(learner.value_head)["kernel"].tolist()

    prompts = [words(rng, n) for n in (4, 6, 3)]
    for name, temperature in (("greedy", 0.0), ("drawn", 1.0)):
        sampling = SamplingConfig(8, (257,), temperature=temperature, num_generations=2)
        documents, key = [0, 1, 0], jax.random.key(3)
        drawn = generate(cfg, sampling, teacher, prompts, key, context=context, documents=documents)
        out[name] = [c.tokens for group in drawn for c in group]
        out[f"{name}_log_probs"] = [float(c.log_probs.sum()) for g in drawn for c in g]

    wake = settings.read(config).wake
    reader = place(init_wake(cfg, wake, initial), "wake")
    reader, nats = read_episode(cfg, wake, student, reader, words(rng, 160))
    out["nats"] = [float(x) for x in nats]
    out["wake"] = [float(np.abs(x).sum()) for x in jax.tree.leaves(to_host(reader.wake))]

    trial = settings.read(config).dreaming.trial
    lora = place(init_lora(cfg, params, jax.random.key(4)), "lora")
    dreams, pages = (
        make_examples([[(words(rng, 5), words(rng, 12))] for _ in range(n)]) for n in (8, 2)
    )
    grouped = jax.tree.map(lambda x: x.reshape(2, 4, *x.shape[1:]), dreams)
    grams = gram_matrices(cfg, 2, student, lora, grouped, pages)
    out["grams"] = to_host(grams).tolist()
    few = jax.tree.map(lambda x: x[:5], dreams)
    adapters, losses = train_adapters(cfg, trial, student, [lora], few, rng=jax.random.key(4))
    out["trials"] = to_host(losses).tolist()
    out["adapters"] = [float(np.abs(x).sum()) for x in jax.tree.leaves(to_host(adapters))]

    def loud(x):
        return 0.3 * rng.normal(size=(x.shape[0], 8, *x.shape[1:])).astype(np.float32)

    # Two prompts of each of eight models in rows for eight: four models at a time.
    worn = place(jax.tree.map(loud, lora), "trials")
    models = AdaptedModels(cfg, student, tokenizer, worn, max_new_tokens=6, batch=8)
    asked = [[(words(rng, 5), words(rng, 9)), (words(rng, 3), words(rng, 4))]] * 8
    out["likelihoods"] = [of_model.tolist() for of_model in models.log_likelihoods(asked)]
    out["replies"] = models.replies([[prompt for prompt, _ in of_model] for of_model in asked])
    return out


if __name__ == "__main__":
    results = {}
    for name in sys.argv[2:]:
        config = tiny_config()
        mesh = contextlib.nullcontext()
        if name != "none":
            config.mesh.data, config.mesh.fsdp, config.mesh.tensor = map(int, name.split(","))
            mesh = jax.set_mesh(make_mesh(config))
        with mesh:
            results[name] = steps(config, sys.argv[1] == "all")
        jax.clear_caches()
    print(json.dumps(results))
