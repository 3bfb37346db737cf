"""Valid input of each kind, and what may stand in it."""

from typing import Any

TENSORS = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "b": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [8, 20]},
    "c": {"dtype": "U8", "shape": [], "data_offsets": [20, 21]},
    "d": {"dtype": "F8_E4M3", "shape": [0, 5], "data_offsets": [21, 21]},
}

DTYPES = ["F64", "F32", "BF16", "I8", "BOOL", "F8_E5M2", "F4", "F6_E2M3", "C64", "f32", "F33", ""]

KNOWN_KEYS = [
    "quantization_config", "auto_map", "text_config", "vision_config", "sliding_window", "rope_scaling",
    "num_local_experts", "attn_implementation", "torch_dtype", "id2label", "num_labels",
    "max_window_layers", "base_model_tp_plan", "pruned_heads", "is_decoder", "generation_config",
    "n_layer", "transformers_version", "_name_or_path", "output_hidden_states",
    "chunk_size_feed_forward", "pad_token_id", "partial_rotary_factor",
]  # fmt: skip

CHATS = [
    {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]},
    {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "u"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}],
            },
            {"role": "tool", "name": "f", "content": "2"},
            {"role": "assistant", "content": "3"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    },
]

ROWS: list[list[dict[str, Any]]] = [
    CHATS,
    [{"prompt": "a", "completion": " b"}, {"prompt": "c", "completion": " d"}],
    [{"prompt": "a", "completion": " b", "choices": [" b", " c"]}, {"prompt": "e", "completion": " c",
                                                                 "choices": [" b", " c"]}],
    [{"text": "some text"}, {"text": "more"}],
    [{"instruction": "do", "input": "x", "output": "y"}],
    [{"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]}],
    [{"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A"}],
]  # fmt: skip

FRAGMENTS = [
    "{% for m in messages %}", "{% endfor %}", "{{ m['role'] }}", "{{ m.content }}",
    "{% if m.tool_calls %}", "{% endif %}", "{{ bos_token }}", "{{ eos_token }}",
    "{{ raise_exception('no') }}", "{{ messages[7].content }}", "{{ messages | tojson }}",
    "{{ tools | tojson }}", "{{ 1 / 0 }}", "{{ '%d' % 'x' }}", "{% set ns = namespace(x=0) %}",
    "{% set ns.x = ns.x + 1 %}", "{{ ns.x }}", "{% macro f(x) %}", "{{ f(x) }}", "{% endmacro %}",
    "{{ f(1) }}", "{{ messages.__class__ }}", "{{ ''.__class__.__mro__ }}", "{{ strftime_now('%Y') }}",
    "{{ self }}", "{% generation %}", "{% endgeneration %}", "{{ m.content.split('x')[0] | trim }}",
    "{% include 'x' %}", "{% import '/etc/passwd' as p %}", "{% extends 'x' %}", "{% block b %}",
    "{% endblock %}", "{{ lipsum() }}", "{{ cycler() }}", "{{ 'x' * 100 }}", "{{ range(99) | list }}",
    "{%- else -%}", "{{- undefined.x -}}", "{#", "#}",
    "{{ messages | map(attribute='content') | join }}", "{% if add_generation_prompt %}", "assistant: ",
    "\n", "{{", "%}",
]  # fmt: skip
