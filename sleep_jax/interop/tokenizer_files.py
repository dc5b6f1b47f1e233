"""The tokenizer of a Hugging Face model folder, read and written."""

import json
import pathlib
import shutil
from collections.abc import Mapping

import tokenizers

from sleep_jax.fields import Fields, read_object, reason
from sleep_jax.interop.chat_template import DATE
from sleep_jax.interop.tokenizer import Tokenizer

ID_FILES = ("generation_config.json", "config.json")  # may hold eos_token_id


def read_tokenizer(folder: pathlib.Path, *, thinking: bool = False, date: str = DATE) -> Tokenizer:
    """The tokenizer of a Hugging Face model folder.

    Args:
      folder: holds `tokenizer.json`; `tokenizer_config.json`, `chat_template.jinja`,
        `generation_config.json` and `config.json` are read where present.
      thinking, date: of the template, as for `ChatTemplate`.

    Raises:
      FileNotFoundError: there is no `tokenizer.json`.
      ValueError: a file cannot be parsed; or as `Tokenizer` and `ChatTemplate`.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        raise FileNotFoundError(
            f"no tokenizer.json in {folder}; save one with "
            "`AutoTokenizer.from_pretrained(...).save_pretrained(...)`"
        )
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except BaseException as error:
        _pass_on(error)
        raise ValueError(f"cannot parse {path}: {reason(error)}; download it again") from error

    config = _read_optional(folder / "tokenizer_config.json")
    eos_ids, pad_id = [], None
    for name in ID_FILES:
        read = _read_optional(folder / name)
        eos_ids += ids_of(read, "eos_token_id")
        pad_id = read.whole("pad_token_id", -1, default=None) if pad_id is None else pad_id
    special_tokens = {}
    for role in ("bos_token", "eos_token", "pad_token", "unk_token"):
        is_entry = isinstance(config.get(role), Mapping)
        read, field = (config.section(role), "content") if is_entry else (config, role)
        token = read.text(field, None)
        if token is None:
            continue
        if role in ("bos_token", "eos_token") and backend.token_to_id(token) is None:
            read.refuse(field, f"a token that {path.name} has")
        special_tokens[role] = token
    template, template_name = _template(folder, config)
    return checked(
        path,
        backend,
        special_tokens=special_tokens,
        eos_ids=eos_ids,
        pad_id=None if "pad_token" in special_tokens or pad_id == -1 else pad_id,
        template=template,
        template_name=template_name,
        thinking=thinking,
        date=date,
    )


# What a folder may hold of a tokenizer, beside `ID_FILES`.
_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def write_tokenizer(
    tokenizer: Tokenizer, folder: pathlib.Path, source: pathlib.Path | None, max_position: int
) -> None:
    """Writes a tokenizer, its chat template and a generation config into a model folder.

    Args:
      tokenizer: of the model.
      folder: of the model.
      source: the Hugging Face folder that the tokenizer was read from, whose files are copied;
        None: the files are made from the tokenizer.
      max_position: longest sequence of the model.
    """
    generation = {"do_sample": False}
    if source is not None:
        for name in _FILES:
            if (source / name).exists():
                shutil.copyfile(source / name, folder / name)
        generation = dict(_read_optional(source / ID_FILES[0]))
    else:
        tokenizer.backend.save(str(folder / "tokenizer.json"))
        fields = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_max_length": max_position,
            **tokenizer.special_tokens,
        }
        _write_json(folder / "tokenizer_config.json", fields)
        if tokenizer.has_template:
            (folder / "chat_template.jinja").write_text(tokenizer.template.source, encoding="utf-8")
    generation |= {"eos_token_id": [*tokenizer.eos_ids], "pad_token_id": tokenizer.pad_id}
    if tokenizer.bos_id is not None:
        generation["bos_token_id"] = tokenizer.bos_id
    _write_json(folder / ID_FILES[0], generation)


def _write_json(path: pathlib.Path, fields: dict) -> None:
    path.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def checked(path: pathlib.Path, backend: tokenizers.Tokenizer, **parts) -> Tokenizer:
    """A `Tokenizer` that was tried on plain text.

    Args:
      path: the file that the backend was read from.
      backend, **parts: arguments of `Tokenizer`.

    Raises:
      ValueError: as `Tokenizer`, naming the file; or plain text cannot be encoded.
    """
    try:
        tokenizer = Tokenizer(backend, **parts)
        tokenizer.decode(tokenizer.encode("A day, and a night."))
        return tokenizer
    except ValueError as error:
        where = "" if str(path.parent) in str(error) else f"{path}: "
        raise ValueError(f"{where}{error}") from error
    except BaseException as error:
        _pass_on(error)
        raise ValueError(
            f"{path}: its tokenizer fails on plain text ({reason(error)}); download it again"
        ) from error


def _pass_on(error: BaseException) -> None:
    """Raises the error again unless the library failed: its failures are plain exceptions, or Rust
    panics, whose class cannot be imported.
    """
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


def ids_of(read: Fields, name: str) -> list[int]:
    """The ids of a field that holds one, a list of them, or none.

    Raises:
      ValueError: an entry is not a whole number.
    """
    value = read.get(name)
    entries = value if isinstance(value, list) else [value]
    ids = [Fields({name: entry}, read.where).whole(name, default=None) for entry in entries]
    return [id for id in ids if id is not None]


def _template(folder: pathlib.Path, config: Fields) -> tuple[str | None, str]:
    """(chat template or None, the file or field it comes from)."""
    path = folder / "chat_template.jinja"
    if path.exists():
        try:
            return path.read_text(encoding="utf-8"), str(path)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 text ({error}); download it again") from error
    if isinstance(config.get("chat_template"), list):  # several named templates
        named = config.objects("chat_template")
        template = {each.text("name"): each.text("template") for each in named}.get("default")
    else:
        template = config.text("chat_template", None)
    return template, f"chat_template in {config.where}"


def _read_optional(path: pathlib.Path) -> Fields:
    return read_object(path) if path.exists() else Fields({}, str(path))
