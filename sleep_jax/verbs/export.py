"""`export RUN --to=FORMAT FOLDER`: the model of a run for other tools."""

import argparse
import pathlib

from sleep_jax.export.exporting import FORMATS, export, is_exported
from sleep_jax.export.options import TYPES, Options, bytes_of
from sleep_jax.export.push import Repository
from sleep_jax.export.serving import serving_lines
from sleep_jax.interop.safetensors_writer import DTYPES
from sleep_jax.runtime.progress import say

DEFAULTS = Options("hf")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the format, the folder and how to write."""
    parser.description = (
        "Writes the model of a run for other tools, and compares it with the run before it says "
        "done.\n\n"
        "hf      safetensors, config, tokenizer and model card, for transformers, vLLM, SGLang\n"
        "gguf    one file for llama.cpp, Ollama, LM Studio\n"
        "delta   the memory alone, to be loaded onto the base again by sleep_jax\n"
        "peft    the memory of a run with memory.expert='lora' as an adapter, for PEFT, vLLM"
    )
    parser.add_argument("folder", metavar="FOLDER", help="that is made")
    parser.add_argument("--to", required=True, choices=FORMATS, help="the format")
    parser.add_argument(
        "--dtype", default="", choices=DTYPES, help="hf, peft: of the weights [the run's]"
    )
    parser.add_argument(
        "--type",
        default="",
        choices=TYPES,
        help="gguf: of the matrices; base: as the base's GGUF file has each, whose bytes are kept "
        "[base, or Q8_0 where the base is no GGUF file]",
    )
    parser.add_argument(
        "--pad",
        type=int,
        default=DEFAULTS.pad,
        help=f"zero units are added up to a multiple of it [{DEFAULTS.pad}]",
    )
    parser.add_argument("--shard_size", default="5GB", help="hf: most of a file [5GB]")
    parser.add_argument(
        "--questions",
        type=int,
        default=DEFAULTS.questions,
        help=f"asked of run and export, to compare them; 0: none [{DEFAULTS.questions}]",
    )
    parser.add_argument(
        "--llama_cpp",
        metavar="PATH",
        help="gguf: library of llama.cpp, or a folder that holds it, e.g. a release, or the npm "
        "package @node-llama-cpp/linux-x64 [$LLAMA_CPP, node_modules, beside llama-cli]",
    )
    parser.add_argument(
        "--push",
        metavar="NAME",
        help="then push the folder to this repository of the Hugging Face Hub, `owner/model` or "
        "`model`; where FOLDER holds this export already, it is pushed as it is",
    )
    parser.add_argument(
        "--public",
        action="store_true",
        help="a repository that --push creates can be seen by all [only by you]",
    )


def run(arguments: argparse.Namespace) -> None:
    """Exports, and says how the export compares with the run."""
    for name in ("pad", "questions"):
        if (value := getattr(arguments, name)) < (name == "pad"):
            raise ValueError(f"--{name}={value}; give {int(name == 'pad')} or more")
    options = Options(
        to=arguments.to,
        dtype=arguments.dtype,
        type=arguments.type,
        pad=arguments.pad,
        shard_bytes=bytes_of(arguments.shard_size),
        questions=arguments.questions,
        llama_cpp=arguments.llama_cpp,
    )
    repository = _repository(arguments)
    if repository and is_exported(arguments.run, arguments.folder, options):
        say(f"{arguments.folder} holds this export already")
    else:
        _export(arguments, options)
    if repository:
        _push(repository, arguments)


def _export(arguments: argparse.Namespace, options: Options) -> None:
    checked = export(arguments.run, arguments.folder, options)
    if checked is None:
        say("not verified: --questions=0")
    else:
        say(*checked.lines())
        if arguments.to == "gguf" and "llama.cpp" not in checked.program:
            say("llama.cpp was not found; --llama_cpp=PATH says where it is")
    folder = pathlib.Path(arguments.folder).expanduser()
    say(*serving_lines(folder), f"done: {arguments.folder}")


def _repository(arguments: argparse.Namespace) -> Repository | None:
    """Where to push to, asked for before hours of work; None where nothing is to be pushed."""
    if arguments.push is None:
        if arguments.public:
            raise ValueError("--public says who may see what --push pushes; give --push=NAME too")
        return None
    if not arguments.questions:
        raise ValueError("--push pushes what was verified alone; give --questions=1 or more")
    return Repository.find(arguments.push)


def _push(repository: Repository, arguments: argparse.Namespace) -> None:
    folder = pathlib.Path(arguments.folder).expanduser()
    message = f"Export of a run of sleep_jax, as {arguments.to}"
    address, commit = repository.push(folder, message, arguments.public)
    seen = ("public" if arguments.public else "private") if repository.is_new else "as before"
    say(f"pushed: {address} ({seen}), commit {commit}")
