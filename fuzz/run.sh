#!/bin/sh
# Runs fuzz targets: fuzz/run.sh [SECONDS [TARGET...]]; all targets for 60 seconds each by default.
#
# Needs `cargo install cargo-fuzz`. A nightly compiler gives the address sanitizer; with a stable one only coverage is
# used (`--sanitizer none`), which finds all that matters here because the code under test has no unsafe blocks.
# Memory beyond 512 MiB and inputs that take over 5 seconds count as findings.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-60}
[ $# -gt 0 ] && shift
targets=${*:-gguf_read gguf_split gguf_roundtrip inspect safetensors_header tokenizer_model tokenizer_json imatrix tokenizer_gguf chat_template image_bytes}
sanitizer=${SANITIZER:-none}
export RUSTC_BOOTSTRAP=1

# Seeds: the corpus of malformed files, and sound ones.
seed() { mkdir -p "fuzz/corpus/$1"; }
for target in gguf_read gguf_split gguf_roundtrip inspect; do
    seed "$target"
    cp gguf/tests/corpus/*.gguf "fuzz/corpus/$target/"
    for alignment in 1 32 64; do
        cargo run -q -p ocelli-gguf --example interop -- write "fuzz/corpus/$target/sound-$alignment.gguf" "$alignment"
    done
done
seed safetensors_header
printf '\100\0\0\0\0\0\0\0{"w":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]}}       000000000000' \
    >fuzz/corpus/safetensors_header/one-tensor
seed tokenizer_model
printf '\012\016\012\005<unk>\025\0\0\0\0\030\002\012\014\012\003\342\226\201\025\0\0\200\277\030\001' \
    >fuzz/corpus/tokenizer_model/two-pieces
seed tokenizer_json
printf '{"model":{"type":"BPE","byte_fallback":true,"vocab":{"<unk>":0,"a":1,"b":2,"ab":3},"merges":["a b"]},"added_tokens":[{"id":0,"content":"<unk>","special":true}]}' \
    >fuzz/corpus/tokenizer_json/four-tokens

# One entry "ab" with two columns in the older, binary form.
seed imatrix
printf '\1\0\0\0\2\0\0\0ab\1\0\0\0\2\0\0\0\0\0\200\77\0\0\0\100' >fuzz/corpus/imatrix/one-entry
cp gguf/tests/corpus/*.gguf fuzz/corpus/imatrix/

seed tokenizer_gguf
for file in gguf/tests/corpus/*.gguf; do
    { printf '%-64s' 'a text of 64 bytes'; cat "$file"; } >"fuzz/corpus/tokenizer_gguf/$(basename "$file")"
done
seed chat_template
printf '{%% for m in messages %%}{{ m.role ~ ": " ~ m.content | trim }}{%% endfor %%}' >fuzz/corpus/chat_template/loop

# One small picture of each kind.
seed image_bytes
while read -r name picture; do
    printf '%s' "$picture" | base64 -d >"fuzz/corpus/image_bytes/$name"
done <<'EOF'
png iVBORw0KGgoAAAANSUhEUgAAAAcAAAAFCAIAAAAG+GGPAAAAeUlEQVR4nAFuAJH/AP/kInnzvQaDZqhSwbuWUfPNGOwI9gGk5yQuiIgAPwQIRPmY25YuYpWvGZwAeN5FH19sJG3uRTNR5NPKOspBTEbBAGgq+tGkAiyyjGIC8xUyHQ4HNTKX3QLGEuzvAJpTJA5gwZYzZy3DMxc3vS0IQC/DRyxA1gAAAABJRU5ErkJggg==
png-palette iVBORw0KGgoAAAANSUhEUgAAAAcAAAAFAgMAAAD09B5LAAAADFBMVEXSxGZYxHpUWpdyIZWpPRhmAAAAAnRSTlP/AOW3MEoAAAAXSURBVHicY5DmYWCoYMiSYDz+kWXvFwAU9ASQ+U7+ewAAAABJRU5ErkJggg==
jpeg /9j/4AAQSkZJRgABAQAAAQABAAD/2wBDACgcHiMeGSgjISMtKygwPGRBPDc3PHtYXUlkkYCZlo+AjIqgtObDoKrarYqMyP/L2u71////m8H////6/+b9//j/wAALCAAFAAcBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAAAP/EABsQAQEAAQUAAAAAAAAAAAAAAAECEQADEyGR/9oACAEBAAA/AG81xzTQl9pjD7r/2Q==
webp UklGRlYAAABXRUJQVlA4IEoAAADQAQCdASoHAAUABUB8JbACdAEekCQ8UADiLADGumy/6q+x7MdtV03IecmTAE/nxXWQtt93AbXM1iWWbdui5zKeW9xW05QRuMAAAA==
webp-lossless UklGRkwAAABXRUJQVlA4TD8AAAAvBgABAB+gkG0EaP4AI7pHUUhAPDHXQHsEMQ1Rwque/gls/iMV4TqDYkaSoGEYhvkeq708q7BQEf2PH3h1oQEA
webp-animated UklGRl4BAABXRUJQVlA4WAoAAAACAAAABgAABAAAQU5JTQYAAAAAAAAAAABBTk1GVgAAAAAAAAAAAAYAAAQAACwBAAJWUDhMPgAAAC8GAAEAH0AgQPGzOOCW0woBIEBjHUVcASQQIEKE69JgZP6DeVmLP1DMSBKUeR00gzkWQ7YuqxHR/2je4HQGQU5NRtQAAAAAAAAAAAAGAAAEAAAsAQAAVlA4TLwAAAAvBgABABfBtLW1J8k/QG/ytxVF0J0hCL4PQNCg2AVP8CimICylsJGkNPduOFQAk1rbnvybof4KoLG7wtZoDhVAQwEKQIDtKEAAEuC35vxu/mOz/B4776eoYlArdXQOSrXyiyMzNq5j4ZQC4MX9asYkDrk1TcQYgaXfDs33XJKYpVW9BlSfps+yNhOsXuylQFQhfKVJwvC4TnUVGAQAWDY229YZ0f/wS808GIfI0u20eCTB0ZRwX6e+X28g/Q==
gif R0lGODlhBwAFAIEAANLEZljEelRal3IhlSH5BAAyAAAALAAAAAAHAAUAAAgaAAEEEDAAAICCBgUOEDBQgACBBBUSdChQYkAAIfkEATIABAAsAAAAAAcABQCB0sRmWMR6VFqXciGVCB0ABQwIACAAAQECBRIAMEAAwYMOFQKYyHBhQ4IBAQA7
bmp Qk1uAAAAAAAAAEYAAAAoAAAABwAAAAUAAAABAAgAAAAAACgAAADEDgAAxA4AAAQAAAAEAAAAZsTSAHrEWACXWlQAlSFyAAIAAQABAwIAAwABAwIDAgABAgICAAECAAAAAAABAwIAAAECAwAAAwA=
jpeg-colour /9j/4AAQSkZJRgABAQAAAQABAAD/2wBDACgcHiMeGSgjISMtKygwPGRBPDc3PHtYXUlkkYCZlo+AjIqgtObDoKrarYqMyP/L2u71////m8H////6/+b9//j/2wBDASstLTw1PHZBQXb4pYyl+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj/wAARCAAFAAcDASIAAhEBAxEB/8QAFAABAAAAAAAAAAAAAAAAAAAAAP/EABsQAAMAAgMAAAAAAAAAAAAAAAABAgMREyGR/8QAFAEBAAAAAAAAAAAAAAAAAAAAAv/EABgRAAMBAQAAAAAAAAAAAAAAAAABAhEx/9oADAMBAAIRAxEAPwBmdcc06TV9ta0/QAF3UvEJcP/Z
EOF

for target in $targets; do
    case $target in gguf_*) features=--no-default-features ;; *) features= ;; esac
    cargo fuzz run --sanitizer "$sanitizer" $features "$target" -- \
        -max_total_time="$seconds" -rss_limit_mb=512 -timeout=5 -print_final_stats=1
done
