"""SmolLM2 learns SQuAD passages, by fine-tuning, by SEAL and by sleep, and answers questions.

    python experiments/knowledge_incorporation/run.py --data FOLDER             # a model a passage
    python experiments/knowledge_incorporation/run.py --data FOLDER --stream    # one model for all

FOLDER holds SEAL's `cpt200_base_val.json` and `iter0_train.json`. Finished arms are kept in the
workdir, and a second call continues after them; `--passages 4` takes a few minutes. At the end it
prints the table; with --publish it also rewrites the one in the README.
"""

import argparse
import functools
import json
import pathlib
import shutil
from collections.abc import Callable, Sequence

import adapter_arms
import jax
import sleep_arms
from arm_configs import (
    BASE,
    FEWEST_DAYS,
    FULL,
    NO_DREAMS,
    NO_EXPERT,
    NO_ROUTER,
    NO_SELECTION,
    after_a_passage,
    after_many,
    single_day,
)
from passages import ASKED, REWARDED, is_short, read_passages, reward_items
from table import capability_path, file_name, report

from sleep_jax.baselines.capability import LIMIT, kept_capability
from sleep_jax.baselines.model import Model, base_model
from sleep_jax.data.documents import Document
from sleep_jax.experiment import Experiment, load_experiment
from sleep_jax.lifecycle import init_run_state
from sleep_jax.runtime.allocator import keep_freed_memory
from sleep_jax.runtime.progress import phase_progress
from sleep_jax.runtime.workdir import claim
from sleep_jax.tasks.task_scores import require_lm_eval

KeepCapability = Callable[[str, int, Model], None]  # of an arm and a seed
PASSAGE, SEAL, SEAL_ROUND = "fine-tuned on the passage", "SEAL, no reinforcement", "SEAL, one round"


def append(path: pathlib.Path, arm: str, seed: int, passage: Document, replies: list[list[str]]):
    """Appends a line a question about a passage: the reply of each of an arm's models for it."""
    lines = [
        {"arm": arm, "seed": seed, "passage": passage.id, "question": q.question}
        | {"answer": q.answer, "replies": [of_model[i] for of_model in replies]}
        for i, q in enumerate(passage.questions)
    ]
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def once(path: pathlib.Path, write: Callable[[pathlib.Path], None]) -> None:
    """Writes a file atomically, unless it exists."""
    if not path.exists():
        draft = path.with_suffix(".new")
        draft.unlink(missing_ok=True)
        write(draft)
        draft.replace(path)


def run_adapter_arms(
    experiment: Experiment,
    passages,
    rewarded,
    seed: int,
    workdir: pathlib.Path,
    keep: KeepCapability,
) -> None:
    """The arms that fine-tune an adapter a passage, or a dream; `rewarded` has the passages of
    SEAL's round and the questions about them.
    """
    model, count = adapter_arms.SealModel.from_experiment(experiment), adapter_arms.DREAMS

    def run_arm(arm: str, answer: Callable[[], tuple[list[list[list[str]]], Model]]):
        def write(draft):
            with phase_progress(f"{arm}, seed {seed}", 1, "arm") as bar:
                replies, learnt = answer()
                for passage, of_models in zip(passages, replies):
                    append(draft, arm, seed, passage, of_models)
                keep(arm, seed, learnt)
                bar.advance(1)

        once(workdir / f"{file_name(arm)}-{seed}.jsonl", write)

    def on_passages():
        replies, learnt = adapter_arms.on_passages(model, passages, seed)
        return [[x] for x in replies], learnt

    run_arm(PASSAGE, on_passages)
    run_arm(SEAL, lambda: adapter_arms.on_dreams(model, passages, count, seed))
    if rewarded[0]:

        def after_a_round():
            writer = model.reinforced(*rewarded, count, seed)
            return adapter_arms.on_dreams(writer, passages, count, seed)

        run_arm(SEAL_ROUND, after_a_round)


def run_sleep_arms(
    experiment: Experiment,
    passages: Sequence[Document],
    seed: int,
    workdir: pathlib.Path,
    keep: KeepCapability,
):
    """The arms that sleep, each after a single passage."""
    config = after_a_passage()
    config.seed = seed
    with phase_progress(f"sleep, seed {seed}", len(passages), "passage") as bar:
        for passage in passages:
            runs = workdir / "runs" / f"{passage.id}-{seed}"

            def write(draft, passage=passage, runs=runs):
                arguments = experiment, config, passage, runs
                for arm, replies in sleep_arms.after_a_passage(*arguments).items():
                    append(draft, arm, seed, passage, [replies])
                if passage is passages[0]:
                    for arm, learnt in sleep_arms.models_after_a_passage(*arguments).items():
                        keep(arm, seed, learnt)

            once(workdir / f"sleep-{passage.id}-{seed}.jsonl", write)
            shutil.rmtree(runs, ignore_errors=True)
            jax.clear_caches()  # or compiled programs fill the memory
            bar.advance(1)


def run_stream_arms(
    experiment: Experiment,
    passages,
    days: int,
    seed: int,
    workdir: pathlib.Path,
    keep: KeepCapability,
) -> None:
    """The arms of one model that learns all passages."""
    model = adapter_arms.SealModel.from_experiment(experiment)

    def run_arm(arm: str, answer: Callable[[], tuple[list[list[str]], Model | None]]):
        def write(draft):
            replies, learnt = answer()
            for passage, of_passage in zip(passages, replies):
                append(draft, arm, seed, passage, [of_passage])
            if learnt is not None:
                keep(arm, seed, learnt)

        once(workdir / f"{file_name(arm)}-{seed}.jsonl", write)

    initial = init_run_state(experiment)
    run_arm(BASE, lambda: (sleep_arms.replies_about(experiment, initial, passages), None))
    for arm, count in ((PASSAGE, 0), (SEAL, adapter_arms.DREAMS)):
        run_arm(arm, lambda count=count: adapter_arms.continued(model, passages, count, seed))
    runs = workdir / "runs" / str(seed)
    for arm in (FULL, NO_DREAMS, NO_SELECTION, NO_EXPERT, NO_ROUTER):
        run_arm(
            arm,
            lambda arm=arm: sleep_arms.after_many_passages(
                experiment, arm, passages, days, seed, runs
            ),
        )


def keep_capability(workdir: pathlib.Path, limit: int, arm: str, seed: int, model: Model) -> None:
    """Measures what a model can do besides, once.

    Args:
      workdir: of all arms.
      limit: items of each task; 0: nothing is measured.
      arm, seed: of the model.
      model: after the last night or, of many, after the first passage.
    """
    if limit:
        kept_capability(capability_path(workdir, arm, seed), model, limit)


def main() -> None:
    """All arms, then the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=pathlib.Path, required=True, help="SEAL's files")
    parser.add_argument("--workdir", type=pathlib.Path)
    parser.add_argument("--passages", type=int, default=20)
    parser.add_argument("--rewarded", type=int, default=8, help="passages of SEAL's round; 0: none")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--stream", action="store_true", help="one model learns all passages")
    parser.add_argument(
        "--days", type=int, default=FEWEST_DAYS, help=f"of the stream, at least {FEWEST_DAYS}"
    )
    parser.add_argument("--limit", type=int, default=LIMIT,
                        help="items of each task of what they can do besides; 0: not measured "
                        "[%(default)s]")  # fmt: skip
    parser.add_argument("--publish", action="store_true", help="rewrite the README's table")
    arguments = parser.parse_args()
    if arguments.limit:
        require_lm_eval()
    if arguments.stream and arguments.days < FEWEST_DAYS:
        parser.error(
            f"--days {arguments.days}: the random expert is drawn from the fourth day on, when "
            f"more than two slots are filled; choose {FEWEST_DAYS} or more"
        )
    if arguments.stream and arguments.passages < arguments.days:
        parser.error(
            f"--passages {arguments.passages}: every one of --days {arguments.days} needs one"
        )
    keep_freed_memory()
    kind = "stream" if arguments.stream else "single"
    workdir = arguments.workdir or pathlib.Path("runs/knowledge_incorporation") / kind
    jax.config.update("jax_compilation_cache_dir", str(workdir.absolute() / "programs"))
    passages = read_passages(arguments.data / ASKED, arguments.passages, is_short)
    rewarded = read_passages(arguments.data / REWARDED, arguments.rewarded, is_short)
    items = reward_items(passages, rewarded)
    config = after_many(arguments.days) if arguments.stream else after_a_passage()
    ids = {"passages": [p.id for p in passages], "rewarded": [p.id for p in rewarded]}
    claim(workdir, ids | {"night": config.to_dict(), "adapters": adapter_arms.settings()})
    experiment = load_experiment(single_day(config))
    keep = functools.partial(keep_capability, workdir, arguments.limit)
    keep(BASE, 0, base_model(experiment))
    for seed in range(arguments.seeds):
        if arguments.stream:
            run_stream_arms(experiment, passages, arguments.days, seed, workdir, keep)
        else:
            run_adapter_arms(experiment, passages, (rewarded, items), seed, workdir, keep)
            run_sleep_arms(experiment, passages, seed, workdir, keep)
        jax.clear_caches()
    print(report(workdir, kind, is_published=arguments.publish))


if __name__ == "__main__":
    main()
