"""The tiny decoder: a token a cell, a few for the pieces of a recipe; and its training on tasks and
recipes, a matter of minutes.

Its recipes are drawn uniformly: what it writes before any reward is chance.
"""

import dataclasses
import pathlib

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tokenizers
from rules import draw_task
from tokenizers import decoders, models, pre_tokenizers

from sleep_jax.baselines.finetune import finetune
from sleep_jax.baselines.model import Leaves, Model
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
RATES = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1)  # from too low to far too high
EPOCHS = (1, 2, 4, 8)
TEMPLATE = Template("recipe", "{text}" + ASK, form="plain", writes="recipe")
SIDES, SHOWN = (2, 6), (2, 5)  # cells and pairs, at least and at most, of tasks with a recipe
ROOM = (48, 448)  # tokens for a task with its solution, for one with a recipe


def recipe_pieces() -> list[str]:
    """The strings that the text of a recipe is made of, without its digits."""
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
    """Token ids of a text in which `END` stands for the end token."""
    return tokenizer.encode_pieces([Piece(text, False)])


def make_tokenizer() -> Tokenizer:
    """A tokenizer with a token for each digit, line end, separator and piece of a recipe."""
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
    """The decoder and how it is trained.

    Attributes:
      width, layers: of the decoder; heads have 32 units, the FFN is three times as wide.
      steps: updates.
      rows, recipes: tasks with a solution and tasks with a recipe in an update.
      updates_per_call: updates in one call of the program.
      learning_rate: Adam's peak.
    """

    width: int = 128
    layers: int = 4
    steps: int = 4000
    rows: int = 32
    recipes: int = 1
    updates_per_call: int = 50
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


def random_recipe(rng: np.random.Generator) -> Recipe:
    """A recipe drawn uniformly: every augmentation or not, either loss, one of RATES and EPOCHS."""
    return Recipe(
        augmentations=tuple(name for name in AUGMENTATIONS if rng.random() < 0.5),
        loss_on=str(rng.choice([*STRATEGIES.values()])),
        learning_rate=float(rng.choice(RATES)),
        epochs=int(rng.choice(EPOCHS)),
    )


def task_with_solution(rng: np.random.Generator) -> str:
    """A task and its solution."""
    task = draw_task(rng)
    return f"{FORM.question(task)}{FORM.grid(task.tests[0].output)}{END}"


def task_with_recipe(rng: np.random.Generator) -> str:
    """A task and a recipe: every other task is as large as those with a solution, the rest are
    larger, since recipes are also written about tasks of ARC.
    """
    sizes = {}
    if rng.random() < 0.5:
        rows, columns, shown = (int(rng.integers(a, b + 1)) for a, b in (SIDES, SIDES, SHOWN))
        sizes = {"shape": (rows, columns), "shown": shown}
    return f"{FORM.examples(draw_task(rng, **sizes))}{ASK}{random_recipe(rng).text}{END}"


def reply_mask(tokens: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """Which tokens are labels, bool [rows, time]: outputs and recipes, each with its end."""
    opens, closes = (
        np.isin(tokens, [i for text in texts for i in encode(tokenizer, text)])
        for texts in ((FORM.arrow, ASK), (FORM.pair_separator, END))
    )
    opened, closed = (np.cumsum(x, axis=1) - x for x in (opens, closes))
    return opened > closed


def load_small(config: SmallConfig, tokenizer: Tokenizer, path: pathlib.Path | None = None):
    """(cfg, params) of the decoder, from `path`; trained and written there if missing."""
    cfg = config.decoder(tokenizer.vocab_size)
    if path is None:
        return cfg, train(config, cfg, tokenizer)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        params = train(config, cfg, tokenizer)
        np.savez(path, **flax.traverse_util.flatten_dict(params, sep="/"))
    with np.load(path) as leaves:
        return cfg, flax.traverse_util.unflatten_dict(dict(leaves), sep="/")


def train(config: SmallConfig, cfg: DecoderConfig, tokenizer: Tokenizer):
    """Parameters after training on `reply_loss`: Adam, a cosine to zero."""
    rate = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, config.steps // 10, config.steps
    )
    variables = Decoder(cfg).init({"params": jax.random.key(0)}, jnp.zeros((1, 1), jnp.int32))
    with phase_progress("train", config.steps) as bar:
        model = finetune(
            Model(cfg, variables),
            Leaves("params/.*"),
            reply_loss,
            training_batches(config, tokenizer),
            optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
            steps=config.steps,
            updates_per_call=config.updates_per_call,
            log=lambda step, figures: bar.advance(loss=figures["loss"]),
        )
    return jax.tree.map(np.asarray, model.variables["params"])


def reply_loss(model: Model, batch, rng):
    """(sum, tokens) of the cross-entropy of replies.

    Args:
      model: the decoder.
      batch: pairs (tokens, is a reply), [rows, time] each; pairs differ in shape.
      rng: not used.
    """

    def nats(tokens, weights):
        hidden = Decoder(model.cfg).apply(model.variables, tokens[:, :-1])
        each = optax.softmax_cross_entropy_with_integer_labels(
            lm_logits(model.cfg, model.variables["params"], hidden), tokens[:, 1:]
        )
        return jnp.sum(each * weights[:, 1:])

    return sum(nats(*x) for x in batch), sum(jnp.sum(weights[:, 1:]) for _, weights in batch)


def training_batches(config: SmallConfig, tokenizer: Tokenizer):
    """Batches for `reply_loss` without end: tasks with their solution, tasks with a recipe."""
    rng = np.random.default_rng(1)

    def draw(text, rows, length):
        """The rows of one kind of text for one call, [updates_per_call, rows, time]."""
        count = config.updates_per_call
        texts = [encode(tokenizer, text(rng)) for _ in range(count * rows)]
        tokens, _ = pad(texts, length)
        weights = reply_mask(tokens, tokenizer).astype(np.float32)
        return tuple(x.reshape(count, rows, length) for x in (tokens, weights))

    while True:
        block = [
            draw(task_with_solution, config.rows, ROOM[0]),
            draw(task_with_recipe, config.recipes, ROOM[1]),
        ]
        for i in range(config.updates_per_call):
            yield [(tokens[i], weights[i]) for tokens, weights in block]
