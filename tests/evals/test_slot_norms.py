import jax
import numpy as np
import pytest

from sleep_jax.evals.slot_norms import slot_norms
from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.models.decoder import Decoder, unstack_layers

PROMPT, REPLY = [5, 9, 2], [7, 1]


def by_hand(cfg, variables):
    """Norms of (silu(h G) * (h U)) D of each slot, at the tokens from which the reply was drawn."""
    tokens = np.asarray([[*PROMPT, *REPLY]])
    _, sown = Decoder(cfg).apply(variables, tokens, mutable=["intermediates"])
    [h] = sown["intermediates"]["layers"]["level_1"]["input"]
    bank = variables["memory"]["layers"]["level_1"]["experts"]
    norms = np.zeros(3)
    for layer in range(cfg.layers):
        for slot in range(3):
            gate, up, down = (np.asarray(bank[x][layer, slot]) for x in ("gate", "up", "down"))
            x = np.asarray(h[layer, 0, 2:4])
            out = (jax.nn.silu(x @ gate) * (x @ up)) @ down
            norms[slot] += np.linalg.norm(out, axis=-1).mean() / cfg.layers
    return norms


@pytest.mark.parametrize("scan_layers", [True, False])
def test_slot_norms_are_those_of_what_each_slot_adds(cfg, trained, scan_layers):
    form = cfg.replace(scan_layers=scan_layers)
    variables = trained if scan_layers else unstack_layers(cfg, trained)
    norms = slot_norms(form, variables, PROMPT, REPLY)[1]
    np.testing.assert_allclose(norms, by_hand(cfg, trained), rtol=1e-4)
    assert norms[0] > 0 and norms[1] > 0 and norms[2] == 0


def test_slot_norms_of_low_rank_terms_raise(cfg, trained):
    memory = MemoryConfig((LevelConfig(slots=3, rank=4),), expert="lora")
    with pytest.raises(ValueError, match=r"memory\.expert='lora' acts within the FFN"):
        slot_norms(cfg.replace(memory=memory), trained, PROMPT, REPLY)


def test_slot_norms_count_gates_and_leave_out_inactive_slots(cfg, trained):
    memory = MemoryConfig((LevelConfig(slots=3, rank=4),), router="sigmoid")
    routed = cfg.replace(memory=memory)
    bank = trained["memory"]["layers"]["level_1"]["experts"]
    layers, slots, width = bank["gate"].shape[0], 3, cfg.width
    bank = bank | {"key": np.zeros((layers, slots, width)), "bias": np.zeros((layers, slots))}
    variables = trained | {"memory": {"layers": {"level_1": {"experts": bank}}}}
    norms = slot_norms(routed, variables, PROMPT, REPLY)[1]
    # A key of zeros and no bias give every gate sigmoid(0) = 0.5, of inputs that differ for it.
    scaled = slot_norms(cfg.replace(memory=MemoryConfig(memory.levels, scale=0.5)), trained,
                        PROMPT, REPLY)[1]  # fmt: skip
    np.testing.assert_allclose(norms, scaled, rtol=1e-4)
