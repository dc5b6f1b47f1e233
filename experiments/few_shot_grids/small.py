"""The tiny decoder: a token a cell, a few for the pieces of a recipe; and the minutes that teach it
grid tasks and what recipes look like.

The recipes that it is shown are drawn uniformly: what it writes before any reward is chance.
"""

import dataclasses
import functools
import pathlib

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tokenizers
from rules import draw_task
from tokenizers import decoders, models, pre_tokenizers

from sleep_jax.data.batches import pad
from sleep_jax.data.grids import GridFormat
from sleep_jax.dreaming.recipe import AUGMENTATIONS, STRATEGIES, Recipe
from sleep_jax.dreaming.templates import Template
from sleep_jax.interop.chat_template import Piece
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.models.decoder import Decoder, lm_logits
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.runtime.progress import phase_progress

FORM = GridFormat(cell_separator="")
ASK, END = "\nrecipe:\n", "<end>"
RATES = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1)  # from one that changes little to one that ruins
EPOCHS = (1, 2, 4, 8)
TEMPLATE = Template("recipe", "{text}" + ASK, form="plain", writes="recipe")
SIDES, SHOWN = (2, 6), (2, 5)  # cells and pairs, at least and at most, of tasks with a recipe
ROOM = (48, 448)  # tokens for a task with its solution, for one with a recipe


def recipe_pieces() -> list[str]:
    """What the text of a recipe is made of, but for its digits."""
    keys = [f'"use_{name}_augmentations": ' for name in AUGMENTATIONS]
    return [
        '{"data_generation": {' + keys[0],
        *(", " + key for key in keys[1:]),
        '}, "training": {"strategy": ',
        *(f'"{name}"' for name in STRATEGIES),
        ', "learning_rate": ',
        *map(str, RATES),
        ', "num_train_epochs": ',
        "}}",
        "true",
        "false",
    ]


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of a text of ours, in which `END` is the token."""
    return tokenizer.encode_pieces([Piece(text, False)])


def make_tokenizer() -> Tokenizer:
    """A token a digit, a line's end, a separator and a piece of a recipe; nothing else is text."""
    vocabulary = {character: i for i, character in enumerate("0123456789\n")}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    backend.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([tokenizers.AddedToken(END, special=True)])
    words = [FORM.arrow, FORM.pair_separator, ASK, *recipe_pieces()]
    backend.add_tokens([tokenizers.AddedToken(word, normalized=False) for word in words])
    return Tokenizer(
        backend,
        special_tokens={"eos_token": END},
        template="{% for m in messages %}{{ m['content'] }}{% endfor %}",
    )


@dataclasses.dataclass(frozen=True)
class SmallConfig:
    """The decoder and how it is taught.

    Attributes:
      width, layers: of the decoder; heads have 32 units, the FFN is three times as wide.
      steps, rows, recipes: updates, and tasks with a solution and with a recipe in each.
      at_once: updates of one program.
      learning_rate: Adam's peak.
    """

    width: int = 128
    layers: int = 4
    steps: int = 4000
    rows: int = 32
    recipes: int = 1
    at_once: int = 50
    learning_rate: float = 3e-3

    def decoder(self, vocab: int) -> DecoderConfig:
        """Its shape."""
        return DecoderConfig(
            vocab=vocab,
            width=self.width,
            hidden=3 * self.width,
            layers=self.layers,
            heads=self.width // 32,
            kv_heads=self.width // 32,
            head_dim=32,
            tie_embeddings=True,
            remat="none",
        )


def any_recipe(rng: np.random.Generator) -> Recipe:
    """A recipe drawn uniformly: every augmentation or not, either loss, one of RATES and EPOCHS."""
    return Recipe(
        augmentations=tuple(name for name in AUGMENTATIONS if rng.random() < 0.5),
        loss_on=str(rng.choice([*STRATEGIES.values()])),
        learning_rate=float(rng.choice(RATES)),
        epochs=int(rng.choice(EPOCHS)),
    )


def solution(rng: np.random.Generator) -> str:
    """A task and its solution."""
    task = draw_task(rng)
    return f"{FORM.question(task)}{FORM.grid(task.tests[0].output)}{END}"


def advice(rng: np.random.Generator) -> str:
    """A task and a recipe: every other one as large as those that are solved, the rest larger, for
    a recipe is also asked for about tasks of ARC."""
    sizes = {}
    if rng.random() < 0.5:
        rows, columns, shown = (int(rng.integers(a, b + 1)) for a, b in (SIDES, SIDES, SHOWN))
        sizes = {"shape": (rows, columns), "shown": shown}
    return f"{FORM.examples(draw_task(rng, **sizes))}{ASK}{any_recipe(rng).text}{END}"


def replies(tokens: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """Which tokens [rows, time] are foreseen: outputs and recipes, each with what ends it."""
    opens, closes = (
        np.isin(tokens, [i for text in texts for i in encode(tokenizer, text)])
        for texts in ((FORM.arrow, ASK), (FORM.pair_separator, END))
    )
    opened, closed = (np.cumsum(x, axis=1) - x for x in (opens, closes))
    return opened > closed


def taught(config: SmallConfig, tokenizer: Tokenizer, path: pathlib.Path | None = None):
    """(cfg, params) of the decoder; taught now unless `path` holds it."""
    cfg = config.decoder(tokenizer.vocab_size)
    if path is None:
        return cfg, teach(config, cfg, tokenizer)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        params = teach(config, cfg, tokenizer)
        np.savez(path, **flax.traverse_util.flatten_dict(params, sep="/"))
    with np.load(path) as held:
        return cfg, flax.traverse_util.unflatten_dict(dict(held), sep="/")


def teach(config: SmallConfig, cfg: DecoderConfig, tokenizer: Tokenizer):
    """Next-token loss on replies, Adam, a cosine to zero."""
    rng = np.random.default_rng(1)
    rate = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, config.steps // 10, config.steps
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    params = Decoder(cfg).init({"params": jax.random.key(0)}, jnp.zeros((1, 1), jnp.int32))
    state = (params["params"], optimizer.init(params["params"]))

    def nats(params, tokens, counts):
        hidden = Decoder(cfg).apply({"params": params}, tokens[:, :-1])
        each = optax.softmax_cross_entropy_with_integer_labels(
            lm_logits(cfg, params, hidden), tokens[:, 1:]
        )
        return jnp.sum(each * counts[:, 1:])

    def loss(params, batch):
        return sum(nats(params, *x) for x in batch) / sum(jnp.sum(x[1][:, 1:]) for x in batch)

    def step(state, batch):
        params, held = state
        value, gradient = jax.value_and_grad(loss)(params, batch)
        updates, held = optimizer.update(gradient, held)
        return (optax.apply_updates(params, updates), held), value

    def draw(kind, rows, length):
        """`at_once` batches of a kind of text, as (tokens, what counts) [batch, rows, time]."""
        tokens, _ = pad(
            [encode(tokenizer, kind(rng)) for _ in range(config.at_once * rows)], length
        )
        counts = replies(tokens, tokenizer).astype(np.float32)
        return tuple(x.reshape(config.at_once, rows, length) for x in (tokens, counts))

    several = jax.jit(functools.partial(jax.lax.scan, step), donate_argnums=0)
    with phase_progress("teach", config.steps) as bar:
        for _ in range(config.steps // config.at_once):
            batch = [draw(solution, config.rows, ROOM[0]), draw(advice, config.recipes, ROOM[1])]
            state, values = several(state, batch)
            bar.advance(config.at_once, loss=float(values[-1]))
    return jax.tree.map(np.asarray, state[0])
