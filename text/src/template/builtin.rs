//! Chat formats by name, for files without a template or with a wrong one.
//!
//! Each is a short template of its own; `content` may be a string or a list of parts, of which the text counts.

/// A named format.
pub(super) struct Builtin {
    pub(super) name: &'static str,
    pub(super) source: &'static str,
}

/// The text of a message: its string, or the texts of its parts one after the other.
macro_rules! with_text {
    ($body:literal) => {
        concat!(
            "{%- macro text(content) -%}",
            "{%- if content is string -%}{{- content -}}",
            "{%- else -%}{%- for part in content -%}{%- if part.type == 'text' -%}{{- part.text -}}{%- endif -%}",
            "{%- endfor -%}{%- endif -%}{%- endmacro -%}",
            $body
        )
    };
}

/// ChatML, the format of MiniCPM, Qwen, SmolLM and many others.
pub(super) const CHATML: &str = with_text!(
    "{%- for m in messages -%}\
     {{- '<|im_start|>' ~ m.role ~ '\n' ~ text(m.content) ~ '<|im_end|>\n' -}}\
     {%- endfor -%}\
     {%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
);

const LLAMA3: &str = with_text!(
    "{{- bos_token -}}\
     {%- for m in messages -%}\
     {{- '<|start_header_id|>' ~ m.role ~ '<|end_header_id|>\n\n' ~ text(m.content)|trim ~ '<|eot_id|>' -}}\
     {%- endfor -%}\
     {%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}{%- endif -%}"
);

const PHI3: &str = with_text!(
    "{%- for m in messages -%}{{- '<|' ~ m.role ~ '|>\n' ~ text(m.content) ~ '<|end|>\n' -}}{%- endfor -%}\
     {%- if add_generation_prompt -%}{{- '<|assistant|>\n' -}}{%- endif -%}"
);

const ZEPHYR: &str = with_text!(
    "{%- for m in messages -%}{{- '<|' ~ m.role ~ '|>\n' ~ text(m.content) ~ eos_token ~ '\n' -}}{%- endfor -%}\
     {%- if add_generation_prompt -%}{{- '<|assistant|>\n' -}}{%- endif -%}"
);

const GEMMA: &str = with_text!(
    "{{- bos_token -}}\
     {%- for m in messages -%}\
     {%- set role = 'model' if m.role == 'assistant' else 'user' -%}\
     {{- '<start_of_turn>' ~ role ~ '\n' ~ text(m.content)|trim ~ '<end_of_turn>\n' -}}\
     {%- endfor -%}\
     {%- if add_generation_prompt -%}{{- '<start_of_turn>model\n' -}}{%- endif -%}"
);

const LLAMA2: &str = with_text!(
    "{%- set ns = namespace(system='') -%}\
     {%- for m in messages -%}\
     {%- if m.role == 'system' -%}{%- set ns.system = '<<SYS>>\n' ~ text(m.content) ~ '\n<</SYS>>\n\n' -%}\
     {%- elif m.role == 'user' -%}\
     {{- bos_token ~ '[INST] ' ~ ns.system ~ text(m.content)|trim ~ ' [/INST]' -}}{%- set ns.system = '' -%}\
     {%- else -%}{{- ' ' ~ text(m.content)|trim ~ ' ' ~ eos_token -}}{%- endif -%}\
     {%- endfor -%}"
);

pub(super) const BUILTINS: &[Builtin] = &[
    Builtin { name: "chatml", source: CHATML },
    Builtin { name: "minicpm", source: CHATML },
    Builtin { name: "smollm", source: CHATML },
    Builtin { name: "qwen2", source: CHATML },
    Builtin { name: "llama2", source: LLAMA2 },
    Builtin { name: "llama3", source: LLAMA3 },
    Builtin { name: "phi3", source: PHI3 },
    Builtin { name: "gemma", source: GEMMA },
    Builtin { name: "zephyr", source: ZEPHYR },
];

/// All names, separated by `", "`.
pub(super) fn names() -> String {
    BUILTINS.iter().map(|b| b.name).collect::<Vec<_>>().join(", ")
}
