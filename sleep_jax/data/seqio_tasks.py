"""Documents from SeqIO (Roberts et al. 2022, arXiv 2203.17189): the examples of a task or mixture,
`seqio:NAME`; `seqio:MODULE:NAME` first imports the module that registers it.

The text of an example is its field `text`, else its targets: the string before tokenization if it
is kept, or the decoded tokens. The title is its field `title`, else the task's name and a number.
"""

import importlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

PREFIX = "seqio:"
TARGETS = "targets"


def read_examples(source: str, limit: int) -> Iterator[tuple[str, str]]:
    """Yields (title, text) of the examples of a task, in order.

    Args:
      source: `seqio:NAME` or `seqio:MODULE:NAME`.
      limit: most examples; 0: all of them.

    Raises:
      ValueError: there is no such module or registered task, an example has neither text nor
        targets or is blank, or `limit` is 0 for a mixture, which is endless.
    """
    import seqio  # local: it imports TensorFlow, which takes many seconds
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # else TensorFlow would reserve its memory
    module, _, name = source.removeprefix(PREFIX).rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"data.documents={source!r}: there is no module {error.name!r}; install it, or "
                "add its folder to PYTHONPATH"
            ) from None
    known = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
    if name not in known:
        raise ValueError(
            f"data.documents={source!r}: SeqIO knows no task or mixture {name!r}; name the module "
            f"that registers it, as {PREFIX}MODULE:{name} (registered now: "
            f"{', '.join(known) or 'none'})"
        )
    task = seqio.get_mixture_or_task(name)
    if isinstance(task, seqio.Mixture) and not limit:
        raise ValueError(
            f"data.documents={source!r} is a mixture, which is endless; set data.limit"
        )
    split = "train" if "train" in task.splits else sorted(task.splits)[0]
    dataset = task.get_dataset(sequence_length=None, split=split, shuffle=False)
    examples = itertools.islice(dataset.as_numpy_iterator(), limit or None)
    for number, example in enumerate(examples, 1):
        title = example.get("title", b"").decode() or f"{name} {number}"
        where = f"{source}, example {number}"
        if not (text := _text(example, task.output_features, where).strip()):
            raise ValueError(f"{where}: the text is empty; let the task filter such examples out")
        yield title, text


def _text(example: Mapping[str, Any], features: Mapping[str, Any], where: str) -> str:
    for key in ("text", f"{TARGETS}_pretokenized"):
        if isinstance(example.get(key), bytes):
            return example[key].decode()
    if TARGETS not in example or TARGETS not in features:
        raise ValueError(f"{where}: it has neither 'text' nor {TARGETS!r}, only {sorted(example)}")
    return features[TARGETS].vocabulary.decode(example[TARGETS].tolist())
