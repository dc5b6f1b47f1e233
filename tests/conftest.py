"""Shared fixtures: a tiny decoder with memory, its logits, and a tokenizer for its vocabulary."""

import functools
import os
import pathlib
import string
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.memory.slots import init_memory, unlock
from sleep_jax.models.decoder import Decoder, lm_logits
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.runtime.allocator import make_room_for_programs

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


TESTS = pathlib.Path(__file__).parent
# Folders and files whose tests compile for long or run whole nights: they are marked `cycle`, and
# `.ci/run` runs them after all others.
CYCLE = {
    *(
        "experiments",
        "forecast",
        "fuzz",
        "inspect",
        "models",
        "phases",
        "sampling",
        "tasks",
        "verbs",
        "wake",
    ),
    "dreaming/test_dream_importance.py",
    "dreaming/test_reward.py",
    "dreaming/test_trial.py",
    "dreaming/test_write.py",
    "runtime/test_mesh.py",
    "seeding/test_consolidate.py",
    "seeding/test_degenerate.py",
    "seeding/test_divergence.py",
    "seeding/test_mixture.py",
    "seeding/test_rollouts.py",
    "seeding/test_sharded_head.py",
    "seeding/test_step.py",
    "seeding/test_transaction.py",
    "seeding/test_trl_parity.py",
    "seeding/test_trunk.py",
    "test_families.py",
    "test_faults.py",
    "test_lifecycle.py",
    "test_seal.py",
    "test_several_days.py",
    "test_tasks_of_a_run.py",
    "test_whole_life.py",
    "verbs/test_export.py",
}
# Files whose tests are long begin before all others, which then keep both workers busy to the end.
FIRST = (
    "test_lifecycle.py",
    "phases/test_study.py",
)


def pytest_configure(config):
    """The default tests are compiled without the compiler's expensive passes and fusions on a CPU,
    which would take most of their time, and share what they compiled in a folder that is deleted
    after them; with `-m slow` all is compiled as in a run. Processes that tests start inherit both.
    """
    if missing := sorted(name for name in CYCLE.union(FIRST) if not (TESTS / name).exists()):
        raise pytest.UsageError(f"CYCLE and FIRST in {__file__}: there is no tests/{missing[0]}")
    if "not slow" not in config.option.markexpr:
        return
    if not hasattr(config, "workerinput"):  # workers inherit the folder
        programs = tempfile.TemporaryDirectory(prefix="programs")
        config.add_cleanup(programs.cleanup)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = programs.name
    flags = os.environ.get("XLA_FLAGS", "").split()
    os.environ["XLA_FLAGS"] = " ".join([*flags, "--xla_cpu_use_fusion_emitters=false"])
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marks
def pytest_collection_modifyitems(items):
    """Marks the tests of `CYCLE` and moves those of `FIRST` to the front."""
    places = {name: i for i, name in enumerate(FIRST)}
    for item in items:
        path = item.path.relative_to(TESTS)
        if CYCLE & {path.parts[0], path.as_posix()}:
            item.add_marker(pytest.mark.cycle)
    items.sort(key=lambda x: places.get(x.path.relative_to(TESTS).as_posix(), len(FIRST)))


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Drops the compiled programs after a file where they are too many for the next one."""
    yield
    make_room_for_programs()


@pytest.fixture(scope="session")
def cfg():
    """Two layers, grouped queries, one memory level of three slots."""
    return DecoderConfig(
        vocab=97,
        width=32,
        hidden=48,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=8,
        memory=MemoryConfig((LevelConfig(slots=3, rank=4),)),
    )


@pytest.fixture(scope="session")
def variables(cfg):
    """Random weights, large enough to make mistakes visible; no slot is active."""
    rng = np.random.default_rng(0)
    rngs = {"params": jax.random.key(0), "memory": jax.random.key(0)}
    shapes = jax.eval_shape(Decoder(cfg).init, rngs, jnp.zeros((1, 2), jnp.int32))["params"]

    def fill(path, x):
        normal = rng.normal(size=x.shape)
        if path[-1].key == "scale":
            normal = 1 + 0.2 * normal
        elif path[-1].key == "kernel":
            normal = normal * x.shape[-2] ** -0.5
        return jnp.asarray(normal, x.dtype)

    params = jax.tree_util.tree_map_with_path(fill, shapes)
    memory, slots = init_memory(jax.random.key(2), cfg.memory, layers=cfg.layers, width=cfg.width)
    return {"params": params, "memory": memory, "slots": slots}


@pytest.fixture(scope="session")
def trained(variables):
    """The same with slots 0 and 1 active and far from zero; slot 2 has its initial form."""
    bank = variables["memory"]["layers"]["level_1"]["experts"]
    down = np.random.default_rng(1).normal(size=bank["down"].shape).astype(np.float32)
    down[:, 2] = 0
    slots, _ = unlock(unlock(variables["slots"], 1)[0], 1)
    memory = {"layers": {"level_1": {"experts": bank | {"down": jnp.asarray(down)}}}}
    return variables | {"memory": memory, "slots": slots}


@functools.partial(jax.jit, static_argnames="cfg")
def _logits(cfg, variables, tokens, segment_ids=None):
    return lm_logits(cfg, variables["params"], Decoder(cfg).apply(variables, tokens, segment_ids))


@pytest.fixture(scope="session")
def logits():
    """Jitted: (cfg, variables, tokens [b, t], segment_ids) -> logits [b, t, vocab], no cache."""
    return _logits


@pytest.fixture(scope="session")
def log_probs(cfg):
    """(variables, tokens) -> next-token log-probabilities [time, vocab] of one sequence."""

    def log_probs(variables, tokens):
        n = len(tokens)
        padded = np.zeros((1, 64), np.int32)  # one shape, so one program
        padded[0, :n] = tokens
        mask = (np.arange(64) < n).astype(np.int32)[None]
        return np.asarray(jax.nn.log_softmax(_logits(cfg, variables, padded, mask)))[0, :n]

    return log_probs


@pytest.fixture(scope="session")
def tokenizer():
    """One token a character, with chat markers; it fits the tiny decoder's vocabulary."""
    letters = [c for c in string.printable[:95] if c not in "^`{|}~"] + ["\n"]
    vocab = {token: i for i, token in enumerate([*SPECIALS, "<unk>", *letters])}
    backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([tokenizers.AddedToken(t, special=True) for t in SPECIALS])
    return Tokenizer(backend, special_tokens={"eos_token": "<|im_end|>"}, template=CHAT_TEMPLATE)


@pytest.fixture(scope="session")
def operations():
    """(function, *arguments) -> every operation of its jaxpr and of inner jaxprs."""

    def inside(jaxpr):
        for operation in jaxpr.eqns:
            yield operation
            for value in jax.tree.leaves(operation.params, is_leaf=lambda x: hasattr(x, "eqns")):
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    yield from inside(inner)

    return lambda function, *given: list(inside(jax.make_jaxpr(function)(*given).jaxpr))


@pytest.fixture
def compilations():
    """A list that grows by one entry with every program XLA compiles."""
    seen = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture
def store(monkeypatch):
    """A function that points gcsfs at an address, which it then waits half a second for."""
    pytest.importorskip("gcsfs")
    import fsspec

    from sleep_jax import addresses

    monkeypatch.setattr(addresses, "SECONDS", 0.5)

    def at(address):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        fsspec.get_filesystem_class("gcs").clear_instance_cache()

    yield at
    fsspec.get_filesystem_class("gcs").clear_instance_cache()
