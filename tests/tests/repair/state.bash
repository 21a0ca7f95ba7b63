# Prints what the network of this node and of its tasks is made of, one thing a
# line: nothing that counts, ages or is numbered by the kernel as it comes.
show() { # NAME COMMAND…
    local name=$1 own='s/ link\/.*//'
    shift
    # In a task, the hardware address is the task's; on the node, the kernel draws one.
    [[ $name == node ]] || own=
    "$@" ip -o link show |
        sed -E 's/^[0-9]+: //; s/@[^:]*//; s/ (state|qdisc|group|qlen|link-netnsid|link-netns) [^ ]+//g; s/\\ +/ /' |
        sed -E "$own; s/^/$name link /"
    "$@" ip -o addr show scope global | sed -E 's/^[0-9]+: //; s/\\.*//' | sed "s/^/$name address /"
    "$@" ip route show table all | grep -v 'fe80\|^broadcast\|^multicast\|^anycast' | sed "s/^/$name route /"
    "$@" ip rule show | sed "s/^/$name rule /"
    "$@" ip -6 rule show | sed "s/^/$name rule /"
    "$@" bridge fdb show | grep ' dst \| static' | sed "s/^/$name fdb /"
    "$@" ip neigh show nud permanent | sed "s/^/$name neighbour /"
    "$@" nft list ruleset | sed "s/^/$name table /"
}

show node env
for task in /run/skep/netns/*; do
    [[ ! -e $task ]] || show "${task##*/}" nsenter "--net=$task"
done
exit 0
