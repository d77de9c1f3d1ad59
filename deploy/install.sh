#!/usr/bin/env bash
# Installs Ratel on a Debian host with systemd, or brings what is installed to this state: it may be run again at any time.
#
# Every version has a folder and a virtual environment of its own, /opt/ratel/VERSION, and /opt/ratel/current leads to
# the one that the units start. So an upgrade is a new folder, the link, and a restart of one part after another; and
# --rollback is the link set back. What you wrote in /etc/ratel, secrets, and the accounts in /var/lib/ratel-store are
# never written over nor removed.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: install.sh [options] ROLE...      install or upgrade; ROLE is balancer, rater, store, sentinel, or all,
                                        which is the first three
       install.sh --rollback             go back to the version before
       install.sh --uninstall            stop and remove everything but /etc/ratel and the accounts

Options:
  --wheel FILE        the wheel of Ratel to install; needed at the first time
  --wheelhouse DIR    take the packages that it needs from this folder, and from nowhere else (offline)
  --raters N          how many raters this host runs (default: what it runs now, else one for each core)
  --network CIDR      let the services here speak with this network too; may be repeated, and replaces what was
                      allowed before. Without it that stays, at first this host alone
  --listen ADDRESS    let the balancer listen there, in place of 127.0.0.1; 0.0.0.0 is everywhere. Who may connect is
                      said by --network
  --primary ADDRESS   for stores with sentinels: where the primary is at first. Stores elsewhere begin as its replicas,
                      sentinels watch over it, and both listen at this host's address on the way to it
  --python PYTHON     the interpreter to install with (default: python3); 3.11 or newer
  --no-start          put everything in place, but start and restart nothing
  --dry-run           say what would be done
  -h, --help          this
USAGE
}

readonly PREFIX=/opt/ratel
readonly CONFIG=/etc/ratel
readonly CREDENTIALS=$CONFIG/credentials
readonly STORE=127.0.0.1:6379/0
# The balancer's ports, which systemd holds open while it restarts.
SOCKETS=(ratel-balancer-jsonrpc.socket ratel-balancer-http.socket ratel-balancer-router.socket)
readonly UNITS=/etc/systemd/system
readonly SERVICES=(ratel-balancer.service ratel-gateway@.service ratel-rater@.service ratel-store.service ratel-sentinel.service)
# What a part has to get ready: a store that reads back its file takes longer, and is waited for by systemd.
readonly READY_WITHIN_S=60
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly HERE

wheel='' wheelhouse='' raters='' python=python3 listen='' primary='' own=''
start=true dry_run=false action=install
networks=()
roles=()

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

wrong() {
    echo "install.sh: $*" >&2
    echo "Try install.sh --help" >&2
    exit 2
}

say() {
    printf '  %s\n' "$*"
}

# Do it, or only say so.
run() {
    if $dry_run; then
        say "would run: $*"
    else
        "$@"
    fi
}

has_role() {
    local role
    for role in "${roles[@]}"; do
        if [[ $role == "$1" || $role == all && $1 != sentinel ]]; then return 0; fi
    done
    return 1
}

# --- arguments -------------------------------------------------------------------------------------

parse_arguments() {
    local value
    while (($#)); do
        case $1 in
        --wheel | --wheelhouse | --raters | --network | --listen | --primary | --python)
            (($# >= 2)) || wrong "$1 needs a value"
            value=$2
            case $1 in
            --wheel) wheel=$value ;;
            --wheelhouse) wheelhouse=$value ;;
            --raters) raters=$value ;;
            --network) networks+=("$value") ;;
            --listen) listen=$value ;;
            --primary) primary=$value ;;
            --python) python=$value ;;
            esac
            shift
            ;;
        --no-start) start=false ;;
        --dry-run) dry_run=true ;;
        --rollback) action=rollback ;;
        --uninstall) action=uninstall ;;
        -h | --help)
            usage
            exit 0
            ;;
        balancer | rater | store | sentinel | all) roles+=("$1") ;;
        *) wrong "unknown argument '$1'; a role is balancer, rater, store, sentinel or all" ;;
        esac
        shift
    done
    if [[ $action == install ]]; then
        ((${#roles[@]})) || wrong "which roles has this host: balancer, rater, store, sentinel, or all?"
        [[ -z $raters || $raters =~ ^([1-9][0-9]{0,2})$ ]] || wrong "--raters $raters: expected a number from 1 to 999"
        [[ -z $raters ]] || has_role rater || wrong "--raters is for a host with the role rater"
    elif ((${#roles[@]})); then
        wrong "--$action is for the whole host, without roles"
    fi
}

check_host() {
    ((EUID == 0)) || fail "must be run by root"
    command -v systemctl >/dev/null || fail "no systemctl: this host does not run systemd"
    [[ -d /run/systemd/system ]] || ! $start || fail "systemd is not running here; --no-start only puts the files in place"
}

check_python() {
    command -v "$python" >/dev/null || fail "no $python here; apt-get install python3 python3-venv"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$("$python" --version) is too old: 3.11 or newer is needed (--python)"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python can't make virtual environments; apt-get install python3-venv"
}

check_networks() {
    local network
    for network in "${networks[@]}"; do
        "$python" -c 'import ipaddress, sys; ipaddress.ip_network(sys.argv[1])' "$network" 2>/dev/null ||
            wrong "--network $network: expected an address or a network such as 10.0.0.0/24"
    done
    [[ -z $listen ]] || "$python" -c 'import ipaddress, sys; ipaddress.ip_address(sys.argv[1])' "$listen" 2>/dev/null ||
        wrong "--listen $listen: expected an address, such as 10.0.0.5"
    [[ $listen != *:* ]] || listen="[$listen]"
    [[ -z $listen ]] || has_role balancer || wrong "--listen is for a host with the role balancer"
    check_primary
}

check_primary() {
    if [[ -z $primary ]]; then
        ! has_role sentinel || [[ -e $CONFIG/store/sentinel.conf ]] || wrong "sentinels have to know --primary ADDRESS"
        return
    fi
    has_role store || has_role sentinel || wrong "--primary is for a host with the role store or sentinel"
    # Our own address as those on the way to it see us, which is the primary's own where that is here.
    own=$("$python" -c 'import ipaddress, socket, sys
address = ipaddress.ip_address(sys.argv[1])
if address.is_loopback or address.is_unspecified:
    sys.exit(1)
way = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
way.connect((str(address), 9))
print(way.getsockname()[0])' "$primary" 2>/dev/null) ||
        wrong "--primary $primary: expected an address that all hosts of the group reach, such as 10.0.0.1"
}

# --- the program -----------------------------------------------------------------------------------

install_version() {
    if [[ -z $wheel ]]; then
        [[ -e $PREFIX/current ]] || fail "nothing is installed yet: which wheel? (--wheel FILE)"
        say "program    $(readlink "$PREFIX/current"), as it is"
        return
    fi
    [[ -f $wheel ]] || fail "--wheel $wheel: there is no such file"
    [[ -z $wheelhouse || -d $wheelhouse ]] || fail "--wheelhouse $wheelhouse: there is no such folder"
    local name version folder sum
    name=$(basename "$wheel")
    [[ $name =~ ^ratel-([0-9][0-9A-Za-z.+!]*)-(py3-none-any|cp[0-9]+-cp[0-9]+-[0-9a-z_.]+)\.whl$ ]] ||
        fail "--wheel $wheel: not a wheel of Ratel, which is named ratel-VERSION-py3-none-any.whl, or by a Python and a platform"
    version=${BASH_REMATCH[1]}
    folder=$PREFIX/$version
    sum=$(sha256sum <"$wheel" | cut -d' ' -f1)
    if [[ -f $folder/.installed && $(<"$folder/.installed") == "$sum" ]]; then
        say "program    $version is there"
    elif [[ -f $folder/.installed ]]; then
        fail "version $version is installed already, from another wheel: give the new one a version of its own"
    elif $dry_run; then
        say "would make $folder, a virtual environment, and install $name"
    else
        make_environment "$folder"
        echo "$sum" >"$folder/.installed"
        say "program    $version installed"
    fi
    switch_to "$version"
}

make_environment() {
    local folder=$1 from=()
    rm -rf "$folder" # what an interrupted installation left
    mkdir -p "$PREFIX"
    [[ -z $wheelhouse ]] || from=(--no-index --find-links "$wheelhouse")
    "$python" -m venv "$folder"
    # Just the packages that it was tested with, to the byte.
    if ! pip "$folder" install "${from[@]}" --require-hashes --requirement "$HERE/requirements.lock" ||
        ! pip "$folder" install --no-index --no-deps "$wheel" || ! pip "$folder" check >&2; then
        rm -rf "$folder"
        fail "$(basename "$wheel") could not be installed; nothing was changed"
    fi
    "$folder/bin/python" -m compileall -q "$folder/lib" >/dev/null || true # tests of packages that aren't Python 3
    if ! "$folder/bin/ratel" --version >/dev/null; then
        rm -rf "$folder"
        fail "the installed program does not start; nothing was changed"
    fi
    chmod -R go+rX "$folder"
}

pip() {
    "$1/bin/python" -m pip --quiet --disable-pip-version-check --no-cache-dir "${@:2}"
}

# A link is replaced in one step: whatever starts meanwhile gets the one version or the other.
switch_to() {
    local version=$1 before=''
    [[ ! -L $PREFIX/current ]] || before=$(readlink "$PREFIX/current")
    if [[ $before != "$version" ]]; then
        changed=true
        if [[ -n $before ]]; then link "$before" "$PREFIX/previous"; fi
        link "$version" "$PREFIX/current"
    fi
    run install -m 0755 "$HERE/ratel-command" /usr/local/bin/ratel
}

link() {
    if $dry_run; then
        say "would link $2 to $1"
        return
    fi
    ln -sfn "$1" "$2.new"
    mv -T "$2.new" "$2"
}

# --- users, folders, settings, secrets -------------------------------------------------------------

install_users() {
    run install -D -m 0644 "$HERE/systemd/ratel.sysusers" /etc/sysusers.d/ratel.conf
    run install -D -m 0644 "$HERE/systemd/ratel.tmpfiles" /etc/tmpfiles.d/ratel.conf
    run systemd-sysusers /etc/sysusers.d/ratel.conf
    run systemd-tmpfiles --create /etc/tmpfiles.d/ratel.conf
}

# Put a file in place that is the operator's from then on: a later version of it lies beside it as .new.
keep_or_install() {
    local source=$1 target=$2 mode=$3 group=$4
    if [[ ! -e $target ]]; then
        run install -m "$mode" -g "$group" "$source" "$target"
        say "settings   $target"
    elif ! cmp -s "$source" "$target"; then
        run install -m "$mode" -g "$group" "$source" "$target.new"
    fi
}

install_settings() {
    local example password=$CREDENTIALS/ratel-rater.password
    example=$(mktemp)
    # The one thing that has no default: where the store is. Raters may do there what their scripts need, root's own
    # commands, such as `ratel load`, what an operator does.
    sed -e "s|^#url = \"\"$|url = \"redis://ratel-operator@$STORE\"|" "$HERE/ratel.toml" >"$example"
    if grep -q '^\[rater\]$' "$example"; then
        sed -i "s|^\[rater\]$|&\nstore = \"redis://ratel-rater@$STORE\"|" "$example"
    else
        printf '\n[rater]\nstore = "redis://ratel-rater@%s"\n' "$STORE" >>"$example"
    fi
    keep_or_install "$example" "$CONFIG/ratel.toml" 0644 root
    rm -f "$example"
    # Sentinels ask for a password, too, and each user has the same one there. To another store it must not be given.
    if grep -Eq '^(url|store) *=.*\+sentinel://.*sentinel_user=' "$CONFIG/ratel.toml" 2>/dev/null; then
        $dry_run || drop_in ratel-rater@.service 60-sentinels.conf \
            "Environment=RATEL_SENTINEL_PASSWORD_FILE=%d/store-password"
    else
        run rm -f "$UNITS/ratel-rater@.service.d/60-sentinels.conf"
    fi
    if has_role rater && ! has_role store && [[ ! -e $password ]] && ! $dry_run; then
        fail "raters need their password of the store: copy $password from the store's
  host to the same place here (for root alone, mode 600), say in $CONFIG/ratel.toml where the store is, and run this again"
    fi
}

install_store() {
    local server=''
    has_role store || has_role sentinel || return 0
    server=$(find_server)
    link "$server" "$PREFIX/store-server"
    say "store      $server"
    if [[ -n $primary && $own != "$primary" && ! -e $CREDENTIALS/ratel-replica.password ]] && ! $dry_run; then
        fail "stores and sentinels of a group share their passwords: copy $CREDENTIALS from $primary
  to the same place here (for root alone, mode 600), and run this again"
    fi
    if has_role store; then
        begins_as_replica=false
        [[ -z $primary || $own == "$primary" || -e $CONFIG/store/valkey.conf ]] || begins_as_replica=true
        keep_or_install "$HERE/store/valkey.conf" "$CONFIG/store/valkey.conf" 0640 ratel-store
        make_users users.acl
    fi
    if has_role sentinel; then
        keep_or_install "$HERE/store/sentinel.conf" "$CONFIG/store/sentinel.conf" 0640 ratel-store
        make_users sentinel-users.acl --sentinel
    fi
    [[ -z $primary ]] || $dry_run || join_group
}

# Fill in what the files as they are shipped leave open: lines that say anything else are the operator's.
join_group() {
    local password file store=$CONFIG/store/valkey.conf sentinel=$CONFIG/store/sentinel.conf
    for file in "$store" "$sentinel"; do
        [[ ! -e $file ]] || sed -i "s/^bind 127\.0\.0\.1 -::1$/bind 127.0.0.1 $own/" "$file"
    done
    if has_role store; then
        (umask 027 && echo "masterauth $(<"$CREDENTIALS/ratel-replica.password")" >"$CONFIG/store/replica.conf")
        chgrp ratel-store "$CONFIG/store/replica.conf"
        sed -i "s/^#masteruser /masteruser /; s/^#include \([^ ]*\) .*/include \1/" "$store"
        if $begins_as_replica; then
            install -m 0600 -o ratel-store -g ratel-store <(echo "replicaof $primary 6379") /var/lib/ratel-store/server.conf
            say "replica    of $primary"
        fi
    fi
    if has_role sentinel; then
        password=$(<"$CREDENTIALS/ratel-sentinel.password")
        sed -i "s/^sentinel monitor ratel 127\.0\.0\.1 /sentinel monitor ratel $primary /
            s/^#\(sentinel [a-z]*-user .*\)/\1/; s/^#\(sentinel [a-z]*-pass .*\)PASSWORD$/\1$password/" "$sentinel"
    fi
}

# Who may do what in the store, or at a sentinel: hashed passwords there, and the passwords for root alone.
make_users() {
    local file=$CONFIG/store/$1 options=(--passwords "$CREDENTIALS" --create "${@:2}")
    if [[ -e $file ]] || $dry_run; then return; fi
    # Redis 7.0 refuses a file with a command that it does not know, and with it the start.
    if "$PREFIX/store-server" --version | grep -q ' v=7\.0'; then options+=(--redis-7.0); fi
    (umask 027 && "$PREFIX/current/bin/ratel" acl "${options[@]}" >"$file.new") ||
        fail "the users for $file could not be made"
    chgrp ratel-store "$file.new"
    mv "$file.new" "$file"
    say "secrets    $CREDENTIALS"
    say "settings   $file"
}

# Each host's own keys for ZeroMQ. Secret ones stay here and reach services as credentials; public ones are brought to
# where they must be known, which on a host with both sides is here.
install_keys() {
    local ratel=$PREFIX/current/bin/ratel keys=$CONFIG/keys rater gateway
    rater=rater-$(hostname) gateway=gateway-$(hostname)
    if $dry_run; then return; fi
    if has_role balancer && [[ ! -e $UNITS/ratel-balancer.service.d/40-keys.conf ]] ||
        has_role rater && [[ ! -e $UNITS/ratel-rater@.service.d/40-keys.conf ]]; then first_keys=true; fi
    if has_role balancer; then
        new_key balancer balancer
        # Gateways that are started here, `systemctl enable --now ratel-gateway@1`, ask this balancer.
        new_key "$gateway" client
        "$ratel" keys allow --dir "$keys" "$keys/$gateway.pub" >/dev/null
        drop_in ratel-gateway@.service 40-keys.conf "LoadCredential=curve-key:$keys/$gateway.key" \
            "Environment=RATEL_GATEWAY_CURVE_KEY=%d/curve-key RATEL_CURVE_SERVER_KEYS=$keys/balancer.pub"
        install -d -m 0755 "$keys/authorized"
        drop_in ratel-balancer.service 40-keys.conf "LoadCredential=curve-key:$keys/balancer.key" \
            "Environment=RATEL_BALANCER_CURVE_KEY=%d/curve-key RATEL_BALANCER_AUTHORIZED_KEYS=$keys/authorized"
    fi
    if has_role rater; then
        new_key "$rater" rater
        drop_in ratel-rater@.service 40-keys.conf "LoadCredential=curve-key:$keys/$rater.key" \
            "Environment=RATEL_RATER_CURVE_KEY=%d/curve-key RATEL_CURVE_SERVER_KEYS=$keys/balancer.pub"
        if has_role balancer; then
            "$ratel" keys allow --dir "$keys" "$keys/$rater.pub" >/dev/null
        elif [[ ! -e $keys/balancer.pub ]]; then
            fail "raters must know their balancers' key: copy $keys/balancer.pub from a balancer's host to
  the same place here; bring $keys/$rater.pub to the balancers' hosts, there say
  ratel keys allow $rater.pub
  and run this again"
        fi
    fi
}

# Whether the program that is installed has this command: a version that is gone back to may be older than this script.
knows() {
    [[ -x $PREFIX/current/bin/ratel ]] && "$PREFIX/current/bin/ratel" --help | grep -q "^  $1 "
}

new_key() {
    local file=$CONFIG/keys/$1.key
    if [[ -e $file ]]; then return; fi
    "$PREFIX/current/bin/ratel" keys new "$1" --role "$2" --dir "$CONFIG/keys" >/dev/null
    say "key        $file"
}

drop_in() {
    mkdir -p "$UNITS/$1.d"
    {
        echo "# Made by install.sh; docs/security.md."
        echo "[Service]"
        printf '%s\n' "${@:3}"
    } >"$UNITS/$1.d/$2"
}

# The keys of clients. Balancers read the file again whenever it changes, so it is no credential, but theirs to read.
install_api_keys() {
    local file=$CONFIG/api-keys.json
    if $dry_run; then return; fi
    if [[ -e $file ]]; then
        chgrp ratel "$file"
        chmod 0640 "$file"
        drop_in ratel-balancer.service 50-api-keys.conf "Environment=RATEL_API_KEYS=$file"
    elif [[ -n $listen && $listen != 127.* && $listen != "[::1]" ]]; then
        fail "others will reach the balancer at $listen, so its clients need keys: make one for each, such as by
  ratel apikey create --name switch-1 --tenant TENANT --allow read --allow debit
  and run this again"
    fi
}

find_server() {
    local name
    for name in valkey-server redis-server; do
        if command -v "$name"; then return; fi
    done
    fail "no store here: apt-get install valkey-server (Debian 13) or redis-server (Debian 12), and
  systemctl disable --now the service of that name, since Ratel's store has a unit of its own"
}

check_store_port() {
    local unit
    for unit in {valkey,redis}-{server,sentinel}.service; do
        if systemctl --quiet is-active "$unit" 2>/dev/null; then
            fail "$unit runs here and has the port of Ratel's own: systemctl disable --now $unit"
        fi
    done
}

# --- units -----------------------------------------------------------------------------------------

install_units() {
    local file service drop_in
    for file in "$HERE"/systemd/ratel*.{service,target,socket}; do
        [[ -e $file ]] || continue
        run install -m 0644 "$file" "$UNITS/"
    done
    for service in "${SERVICES[@]}"; do
        drop_in=$UNITS/$service.d
        if (($(systemd_version) >= 254)); then
            run install -D -m 0644 "$HERE/systemd/backoff.conf" "$drop_in/10-backoff.conf"
        else
            run rm -f "$drop_in/10-backoff.conf"
        fi
        if ((${#networks[@]})); then
            run install_network Service "$drop_in/20-network.conf"
        fi
    done
    for file in "${SOCKETS[@]}"; do
        if ((${#networks[@]})); then
            run install_network Socket "$UNITS/$file.d/20-network.conf"
        fi
        if [[ -n $listen ]]; then
            run install_address "$file"
        fi
    done
    run systemctl daemon-reload
}

systemd_version() {
    systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p'
}

install_network() {
    mkdir -p "$(dirname "$2")"
    {
        echo "# Made by install.sh --network. What the unit itself allows, this host, stays allowed."
        echo "[$1]"
        printf 'IPAddressAllow=%s\n' "${networks[@]}"
    } >"$2"
}

install_address() {
    local port
    port=$(sed -n 's/^ListenStream=.*:\([0-9]*\)$/\1/p' "$HERE/systemd/$1")
    mkdir -p "$UNITS/$1.d"
    {
        echo "# Made by install.sh --listen."
        echo "[Socket]"
        echo "ListenStream="
        echo "ListenStream=$listen:$port"
    } >"$UNITS/$1.d/30-address.conf"
}

running_raters() {
    # The numbers of those that are enabled.
    find "$UNITS/ratel-raters.target.wants" -name 'ratel-rater@*.service' -printf '%f\n' 2>/dev/null |
        sed -n 's/^ratel-rater@\([0-9]*\)\.service$/\1/p' | sort -n
}

enable_units() {
    local number wanted=() surplus=()
    ! has_role store || wanted+=(ratel-store.service)
    ! has_role sentinel || wanted+=(ratel-sentinel.service)
    ! has_role balancer || wanted+=("${SOCKETS[@]}" ratel-balancer.service)
    if has_role rater; then
        if [[ -z $raters ]]; then
            raters=$(running_raters | wc -l)
            ((raters)) || raters=$(nproc)
        fi
        for ((number = 1; number <= raters; number++)); do wanted+=("ratel-rater@$number.service"); done
        for number in $(running_raters); do
            ((number <= raters)) || surplus+=("ratel-rater@$number.service")
        done
        wanted+=(ratel-raters.target)
    fi
    run systemctl --quiet enable ratel.target "${wanted[@]}"
    if ((${#surplus[@]})); then
        run systemctl --quiet disable --now "${surplus[@]}" # each finishes what it has
        say "removed    ${surplus[*]}"
    fi
    say "units      ${wanted[*]}"
    $start || return 0
    if $first_keys; then
        restart_with_first_keys
    elif $changed; then
        restart_running
    fi
    # What is up already stays as it is.
    run systemctl start --no-block ratel.target "${wanted[@]}"
    $dry_run || wait_until_up "${wanted[@]}"
}

# Until each is ready or waits for something that is not here: a rater may be installed before its balancers are.
wait_until_up() {
    local unit state left=$READY_WITHIN_S bad=false
    for unit in "$@"; do
        while state=$(systemctl is-active "$unit" || true) && [[ $state == activating ]] && ((left-- > 0)); do
            sleep 1
        done
        say "$(printf '%-24s' "$unit") $state$(status_of "$unit")"
        [[ $state == active || $state == activating && $(restarts_of "$unit") == 0 ]] || bad=true
    done
    if $bad; then
        # What it said itself is between the lines of systemd.
        journalctl --quiet --output cat --lines 200 --unit 'ratel-*' --identifier ratel | grep -v '^time=' | tail -n 5 >&2
        fail "not everything runs; the reason stands in: journalctl -u 'ratel-*'"
    fi
}

status_of() {
    systemctl show --property StatusText --value "$1" | sed 's/..*/: &/'
}

restarts_of() {
    systemctl show --property NRestarts --value "$1"
}

# A new version under load: one rater after the other, each ready before the next one goes; the balancer last, since a
# newer balancer understands older raters no better than they do it, and its clients wait in its socket meanwhile.
restart_running() {
    local unit
    for unit in $(active_units 'ratel-rater@*.service') $(active_units 'ratel-gateway@*.service') \
        $(active_units ratel-balancer.service); do
        run timeout "$READY_WITHIN_S" systemctl restart "$unit" ||
            fail "$unit is not ready after $READY_WITHIN_S s, so the others were left as they are; journalctl -u $unit"
        say "restarted  $unit"
    done
}

# With the first keys: who has one and who has none don't speak with each other. So a rater more than there are waits
# with its key for the balancer that has one, too; until then the old raters finish what the old balancer has, and from
# then on it does all the work until they are back, one after the other. Clients wait in the balancer's sockets.
restart_with_first_keys() {
    local here fronts unit more=''
    mapfile -t here < <(active_units 'ratel-rater@*.service')
    mapfile -t fronts < <(active_units 'ratel-gateway@*.service' && active_units ratel-balancer.service)
    if has_role balancer && has_role rater && ((${#here[@]})); then
        more=$(one_more "${here[@]}")
        run systemctl start --no-block "$more"
        $dry_run || wait_for_balancer "$more"
    fi
    if ((${#fronts[@]})); then
        run timeout "$READY_WITHIN_S" systemctl restart "${fronts[@]}" ||
            fail "not ready with keys after $READY_WITHIN_S s: ${fronts[*]}; journalctl -u 'ratel-*'"
        say "restarted  ${fronts[*]}, with keys from now on"
    fi
    for unit in "${here[@]}"; do
        # Where they wait for a balancer of another host that has no keys yet, that is said below.
        run timeout "$READY_WITHIN_S" systemctl restart "$unit" || true
        say "restarted  $unit, with keys from now on"
    done
    [[ -z $more ]] || run systemctl stop "$more"
}

# The first of these units' numbers that is free.
one_more() {
    local number=1
    while [[ " $* " == *" ratel-rater@$number.service "* ]]; do number=$((number + 1)); done
    echo "ratel-rater@$number.service"
}

# Until it has all but a balancer that lets it in.
wait_for_balancer() {
    local left=$((READY_WITHIN_S * 5))
    until [[ $(status_of "$1") == *"waiting for a balancer"* || $(systemctl is-active "$1") == active ]]; do
        ((left-- > 0)) || fail "$1 is not ready after $READY_WITHIN_S s, so the others were left as they are; journalctl -u $1"
        sleep 0.2
    done
}

active_units() {
    systemctl list-units --plain --no-legend --state=active,activating,reloading "$1" 2>/dev/null | cut -d' ' -f1
}

# --- other actions ---------------------------------------------------------------------------------

roll_back() {
    local now before
    [[ -L $PREFIX/previous ]] || fail "there is no version before this one"
    now=$(readlink "$PREFIX/current")
    before=$(readlink "$PREFIX/previous")
    [[ -f $PREFIX/$before/.installed ]] || fail "version $before is not there any more"
    link "$before" "$PREFIX/current"
    link "$now" "$PREFIX/previous"
    say "program    $before, was $now"
    if $start; then restart_running; fi
}

uninstall() {
    local units
    mapfile -t units < <(systemctl list-unit-files --no-legend 'ratel*' 2>/dev/null | cut -d' ' -f1 | grep -v '@\.')
    mapfile -t -O "${#units[@]}" units < <(running_raters | sed 's/.*/ratel-rater@&.service/')
    mapfile -t -O "${#units[@]}" units < <(active_units 'ratel-*@*.service')
    if ((${#units[@]})); then
        run systemctl --quiet disable --now "${units[@]}"
    fi
    run find "$UNITS" -maxdepth 1 -name 'ratel*' -exec rm -rf {} +
    run rm -f /etc/sysusers.d/ratel.conf /etc/tmpfiles.d/ratel.conf /usr/local/bin/ratel
    run systemctl daemon-reload
    run rm -rf "$PREFIX"
    echo "Ratel is removed. What is left: $CONFIG (settings, secrets), /var/lib/ratel-store (the accounts), /var/lib/ratel-sentinel, its users."
}

parse_arguments "$@"
check_host
changed=false first_keys=false
case $action in
uninstall) uninstall ;;
rollback) roll_back ;;
install)
    check_python
    check_networks
    if has_role store || has_role sentinel; then
        ! $start || check_store_port
        find_server >/dev/null
    fi
    install_version
    install_users
    install_store
    install_settings
    ! knows keys || install_keys
    ! has_role balancer || ! knows apikey || install_api_keys
    install_units
    enable_units
    ;;
esac
