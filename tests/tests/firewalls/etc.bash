# Runs a program with a layer of the node's own over /etc, which nodes share with the machine: what the program writes
# there stays on the node.
set -euo pipefail
mkdir -p /run/etc/upper /run/etc/work
mount -t overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work overlay /etc
exec "$@"
