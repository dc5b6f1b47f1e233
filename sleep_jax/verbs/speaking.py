"""A saved run that speaks: what `ask` and `chat` share."""

import argparse
import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence

from sleep_jax.evals.slot_norms import check_slots_have_outputs, slot_norms
from sleep_jax.phases.day_slots import places_of_days, shortened, text_of, titles_of_day
from sleep_jax.runtime.compiled_programs import keep_compiled_programs
from sleep_jax.runtime.progress import printable, table
from sleep_jax.sampling.sampler import SamplingConfig
from sleep_jax.sampling.streaming import Reader, decoding_form, decoding_head
from sleep_jax.seeding.transaction import MemoryState
from sleep_jax.verbs.saved_run import SavedRun, load_saved_run


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """How replies are drawn."""
    group = parser.add_argument_group("how replies are drawn")
    group.add_argument(
        "--temperature", type=float, default=0.0, metavar="T", help="0 is greedy [%(default)s]"
    )
    group.add_argument("--top-k", type=int, default=0, metavar="K", help="0: all tokens [0]")
    group.add_argument("--top-p", type=float, default=1.0, metavar="P", help="1: all tokens [1]")
    group.add_argument("--seed", type=int, default=0, help="of the draws [0]")
    group.add_argument(
        "--max-tokens", type=int, default=128, metavar="N", help="longest reply [%(default)s]"
    )
    parser.add_argument(
        "--phase", default="-1", help="the model after this phase, by name or index [the last one]"
    )


class Speaker:
    """The model of a saved run, as it is and as it was before its first night.

    Attributes:
      saved: the run.
      now, before: its readers.
    """

    def __init__(self, saved: SavedRun, sampling: SamplingConfig):
        self.saved = saved
        self._cfg, self._base = decoding_form(saved.cfg, {"params": saved.params})
        self._head, self._sampling = decoding_head(saved.cfg, saved.params), sampling
        self.now = self._reader(saved.state)
        self.before = self._reader(saved.state.without_memory())

    def _reader(self, state: MemoryState) -> Reader:
        return Reader(self._cfg, self._variables(state), self._head, self._sampling)

    def _variables(self, state: MemoryState):
        memory = {"memory": state.memory, "slots": state.slots}
        return self._base | decoding_form(self.saved.cfg, memory)[1]

    def text(self, tokens: Iterable[int]) -> Iterator[str]:
        """The text of a reply as its tokens come, without thought and white space around it; pieces
        of characters wait for the rest."""
        drawn, shown = [], ""
        for token in tokens:
            drawn.append(token)
            text = self.saved.tokenizer.reply_text(drawn).rstrip("\ufffd")
            if text.startswith(shown) and text != shown:
                yield text[len(shown) :]
                shown = text
        whole = self.saved.tokenizer.reply_text(drawn)
        yield whole[len(shown) :]

    def slots(self, prompt: Sequence[int], reply: Sequence[int]) -> list[dict]:
        """Which slots spoke in a reply, the loudest first: {level, slot, norm (`slot_norms`), share
        (of all norms), days (from 1), documents (titles)}."""
        saved = self.saved
        norms = slot_norms(self._cfg, self.now.variables, prompt, reply)
        capacities = [level.slots for level in saved.settings.memory.levels]
        places, rows = places_of_days(saved.record, capacities), []
        total = sum(float(of_level.sum()) for of_level in norms.values())
        for level, of_level in norms.items():
            for slot, norm in enumerate(of_level.tolist()):
                days = [d for d, x in places.items() if (x.level, x.slot) == (level, slot)]
                if not norm and not days:
                    continue
                titles = [title for day in days for title in titles_of_day(saved.record, day)]
                row = {"level": level, "slot": slot, "norm": norm, "share": norm / (total or 1)}
                rows.append(row | {"days": [day + 1 for day in days], "documents": titles})
        return sorted(rows, key=lambda row: -row["norm"])


def load_speaker(arguments: argparse.Namespace) -> Speaker:
    """The speaker that a command line asks for.

    Raises:
      ValueError, OSError: as `load_saved_run`; a number is out of its range; with --slots, as
        `check_slots_have_outputs`.
    """
    sampling = {
        "max_new_tokens": arguments.max_tokens,
        "temperature": arguments.temperature,
        "top_k": arguments.top_k,
        "top_p": arguments.top_p,
    }
    SamplingConfig(eos_ids=(), **sampling)  # a mistake is reported before a model is loaded
    keep_compiled_programs()
    with showing("loading the model"):
        saved = load_saved_run(arguments.run, arguments.phase)
        if arguments.slots:
            check_slots_have_outputs(saved.cfg.memory)
        return Speaker(saved, SamplingConfig(eos_ids=saved.tokenizer.eos_ids, **sampling))


def show_slots(rows: Sequence[dict]) -> None:
    """Prints a table of `Speaker.slots`."""
    table(
        "Which slots spoke",
        ("level", "slot", "norm", "share", "day", "documents"),
        [
            (
                str(row["level"]),
                str(row["slot"]),
                row["norm"],
                f"{100 * row['share']:.0f} %",
                text_of([day - 1 for day in row["days"]]) or "forgotten",
                shortened(row["documents"]),
            )
            for row in rows
        ],
    )


def show_streamed(pieces: Iterable[str]) -> str:
    """Prints the pieces of a text as they come, and returns it."""
    text = ""
    for piece in pieces:
        print(printable(piece), end="", flush=True)
        text += piece
    print(flush=True)
    return text


@contextlib.contextmanager
def showing(what: str) -> Iterator[None]:
    """Meanwhile a terminal shows what is being done, on stderr."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield
