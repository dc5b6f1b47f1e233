import pytest


@pytest.mark.parametrize(
    "change, message",
    [
        ({"kv_heads": 3}, "kv_heads=3 does not divide heads=4"),
        ({"head_dim": 7}, "head_dim=7 is odd"),
        ({"remat": "half"}, "remat='half'; choose from full, none"),
    ],
)
def test_decoder_config_rejects_shapes_that_do_not_fit(cfg, change, message):
    with pytest.raises(ValueError, match=message):
        cfg.replace(**change)


def test_replace_leaves_the_original_and_stays_hashable(cfg):
    other = cfg.replace(layers=3)
    assert (cfg.layers, other.layers, other.width) == (2, 3, cfg.width)
    assert hash(other) != hash(cfg) and other.replace(layers=2) == cfg
