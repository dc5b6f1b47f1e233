"""A run whose nights are made up: two slots in use, far from zero, on a tiny base."""

import jax
import jax.numpy as jnp
import numpy as np

from configs import sleep_tiny
from sleep_jax.export.run_model import Base
from sleep_jax.interop.fingerprint import fingerprint
from sleep_jax.interop.tensors import read_params
from sleep_jax.memory.slots import OUTPUT_SIDE, init_memory, put_slot, take_slot, unlock
from sleep_jax.runtime.checkpoints import PhaseCheckpoints
from sleep_jax.seeding.transaction import MemoryState

TITLE = "The Velmora Lighthouse"
ASKED = [
    {"document": TITLE, "question": "Who lit it?", "answers": ["Odrin"]},
    {"document": TITLE, "question": "When was that?", "answers": ["1871"]},
]
STAGES = ("before sleep", "after consolidation", "after dreaming", "with the document in context")


def write_slept_run(workdir, name="tiny", slots=2, **changes):
    """Writes the workdir of a run after one night.

    Args:
      workdir: where.
      name: the base, as `model.name`.
      slots: how many are in use, of three.
      **changes: of its config, `section__field=value`.
    """
    config = sleep_tiny.get_config()
    config.model.name, config.memory.slots = str(name), (3,)
    for path, value in changes.items():
        section, field = path.split("__")
        config[section][field] = value
    recorded = config.to_dict()
    base = Base.open(recorded, "a run")
    memory = base.cfg.memory
    weights, masks = init_memory(
        jax.random.key(1),
        memory,
        layers=base.cfg.layers,
        width=base.cfg.width,
        hidden=base.cfg.hidden,
    )
    rng = np.random.default_rng(0)
    for _ in range(slots):
        masks, index = unlock(masks, 1)
        slot = take_slot(weights, 1, index)
        slot |= {
            leaf: jnp.asarray(0.3 * rng.normal(size=slot[leaf].shape), jnp.float32)
            for leaf in OUTPUT_SIDE
            if leaf in slot
        }
        weights = put_slot(weights, 1, index, slot)
    state = MemoryState(weights, masks)
    params = read_params(base.cfg, base.weights, jnp.dtype(base.cfg.dtype))
    scores = {
        stage: {"questions": i / 4, "anchor_perplexity": 9.5} for i, stage in enumerate(STAGES)
    }
    day = {
        "asked": ASKED,
        "replies": {stage: ["Odrin.", "In 1871."] for stage in STAGES},
        "scores": scores,
        "recall": [{"questions": 0.5}],
    }
    record = {
        "config": recorded,
        "base": {"model.name": {"name": str(name), "weights": fingerprint(params)}},
        "run": {"phases": {"wake": {}, "consolidate": {"kl": 0.1}}, "days": [day]},
    }
    with PhaseCheckpoints(workdir / "checkpoints") as saved:
        arrays = dict.fromkeys(("current", "before_sleep", "before_dreams"), state)
        saved.save(0, "evaluate", state=arrays, record=record)
    return workdir


def model_of(workdir):
    """(cfg, variables) of a run."""
    from sleep_jax.export.run_model import RunModel

    model = RunModel.open(workdir)
    params = model.base.params(np.dtype(model.base.cfg.dtype).name, model.base_fingerprint)
    return model.base.cfg, {"params": params, **model.memory()}
