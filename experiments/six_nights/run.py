"""Six nights of a real model beside an adapter that is fine-tuned on the same written data.

    python experiments/six_nights/run.py --workdir runs/six_nights

Each seed sleeps (config.py), then the adapter learns what it wrote (sequential_lora.py). What they
can do besides is measured before the first night and after the last one, from what these have
saved. What is finished is kept in the workdir, phase by phase and night by night; a second call
goes on after it.
"""

import argparse
import json
import pathlib

import config as days_config
from figures import of_sleep, report
from sequential_lora import fine_tuned, last_model

from sleep_jax import lifecycle
from sleep_jax.baselines.capability import LIMIT, before_and_after
from sleep_jax.baselines.model import Model, base_model
from sleep_jax.experiment import load_experiment
from sleep_jax.runtime.allocator import keep_freed_memory
from sleep_jax.runtime.compiled_programs import keep_compiled_programs
from sleep_jax.runtime.workdir import claim
from sleep_jax.tasks.task_scores import require_lm_eval


def main() -> None:
    """All seeds, then the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/six_nights"))
    parser.add_argument("--documents", default=days_config.REPORTED, help="[%(default)s]")
    parser.add_argument("--seeds", type=int, nargs="*", default=range(3))
    parser.add_argument("--rates", type=float, nargs="*", default=[1e-3], help="of the adapter")
    parser.add_argument("--limit", type=int, default=LIMIT,
                        help="items of each task of what they can do besides; 0: not measured "
                        "[%(default)s]")  # fmt: skip
    parser.add_argument("--publish", action="store_true", help="rewrite the README's tables")
    arguments = parser.parse_args()
    if arguments.limit:
        require_lm_eval()
    keep_freed_memory()
    keep_compiled_programs()
    c = days_config.get_config(arguments.documents)
    claim(arguments.workdir, c.to_dict())
    arms: dict[str, list[dict]] = {"sleep": []}
    for seed in arguments.seeds:
        c.seed = seed
        experiment = load_experiment(c)
        slept = lifecycle.run(experiment, str(arguments.workdir / f"sleep-{seed}"))
        variables = slept.current.variables(experiment.params)
        model = Model(experiment.cfg, variables, experiment.tokenizer)
        base, folder = base_model(experiment), arguments.workdir / "capability"
        can = before_and_after(folder, base, model, f"sleep-{seed}", arguments.limit)
        arms["sleep"].append(of_sleep(slept.record, seed) | can)
        for rate in arguments.rates:
            name = f"lora-{rate:g}-{seed}"
            run = fine_tuned(experiment, slept, rate, seed, arguments.workdir / name)
            model = last_model(experiment, arguments.workdir / name)
            run |= before_and_after(folder, base, model, name, arguments.limit)
            arms.setdefault(f"sequential LoRA, rate {rate:g}", []).append(run)
        (arguments.workdir / "results.json").write_text(json.dumps(arms))
    print(report(arms, arguments.publish))


if __name__ == "__main__":
    main()
