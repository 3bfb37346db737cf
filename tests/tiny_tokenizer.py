"""A byte-level tokenizer of at most 261 tokens, built in memory."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def tiny_tokenizer(
    bos: bool = True,
    eos: bool = True,
    pad: bool = True,
    chat_template: bool = True,
    merges: tuple[tuple[str, str], ...] = (),
) -> PreTrainedTokenizerFast:
    """One token a byte, and one for each of `merges`; a BOS, where there is one, opens every text."""
    marks = {"bos_token": bos and "<s>", "eos_token": eos and "</s>", "pad_token": pad and "<pad>"}
    special = {name: token for name, token in marks.items() if token}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*special.values(), *alphabet, *(left + right for left, right in merges)]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
        )
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    if chat_template:
        wrapped.chat_template = CHAT_TEMPLATE
    return wrapped
