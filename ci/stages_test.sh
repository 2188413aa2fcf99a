#!/usr/bin/env bash
# Tests of ci/stages.sh: that what fails shows, whatever the rest does.
set -uo pipefail
cd "$(dirname "$0")/.."
passed=0
failed=0

# expect WHAT STATUS LAST-LINE SCRIPT [ARGUMENT...]: the status and the last line of a run whose stages are in SCRIPT
expect() {
    local what=$1 status=$2 last=$3 script=$4 said got=0
    shift 4
    said=$(bash -c "set -uo pipefail; source ci/stages.sh; $script" run "$@" 2>&1) || got=$?
    if [ "$got" = "$status" ] && [ "$(tail -1 <<<"$said")" = "$last" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf '%s: status %s, not %s; instead of "%s":\n%s\n' "$what" "$got" "$status" "$last" "$said"
    fi
}

cargo='echo "test result: ok. 12 passed; 0 failed; 2 ignored; 0 measured; 3 filtered out; finished in 0.1s"'
broken='echo "test result: FAILED. 3 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out"; return 101'

expect 'two runners are added up' 0 '24 passed, 0 failed, 4 skipped' \
    "a() { $cargo; }; tests one a; tests two a; closing_lines"
expect 'a failure is counted and later stages run' 1 '15 passed, 4 failed, 2 skipped' \
    "a() { $broken; }; b() { $cargo; }; tests one a; tests two b; closing_lines"
expect 'a check that fails is one failure' 1 '12 passed, 1 failed, 2 skipped' \
    "a() { false; echo not reached; }; b() { $cargo; }; check one a; tests two b; closing_lines"
expect 'a command in the middle that fails ends its stage' 1 '0 passed, 1 failed, 0 skipped' \
    'a() { false; true; }; check one a; closing_lines'
expect 'a failure before a pipe counts' 1 '0 passed, 1 failed, 0 skipped' \
    'a() { false | cat; }; check one a; closing_lines'
expect 'an unset variable counts' 1 '0 passed, 1 failed, 0 skipped' \
    'a() { echo "$nothing_of_this_name"; }; check one a; closing_lines'
expect 'tests that do not run are a failure' 1 '0 passed, 1 failed, 0 skipped' \
    'a() { true; }; tests one a; closing_lines'
expect 'counted failures are believed more than an exit status' 1 '0 passed, 2 failed, 0 skipped' \
    'a() { echo "result: 0 passed, 2 failed, 0 skipped"; }; tests one a; closing_lines'
expect 'what is skipped is counted once, and said' 0 '0 passed, 0 failed, 2 skipped' \
    'a() { echo "skipped: this"; echo "skipped: that"; echo "skipped: this"; }; tests one a; closing_lines'
expect 'pytest' 1 '5 passed, 3 failed, 1 skipped' \
    'a() { echo "=== 2 failed, 5 passed, 1 skipped, 1 error in 0.12s ==="; return 1; }; tests one a; closing_lines'
expect 'node' 0 '7 passed, 0 failed, 1 skipped' \
    'a() { printf "# tests 8\n# pass 7\n# fail 0\n# skipped 1\n"; }; tests one a; closing_lines'
expect 'stages can be chosen' 0 '12 passed, 0 failed, 2 skipped' \
    "a() { $cargo; }; tests one a; tests two a; closing_lines" two
expect 'a stage that does not exist is a failure' 1 '0 passed, 1 failed, 0 skipped' \
    "a() { $cargo; }; tests one a; closing_lines" three

said=$(bash -c 'source ci/stages.sh; a() { echo "skipped: x (why)"; }; tests one a; closing_lines' run)
if grep -q '^skipped: x (why)$' <<<"$(sed -n '/== closing lines/,$p' <<<"$said")"; then
    passed=$((passed + 1))
else
    failed=$((failed + 1))
    echo "what was skipped is not named in the closing lines"
fi
echo "result: $passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ]
