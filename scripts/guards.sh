#!/usr/bin/env bash
# Shows that the tests of the guards can fail: takes one guard after another out of a copy of the sources, as the table
# tests/guards/GUARDS says, and demands that the tests named there fail. Before that all of them must pass unchanged.
#
#   scripts/guards.sh [--together] [WORD…]   guards whose names contain a word; all without one (also: GUARDS="WORD…")
#   scripts/guards.sh --list                 names of guards and what they are tested by
#   scripts/guards.sh --check                only whether the table is right: every text is found once, every test is there
#
# --together takes out many at once, which is quick: a test that passes then is worth nothing. One that fails may have
# missed another guard than its own, which only the way of one at a time can tell.
#
# Works in a copy of what is committed, guards/ below the target directory, which like the rest of that directory only saves
# building the next time. Exits with 1 when a test passes without its guard, with 2 when nothing could be tried.
set -euo pipefail
# In a replacement `&` is a letter like any other.
shopt -u patsub_replacement 2>/dev/null || true
cd "$(dirname "$0")/.."

TABLE=tests/guards/GUARDS
# Seconds for one test and for building.
TEST_LIMIT=300
BUILD_LIMIT=3600
# A guest that nothing holds may hang, which is a failure like any other: without its guard a test has so many times as
# long as it took with it, but at least so many seconds.
PATIENCE_FACTOR=5
PATIENCE_LEAST=45
# Well-behaved guests, which must go on while a guard is missing: it is to be the guard that the test misses.
declare -A STILL=([behaviour]=exits::modules [escape]="a thread")

die() {
    echo "guards: $*" >&2
    exit 2
}

# The table: names in their order, and for each its tests (lines) and edits (numbers of `files`, `olds`, `news`).
names=() files=() olds=() news=()
declare -A tests=() edits=() notes=() alone=()

read_table() {
    local line number=0 name="" last=""
    [ -r "$TABLE" ] || die "$TABLE is not there"
    while IFS= read -r line || [ -n "$line" ]; do
        number=$((number + 1))
        local where="$TABLE:$number"
        case $line in
            "" | "#"*) last="" ;;
            "guard "*)
                name=${line#guard } last=""
                [[ $name =~ ^[a-z0-9-]+/[a-z0-9-]+$ ]] || die "$where: \"$name\" is not ITEM/NAME"
                [ -z "${tests[$name]+known}" ] || die "$where: $name is there twice"
                names+=("$name") tests[$name]="" edits[$name]="" notes[$name]=""
                ;;
            *)
                [ -n "$name" ] || die "$where: nothing before the first guard"
                case $line in
                    alone) alone[$name]=1 ;;
                    "note "*) notes[$name]+="${line#note } " ;;
                    "test "*)
                        [[ $line =~ ^test\ (behaviour|escape|(unit|e2e)\ [a-z_-]+)\ (.+)$ ]] || die "$where: no test: $line"
                        tests[$name]+="${line#test }"$'\n'
                        ;;
                    "in "*)
                        files+=("${line#in }") olds+=("") news+=("")
                        edits[$name]+="$((${#files[@]} - 1)) " last=""
                        ;;
                    "- "* | "+ "* | "-" | "+")
                        [ -n "${edits[$name]}" ] || die "$where: no file yet"
                        local sign=${line:0:1} at=$((${#files[@]} - 1))
                        if [ "$sign" = - ]; then
                            [ "$last" != + ] || { files+=("${files[$at]}") olds+=("") news+=(""); at=$((at + 1)); edits[$name]+="$at "; }
                            [ -z "${olds[$at]}" ] || olds[$at]+=$'\n'
                            olds[$at]+=${line:2}
                        else
                            [ "$last" != + ] || news[$at]+=$'\n'
                            news[$at]+=${line:2}
                        fi
                        last=$sign
                        ;;
                    *) die "$where: neither guard, note, alone, test, in, - nor +: $line" ;;
                esac
                ;;
        esac
    done <"$TABLE"
    [ ${#names[@]} -gt 0 ] || die "$TABLE names no guard"
}

# Whether the table belongs to the sources: nothing of it is built.
check_table() {
    local name wrong=0 edit test
    for name in "${names[@]}"; do
        [ -n "${tests[$name]}" ] && [ -n "${edits[$name]}" ] || { echo "$name: no test, or nothing to take out" >&2; wrong=1; }
        for edit in ${edits[$name]}; do
            local file=${files[$edit]} old=${olds[$edit]}
            [ -f "$file" ] || { echo "$name: $file is not there" >&2; wrong=1; continue; }
            local text rest
            text=$(<"$file") rest=${text#*"$old"}
            if [ -z "$old" ] || [ "$rest" = "$text" ]; then
                echo "$name: $file does not have this text any more: $old" >&2
                wrong=1
            elif [ "${rest#*"$old"}" != "$rest" ]; then
                echo "$name: $file has this text more than once: $old" >&2
                wrong=1
            fi
        done
        while IFS= read -r test; do
            [ -z "$test" ] || has_test "$test" || { echo "$name: there is no such test: $test" >&2; wrong=1; }
        done <<<"${tests[$name]}"
    done
    return $wrong
}

# Whether the sources have a test of that name.
has_test() {
    local kind=${1%% *} name=${1#* }
    case $kind in
        escape) grep -qF "(\"$name\"" node/runner/tests/escape/attempts.rs ;;
        behaviour) grep -qF "    $name," node/runner/tests/behaviour/main.rs ;;
        unit) grep -rqE "fn ${name##*::}\(" "$(crate_directory "${name%% *}")/src" ;;
        e2e) grep -qE "fn ${name#* }\(" "tests/tests/${name%% *}.rs" ;;
    esac
}

crate_directory() {
    local found=(*/"${1#coracle-}")
    [ -d "${found[0]}" ] || die "there is no crate $1"
    echo "${found[0]}"
}

select_guards() {
    local name word
    chosen=()
    for word in "$@"; do
        local known=0
        for name in "${names[@]}"; do [[ $name != *"$word"* ]] || known=1; done
        [ $known = 1 ] || die "no guard's name contains \"$word\"; scripts/guards.sh --list says which there are"
    done
    for name in "${names[@]}"; do
        [ $# -gt 0 ] || chosen+=("$name")
        for word in "$@"; do
            if [[ $name == *"$word"* ]]; then chosen+=("$name") && break; fi
        done
    done
}

work="" scratch="" running="" commit="" root=$PWD
# How long each test took unchanged, in seconds; and what was built for each kind.
declare -A took=() programs=() broken=()

clean_up() {
    [ -z "$running" ] || kill -KILL -- "-$running" 2>/dev/null || true
    [ -z "$work" ] || end_programs
    [ -z "$scratch" ] || rm -rf --one-file-system "$scratch"
}

# Ends what runs a program of the copy: a test that was killed leaves its clusters behind.
end_programs() {
    local process
    for process in /proc/[0-9]*; do
        case $(readlink "$process/exe" 2>/dev/null) in
            "$work"/*) kill -KILL "${process#/proc/}" 2>/dev/null || true ;;
        esac
    done
}

# limited SECONDS LOG DIRECTORY COMMAND…: its output goes to LOG. Waits so that an interruption is noticed.
limited() {
    local seconds=$1 log=$2 directory=$3 status=0
    shift 3
    (cd "$directory" && exec timeout --kill-after=10 "$seconds" "$@") >"$log" 2>&1 </dev/null 9>&- &
    running=$!
    wait "$running" || status=$?
    running=""
    return $status
}

# The committed sources, and what is built of other people's crates.
make_copy() {
    local target=${CARGO_TARGET_DIR:-$root/target} file
    work=$target/guards
    mkdir -p "$work/tree"
    work=$(cd "$work" && pwd)
    exec 9>"$work/lock"
    flock -n 9 || { work=""; die "another run is at work in $target/guards"; }
    scratch=$(mktemp -d "${TMPDIR:-/tmp}/coracle-guards.XXXXXX")
    # Tests become other users.
    chmod 755 "$work" "$scratch"
    mkdir "$scratch/sources"
    git archive "$commit" | tar -x -C "$scratch/sources"
    # Only what is other than the last time gets a new date, and is built anew.
    while IFS= read -r -d '' file; do
        cmp -s "$scratch/sources/$file" "$work/tree/$file" && continue
        mkdir -p "$work/tree/$(dirname "$file")"
        cp --preserve=mode "$scratch/sources/$file" "$work/tree/$file"
        touch "$work/tree/$file"
    done < <(cd "$scratch/sources" && find . -type f -print0)
    while IFS= read -r -d '' file; do
        [ -e "$scratch/sources/$file" ] || rm "$work/tree/$file"
    done < <(cd "$work/tree" && find . -type f -print0)
    [ -d "$work/target" ] || seed "$target/debug" "$work/target/debug"
    export CARGO_TARGET_DIR=$work/target CARGO_TERM_COLOR=never TMPDIR=$scratch RUST_BACKTRACE=0
    # One crate is built again and again, and nobody debugs it. Neither changes how other people's crates are built.
    export CARGO_INCREMENTAL=1 CARGO_PROFILE_DEV_DEBUG=false
}

seed() {
    local from=$1 to=$2
    mkdir -p "$to/deps"
    if [ ! -d "$from/.fingerprint" ]; then
        echo "guards: nothing is built yet, so this begins with RocksDB and wasmtime: some twenty minutes"
        return
    fi
    cp -a "$from/.fingerprint" "$from/build" "$to/"
    # The workspace's own are built anew.
    rm -rf "$to"/{.fingerprint,build}/coracle*
    # The compiler replaces such files and never writes into them, so a second name is enough.
    find "$from/deps" -maxdepth 1 -type f \( -name '*.rlib' -o -name '*.rmeta' -o -name '*.so' \) \
        ! -name 'libcoracle*' -exec cp -al -t "$to/deps" {} +
}

# cargo's words for a kind of test. Always with the same features, or other people's crates would be built anew.
cargo_words() {
    local all="--locked -p coracle -p coracle-tests -p coracle-runner -p coracle-agent -p coracle-net"
    case $1 in
        behaviour | escape) echo "test $all --test $1" ;;
        unit) echo "test --locked -p coracle -p coracle-tests -p $2 --lib" ;;
        e2e) echo "test $all --test $2" ;;
    esac
}

# What a test is built as, and where it runs: KIND and, for some, crate or suite.
target_of() {
    local kind name
    read -r kind name _ <<<"$1"
    case $kind in
        behaviour | escape) echo "$kind" ;;
        *) echo "$kind $name" ;;
    esac
}

# build LOG TEST…: all that these tests need.
build() {
    local log=$1 test target words
    shift
    declare -A done=()
    for test in "$@"; do
        target=$(target_of "$test")
        [ -z "${done[$target]+yes}" ] || continue
        done[$target]=1
        if [[ $target == e2e* ]] && [ -z "${done[binary]+yes}" ]; then
            limited "$BUILD_LIMIT" "$log" "$work/tree" cargo build --locked -p coracle -p coracle-tests || return
            done[binary]=1
        fi
        # shellcheck disable=SC2086
        limited "$BUILD_LIMIT" "$log" "$work/tree" cargo $(cargo_words $target) --no-run || return
        local file=${target##* }
        file=${file//-/_}
        programs[$target]=$(sed -nE "s|^ *Executable .*\\((.*/$file-[0-9a-f]+)\\)$|\\1|p" "$log" | head -1)
        [ -x "${programs[$target]}" ] || { echo "error: cargo does not say what it built for $target" >>"$log"; return 1; }
    done
}

# run LOG TEST: 0 when it passes, 1 when it fails, 2 when it did not run.
run() {
    local log=$1 test=$2 seconds=$TEST_LIMIT status=0 directory exact=()
    local target
    target=$(target_of "$test")
    local name=${test#"$target" }
    case $target in
        unit*) directory=$(crate_directory "${target#unit }") exact=(--exact) ;;
        e2e*) directory=tests exact=(--exact) ;;
        *) directory=node/runner ;;
    esac
    if [ -n "${took[$test]+known}" ]; then
        seconds=$((took[$test] * PATIENCE_FACTOR))
        seconds=$((seconds < PATIENCE_LEAST ? PATIENCE_LEAST : seconds))
    fi
    limited "$seconds" "$log" "$work/tree/$directory" "${programs[$target]}" "$name" ${exact[@]+"${exact[@]}"} || status=$?
    end_programs
    [ $status != 124 ] || echo "it hung: nothing after $seconds s" >>"$log"
    case $status in
        0) grep -qE "^(test .*$name.* ok|ok +$name )" "$log" || return 2 ;;
        *) return 1 ;;
    esac
}

# Why a test failed, in one line.
reason() {
    local log=$1 line
    line=$(grep -m1 -E "^FAILED |: it took too long|^it hung" "$log" || true)
    [ -n "$line" ] || line=$(grep -m1 -A1 "panicked at" "$log" | tail -1 || true)
    echo "${line:-it died: $(tail -1 "$log")}" | cut -c1-160
}

apply() {
    local edit
    for edit in ${edits[$1]}; do
        local file=$work/tree/${files[$edit]} old=${olds[$edit]} new=${news[$edit]} text
        # The last line's end would be lost otherwise.
        text=$(cat "$file" && echo x) text=${text%x}
        [ "${text#*"$old"}" != "$text" ] || die "$1: ${files[$edit]} does not have this text any more: $old"
        printf '%s' "${text/"$old"/"$new"}" >"$file"
    done
}

restore() {
    local edit
    for edit in ${edits[$1]}; do
        git show "$commit:${files[$edit]}" >"$work/tree/${files[$edit]}"
    done
}

# All of them must pass as the sources are; sets `broken` to those that do not. One that fails is tried again: machines are
# busy at times.
try_unchanged() {
    local log=$work/unchanged.log test all=() result began try
    while IFS= read -r test; do
        [ -z "$test" ] || all+=("$test")
    done < <(for name in "${chosen[@]}"; do printf '%s' "${tests[$name]}"; done | sort -u)
    echo "guards: ${#chosen[@]} guards and ${#all[@]} tests; building them unchanged"
    build "$log" "${all[@]}" || { cat "$log" >&2; die "the sources do not build"; }
    for test in "${all[@]}"; do
        for try in 1 2 3; do
            result=0 began=$SECONDS
            run "$log" "$test" || result=$?
            [ $result != 0 ] || break
        done
        if [ $result = 0 ]; then
            took[$test]=$((SECONDS - began))
            echo "guards: passes unchanged in ${took[$test]} s: $test"
        else
            broken[$test]=1
            echo "guards: DOES NOT PASS although no guard is missing, in $try attempts: $test: $(reason "$log")"
        fi
    done
}

# Runs a guard's tests in what was built without it: sets `verdict` and `said`.
judge() {
    local name=$1 log=$work/log test kind kinds=" " result
    verdict="ok" said=""
    while IFS= read -r test; do
        [ -n "$test" ] || continue
        [ -z "${broken[$test]+yes}" ] || { verdict="NOT TRIED" said="$test does not pass with it either"; return; }
        result=0
        run "$log" "$test" || result=$?
        case $result in
            1) said+="$(reason "$log") " ;;
            *) verdict="STILL PASSES" said="$test passes without it"; return ;;
        esac
        kind=${test%% *}
        if [ -n "${STILL[$kind]+known}" ] && [[ $kinds != *" $kind "* ]]; then
            kinds+="$kind "
            run "$log" "$kind ${STILL[$kind]}" || { verdict="BREAKS ALL" said="without it nothing runs: $(reason "$log")"; return; }
        fi
    done <<<"${tests[$name]}"
}

# Takes guards out, builds what their tests need once, judges each, and puts them back.
try_without() {
    local name test list=() log=$work/log before=$SECONDS
    for name in "$@"; do
        apply "$name"
        while IFS= read -r test; do [ -z "$test" ] || list+=("$test"); done <<<"${tests[$name]}"
    done
    if build "$log" "${list[@]}"; then
        [ $# = 1 ] || echo "guards: without $# of them at once; built in $((SECONDS - before)) s"
        for name in "$@"; do
            judge "$name"
            report "$name" "$((SECONDS - before))"
            before=$SECONDS
        done
    else
        verdict="DOES NOT BUILD" said=$(grep -m1 -A4 '^error' "$log" | tr '\n' ' ' | cut -c1-300)
        for name in "$@"; do report "$name" "$((SECONDS - before))"; done
    fi
    for name in "$@"; do restore "$name"; done
}

report() {
    [ "$verdict" = ok ] || failed=$((failed + 1))
    printf '%-14s %4d s  %-28s %s\n' "$verdict" "$2" "$1" "$said"
}

# Of the names in `rest`, those that can be taken out together: their texts are apart, and no test is asked twice.
# Sets `batch` and `rest`.
next_batch() {
    local name edit test later=() used=$'\n' touched=$'\n' fits
    batch=()
    for name in "${rest[@]}"; do
        fits=1
        [ ${#batch[@]} = 0 ] || [ -z "${alone[$name]+yes}${alone[${batch[0]}]+yes}" ] || fits=0
        for edit in ${edits[$name]}; do
            [[ $touched != *$'\n'"${files[$edit]} ${olds[$edit]}"$'\n'* ]] || fits=0
        done
        while IFS= read -r test; do
            [ -z "$test" ] || [[ $used != *$'\n'"$test"$'\n'* ]] || fits=0
        done <<<"${tests[$name]}"
        # Longer texts may hold shorter ones: whether all are still there is tried.
        if [ $fits = 1 ] && still_there "$name"; then
            apply "$name"
            batch+=("$name") used+=${tests[$name]}$'\n'
            for edit in ${edits[$name]}; do touched+="${files[$edit]} ${olds[$edit]}"$'\n'; done
        else
            later+=("$name")
        fi
    done
    for name in "${batch[@]}"; do restore "$name"; done
    rest=(${later[@]+"${later[@]}"})
}

still_there() {
    local edit text
    for edit in ${edits[$1]}; do
        text=$(<"$work/tree/${files[$edit]}")
        [ "${text#*"${olds[$edit]}"}" != "$text" ] || return 1
    done
}

main() {
    local name words=("$@") failed=0 verdict said began=$SECONDS together=0 batch rest
    # shellcheck disable=SC2206
    [ $# -gt 0 ] || words=(${GUARDS:-})
    read_table
    case ${words[0]-} in
        --list)
            for name in "${names[@]}"; do
                printf '%s\n' "$name"
                printf '%s' "${tests[$name]}" | sed 's/^/    /'
                [ -z "${notes[$name]}" ] || printf '    (%s)\n' "${notes[$name]% }"
            done
            return
            ;;
        --check)
            check_table || die "$TABLE does not belong to these sources"
            return
            ;;
        --together) together=1 words=("${words[@]:1}") ;;
        -*) die "unknown option ${words[0]}; see the head of scripts/guards.sh" ;;
    esac
    select_guards ${words[@]+"${words[@]}"}
    check_table || die "$TABLE does not belong to these sources"
    [ -z "$(git status --porcelain --untracked-files=no)" ] || die "commit first: what is tested is what is committed"
    # Also when somebody commits meanwhile.
    commit=$(git rev-parse HEAD)
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    make_copy
    if for name in "${chosen[@]}"; do printf '%s' "${tests[$name]}"; done | grep -q '^e2e '; then
        CORACLE_TEST_KUBECTLS=$(scripts/kubectl.sh | paste -sd:)
        CORACLE_TEST_REGISTRY=$(scripts/registry.sh)
        export CORACLE_TEST_KUBECTLS CORACLE_TEST_REGISTRY
    fi
    try_unchanged
    rest=("${chosen[@]}")
    while [ ${#rest[@]} -gt 0 ]; do
        if [ $together = 1 ]; then
            next_batch
        else
            batch=("${rest[0]}") rest=("${rest[@]:1}")
        fi
        try_without "${batch[@]}"
    done
    echo "guards: ${#chosen[@]} tried in $((SECONDS - began)) s, $failed wrong"
    [ $failed = 0 ] || exit 1
}

main "$@"
exit
