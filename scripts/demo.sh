#!/usr/bin/env bash
# The main job in one go: a cluster in a temporary directory, the well-known init-container example, three web servers
# behind a service, bad neighbours that hurt nobody, three nodes of which one dies and comes back, everything stopped again.
# Commands are echoed as a person would type them.
set -euo pipefail
cd "$(dirname "$0")/.."

binary="${CARGO_TARGET_DIR:-target}/debug/coracle"
work=$(mktemp -d -t coracle-demo.XXXXXX)
log="$work/coracle-dev.log"
dev=
# A node that was started by hand.
node=
tools="$work/bin"
mkdir "$tools"
ln -s "$(realpath "$binary")" "$tools/coracle"
ln -s "$(scripts/kubectl.sh --any)" "$tools/kubectl"
export PATH="$tools:$PATH" KUBECONFIG="$work/data/kubeconfig"

# stop PID: asks it to end, and kills it when it does not.
stop() {
    if [ -n "$1" ] && kill -0 "$1" 2>/dev/null; then
        kill -TERM "$1"
        for _ in $(seq 200); do kill -0 "$1" 2>/dev/null || break; sleep 0.1; done
        kill -KILL "$1" 2>/dev/null || true
        wait "$1" 2>/dev/null || true
    fi
}

finish() {
    status=$?
    trap - EXIT INT TERM
    stop "$node"
    stop "$dev"
    if [ "$status" = 0 ]; then
        rm -rf "$work"
        printf '\nDemo done in %d s; everything that it started has been stopped.\n' "$SECONDS"
    else
        printf '\nDemo FAILED: %s\nThe log of the cluster is in %s\n' "${failure:-a command above did not succeed}" "$log" >&2
    fi
    exit "$status"
}
trap finish EXIT
trap 'failure="interrupted"; exit 130' INT TERM

say() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
run() { printf '$ %s\n' "$*"; "$@"; }
fail() { failure="$1"; exit 1; }

# until_shown WHAT SECONDS COMMAND…: repeats the command until its output contains WHAT.
until_shown() {
    local what=$1 deadline=$((SECONDS + $2)) output=
    shift 2
    while [ "$SECONDS" -lt "$deadline" ]; do
        kill -0 "$dev" 2>/dev/null || fail "the cluster ended by itself"
        output=$("$@" 2>&1) || true
        case "$output" in *"$what"*) return 0 ;; esac
        sleep 0.2
    done
    fail "\"$what\" was not shown within the time; the last output of «$*» was: $output"
}

# refused WHAT COMMAND…: the command must fail and say WHAT.
refused() {
    local what=$1 output
    shift
    printf '$ %s\n' "$*"
    if output=$("$@" 2>&1); then fail "«$*» should have been refused"; fi
    printf '%s\n' "$output"
    case "$output" in *"$what"*) ;; *) fail "the refusal does not say \"$what\"" ;; esac
}

say "A cluster: control plane and one node, everything below one directory"
printf '$ coracle dev --data-dir %s --listen 127.0.0.1:0 &\n' "$work/data"
coracle dev --data-dir "$work/data" --listen 127.0.0.1:0 >"$log" 2>&1 &
dev=$!
until_shown ok 60 kubectl get --raw /readyz
run kubectl version
run kubectl get nodes -o wide

say "Workloads are wasm files; the cluster has a registry of its own"
run coracle push examples/init-pod/wait-for.wasm wait-for:1
run coracle push examples/init-pod/app.wasm myapp:1

say "The pod waits: its init containers look for two services that are not there"
run kubectl apply -f examples/init-pod/pod.yaml
until_shown "waiting for myservice" 30 kubectl logs myapp-pod -c init-myservice
until_shown "Init:0/2" 10 kubectl get pod myapp-pod
run kubectl get -f examples/init-pod/pod.yaml
run kubectl logs myapp-pod -c init-myservice
run kubectl describe -f examples/init-pod/pod.yaml

say "The first service: one init container ends, the other goes on waiting"
run kubectl apply -f examples/init-pod/myservice.yaml
until_shown "Init:1/2" 30 kubectl get pod myapp-pod
run kubectl get pod myapp-pod

say "The second: the app starts"
run kubectl apply -f examples/init-pod/mydb.yaml
until_shown Running 30 kubectl get pod myapp-pod
until_shown "The app is running!" 10 kubectl logs myapp-pod
run kubectl get pod myapp-pod
run kubectl logs myapp-pod
run kubectl get events

say "The same cluster over gRPC, with coracle's own command"
run coracle get pods,services
run coracle logs myapp-pod -c init-mydb --tail 1

say "Mistakes are refused, and say where they are"
refused 'spec.initContainer' kubectl apply -f examples/init-pod/pod-unknown-field.yaml
refused 'spec.containers[1].name: Duplicate value' kubectl apply -f examples/init-pod/pod-duplicate-container.yaml
refused 'spec.initContainers[0].readinessProbe' kubectl apply -f examples/init-pod/pod-init-readiness.yaml

say "And away"
run kubectl delete -f examples/init-pod/pod.yaml -f examples/init-pod/myservice.yaml -f examples/init-pod/mydb.yaml

say "Containers that talk: a web server, and beside it a sidecar that rewrites the served file"
run coracle push examples/web/server.wasm web-server:1
run coracle push examples/web/rewriter.wasm web-rewriter:1
run kubectl apply -f examples/web/pod.yaml -f examples/web/service.yaml
run kubectl wait --for=condition=Ready pod/web --timeout=60s
until_shown "localhost serves edition" 30 kubectl logs web -c rewriter
run kubectl logs web -c rewriter --tail=1

say "From the host, through the service's node port"
run kubectl get service web
url="http://127.0.0.1:$(kubectl get service web -o 'jsonpath={.spec.ports[0].nodePort}')/"
until_shown "written beside web" 30 curl -sS --max-time 5 "$url"
run curl -sS --include --max-time 5 "$url"

say "Two more pods with the same label: the answers come from all three, each at the address that kubectl shows"
run kubectl apply -f examples/web/replicas.yaml
run kubectl wait --for=condition=Ready pod/web-2 pod/web-3 --timeout=60s
run kubectl get pods -l app.kubernetes.io/name=web -o wide
for name in web web-2 web-3; do
    address=$(kubectl get pod "$name" -o 'jsonpath={.status.podIP}')
    until_shown "X-Served-By: $name at $address" 30 curl -sS --include --max-time 5 "$url"
    printf '%s answers, and sees itself at %s\n' "$name" "$address"
done
run kubectl delete -f examples/web/service.yaml -f examples/web/pod.yaml -f examples/web/replicas.yaml

# median_ms URL: the median of 60 answers, in milliseconds.
median_ms() {
    local arguments=() number
    for number in $(seq 60); do arguments+=(-o /dev/null "$1"); done
    curl -sS --max-time 20 --fail -w '%{time_total}\n' "${arguments[@]}" | sort -n | awk 'NR == 30 { printf "%.2f", 1000 * $1 }'
}

# cpu_ticks NAMESPACE: what the namespace's runner has computed so far, by the kernel's count.
cpu_ticks() {
    local uid pid
    uid=$(kubectl get namespace "$1" -o 'jsonpath={.metadata.uid}')
    for pid in $(pgrep -P "$dev"); do
        if tr '\0' ' ' <"/proc/$pid/cmdline" | grep -q "/ns/$uid "; then
            # The name of the command is in parentheses and may hold anything; what follows it does not.
            sed 's/.*) //' "/proc/$pid/stat" | awk '{ print $12 + $13 }'
            return
        fi
    done
    echo 0
}

say "A bad module hurts nobody: two namespaces, a good web server in each"
run coracle push examples/misfit/misfit.wasm misfit:1
run kubectl apply -f examples/misfit/good.yaml
run kubectl wait --for=condition=Ready pod/good -n rough --timeout=60s
run kubectl wait --for=condition=Ready pod/good -n calm --timeout=60s
port() { kubectl get service good -n "$1" -o 'jsonpath={.spec.ports[0].nodePort}'; }
rough="http://127.0.0.1:$(port rough)/" calm="http://127.0.0.1:$(port calm)/"
until_shown "still here" 30 curl -sS --max-time 5 "$rough"
until_shown "still here" 30 curl -sS --max-time 5 "$calm"
rough_before=$(median_ms "$rough") calm_before=$(median_ms "$calm")

say "Three bad pods join one of them: one spins (cpu: 200m), one hoards (memory: 32Mi), one quits"
run kubectl apply -f examples/misfit/bad.yaml
until_shown OOMKilled 30 kubectl get pod hoarder -n rough -o 'jsonpath={.status.containerStatuses[0].lastState.terminated.reason}'
until_shown CrashLoopBackOff 30 kubectl get pod hoarder -n rough
until_shown CrashLoopBackOff 30 kubectl get pod quitter -n rough
run kubectl get pods -n rough
printf '$ kubectl describe pod hoarder -n rough | grep -A4 "Last State"\n'
kubectl describe pod hoarder -n rough | grep -A4 "Last State"

say "The spinner's CPU, by the kernel's count of its runner over five seconds, and as kubectl top has it"
before=$(cpu_ticks rough)
sleep 5
after=$(cpu_ticks rough)
used=$(((after - before) * 1000 / (5 * $(getconf CLK_TCK))))
printf 'the runner of namespace rough computed %s thousandths of a core; its spinner may have 200\n' "$used"
[ "$used" -ge 150 ] && [ "$used" -le 260 ] || fail "200m were asked for, $used were used"
until_shown spinner 30 kubectl top pods -n rough
run kubectl top pods -n rough --containers

say "Both good pods answer as before"
rough_after=$(median_ms "$rough") calm_after=$(median_ms "$calm")
printf 'beside the bad ones: %s ms, before: %s ms (median of 60)\nin the other namespace: %s ms, before: %s ms\n' \
    "$rough_after" "$rough_before" "$calm_after" "$calm_before"
run curl -sS --max-time 5 "$rough"
for pair in "$rough_before $rough_after" "$calm_before $calm_after"; do
    awk -v pair="$pair" 'BEGIN { split(pair, t, " "); exit !(t[2] <= 2 * t[1] + 20) }' || fail "the answers took longer: $pair ms"
done

say "A command in a container, also while it spins: another run of its module, in the same pod"
printf '$ kubectl exec spinner -n rough -- misfit quit\n'
if output=$(kubectl exec spinner -n rough -- misfit quit 2>&1); then fail "misfit quit ends with 1, but kubectl exec did not"; fi
printf '%s\n' "$output"
case "$output" in *enough*"exit code 1"*) ;; *) fail "the command's output or exit code is not shown" ;; esac
run kubectl delete namespace rough calm
stop "$dev"
dev=

say "Three nodes on this machine, each a process with an address of its own; the fast profile notices quickly who is gone"
printf '$ coracle dev --nodes 3 --node-profile fast --data-dir %s --listen 127.0.0.1:0 &\n' "$work/fleet"
export KUBECONFIG="$work/fleet/kubeconfig"
coracle dev --nodes 3 --node-profile fast --data-dir "$work/fleet" --listen 127.0.0.1:0 >"$log" 2>&1 &
dev=$!
for name in node-1 node-2 node-3; do until_shown " Ready " 60 kubectl get node "$name"; done
run kubectl get nodes -o wide
run coracle push examples/web/server.wasm web-server:1
run coracle push examples/fleet/caller.wasm caller:1

say "A web server on each, one service in front of them, and a pod that calls it by its name"
run kubectl apply -f examples/fleet/web.yaml -f examples/fleet/caller.yaml
run kubectl wait --for=condition=Ready pod/web-1 pod/web-2 pod/web-3 pod/caller --timeout=60s
run kubectl get pods -o wide

say "The node port is open on every node, and each answers for all three"
number=$(kubectl get service web -o 'jsonpath={.spec.ports[0].nodePort}')
for address in 127.0.0.1 127.0.0.2 127.0.0.3; do
    for name in web-1 web-2 web-3; do
        until_shown "X-Served-By: $name" 30 curl -sS --include --max-time 5 "http://$address:$number/"
    done
    printf 'http://%s:%s/ is answered by web-1, web-2 and web-3\n' "$address" "$number"
done
# calls NAME…: the last line of the caller in which exactly these have answered.
calls() {
    kubectl logs caller | awk -v names="$*" '
        /^calls to/ { shown = ""; for (n = 1; n <= 3; n++) if ($0 ~ ("web-" n)) shown = shown (shown ? " " : "") "web-" n; if (shown == names) last = $0 }
        END { print last }'
}
until_shown "calls to" 30 calls web-1 web-2 web-3
run kubectl logs caller --tail=4

say "One node is killed: it is NotReady, its pod is marked and no endpoint any more, and the caller goes on"
printf "$ pkill -9 -f 'node --name node-3'\n"
pkill -9 -P "$dev" -f 'node --name node-3'
until_shown NotReady 60 kubectl get node node-3
until_shown False 30 kubectl get pod web-3 -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
until_shown "calls to" 30 calls web-1 web-2
run kubectl get nodes
run kubectl get pod web-3 -o 'jsonpath={.status.conditions[?(@.type=="Ready")]}{"\n"}'
run kubectl get endpoints web
printf '$ kubectl logs caller | grep -v "^calls"\n'
failed=$(kubectl logs caller | grep -c FAILED || true)
kubectl logs caller | grep -v '^calls' || true
run kubectl logs caller --tail=2
printf 'failed calls: %s\n' "$failed"
[ "$failed" -le 1 ] || fail "only the call in flight may fail, $failed have"

say "The node comes back, and its pod runs again"
again=$(sed -n 's/^node-3 was ended.* again: //p' "$log" | tail -n 1)
printf '$ %s &\n' "$again"
eval "exec $again" >>"$log" 2>&1 &
node=$!
until_shown " Ready " 60 kubectl get node node-3
run kubectl wait --for=condition=Ready pod/web-3 --timeout=60s
run kubectl get pods
before=$(calls web-1 web-2 web-3)
deadline=$((SECONDS + 30))
while [ "$(calls web-1 web-2 web-3)" = "$before" ]; do
    [ "$SECONDS" -lt "$deadline" ] || fail "the caller does not see web-3 again"
    sleep 0.2
done
run kubectl logs caller --tail=1
[ "$(kubectl logs caller | grep -c FAILED || true)" -le 1 ] || fail "calls have failed when the node came back"
run kubectl delete -f examples/fleet/web.yaml -f examples/fleet/caller.yaml
