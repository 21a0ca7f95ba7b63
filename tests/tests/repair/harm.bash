# Breaks the network of this node, ten times a second for $1 seconds: on the node
# or in the namespace of a task, never the underlay. The kinds of harm take turns,
# what they meet is drawn. Prints each command that the kernel took.
RANDOM=${HARM_SEED:-$$}
end=$((SECONDS + $1))

one() { shuf -n 1; }

# A random namespace: nothing for the node's own, else how to enter a task's. Only
# the node has forwarding rows and neighbours.
place() { # KIND
    local tasks=(/run/skep/netns/*)
    IN=()
    (($1 <= 4 || RANDOM % 2)) || IN=(nsenter "--net=${tasks[RANDOM % ${#tasks[@]}]}")
}

links() { "${IN[@]}" ip -o link show | awk -F '[:@ ]+' '$2 != "lo" { print $2 }' | { [[ ${#IN[@]} -gt 0 ]] && cat || grep -vx eth0; }; }

# shellcheck disable=SC2086 # rows are words
harm() { # KIND
    local row link
    case $1 in
    0) row=$("${IN[@]}" bridge fdb show | grep ' dst ' | one) && try bridge fdb del $row ;;
    1) row=$("${IN[@]}" bridge fdb show | grep ' static' | one) && try bridge fdb del $row ;;
    2) row=$("${IN[@]}" bridge fdb show | grep ' dst ' | one) && try bridge fdb replace ${row/ dst * self/ dst 192.0.2.1 self} ;;
    3) row=$("${IN[@]}" ip neigh show nud permanent | one) && try ip neigh del ${row%% lladdr*} ;;
    4) row=$("${IN[@]}" ip neigh show nud permanent | one) && try ip neigh replace ${row%% lladdr*} lladdr 02:00:00:00:00:01 nud permanent ;;
    5) row=$("${IN[@]}" ip route show table all | grep -v 'table local\|dev eth0 \|dev lo' | one) && try ip route del $row ;;
    6) row=$(nsenter "--net=$(printf '%s\n' /run/skep/netns/* | one)" ip route show | one) && try ip route del $row ;;
    7) row=$("${IN[@]}" ip -o -4 addr show | awk '$2 != "lo" { print $4, "dev", $2 }' | on_ours | one) && try ip addr del $row ;;
    8) link=$(links | one) && try ip link set "$link" down ;;
    9) link=$(links | one) && try ip link set "$link" mtu 1300 ;;
    10) link=$(links | one) && try ip link del "$link" ;;
    11) row=$("${IN[@]}" nft list tables | one) && try nft delete $row ;;
    esac
}

on_ours() { if [[ ${#IN[@]} -gt 0 ]]; then cat; else grep -v ' eth0$'; fi; }

try() {
    [[ ${*: -1} != *" " ]] || return 0
    ! "${IN[@]}" "$@" 2>/dev/null || printf '%s%s\n' "${IN[1]:+${IN[1]##*/}: }" "$*"
}

for ((turn = 0; SECONDS < end; turn++)); do
    place $((turn % 12))
    harm $((turn % 12))
    sleep 0.05
done
exit 0
