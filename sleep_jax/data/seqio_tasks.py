"""Documents from SeqIO (Roberts et al. 2022, arXiv 2203.17189): the examples of a task or mixture
that is registered under a name, as `seqio:NAME`; `seqio:MODULE:NAME` first imports the module that
registers it.

An example is read as its `text`, else as its targets: the string they were before they were tokens,
or what the task's vocabulary makes of these. It is titled by its `title`, else by name and number.
"""

import importlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

PREFIX = "seqio:"
TARGETS = "targets"


def read_examples(source: str, limit: int) -> Iterator[tuple[str, str]]:
    """(title, text) of the examples of a task, in its order and without shuffling.

    Args:
      source: `seqio:NAME` or `seqio:MODULE:NAME`.
      limit: most examples; 0: all of them.

    Raises:
      ValueError: there is no such module, no such task is registered, an example has neither text
        nor targets or is blank, or all of a mixture, which has no end, are asked for.
    """
    import seqio  # Here: it brings TensorFlow, which takes many seconds to import.
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # the accelerator's memory is not for reading text
    module, _, name = source.removeprefix(PREFIX).rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"data.documents={source!r}: there is no module {error.name!r}; install it, or "
                "name its folder in PYTHONPATH"
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
            f"data.documents={source!r} is a mixture, which has no end; set data.limit"
        )
    split = "train" if "train" in task.splits else sorted(task.splits)[0]
    found = task.get_dataset(sequence_length=None, split=split, shuffle=False)
    for number, example in enumerate(itertools.islice(found.as_numpy_iterator(), limit or None), 1):
        title = example.get("title", b"").decode() or f"{name} {number}"
        where = f"{source}, example {number}"
        if not (text := _text(example, task.output_features, where).strip()):
            raise ValueError(f"{where}: the text is empty; have the task filter such examples out")
        yield title, text


def _text(example: Mapping[str, Any], features: Mapping[str, Any], where: str) -> str:
    for key in ("text", f"{TARGETS}_pretokenized"):
        if isinstance(example.get(key), bytes):
            return example[key].decode()
    if TARGETS not in example or TARGETS not in features:
        raise ValueError(f"{where}: it has neither 'text' nor {TARGETS!r}, only {sorted(example)}")
    return features[TARGETS].vocabulary.decode(example[TARGETS].tolist())
