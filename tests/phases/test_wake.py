"""What reading shows."""

import types

import pytest

from sleep_jax.phases import wake as module


class Bar:
    """Records the figures of each advance."""

    def __init__(self):
        self.figures = []

    def advance(self, n, **figures):
        self.figures.append(figures)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_skim_shows_the_mean_surprise_of_documents_read(monkeypatch):
    of_page = iter([(2.0, 2), (12.0, 4), (4.0, 2)])  # nats, tokens that were scored
    monkeypatch.setattr(module, "negative_log_likelihood", lambda *_: next(of_page))
    bar, recorded = Bar(), []
    logger = types.SimpleNamespace(bar=lambda *_: bar, scalars=lambda i, x: recorded.append(x))
    experiment = types.SimpleNamespace(cfg=None, params=None)
    run = types.SimpleNamespace(current=types.SimpleNamespace(variables=lambda _: None))
    mean = module._skim(experiment, run, logger, [(1, 2, 3), (1, 2, 3, 4, 5), (1, 2, 3)])
    assert [x["surprise"] for x in bar.figures] == pytest.approx([1.0, 2.0, 2.0])
    assert mean == pytest.approx(2.0)
    assert [x["nats_per_token"] for x in recorded] == [1.0, 3.0, 2.0]
