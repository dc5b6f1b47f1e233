"""Classes that arrive in groups, without task ids: sleep, a slot a group, beside other methods.

    python experiments/class_incremental/run.py --data CLINC150 --workdir runs/class_incremental
    ... --data CLINC150 --split tune --workdir runs/tune --arms sleep replay --rates 1e-3 3e-3
    ... --data BANKING77 --dataset banking77 --workdir runs/banking77

Every run (an arm, a rate and a seed) is a JSON file in the workdir, written after each group with a
folder beside it; a second call goes on after it. What the model can do besides is measured before
the first group and after the last one. At the end it draws the figures of all that the workdir has;
with --publish beside this file, where it rewrites the table of the README as well.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import shutil
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from arms import ARMS, TRIED, Adapter, Arm, Night, Untrained, learner_of
from figures import FOLDER, report
from learners import Learner
from protocol import PRESETS, SPLITS, Group, Sizes, examples_of, groups_of, is_right

from sleep_jax.baselines.capability import LIMIT, before_and_after
from sleep_jax.baselines.model import Model
from sleep_jax.data.class_sets import read_class_set
from sleep_jax.data.documents import read_anchors
from sleep_jax.evals.metrics import perplexity
from sleep_jax.evals.recall import AnchorSet, negative_log_likelihood
from sleep_jax.fields import read_json
from sleep_jax.interop.load import load_model
from sleep_jax.interop.resolve import resolve
from sleep_jax.models.encoder import load_encoder
from sleep_jax.runtime.allocator import keep_freed_memory
from sleep_jax.runtime.compiled_programs import keep_compiled_programs
from sleep_jax.runtime.progress import phase_progress
from sleep_jax.runtime.workdir import claim
from sleep_jax.settings import settings_of
from sleep_jax.tasks.task_scores import require_lm_eval

SHOWN = 8  # replies of a group that are kept to be looked at


def load_base(sizes: Sizes) -> Model:
    """The model of a comparison, without memory."""
    dtype = jnp.dtype(sizes.dtype)
    cfg, params, tokenizer = load_model(sizes.model, dtype=dtype, remat=sizes.remat)
    return Model(cfg, {"params": jax.tree.map(jnp.asarray, params)}, tokenizer)


def anchor_perplexity(model: Model) -> float:
    """Of general texts, which no arm learns from."""
    texts = [model.tokenizer.encode(text) for text in read_anchors().texts]
    anchors = AnchorSet.from_sequences(texts)
    return perplexity(
        *negative_log_likelihood(model.cfg, model.variables, anchors.tokens, anchors.mask)
    )


def finished_run(
    path: pathlib.Path,
    facts: dict,
    learner: Learner,
    groups: Sequence[Group],
    advance: Callable[..., None],
) -> dict:
    """A run: as `path` has it or, where groups are missing there, brought to its end.

    Args:
      path: of its JSON file; the learner is saved beside it, after each group.
      facts: what the run is: `arm`, `seed`, ...
      learner: before the first group.
      groups: in the order in which they arrive.
      advance: is called after each group.

    Returns:
      The facts, and `accuracy` [groups][groups]: share right of the test texts of group j after
      group i, None for j > i and where the arm has not learnt yet; `classes` {class: share right
      at the end}; `replies` [groups]: some (reply, class) of each group at the end; `stores`:
      (texts, texts with labels) kept at the end; `seconds` [groups]: of learning; `asked_seconds`
      [groups]; `anchors`: perplexity at the end; `is_done`.

    Raises:
      ValueError: the file has a run of other facts.
    """
    run = facts | {"accuracy": [], "seconds": [], "asked_seconds": [], "is_done": False}
    if path.exists():
        run = read_json(path)
        if changed := [name for name in facts if run.get(name) != json.loads(_json(facts[name]))]:
            raise ValueError(f"{path} has another {changed[0]}; use another --workdir")
    if run["is_done"]:
        return run
    folder = path.with_suffix("")
    done = len(run["accuracy"])
    if done:
        learner = learner.restore(folder / str(done), examples_of(groups[:done]))
        advance(done)
    for number in range(done, len(groups)):
        began = time.perf_counter()
        learner = learner.learn(groups[number].train)
        learnt = time.perf_counter()
        asked = ask(learner, groups[: number + 1])
        run["accuracy"].append(asked["accuracy"] + [None] * (len(groups) - number - 1))
        run["seconds"].append(learnt - began)
        run["asked_seconds"].append(time.perf_counter() - learnt)
        run |= {"classes": asked["classes"], "replies": asked["replies"]}
        learner.save(folder / str(number + 1))
        if number + 1 == len(groups):
            run |= {"stores": learner.stores, "anchors": anchor_perplexity(learner.model)}
            run["is_done"] = True
        _write(path, run)
        shutil.rmtree(folder / str(number), ignore_errors=True)
        right = [x for x in asked["accuracy"] if x is not None]
        advance(1, accuracy=float(np.mean(right)) if right else None)
    return read_json(path)


def learnt_model(path: pathlib.Path, learner: Learner, groups: Sequence[Group]) -> Model:
    """The model of a finished run after its last group.

    Args:
      path: of the run's JSON file.
      learner: before the first group.
      groups: of the run.
    """
    folder = path.with_suffix("") / str(len(groups))
    return learner.restore(folder, examples_of(groups)).model


def ask(learner: Learner, groups: Sequence[Group]) -> dict:
    """What a learner knows: `accuracy` [groups], `classes` and `replies` as of `finished_run`; all
    classes of these groups are candidates."""
    candidates = [label for group in groups for label in group.labels]
    accuracy, classes, shown = [], {}, []
    for group in groups:
        replies = learner.replies(group.test)
        if replies is None:
            accuracy.append(None)
            continue
        right = np.asarray(is_right(replies, group.test, candidates))
        accuracy.append(float(right.mean()))
        shown.append([(reply, x.label) for reply, x in zip(replies, group.test)][:SHOWN])
        for label in group.labels:
            of_class = [x.label == label for x in group.test]
            classes[label] = float(right[of_class].mean())
    return {"accuracy": accuracy, "classes": classes, "replies": shown}


def arms_to_run(titles: Sequence[str], rates: Sequence[float]) -> dict[str, Arm]:
    """The arms by title; with rates, those that have one with each."""
    arms: dict[str, Arm] = {}
    for title in titles:
        arm = (ARMS | TRIED)[title]
        if not rates or not isinstance(arm, Night | Adapter):
            arms[title] = arm
            continue
        for rate in rates:
            arms[f"{title}, rate {rate:g}"] = dataclasses.replace(arm, learning_rate=rate)
    return arms


def _json(value) -> str:
    return json.dumps(value, default=dataclasses.asdict)


def _write(path: pathlib.Path, run: dict) -> None:
    draft = path.with_suffix(".new")
    draft.write_text(_json(run))
    draft.replace(path)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=pathlib.Path, required=True, help="folder of the set's files"
    )
    parser.add_argument(
        "--workdir", type=pathlib.Path, default=pathlib.Path("runs/class_incremental")
    )
    parser.add_argument("--preset", choices=PRESETS, default="smollm2", help="[%(default)s]")
    parser.add_argument("--split", choices=SPLITS, default="report", help="[%(default)s]")
    parser.add_argument("--seeds", type=int, nargs="*", default=range(3))
    titles = [*ARMS, *TRIED]
    parser.add_argument(
        "--arms",
        nargs="+",
        default=[*ARMS],
        choices=titles,
        metavar="ARM",
        help=f"of {'; '.join(titles)} [all before {next(iter(TRIED))!r}]",
    )
    parser.add_argument(
        "--rates", type=float, nargs="*", default=[], help="in place of the arms' own"
    )
    parser.add_argument(
        "--limit",
        type=int,
        default=LIMIT,
        help="items of each task of what they can do besides; 0: not measured [%(default)s]",
    )
    parser.add_argument("--publish", action="store_true", help="rewrite the README's table")
    sizes = parser.add_argument_group(
        "sizes", "in place of the preset's; those of smollm2 in brackets"
    )
    for name, declared in settings_of(Sizes).items():
        flag = f"--{name.replace('_', '-')}"
        shown = f"{declared.help} [{declared.default}]"
        sizes.add_argument(flag, type=type(declared.default), metavar="...", help=shown)
    return parser.parse_args()


def main() -> None:
    """The arms and seeds that are asked for, then the figures and the table."""
    a = _arguments()
    given = {name: getattr(a, name) for name in settings_of(Sizes)}
    sizes = dataclasses.replace(
        PRESETS[a.preset], **{name: value for name, value in given.items() if value is not None}
    )
    if a.limit:
        require_lm_eval()
    keep_freed_memory()
    keep_compiled_programs()
    claim(a.workdir, {"split": a.split} | dataclasses.asdict(sizes))
    data, base = read_class_set(sizes.dataset, a.data), load_base(sizes)
    before = a.workdir / "base.json"
    if not before.exists():
        _write(before, {"anchors": anchor_perplexity(base)})
    encoder = functools.cache(lambda: load_encoder(resolve("all-MiniLM-L6-v2")))
    for seed in a.seeds:
        groups = groups_of(sizes, data, a.split, seed)
        for title, arm in arms_to_run(a.arms, a.rates).items():
            facts = {"arm": title, "seed": seed, "settings": arm}
            facts["groups"] = [group.labels for group in groups]
            path = a.workdir / f"{title.replace(',', '').replace(' ', '_')}-{seed}.json"
            updates = path.with_suffix(".log")

            def log(step, figures, updates=updates):
                with open(updates, "a") as file:
                    numbers = {k: v for k, v in figures.items() if isinstance(v, float)}
                    file.write(json.dumps({"step": step} | numbers) + "\n")

            learner = learner_of(arm, base, sizes, groups, seed, log, encoder)
            with phase_progress(f"{title}, seed {seed}", len(groups), "group") as bar:
                run = finished_run(path, facts, learner, groups, bar.advance)
            name, after = "before", base
            if not isinstance(arm, Untrained):
                name, after = path.stem, learnt_model(path, learner, groups)
            can = before_and_after(a.workdir / "capability", base, after, name, a.limit)
            _write(path, run | can)
    runs = [read_json(path) for path in sorted(a.workdir.glob("*-*.json"))]
    order = [*ARMS]
    runs.sort(key=lambda run: order.index(run["arm"]) if run["arm"] in order else len(order))
    print(report(FOLDER if a.publish else a.workdir, runs, read_json(before)["anchors"], sizes))


if __name__ == "__main__":
    main()
