"""A run as a model of lm-evaluation-harness's own command line: `--model sleep_jax`, once this is
imported."""

import jax
import jax.numpy as jnp
from lm_eval.api.registry import register_model
from lm_eval.utils import simple_parse_args_string

from sleep_jax.tasks.harness import BATCH, HarnessModel, thought_tokens
from sleep_jax.verbs.saved_run import load_saved_run

DEFAULTS = {"phase": "-1", "before": False}


@register_model("sleep_jax")
class HarnessRun(HarnessModel):
    """The model of a run."""

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict, additional_config: dict | None = None):
        """Loads it.

        Args:
          arg_dict: `run` (the workdir), `phase`, and `before` (the model before its first night).
          additional_config: `batch_size`; the rest is not used.

        Raises:
          ValueError: `run` is missing, or another argument is given; or as `load_saved_run`.
        """
        options = DEFAULTS | arg_dict
        if unknown := options.keys() - {"run", *DEFAULTS}:
            raise ValueError(f"model_args: {min(unknown)!r} is unknown; give run, phase, before")
        if "run" not in options:
            raise ValueError("model_args has no run; give run=WORKDIR")
        saved = load_saved_run(options["run"], str(options["phase"]))
        state = saved.state.without_memory() if options["before"] else saved.state
        return cls(
            saved.cfg,
            state.variables(jax.tree.map(jnp.asarray, saved.params)),
            saved.tokenizer,
            batch=int((additional_config or {}).get("batch_size") or BATCH),
            thought_tokens=thought_tokens(saved.settings),
        )

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict | None = None):
        """As `create_from_arg_obj`, of a text such as `run=WORKDIR,before=True`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)
