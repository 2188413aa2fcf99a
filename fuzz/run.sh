#!/usr/bin/env bash
# Runs fuzz targets: fuzz/run.sh [SECONDS [TARGET...]]; all targets for 60 seconds each by default, as many at a time as there
# are processors.
#
# Needs nothing but a stable compiler and a C++ compiler for libFuzzer, which comes as a crate. SANITIZER=address adds the
# address sanitizer. Without it all is found that matters here, since the readers have no unsafe blocks: panics, failed
# assertions, overflows (checked in this build), memory beyond 512 MiB and inputs that take over 5 seconds. An input that a
# target fails on is printed in base64 and kept in fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
[ $# -gt 0 ] && shift
targets=("$@")
if [ ${#targets[@]} = 0 ]; then
    mapfile -t targets < <(sed -n 's/^path = "fuzz_targets\/\(.*\)\.rs"$/\1/p' fuzz/Cargo.toml)
fi

# Coverage as libFuzzer takes it, of all crates. Naming the machine keeps these flags from what is run during the build.
flags="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
-Cllvm-args=-simplifycfg-branch-fold-threshold=0 --cfg fuzzing"
if [ -n "${SANITIZER:-}" ]; then
    export RUSTC_BOOTSTRAP=1
    flags+=" -Zsanitizer=$SANITIZER"
fi
host=$(rustc -vV | sed -n 's/^host: //p')
folder=${CARGO_TARGET_DIR:-$PWD/target}
bins=()
for target in "${targets[@]}"; do
    bins+=(--bin "$target")
done
# In a folder of its own, so that a build elsewhere in the workspace does not have to end first.
CARGO_TARGET_DIR="$folder/fuzz" cargo build -q -p ocelli-gguf --example interop --locked
interop=$folder/fuzz/debug/examples/interop
RUSTFLAGS="$flags" CARGO_TARGET_DIR="$folder/fuzz" \
    cargo build --release --locked --manifest-path fuzz/Cargo.toml --target "$host" "${bins[@]}"

# Seeds: the corpus of malformed files, and sound ones.
seed() { mkdir -p "fuzz/corpus/$1"; }
for target in gguf_read gguf_split gguf_roundtrip inspect; do
    seed "$target"
    cp gguf/tests/corpus/*.gguf "fuzz/corpus/$target/"
    for alignment in 1 32 64; do
        "$interop" write "fuzz/corpus/$target/sound-$alignment.gguf" "$alignment"
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

# Questions, as lines of JSON and as a table; the first bytes choose the format, the rules and the style.
seed eval_file
printf '\0\0{"id":"1","task":"t","turns":[{"question":"what?","answers":["a","b"],"score":"vqa"},{"question":"which?","answers":["A"],"score":"choice","options":["x","y"]}]}\n' \
    >fuzz/corpus/eval_file/conversation
for rules in 0 1 2 3 4 5 6; do
    printf '\377\%o\0index\timage\tquestion\tanswer\thint\tcategory\tA\tB\n1\tR0lGODdh\twhat?\tA\tlook\tc\tx\ty\n2\t1\t"so ""it"" is?"\t[\047B\047]\t\tc\tx\ty\n' \
        "$rules" >"fuzz/corpus/eval_file/table-$rules"
done
# A chunk of four tokens, of three that there are.
seed logits_file
printf '_logits_\4\0\0\0\3\0\0\0\1\0\0\0\1\0\0\0\2\0\0\0\0\0\0\0\1\0\0\0\0\0\200\77\0\0\200\277\1\0\2\0\3\0\0\0' \
    >fuzz/corpus/logits_file/four-tokens
# A picture of one slice, one query and one value.
seed image_cache
for version in 1 2 3; do
    { printf 'OCELLIIM\%o\0\0\0%96s' "$version" ''; head -c 200 /dev/zero; } >"fuzz/corpus/image_cache/version-$version"
done
seed session
printf '\2\0{"messages":[{"role":"user","content":"a"}],"images":[],"profile":"reference","text":"a","ids":[1,2],"spans":[]}' \
    >fuzz/corpus/session/note
printf '\1\0\100\0\0\0\377' >fuzz/corpus/session/changed
seed sampler
printf 'temperature;top_k;top_p \0' >fuzz/corpus/sampler/order
printf '%-24s\0' '15043-1.5' >fuzz/corpus/sampler/bias
for target in template_grammar animation; do
    seed "$target"
    for n in 1 2 3 4 5 6; do
        # Anything is well-formed there; texts that differ are as good as others.
        printf '%s' "$n $target chooses rules by these bytes, $n of 6" >"fuzz/corpus/$target/$n"
    done
done

mkdir -p fuzz/artifacts
log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT
run_one() { # run_one TARGET: fuzzes it, and says in one line how that went
    local target=$1 status=0 limits='-rss_limit_mb=512 -timeout=5'
    case $target in
    # In the fuzzer's own process to find panics; templates of strangers run in one that is limited.
    chat_template) limits='-rss_limit_mb=4096 -timeout=60' ;;
    template_grammar) limits='-rss_limit_mb=512 -timeout=20' ;;
    esac
    # shellcheck disable=SC2086
    "$folder/fuzz/$host/release/$target" "fuzz/corpus/$target" -max_total_time="$seconds" $limits \
        -artifact_prefix="fuzz/artifacts/$target-" -print_final_stats=1 >"$log/$target" 2>&1 || status=$?
    local runs edges
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log/$target")
    edges=$(sed -n 's/^#.*cov: \([0-9]*\) .*/\1/p' "$log/$target" | tail -1)
    if [ "$status" = 0 ] && [ "${runs:-0}" -gt 0 ] && [ "${edges:-0}" -gt 0 ]; then
        printf 'fuzz %-20s ok      %9s inputs, %6s places reached\n' "$target" "$runs" "$edges"
        return
    fi
    touch "$log/$target.failed"
    printf 'fuzz %-20s FAILED  (status %s, %s inputs)\n' "$target" "$status" "${runs:-0}"
    grep -v '^#' "$log/$target" | tail -40
    local input
    input=$(sed -n 's/.*Test unit written to //p' "$log/$target" | tail -1)
    if [ -n "$input" ] && [ -f "$input" ]; then
        printf 'the input, in base64: '
        base64 -w 0 "$input"
        echo
    fi
}
export -f run_one
export log folder host seconds
printf '%s\n' "${targets[@]}" | xargs -P "$(nproc)" -I{} bash -c 'run_one {}'
failed=$(find "$log" -name '*.failed' | wc -l)
echo "result: $((${#targets[@]} - failed)) passed, $failed failed, 0 skipped"
[ "$failed" = 0 ]
