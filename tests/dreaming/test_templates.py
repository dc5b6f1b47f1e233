"""Templates: rendered prompts, and malformed files."""

import pytest

from sleep_jax.data.documents import Document
from sleep_jax.dreaming.templates import (
    Template,
    choose_templates,
    chosen_templates,
    read_templates,
)
from sleep_jax.interop.prompts import Prompts
from sleep_jax.interop.tiny import byte_tokenizer

DOCUMENT = Document("a", "Kettles", "Kettles whistle in {title} {major}.")
SEAL = ("implications", "implications-long", "implications-very-long", "rewrite", "self-qa")


def shown(template):
    tokenizer = byte_tokenizer()
    return tokenizer.decode(template.tokens(Prompts(tokenizer), DOCUMENT))


def test_seal_templates_order_instruction_title_passage_cue():
    templates = read_templates()
    for name in SEAL:
        words = shown(templates[name])
        parts = ("Read the passage", "Kettles\n", DOCUMENT.text, ":\n")
        places = [words.index(parts[0])]
        for part in parts[1:]:
            places.append(words.index(part, places[-1] + 1))
        assert places == sorted(places)
    assert len({templates[name].prompt for name in SEAL}) == len(SEAL)


def test_with_context_templates_do_not_contain_the_document():
    with_context = [t for t in read_templates().values() if t.needs_context]
    assert {t.name for t in with_context} >= {"facts", "paraphrase", "questions"}
    assert not any("whistle" in shown(t) for t in with_context)


def test_recipe_template_names_every_field():
    template = read_templates()["recipe"]
    assert template.writes == "recipe"
    for word in ("use_chain_augmentations", "train_using_all_tokens", '"num_train_epochs": ...}}'):
        assert word in shown(template)


def test_choose_templates_keeps_order_and_converts_to_plain():
    templates = read_templates()
    chosen = choose_templates(templates, ("self-qa", "facts", "self-qa"), is_plain=True)
    assert [t.name for t in chosen] == ["self-qa", "facts"]
    assert [t.form for t in chosen] == ["plain", "with_context"]
    assert shown(chosen[0]).startswith("Read the passage")
    assert shown(templates["self-qa"]) != shown(chosen[0])


def test_unknown_template_names_raise():
    with pytest.raises(ValueError, match=r"has 'implication'; choose .*nearest: 'implications'"):
        choose_templates(read_templates(), ("implication",))
    with pytest.raises(
        ValueError, match=r"dreaming\.instructions=\(\); give a tuple of one or more"
    ):
        chosen_templates(instructions=())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"form": "chats"}, "form='chats'; choose from with_context, chat, plain"),
        ({"writes": "poems"}, "writes='poems'"),
        ({"prompt": " "}, "prompt=' '"),
        ({"prompt": "About {text}"}, r"remove it, or set form='chat'"),
        ({"form": "plain"}, r"needs \{text\}"),
        ({"closed_book": "Write."}, r"closed_book='Write.'; give a request that has \{title\}"),
        ({"closed_book": "{title}: {text}"}, r"closed_book='\{title\}: \{text\}'; give"),
    ],
)
def test_invalid_template_raises(fields, message):
    with pytest.raises(ValueError, match=f"dream template 'mine': .*{message}"):
        Template(**{"name": "mine", "prompt": "Write."} | fields)


def test_read_templates_of_a_user_file(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('[sonnet]\nprompt = "{title}, in verse: {text}"\nform = "plain"\n')
    [template] = choose_templates(read_templates(file), ("sonnet",))
    assert shown(template) == f"Kettles, in verse: {DOCUMENT.text}"
    for content, message in (
        ("[sonnet\n", "not valid TOML"),
        ('[sonnet]\nform = "plain"\n', "'sonnet' has no prompt"),
        ('[sonnet]\nprompt = "{text}"\nforms = "plain"\n', "'forms'; nearest: 'form'"),
    ):
        file.write_text(content)
        with pytest.raises(ValueError, match=message):
            read_templates(file)
