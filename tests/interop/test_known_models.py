import jax
import jax.numpy as jnp
import pytest

from sleep_jax.interop.known_models import CONFIGS, describe_model
from sleep_jax.interop.tiny import tiny_model
from sleep_jax.models.decoder import Decoder

# As the model cards state.
PARAMETERS = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
    "meta-llama/Llama-3.2-1B-Instruct": 1_235_814_400,
    "meta-llama/Llama-3.2-3B-Instruct": 3_212_749_824,
    "meta-llama/Meta-Llama-3-8B-Instruct": 8_030_261_248,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-8B": 8_190_735_360,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_describe_model_has_known_parameter_counts(name):
    cfg = describe_model(name, dtype="bfloat16")
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    rngs = {"params": jax.random.key(0), "memory": jax.random.key(0)}
    params = jax.eval_shape(Decoder(cfg).init, rngs, tokens)["params"]
    assert sum(x.size for x in jax.tree.leaves(params)) == PARAMETERS[name]
    assert cfg == describe_model(name.partition("/")[2], dtype="bfloat16")


def test_describe_model_of_tiny_matches_tiny_model():
    assert describe_model("tiny", dtype="float32") == tiny_model(dtype="float32")[0]


def test_describe_model_of_unknown_name_raises():
    with pytest.raises(ValueError, match="nothing is downloaded"):
        describe_model("org/some-model", dtype="float32")
    with pytest.raises(FileNotFoundError):
        describe_model("no/such/file.gguf", dtype="float32")
