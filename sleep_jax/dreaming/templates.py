"""Prompt templates of dreams.

They are read from a TOML file, so that a run can report its prompts. A template either follows a
document that is already in the context, or contains the document, as SEAL's do (Zweiger et al.
2025, arXiv 2506.10943).
"""

import dataclasses
import difflib
import importlib.resources
import os
import pathlib
import re
import tomllib
from typing import Any

from sleep_jax.data.documents import SAMPLES, Document
from sleep_jax.fields import shown
from sleep_jax.interop.prompts import TELL_REQUEST, Prompts
from sleep_jax.settings import Settings, setting

FORMS = ("with_context", "chat", "plain")
WRITES = ("text", "recipe")
_PLACEHOLDER = re.compile(r"\{(title|text)\}")


@dataclasses.dataclass(frozen=True)
class Template:
    """One way to ask for a dream.

    Attributes:
      name: its name in `dreaming.instructions`.
      prompt: its text; `{title}` and `{text}` are replaced by those of the document.
      form: `with_context`, the request after a document in the context; `chat`, a whole user turn
        with the document in it; `plain`, text to be continued with the document in it.
      writes: `text`, or `recipe`, SEAL's configuration object (`dreaming.recipe`).
      closed_book: the same request to a model that does not see the document; `{title}` names it.

    Raises:
      ValueError: a field has no such value, or the form does not fit the prompt.
    """

    name: str
    prompt: str
    form: str = "with_context"
    writes: str = "text"
    closed_book: str = TELL_REQUEST

    def __post_init__(self):
        where = f"dream template {shown(self.name)}"
        for name, value, choices in (("form", self.form, FORMS), ("writes", self.writes, WRITES)):
            if value not in choices:
                raise ValueError(
                    f"{where}: {name}={shown(value)}; choose from {', '.join(choices)}"
                )
        if not isinstance(self.prompt, str) or not self.prompt.strip():
            raise ValueError(f"{where}: prompt={shown(self.prompt)}; give a text")
        has_text = "{text}" in self.prompt
        if self.needs_context and _PLACEHOLDER.search(self.prompt):
            raise ValueError(
                f"{where}: form='with_context' has the document in its context, but the prompt has "
                f"{_PLACEHOLDER.search(self.prompt)[0]}; remove it, or set form='chat' or 'plain'"
            )
        if not self.needs_context and not has_text:
            raise ValueError(
                f"{where}: form={self.form!r} needs {{text}} in its prompt; else the model would "
                "not see the document"
            )
        has_title = isinstance(self.closed_book, str) and "{title}" in self.closed_book
        if not has_title or "{text}" in self.closed_book:
            raise ValueError(
                f"{where}: closed_book={shown(self.closed_book)}; give a request that has "
                "{title} and not {text}, since the document is not in view"
            )

    @property
    def needs_context(self) -> bool:
        """Whether the document must be in the context, since the prompt does not contain it."""
        return self.form == "with_context"

    def tokens(self, prompts: Prompts, document: Document) -> tuple[int, ...]:
        """The prompt about a document; if `needs_context`, its continuation (`Prompts.context`)."""
        fields = {"title": document.title, "text": document.text}
        text = _PLACEHOLDER.sub(lambda match: fields[match[1]], self.prompt)
        encode = {
            "with_context": prompts.with_context,
            "chat": prompts.without_context,
            "plain": prompts.plain,
        }
        return encode[self.form](text)


def read_templates(path: str | os.PathLike[str] = SAMPLES) -> dict[str, Template]:
    """The templates of a TOML file, by name.

    Args:
      path: the file, with one table per template; `samples` for the packaged ones.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not TOML, or a template is malformed; names it.
    """
    file = pathlib.Path(path).expanduser()
    if str(path) == SAMPLES:
        file = importlib.resources.files("sleep_jax.data") / "samples" / "dream_templates.toml"
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"dreaming.templates={str(path)!r}: no such file; give a .toml file, or {SAMPLES!r}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"dreaming.templates={str(path)!r}: not valid TOML ({error})") from error
    try:
        return {name: _template(name, table) for name, table in tables.items()}
    except ValueError as error:
        raise ValueError(f"dreaming.templates={str(path)!r}: {error}") from error


def _template(name: str, table) -> Template:
    known = [field.name for field in dataclasses.fields(Template) if field.name != "name"]
    if not isinstance(table, dict) or "prompt" not in table:
        raise ValueError(
            f"dream template {shown(name)} has no prompt; write [{name}] and prompt = ..."
        )
    if unknown := [key for key in table if key not in known]:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"nearest: {near[0]!r}" if near else f"choose from {', '.join(known)}"
        raise ValueError(f"dream template {shown(name)}: unknown key {shown(unknown[0])}; {hint}")
    return Template(name, **table)


def choose_templates(
    templates: dict[str, Template], names: tuple[str, ...], is_plain: bool = False
) -> tuple[Template, ...]:
    """The named templates, each once.

    Args:
      templates: by name.
      names: of the templates to use.
      is_plain: for a base model: form `chat` becomes `plain`.

    Raises:
      ValueError: there is no template of a name.
    """
    for name in names:
        if name not in templates:
            near = difflib.get_close_matches(name, templates, n=1, cutoff=0)
            raise ValueError(
                f"dreaming.instructions has {name!r}; choose from {', '.join(templates)}"
                + (f" (nearest: {near[0]!r})" if near else "")
            )
    chosen = [templates[name] for name in dict.fromkeys(names)]
    return tuple(
        dataclasses.replace(t, form="plain") if is_plain and t.form == "chat" else t for t in chosen
    )


@dataclasses.dataclass(frozen=True)
class TemplateChoice(Settings, section="dreaming"):
    """The templates of a night, as a config names them."""

    templates: str = setting(
        SAMPLES, "samples, or a .toml file like data/samples/dream_templates.toml"
    )
    instructions: tuple[str, ...] = setting(("facts", "paraphrase"), "names of templates")
    is_plain: bool = setting(False, "templates of form chat become plain: for a base model")


def chosen_templates(**choice: Any) -> tuple[Template, ...]:
    """The templates of a `TemplateChoice`.

    Args:
      **choice: its fields.

    Raises:
      ValueError: there is no template of a name, it asks for a recipe, or as `read_templates`.
      OSError: the file cannot be read.
    """
    chosen = TemplateChoice(**choice)
    all_templates = read_templates(chosen.templates)
    templates = choose_templates(all_templates, chosen.instructions, chosen.is_plain)
    if recipes := [template.name for template in templates if template.writes == "recipe"]:
        raise ValueError(
            f"dreaming.instructions names {recipes[0]!r}, which asks for a recipe for a grid "
            "task, but a night reads documents; remove it (experiments/few_shot_grids uses it)"
        )
    return templates
