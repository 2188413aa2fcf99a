# Stages of a check: `.ci/run` sources this, names its stages, and ends with `closing_lines`.
#
#   check NAME FUNCTION    a stage that passes or fails as a whole
#   tests NAME FUNCTION    a stage whose runners say how many tests passed and failed; none at all is a failure
#   closing_lines          what every stage came to, what was skipped, the sums; fails if any stage did
#
# A function runs in a shell of its own with `set -euo pipefail`. Whatever fails, the stages after it still run, so that one
# run tells everything. Numbers come from what the runners printed, never from the exit status alone. What cannot be
# checked on this machine is printed as a line that begins with `skipped: `: it is repeated at the end, and counted.
#
# Call `check` and `tests` as plain commands: in a condition (`if`, `&&`, `||`) bash would ignore `set -e` inside them.

stages_log=$(mktemp -d)
trap 'rm -rf "$stages_log"' EXIT
stages_wanted=("$@")
stages_lines=()
stages_failed=0
stages_passed_tests=0
stages_failed_tests=0
stages_ignored_tests=0

# count FILE: "passed failed ignored" by the closing lines of the runners in it: cargo test, pytest, node's test runner,
# and scripts that end with `result: N passed, N failed, N skipped`.
count() {
    awk '
        # before(WORD): the number before WORD in this line.
        function before(word,    i, n) {
            n = split($0, part, /[ ;,]+/)
            for (i = 2; i <= n; i++) if (part[i] == word) return part[i - 1] + 0
            return 0
        }
        /^test result: (ok|FAILED)\./ { passed += before("passed"); failed += before("failed"); ignored += before("ignored") }
        /^result: [0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$/ {
            passed += before("passed"); failed += before("failed"); ignored += before("skipped")
        }
        /^=+ .*[0-9]+ (passed|failed|error|errors|skipped).* in [0-9.]+s/ {
            passed += before("passed"); failed += before("failed") + before("error") + before("errors")
            ignored += before("skipped") + before("xfailed")
        }
        /^(#|ℹ) pass [0-9]+$/ { passed += $3 }
        /^(#|ℹ) fail [0-9]+$/ { failed += $3 }
        /^(#|ℹ) (skipped|todo) [0-9]+$/ { ignored += $3 }
        END { print passed + 0, failed + 0, ignored + 0 }
    ' "$1"
}

# run_stage KIND NAME FUNCTION
run_stage() {
    local kind=$1 name=$2 function=$3 began=$SECONDS status passed failed ignored verdict=ok told=''
    if [ ${#stages_wanted[@]} -gt 0 ]; then
        case " ${stages_wanted[*]} " in *" $name "*) ;; *) return 0 ;; esac
    fi
    printf '\n== %s\n' "$name"
    # A file of its own for the status: a pipe's would be lost where the caller has no pipefail.
    { (
        set -euo pipefail
        "$function"
    ) </dev/null 2>&1; echo $? >"$stages_log/status"; } | tee "$stages_log/$name.log"
    status=$(cat "$stages_log/status")
    read -r passed failed ignored <<<"$(count "$stages_log/$name.log")"
    if [ "$status" != 0 ]; then
        verdict=FAILED told="exit status $status"
    elif [ "$failed" -gt 0 ]; then
        verdict=FAILED told='its runner counted failures and yet succeeded'
    elif [ "$kind" = tests ] && [ "$passed" = 0 ] && ! grep -q '^skipped: ' "$stages_log/$name.log"; then
        verdict=FAILED told='no test was run'
    fi
    if [ "$verdict" = FAILED ]; then
        stages_failed=$((stages_failed + 1))
        [ "$failed" -gt 0 ] || failed=1
    fi
    stages_passed_tests=$((stages_passed_tests + passed))
    stages_failed_tests=$((stages_failed_tests + failed))
    stages_ignored_tests=$((stages_ignored_tests + ignored))
    local seconds=$((SECONDS - began))
    stages_lines+=("$(printf '%-7s %-16s %3d:%02d  %5d passed %3d failed %3d ignored  %s' "$verdict" "$name" \
        $((seconds / 60)) $((seconds % 60)) "$passed" "$failed" "$ignored" "$told")")
    printf '%s\n' "-- ${stages_lines[-1]}"
}

check() { run_stage check "$@"; }
tests() { run_stage tests "$@"; }

closing_lines() {
    printf '\n== closing lines\n'
    if [ ${#stages_lines[@]} = 0 ]; then
        echo "no stage is called ${stages_wanted[*]}"
        stages_failed=1 stages_failed_tests=1
    else
        printf '%s\n' "${stages_lines[@]}"
    fi
    local skipped=0 line
    while IFS= read -r line; do
        skipped=$((skipped + 1))
        printf '%s\n' "$line"
    done < <(cat "$stages_log"/*.log 2>/dev/null | grep '^skipped: ' | sort -u)
    printf 'whole run %d:%02d\n' $((SECONDS / 60)) $((SECONDS % 60))
    printf '%d passed, %d failed, %d skipped\n' "$stages_passed_tests" "$stages_failed_tests" \
        $((stages_ignored_tests + skipped))
    [ "$stages_failed" = 0 ]
}
