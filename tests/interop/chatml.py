"""A chat, ChatML, and what transformers makes of both."""

import transformers

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TALK = [
    {"role": "system", "content": "Be brief & <kind>."},
    {"role": "user", "content": "What did the night keep in 2024?"},
    {"role": "assistant", "content": "The day, Zürich."},
]


def peer(bpe, template=CHATML):
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=template,
    )
