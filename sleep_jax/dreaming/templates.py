"""Templates: what the model is asked for when it dreams about a document.

They are read from a TOML file, so that a run's prompts are data that it can report. A template
stands beside a document that is already in the context, or holds the document itself, as SEAL's do
(Zweiger et al. 2025, arXiv 2506.10943).
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
from sleep_jax.interop.prompts import Prompts
from sleep_jax.settings import Settings, setting

FORMS = ("beside", "chat", "plain")
WRITES = ("text", "recipe")
_PLACE = re.compile(r"\{(title|text)\}")


@dataclasses.dataclass(frozen=True)
class Template:
    """One way to ask for a dream.

    Attributes:
      name: by which a config chooses it.
      prompt: its words; `{title}` and `{text}` stand for the document.
      form: `beside`, after the document that is in the context; `chat`, a whole user's turn;
        `plain`, text to be continued.
      writes: `text`, or `recipe`, SEAL's configuration object (`dreaming.recipe`).

    Raises:
      ValueError: a field has no such value, or the form does not fit the prompt.
    """

    name: str
    prompt: str
    form: str = "beside"
    writes: str = "text"

    def __post_init__(self):
        where = f"dream template {shown(self.name)}"
        for name, value, choices in (("form", self.form, FORMS), ("writes", self.writes, WRITES)):
            if value not in choices:
                raise ValueError(
                    f"{where}: {name}={shown(value)}; choose from {', '.join(choices)}"
                )
        if not isinstance(self.prompt, str) or not self.prompt.strip():
            raise ValueError(f"{where}: prompt={shown(self.prompt)}; it has to ask for something")
        holds = "{text}" in self.prompt
        if self.needs_context and _PLACE.search(self.prompt):
            raise ValueError(
                f"{where}: form='beside' has the document in its context, but the prompt holds "
                f"{_PLACE.search(self.prompt)[0]}; remove it, or set form='chat' or 'plain'"
            )
        if not self.needs_context and not holds:
            raise ValueError(
                f"{where}: form={self.form!r} needs {{text}} in its prompt; the model would see no "
                "document"
            )

    @property
    def needs_context(self) -> bool:
        """The document is in the context and not in the prompt."""
        return self.form == "beside"

    def tokens(self, prompts: Prompts, document: Document) -> tuple[int, ...]:
        """The prompt about a document; where it is `beside`, what follows the context."""
        fields = {"title": document.title, "text": document.text}
        words = _PLACE.sub(lambda place: fields[place[1]], self.prompt)
        encode = {
            "beside": prompts.with_context,
            "chat": prompts.without_context,
            "plain": prompts.plain,
        }
        return encode[self.form](words)


def read_templates(path: str | os.PathLike[str] = SAMPLES) -> dict[str, Template]:
    """All templates of a TOML file, by name.

    Args:
      path: the file, one table a template; `samples` for those that come with the package.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no TOML, or a template of it is not as it should be; says which.
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
    """The templates that a config names, each once.

    Args:
      templates: by name.
      names: those to dream by.
      is_plain: for a base model: those with form `chat` are text to be continued instead.

    Raises:
      ValueError: there is none of such a name.
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
    """The templates that a night dreams by, as a config names them."""

    templates: str = setting(
        SAMPLES, "samples, or a .toml file like data/samples/dream_templates.toml"
    )
    instructions: tuple[str, ...] = setting(("facts", "paraphrase"), "names of templates")
    is_plain: bool = setting(False, "templates of whole chats outside any chat: for a base model")


def chosen_templates(**choice: Any) -> tuple[Template, ...]:
    """The templates of a `TemplateChoice`.

    Args:
      **choice: its fields.

    Raises:
      ValueError, OSError: there is no such template, or it is none that a night can use; the file
        is not as it should be.
    """
    c = TemplateChoice(**choice)
    templates = choose_templates(read_templates(c.templates), c.instructions, c.is_plain)
    if recipes := [template.name for template in templates if template.writes == "recipe"]:
        raise ValueError(
            f"dreaming.instructions names {recipes[0]!r}, which asks how to practise a grid "
            "task, and a night reads documents; leave it out (experiments/few_shot_grids has grids)"
        )
    return templates
