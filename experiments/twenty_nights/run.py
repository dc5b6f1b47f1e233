"""Twenty nights of a real model, a short document of invented facts before each; facts that change;
hostile documents; each beside what one would do instead.

    python experiments/twenty_nights/run.py --workdir runs/twenty_nights
    python experiments/twenty_nights/run.py --workdir runs/changes --stream changes
    python experiments/twenty_nights/run.py --workdir runs/hostile --stream hostile

What is finished is kept in the workdir, phase by phase and night by night; a second call goes on
after it.
"""

import argparse
import functools
import json
import pathlib

import config as nights_config
import figures
import lora
import streams
from measure import (
    anchors,
    closed_book,
    in_view,
    kept,
    recall,
    right,
    rows_with_texts,
    without_day,
)

from sleep_jax import lifecycle
from sleep_jax.baselines.capability import LIMIT, before_and_after
from sleep_jax.baselines.model import Model, base_model
from sleep_jax.experiment import Experiment, load_experiment
from sleep_jax.phases.evaluate import STAGES
from sleep_jax.phases.run_state import RunState
from sleep_jax.runtime.allocator import keep_freed_memory
from sleep_jax.runtime.compiled_programs import keep_compiled_programs
from sleep_jax.runtime.workdir import claim
from sleep_jax.tasks.task_scores import require_lm_eval
from sleep_jax.verbs.saved_run import load_saved_run


def main() -> None:
    """All seeds and arms of a stream, then its tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/twenty_nights"))
    parser.add_argument("--stream", choices=streams.STREAMS, default="facts", help="[%(default)s]")
    parser.add_argument("--seeds", type=int, nargs="*", default=range(3),
                        help="0 to 9 are reported, settings are chosen on 10 to 15")  # fmt: skip
    parser.add_argument("--nights", type=int, default=0, help="fewer than the stream has; 0: all")
    parser.add_argument("--sleep", nargs="*", choices=nights_config.ARMS,
                        help="arms that sleep [those of the stream]")  # fmt: skip
    parser.add_argument("--lora", nargs="*", choices=lora.ARMS, default=[*lora.ARMS])
    parser.add_argument("--rate", type=float, default=1e-3, help="of adapters [%(default)s]")
    parser.add_argument("--limit", type=int, default=LIMIT,
                        help="items of each task of what they can do besides; 0: not measured "
                        "[%(default)s]")  # fmt: skip
    parser.add_argument("--publish", action="store_true", help="rewrite the README's tables")
    arguments = parser.parse_args()
    if arguments.limit:
        require_lm_eval()
    keep_freed_memory()
    keep_compiled_programs()
    workdir = arguments.workdir
    settings = {"stream": arguments.stream, "nights": arguments.nights}
    claim(workdir, settings | nights_config.get_config().to_dict())
    arms: dict[str, list[dict]] = {}
    hidden = []
    for seed in arguments.seeds:
        stream = streams.make(arguments.stream, seed, arguments.nights)
        for name, run in of_seed(stream, seed, arguments).items():
            arms.setdefault(name, []).append(run)
        hidden.append(stream.hostile)
        (workdir / "results.json").write_text(json.dumps(arms))
    print(figures.report(arguments.stream, arms, arguments.publish, hidden))


def of_seed(stream: streams.Stream, seed: int, arguments: argparse.Namespace) -> dict[str, dict]:
    """The figures of a seed, by arm; the first arm that sleeps writes what adapters learn."""
    workdir, nights, arms, written = arguments.workdir, len(stream.documents), {}, None
    path = stream.write(workdir / f"documents-{seed}.jsonl")
    for name in arguments.sleep or nights_config.OF_STREAM[stream.name]:
        c = nights_config.get_config(str(path), nights, name)
        c.seed = seed
        experiment, folder = load_experiment(c), workdir / f"{name}-{seed}"
        state = lifecycle.run(experiment, str(folder))
        measured = experiment, state, stream, seed, folder
        arms[name] = kept(workdir / f"{name}-{seed}.json", slept, *measured)
        base, folder = base_model(experiment), workdir / "capability"
        can = functools.partial(before_and_after, folder, base, limit=arguments.limit)
        variables = state.current.variables(experiment.params)
        model = Model(experiment.cfg, variables, experiment.tokenizer)
        arms[name] |= can(model, f"{name}-{seed}")
        written = written or (experiment, state)
    experiment, state = written
    arms |= kept(workdir / f"base-{seed}.json", untaught, experiment, stream, seed)
    arms["before"] |= can(None, "before")
    for name in arguments.lora if stream.name != "hostile" else ():
        arms[name] = lora.fine_tuned(
            experiment,
            state,
            name,
            arguments.rate,
            seed,
            workdir / f"{name}-{arguments.rate:g}-{seed}",
            stream.questions,
            stream.asked_after,
            can,
        )
    return arms


def slept(
    experiment: Experiment, state: RunState, stream: streams.Stream, seed: int, folder: pathlib.Path
) -> dict:
    """The figures of a run.

    Returns:
      `recall` [nights][days so far]: {"questions": share right, "paraphrases": share right};
      `anchors`, `seconds` [nights]; `right` [times that all were asked][documents]: by kind of
      question whether each is answered right; `forgotten`: by day that was taken back, the shares
      right about each day; `left_out` [documents][sentences]: by the screening of each night.
    """
    record, last = state.record, len(experiment.days) - 1
    variables = state.current.variables(experiment.params)
    labels = [f"consolidate-{i + 1}" if i else "consolidate" for i in range(last + 1)]
    then = {last: variables}
    for night in set(stream.asked_after) - {last}:
        saved = load_saved_run(str(folder), f"evaluate-{night + 1}" if night else "evaluate")
        then[night] = saved.state.variables(experiment.params)
    asked = {n: closed_book(experiment, then[n]) for n in stream.asked_after}
    return {
        "seed": seed,
        "recall": [day["recall"] for day in record["days"]],
        "anchors": [day["scores"][STAGES[1]]["anchor_perplexity"] for day in record["days"]],
        "seconds": [_seconds(record, night) for night in range(last + 1)],
        "tokens": [record["phases"][label]["tokens"] for label in labels],
        "right": [right(asked[night], stream.questions) for night in stream.asked_after],
        "forgotten": {
            day: recall(experiment, without_day(experiment, state, day), last)
            for day in stream.forgotten
        },
        "left_out": [day.get("left_out", []) for day in record["days"]],
    }


def _seconds(record, night: int) -> float:
    """Of study and consolidation of a night."""
    suffix = f"-{night + 1}" if night else ""
    return sum(record["phases"][name + suffix]["seconds"] for name in ("study", "consolidate"))


def untaught(experiment: Experiment, stream: streams.Stream, seed: int) -> dict[str, dict]:
    """The figures of the model before its first night: without any text, and with texts in view."""
    variables = lifecycle.init_run_state(experiment).current.variables(experiment.params)
    alone = {
        "seed": seed,
        "anchors": [anchors(experiment, variables)],
        "right": [right(closed_book(experiment, variables), stream.questions)],
    }
    if stream.name == "facts":
        views = rows_with_texts(experiment, stream.questions)
    else:  # the text that a question is about
        longest, documents = experiment.settings.evaluation.max_new_tokens, experiment.documents
        own = [[d] for d, asked in zip(documents, stream.questions) for _ in asked]
        model = base_model(experiment)
        replies_to = lambda texts: in_view(model, own, texts, longest)  # noqa: E731
        views = {"open book": right(replies_to, stream.questions)}
    return {"before": alone} | {name: {"seed": seed, "right": [x]} for name, x in views.items()}


if __name__ == "__main__":
    main()
