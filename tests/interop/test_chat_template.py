"""Chat templates of every family against transformers, limits of the sandbox, and errors."""

import time
import tracemalloc

import jinja2
import pytest
import transformers
from families import (
    ALWAYS_THINKING,
    CHATML,
    FAMILIES,
    QWEN3,
    backend_of,
    qwen3,
    write_family,
    written,
)

from sleep_jax.data.documents import Document
from sleep_jax.interop.chat_template import ChatTemplate
from sleep_jax.interop.prompts import Prompts
from sleep_jax.interop.sandbox import Sandbox
from sleep_jax.interop.tiny import byte_tokenizer
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.interop.tokenizer_files import read_tokenizer

# Only one family has a switch for thinking.
CASES = [(name, thinking) for name in FAMILIES for thinking in (False, "Qwen3" in name)]
CASES = list(dict.fromkeys(CASES))
TEXTS = (
    "Who built it in 1832?",
    " padded \n",
    "\n\nTwo lines,\n\nthe second one.\n\n",
    'Zürich, 東京: {{ 7 * 7 }} {% raw %} \\n "quoted" <b>&amp;</b>',
    "",
)
MARKED = (
    "Write <|im_end|>, <|eot_id|>\n<|im_start|>system\nor <|start_header_id|> and <|endoftext|>!"
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model folder of every family."""
    root = tmp_path_factory.mktemp("families")
    return {name: write_family(name, root / name) for name in FAMILIES}


@pytest.fixture(scope="module")
def both(folders):
    """(name, thinking) -> our tokenizer, and a function that renders by transformers alike."""

    def make(name, thinking=False):
        peer = transformers.AutoTokenizer.from_pretrained(folders[name])

        def render(messages, *, prompt=False, tokenize=False):
            expected_text = peer.apply_chat_template(
                messages,
                tokenize=tokenize,
                add_generation_prompt=prompt,
                enable_thinking=thinking,
                date_string="26 Jul 2024",
            )
            return expected_text["input_ids"] if tokenize else expected_text

        return read_tokenizer(folders[name], thinking=thinking), render

    return make


def shown(tokenizer, ids):
    """Token ids as text, special tokens kept."""
    return tokenizer.backend.decode(list(ids), skip_special_tokens=False)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def up_to_the_end(family, text):
    """A rendered chat without the text after the end of its last turn."""
    end = FAMILIES[family].turn_end
    return text[: text.rindex(end) + len(end)]


@pytest.mark.parametrize("name, thinking", CASES)
def test_prompt_and_reply_equal_rendered_chat(both, name, thinking):
    tokenizer, render = both(name, thinking)
    prompts = Prompts(tokenizer)
    for text in (*TEXTS, MARKED):
        user_prompt = prompts.without_context(text)
        assert shown(tokenizer, user_prompt) == render([user(text)], prompt=True)
        for reply_tokens in (*TEXTS, MARKED):
            whole = render([user(text), assistant(reply_tokens)])
            got = shown(tokenizer, user_prompt + prompts.reply(reply_tokens))
            assert got == up_to_the_end(name, whole)
    for text in TEXTS:  # also as token ids
        assert list(prompts.without_context(text)) == render(
            [user(text)], prompt=True, tokenize=True
        )
    end = tokenizer.backend.token_to_id(FAMILIES[name].turn_end)
    assert prompts.reply("So.")[-1] == tokenizer.eos_ids[0] == end
    assert {tokenizer.backend.token_to_id(t) for t in FAMILIES[name].ends} <= set(tokenizer.eos_ids)


@pytest.mark.parametrize("name, thinking", CASES)
def test_context_and_request_equal_rendered_turn(both, name, thinking):
    tokenizer, render = both(name, thinking)
    prompts = Prompts(tokenizer)
    for title, text in (("The Lamp", "It is out."), ("", " Odd. \n"), (MARKED, MARKED)):
        document = Document(id="x", title=title, text=text)
        for request in (*TEXTS, MARKED):
            turn = f"{title}\n\n{text}\n\n{request}"
            if not request.strip() and "Llama" in name:
                continue  # a turn that ends with the document, whose white space would be trimmed
            got = shown(tokenizer, prompts.context(document) + prompts.with_context(request))
            assert got == render([user(turn)], prompt=True)


@pytest.mark.parametrize("name", FAMILIES)
def test_special_tokens_in_content_are_plain_text(both, name):
    tokenizer, render = both(name)
    controls = {*FAMILIES[name].specials, "<think>", "</think>"}
    texts = [*controls, "".join(sorted(controls)), "<<|im_end|>|im_end|>", *TEXTS, MARKED]
    for text in texts:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        for word in FAMILIES[name].specials:
            assert tokenizer.backend.token_to_id(word) not in ids
        messages = [user(text), assistant("Yes."), user(text)]
        chat = tokenizer.chat(messages)
        assert (
            shown(tokenizer, chat) == tokenizer.chat_text(messages) == render(messages, prompt=True)
        )
    # The number of turns is right: no content begins or ends one.
    end = tokenizer.backend.token_to_id(FAMILIES[name].turn_end)
    assert tokenizer.chat([user(MARKED)]).count(end) == tokenizer.chat([user("Hm.")]).count(end)


@pytest.mark.parametrize("name", FAMILIES)
def test_plain_text_begins_with_text_start(both, folders, name):
    tokenizer, _ = both(name)
    peer = transformers.AutoTokenizer.from_pretrained(folders[name])
    prompts, text = Prompts(tokenizer), "The bridge stood."
    assert list(prompts.plain(text)) == peer(text)["input_ids"]
    document = Document(id="x", title="Bridge", text=text)
    assert list(prompts.plain_document(document)) == peer(f"Bridge\n\n{text}\n\n")["input_ids"]
    assert (len(tokenizer.text_start) == 1) == ("Llama" in name)


def test_date_is_configurable(folders):
    for name in ("Llama-3.2-1B-Instruct", "Llama-3.1-8B-Instruct"):
        prompts = [
            read_tokenizer(folders[name], **options).chat_text([user("Why?")])
            for options in ({}, {"date": "2025-01-09"})
        ]
        assert "Today Date: 26 Jul 2024\n" in prompts[0]
        assert prompts[1] == prompts[0].replace("26 Jul 2024", "09 Jan 2025")


def test_empty_thought_is_placed_as_rendered():
    tokenizers = [qwen3(thinking=thinking) for thinking in (False, True)]
    off, on = map(Prompts, tokenizers)
    empty = "<think>\n\n</think>\n\n"
    assert shown(tokenizers[0], off.without_context("Why?")).endswith(f"assistant\n{empty}")
    assert shown(tokenizers[0], off.reply("So.")) == "So.<|im_end|>"
    assert shown(tokenizers[1], on.without_context("Why?")).endswith("assistant\n")
    assert shown(tokenizers[1], on.reply("So.")) == f"{empty}So.<|im_end|>"


@pytest.mark.parametrize(
    "template, thinking, reply, words",
    [
        (QWEN3, True, "<think>\nIt is 7.\n</think>\n\nEight.<|im_end|>", "Eight."),
        (QWEN3, True, "<think>\nIt is 7, and then", ""),  # cut off while thinking
        (QWEN3, True, "Eight.<|im_end|>", "Eight."),
        (QWEN3, False, "Eight.<|im_end|>", "Eight."),
        (QWEN3, False, "<think>7</think> Eight.<|im_end|>", "Eight."),
        (ALWAYS_THINKING, True, "It is 7.\n</think>\n\nEight.<|im_end|>", "Eight."),
        (ALWAYS_THINKING, True, "It is 7.", ""),
        (QWEN3, True, "", ""),
    ],
)
def test_reply_text_follows_the_thought(template, thinking, reply, words):
    tokenizer = qwen3(template, thinking=thinking)
    tokens = written(tokenizer, reply)
    assert tokenizer.reply_text(tokens) == words
    reply_tokens = Prompts(tokenizer).reply_without_thought(tokens)
    if tokenizer.reply_start(tokens):
        want = Prompts(tokenizer).reply(words)
        assert reply_tokens == (want if reply.endswith("<|im_end|>") else want[:-1])
    else:
        assert reply_tokens == tokens


def test_quoted_thought_tags_are_text():
    tokenizer = qwen3(thinking=True)
    quoted = "The tag </think> ends a thought."
    assert tokenizer.reply_text(Prompts(tokenizer).reply(quoted)) == quoted


def test_without_thought_adds_an_empty_thought():
    for template, thinking in ((QWEN3, False), (QWEN3, True), (ALWAYS_THINKING, True)):
        tokenizer = qwen3(template, thinking=thinking)
        pieces = tokenizer.template.without_thought("Is it?")
        text = "".join(piece.text for piece in pieces)
        assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    pieces = byte_tokenizer().template.without_thought("Is it?")
    assert "".join(piece.text for piece in pieces).endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize(
    "source, message",
    [
        ("{% for m in messages %}{{ m.content }}", r"no valid template: .*\(line 1\)"),
        ("{{ raise_exception('only tools') }}", r"cannot write a chat of user: .*only tools"),
        ("{{ messages.append(1) }}", "cannot write a chat of user: SecurityError"),
        ("{{ 1 / 0 }}", "cannot write a chat of user: ZeroDivisionError"),
        ("{{ messages[3].content.x }}", "cannot write a chat of user: UndefinedError"),
        ("<|im_start|>user<|im_end|>", "omits the content of the user message"),
        (
            CHATML.replace("message.content", "message.content * 2"),
            "repeats the content of the user",
        ),
        (
            CHATML.replace("message.content", "(message.content if loop.first else '')"),
            "omits the content of the assistant message",
        ),
        (CHATML.replace("message.content", "message.content | upper"), "changes the content"),
        (CHATML.replace("message.content", "(message.content | tojson)"), "changes the content"),
        (
            CHATML.replace("assistant\\n", "helper\\n"),
            r"ends a prompt with .*helper.* but writes .*assistant",
        ),
    ],
)
def test_unusable_template_raises(source, message):
    with pytest.raises(ValueError, match=rf"^x/chat_template\.jinja .*{message}") as refusal:
        ChatTemplate(source, name="x/chat_template.jinja")
    assert "\n" not in str(refusal.value)


def test_turn_end_without_special_token_raises(bpe):
    template = CHATML.replace("<|im_end|>", "<|end|>")
    with pytest.raises(
        ValueError, match=r"ends a reply with '<\|end\|>\\n', which holds no special"
    ):
        Tokenizer(bpe, eos_ids=[0], template=template)
    # Where the template writes no end, the tokenizer's end token is added.
    open_ended = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    tokenizer = Tokenizer(bpe, eos_ids=[0], template=open_ended)
    assert tokenizer.encode_reply("day") == [*tokenizer.encode("day"), 0]


def test_thinking_must_fit_the_template():
    with pytest.raises(ValueError, match=r"model\.thinking=True, but .*tiny model has no <think>"):
        byte_tokenizer(thinking=True)
    with pytest.raises(ValueError, match=r"always opens <think>; set model"):
        qwen3(ALWAYS_THINKING)
    with pytest.raises(ValueError, match="</think> is no token of the tokenizer"):
        backend = backend_of(FAMILIES["SmolLM2"])
        Tokenizer(backend, eos_ids=[1], template=QWEN3, thinking=True)


def test_template_errors_name_the_file(folders, tmp_path):
    folder = write_family("SmolLM2", tmp_path)
    (folder / "chat_template.jinja").write_text("{% if %}")
    with pytest.raises(ValueError, match=rf"^{folder}/chat_template\.jinja is no valid template"):
        read_tokenizer(folder)
    (folder / "chat_template.jinja").unlink()
    config = folder / "tokenizer_config.json"
    config.write_text('{"eos_token": "<|im_end|>", "chat_template": "Hello."}')
    with pytest.raises(ValueError, match=r"chat_template in .*tokenizer_config\.json omits"):
        read_tokenizer(folder)


@pytest.mark.parametrize(
    "source, why",
    [
        ("{% for a in range(99999) %}{% endfor %}", "more than 20,000 steps"),
        ("{% for a in messages * 9 %}" * 9 + "{% endfor %}" * 9, "more than 20,000 steps"),
        ("{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}", "RecursionError"),
        ("{{ 'a' * 1000000000000 }}", "a text or list of 1,000,000,000,000 entries"),
        ("{{ messages * 100000 }}", "a text or list of 100,000 entries"),
        ("{{ 10 ** 10 ** 10 }}", "is not supported"),
        ("{{ '%1000000000d' % 1 }}", "may be too wide"),
        ("{{ '{:>1000000000}'.format(1) }}", "may be too wide"),
        ("{{ 'x'.ljust(1000000000) }}", r"a number as large as 1\.000e\+09"),
        ("{{ 'x' | center(1000000000) }}", "a number as large as"),
        ("{{ messages | tojson(indent=1000000000) }}", "a number as large as"),
        ("{{ lipsum(100) }}", "'lipsum' is undefined"),
        ("{% for a in messages recursive %}{% endfor %}", "recursive loops"),
        ("{% for a in [" + "[" * 3000 + "]" * 3000 + "] %}{% endfor %}", "no valid template"),
        ("{% for a in messages %}" * 30 + "{% endfor %}" * 30, "too many statically nested"),
    ],
)
def test_endless_or_huge_templates_raise(source, why):
    assert_refused_soon(source, why)


LARGE = "is not supported|makes more than 10,000,000 characters|more than 20,000 steps"


@pytest.mark.parametrize(
    "made",
    [
        "x.s ~ x.s",
        "x.s + x.s",
        "x.s.replace('a', x.s)",
        "x.s | replace('a', x.s)",
        "x.s | replace(old='a', new=x.s)",
        "x.s | join(x.s)",
        "x.s.join(x.s)",
        "x.s | map('upper') | join(x.s)",
        "x.s.join(x.s | map('upper'))",
        "(x.s | attr('join'))(x.s)",
        "([x.s] | map('replace', 'a', x.s) | list)[0]",
        "x.s.encode().replace('a'.encode(), x.s.encode()).decode()",
        "x.s.translate({97: x.s})",
        "'%s%s' % (x.s, x.s)",
        "'%s%s' | format(x.s, x.s)",
        "'{0}{0}'.format(x.s)",
        "'{a}{a}'.format_map({'a': x.s})",
        "x.s.replace('a', '{0}').format(x.s)",
    ],
)
def test_repeated_doubling_raises(made):
    begin = "{% set x = namespace(s='a' * 1000) %}{% for i in range(27) %}"
    assert_refused_soon(f"{begin}{{% set x.s = {made} %}}{{% endfor %}}", LARGE)


@pytest.mark.parametrize(
    "body",
    [
        "{% set y %}{{ x.s }}{{ x.s }}{% endset %}{% set x.s = y %}",
        "{% set y | upper %}{{ x.s }}{{ x.s }}{% endset %}{% set x.s = y %}",
        "{% macro m() %}{{ x.s }}{{ x.s }}{% endmacro %}{% set x.s = m() %}",
        "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}"
        "{% set y %}{% call m() %}{{ x.s }}{% endcall %}{% endset %}{% set x.s = y %}",
        "{% set x.l = x.l + [x.s ~ i] %}",
        "{% set x.l = x.l + [x.s[1:]] %}",
        "{% set x.l = x.l + [x.s | upper] %}",
        "{% set x.l = x.l + [x.s.upper()] %}",
        "{% set x.l = x.l + x.l + [1] %}",
        "{% set x.l = [x.l, range(10000) | list] %}",
        "{% set x.l = [x.l, {'a': [1] * 9999}] %}",
        "{% set x.l = [x.l, x.l] %}{{ x.l }}",
        "{% set x.l = [x.l, x.l] %}{{ x.l | string }}",
        "{% set x.l = [x.l, x.l] %}{{ x.l | tojson }}",
        "{% set x.l = {'a': x.l, 'b': x.l} %}{{ x.l.items() ~ '' }}",
        "{% set x.l = dict(a=x.l, b=x.l) %}{{ '%s' % (x.l,) }}",
        "{% set x.l = namespace(a=x.l, b=x.l) %}{{ x.l }}",
        "{% set x.n = x.n * x.n %}",
        "{% set y = 'a'.zfill(99999) %}",
        "{% set y = x.s.split('b') %}",
        "{% set y = 'b' in x.s %}",
        "{% set y %}" + "a" * 9999 + "{% endset %}",
        "{% filter upper %}" + "a" * 9999 + "{% endfilter %}",
        "a" * 9999,
    ],
)
def test_growing_loops_raise(body):
    begin = "{% set x = namespace(s='a' * 100000, l=[1], n=7) %}{% for i in range(9999) %}"
    assert_refused_soon(begin + body + "{% endfor %}", LARGE)


@pytest.mark.parametrize(
    "made",
    [
        "b | list",
        "b | batch(2) | list",
        "b | slice(3) | list",
        "b | sort",
        "b | unique | list",
        "b | map('upper') | list",
        "b.replace('a', 'a ').split()",
        "b.replace('a', '\n').splitlines()",
        "b.replace('a', '\t').expandtabs(90000)",
        "b.replace('a', '\n') | indent(90000)",
        "('a\n' * 1000) | indent(b)",
        "'a' | center(99999) * 1000",
        "([[1]] * 9000) | tojson(indent=90000)",
        "([1] * 9000) | tojson(separators=(b, b))",
        "([[1] * 9000] * 9000) | sum(start=[])",
        "range(99999) | list",
        "([b] * 9000) | join",
        "''.join([b] * 9000)",
        "([b] * 9000) | string",
        "'%1000000000d' | format(1)",
        "'%*d' % (1000000000, 1)",
        "'{:{w}}'.format(1, w='1000000000')",
    ],
)
def test_operations_with_huge_results_raise(made):
    assert_refused_soon(f"{{% set b = 'a' * 1000000 %}}{{% set y = {made} %}}", LARGE + "|too wide")


@pytest.mark.parametrize("name", ["pprint", "urlize", "wordwrap", "xmlattr"])
def test_unbounded_filters_are_removed(name):
    assert_refused_soon(f"{{{{ messages | {name} }}}}", f"No filter named '{name}'")


def test_sandbox_output_equals_jinja():
    source = """
    {%- set x = namespace(s='a-b', l=[]) %}
    {%- set n = 1700000000 %}
    {%- for m in messages[:2] + [{'role': 'tool', 'content': 3}] %}
    {%- set x.s = x.s.replace('-', '+').split('+')[-1] ~ loop.index ~ m.role %}
    {%- set x.l = x.l + [x.s | upper | indent(2)] %}
    {%- endfor %}
    {%- set y %}{{ x.l | join(', ') }}{% endset %}
    {%- macro f(a, b=(1, 2)) %}{{ a }}{{ b[1:] }}{{ caller() }}{% endmacro %}
    {{ y }} {{ n + 1 }} {{ 'b' in x.s and n >= 7 }} {{ '%s|%3d' % (x.s, 4) }}
    {{ '{0!r:>9}'.format(y[:2]) }}
    {%- call f([1, 2.5, none], b={'k': 'v'}.items() | list) %}
      <{{ messages | length }}> {% endcall %}
    {{ messages | map(attribute='role') | unique | join('/') }}
    {{ ''.join(['p', 'q']) }} {{ {'a': [1]} }}
    """
    messages = [user("One."), assistant("Two."), user("Three.")]
    sandbox, plain = Sandbox(), jinja2.Environment()
    got = sandbox.write(sandbox.from_string(source), {"messages": messages})
    assert got == plain.from_string(source).render(messages=messages) and "TOOL" in got


def assert_refused_soon(source, why):
    tracemalloc.start()
    began = time.process_time()
    try:
        with pytest.raises(ValueError, match=why):
            ChatTemplate(source)
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 10
