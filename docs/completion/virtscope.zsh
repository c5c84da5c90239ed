autoload -U +X bashcompinit && bashcompinit
_virt_ps() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    case $prev in
        -p|--pid) COMPREPLY=(); return ;;
        -C) COMPREPLY=(); return ;;
        -u|--user) COMPREPLY=(); return ;;
        --ppid) COMPREPLY=(); return ;;
        -s|--sid) COMPREPLY=(); return ;;
        -t|--tty) COMPREPLY=(); return ;;
        --state) COMPREPLY=(); return ;;
        -d|--domain) COMPREPLY=($(compgen -W "$(virsh -q list --all --name 2>/dev/null)" -- "$cur")); return ;;
        -c|--connect) COMPREPLY=(); return ;;
        --qemu) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        -m|--memory) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        -P|--parallel) COMPREPLY=(); return ;;
        --timeout) COMPREPLY=(); return ;;
        -o|--columns) COMPREPLY=($(compgen -P "${cur%"${cur##*,}"}" -W "pid ppid pgid sid pgleader sleader lwp nspid tty tname tpgid uid euid ruid suid fuid gid egid rgid sgid fgid user group supgid s stat f psr ni pri opri priority rtprio cls nlwp wchan time bsdtime times utime systime c pcpu stime start_time bsdstart start lstart etime etimes vsz rss sz pmem addr cgroup exe cwd root cgroupns ipcns mntns netns pidns timens userns utsns comm ucmd args cmd" -- "${cur##*,}")); compopt -o nospace; return ;;
        --sort) COMPREPLY=($(compgen -P "${cur%"${cur##*,}"}" -W "pid ppid pgid sid pgleader sleader lwp nspid tty tname tpgid uid euid ruid suid fuid gid egid rgid sgid fgid user group supgid s stat f psr ni pri opri priority rtprio cls nlwp wchan time bsdtime times utime systime c pcpu stime start_time bsdstart start lstart etime etimes vsz rss sz pmem addr cgroup exe cwd root cgroupns ipcns mntns netns pidns timens userns utsns comm ucmd args cmd" -- "${cur##*,}")); compopt -o nospace; return ;;
        --color) COMPREPLY=($(compgen -W "auto always never" -- "$cur")); return ;;
    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "-e -A -p --pid -C -u --user --ppid -s --sid -t --tty -r --state -f -F -l -j -L -H --forest -w -d --domain -c --connect --qemu -m --memory -P --parallel --timeout -J --json --jsonl --csv -o --columns --sort -n --no-headings --color -v --verbose -q --quiet -h --help -V --version" -- "$cur"))
    else
        COMPREPLY=($(compgen -f -- "$cur"))
    fi
}
complete -o filenames -F _virt_ps virt-ps

_virt_dmesg() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    case $prev in
        -l|--level) COMPREPLY=(); return ;;
        -f|--facility) COMPREPLY=(); return ;;
        --since) COMPREPLY=(); return ;;
        -d|--domain) COMPREPLY=($(compgen -W "$(virsh -q list --all --name 2>/dev/null)" -- "$cur")); return ;;
        -c|--connect) COMPREPLY=(); return ;;
        --qemu) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        -m|--memory) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        -P|--parallel) COMPREPLY=(); return ;;
        --timeout) COMPREPLY=(); return ;;
        -o|--columns) COMPREPLY=($(compgen -P "${cur%"${cur##*,}"}" -W "sequence seconds time level facility caller comm fields text" -- "${cur##*,}")); compopt -o nospace; return ;;
        --sort) COMPREPLY=($(compgen -P "${cur%"${cur##*,}"}" -W "sequence seconds time level facility caller comm fields text" -- "${cur##*,}")); compopt -o nospace; return ;;
        --color) COMPREPLY=($(compgen -W "auto always never" -- "$cur")); return ;;
    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "-T --ctime -t --notime -l --level -f --facility -k --kernel -u --userspace -x --decode -r --raw -w --follow -W --follow-new --since -d --domain -c --connect --qemu -m --memory -P --parallel --timeout -J --json --jsonl --csv -o --columns --sort -n --no-headings --color -v --verbose -q --quiet -h --help -V --version" -- "$cur"))
    else
        COMPREPLY=($(compgen -f -- "$cur"))
    fi
}
complete -o filenames -F _virt_dmesg virt-dmesg

_virt_uname() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    case $prev in
        -m|--machine) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        -d|--domain) COMPREPLY=($(compgen -W "$(virsh -q list --all --name 2>/dev/null)" -- "$cur")); return ;;
        -c|--connect) COMPREPLY=(); return ;;
        --qemu) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --memory) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        -P|--parallel) COMPREPLY=(); return ;;
        --timeout) COMPREPLY=(); return ;;
        --columns) COMPREPLY=($(compgen -P "${cur%"${cur##*,}"}" -W "sysname nodename release version machine domainname operating_system banner build_id arch" -- "${cur##*,}")); compopt -o nospace; return ;;
        --sort) COMPREPLY=($(compgen -P "${cur%"${cur##*,}"}" -W "sysname nodename release version machine domainname operating_system banner build_id arch" -- "${cur##*,}")); compopt -o nospace; return ;;
        --color) COMPREPLY=($(compgen -W "auto always never" -- "$cur")); return ;;
    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "-a --all -s --kernel-name -n --nodename -r --kernel-release -v --kernel-version -m --machine -p --processor -i --hardware-platform -o --operating-system -d --domain -c --connect --qemu --memory -P --parallel --timeout -J --json --jsonl --csv --columns --sort --no-headings --color --verbose -q --quiet -h --help -V --version" -- "$cur"))
    else
        COMPREPLY=($(compgen -f -- "$cur"))
    fi
}
complete -o filenames -F _virt_uname virt-uname

_virt_ifconfig() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    case $prev in
        --netns) COMPREPLY=(); return ;;
        -d|--domain) COMPREPLY=($(compgen -W "$(virsh -q list --all --name 2>/dev/null)" -- "$cur")); return ;;
        -c|--connect) COMPREPLY=(); return ;;
        --qemu) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        -m|--memory) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        -P|--parallel) COMPREPLY=(); return ;;
        --timeout) COMPREPLY=(); return ;;
        -o|--columns) COMPREPLY=($(compgen -P "${cur%"${cur##*,}"}" -W "netns netns_name index name state mac mtu inet inet6 flags type kind master link qdisc rx_packets rx_bytes rx_errors rx_dropped tx_packets tx_bytes tx_errors tx_dropped" -- "${cur##*,}")); compopt -o nospace; return ;;
        --sort) COMPREPLY=($(compgen -P "${cur%"${cur##*,}"}" -W "netns netns_name index name state mac mtu inet inet6 flags type kind master link qdisc rx_packets rx_bytes rx_errors rx_dropped tx_packets tx_bytes tx_errors tx_dropped" -- "${cur##*,}")); compopt -o nospace; return ;;
        --color) COMPREPLY=($(compgen -W "auto always never" -- "$cur")); return ;;
    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "-a --all -s --short --ip --statistics --netns -d --domain -c --connect --qemu -m --memory -P --parallel --timeout -J --json --jsonl --csv -o --columns --sort -n --no-headings --color -v --verbose -q --quiet -h --help -V --version" -- "$cur"))
    else
        COMPREPLY=($(compgen -f -- "$cur"))
    fi
}
complete -o filenames -F _virt_ifconfig virt-ifconfig

_virt_df() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    case $prev in
        -t|--type) COMPREPLY=(); return ;;
        -d|--domain) COMPREPLY=($(compgen -W "$(virsh -q list --all --name 2>/dev/null)" -- "$cur")); return ;;
        -c|--connect) COMPREPLY=(); return ;;
        -a|--add) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --format) COMPREPLY=($(compgen -W "auto raw qcow2 qcow" -- "$cur")); return ;;
        --mount) COMPREPLY=(); return ;;
        --allow-backing) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        -P|--parallel) COMPREPLY=(); return ;;
        --timeout) COMPREPLY=(); return ;;
        -o|--columns) COMPREPLY=($(compgen -P "${cur%"${cur##*,}"}" -W "device uuid label type size size-h used used-h available available-h used_percent inodes inodes_used inodes_free inodes_used_percent" -- "${cur##*,}")); compopt -o nospace; return ;;
        --sort) COMPREPLY=($(compgen -P "${cur%"${cur##*,}"}" -W "device uuid label type size size-h used used-h available available-h used_percent inodes inodes_used inodes_free inodes_used_percent" -- "${cur##*,}")); compopt -o nospace; return ;;
        --color) COMPREPLY=($(compgen -W "auto always never" -- "$cur")); return ;;
    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "-h --human-readable -i --inodes --uuid -T --print-type -t --type -d --domain -c --connect -a --add --format --mount --allow-backing --verify-checksums --no-journal -P --parallel --timeout -J --json --jsonl --csv -o --columns --sort -n --no-headings --color -v --verbose -q --quiet --help -V --version" -- "$cur"))
    else
        COMPREPLY=($(compgen -f -- "$cur"))
    fi
}
complete -o filenames -F _virt_df virt-df

_virt_filesystems() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    case $prev in
        -d|--domain) COMPREPLY=($(compgen -W "$(virsh -q list --all --name 2>/dev/null)" -- "$cur")); return ;;
        -c|--connect) COMPREPLY=(); return ;;
        -a|--add) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --format) COMPREPLY=($(compgen -W "auto raw qcow2 qcow" -- "$cur")); return ;;
        --mount) COMPREPLY=(); return ;;
        --allow-backing) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        -P|--parallel) COMPREPLY=(); return ;;
        --timeout) COMPREPLY=(); return ;;
        -o|--columns) COMPREPLY=($(compgen -P "${cur%"${cur##*,}"}" -W "name kind content label size size-h type parents uuid part_uuid part_label" -- "${cur##*,}")); compopt -o nospace; return ;;
        --sort) COMPREPLY=($(compgen -P "${cur%"${cur##*,}"}" -W "name kind content label size size-h type parents uuid part_uuid part_label" -- "${cur##*,}")); compopt -o nospace; return ;;
        --color) COMPREPLY=($(compgen -W "auto always never" -- "$cur")); return ;;
    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "--all --filesystems --partitions --parts --volumes --logical-volumes --lvs --block-devices --blkdevs -l --long -h --human-readable --uuids --uuid -d --domain -c --connect -a --add --format --mount --allow-backing --verify-checksums --no-journal -P --parallel --timeout -J --json --jsonl --csv -o --columns --sort -n --no-headings --color -v --verbose -q --quiet --help -V --version" -- "$cur"))
    else
        COMPREPLY=($(compgen -f -- "$cur"))
    fi
}
complete -o filenames -F _virt_filesystems virt-filesystems

_virt_ls() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    case $prev in
        --checksum) COMPREPLY=($(compgen -W "md5 sha1 sha256 sha512 blake2b" -- "$cur")); return ;;
        -d|--domain) COMPREPLY=($(compgen -W "$(virsh -q list --all --name 2>/dev/null)" -- "$cur")); return ;;
        -c|--connect) COMPREPLY=(); return ;;
        -a|--add) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --format) COMPREPLY=($(compgen -W "auto raw qcow2 qcow" -- "$cur")); return ;;
        --mount) COMPREPLY=(); return ;;
        --allow-backing) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        -P|--parallel) COMPREPLY=(); return ;;
        --timeout) COMPREPLY=(); return ;;
        --color) COMPREPLY=($(compgen -W "auto always never" -- "$cur")); return ;;
    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "-l --long -R --recursive -h --human-readable --checksum -d --domain -c --connect -a --add --format --mount --allow-backing --verify-checksums --no-journal -P --parallel --timeout -J --json --jsonl --color -v --verbose -q --quiet --help -V --version" -- "$cur"))
    else
        COMPREPLY=($(compgen -f -- "$cur"))
    fi
}
complete -o filenames -F _virt_ls virt-ls

_virt_cat() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    case $prev in
        --timeout) COMPREPLY=(); return ;;
        -d|--domain) COMPREPLY=($(compgen -W "$(virsh -q list --all --name 2>/dev/null)" -- "$cur")); return ;;
        -c|--connect) COMPREPLY=(); return ;;
        -a|--add) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --format) COMPREPLY=($(compgen -W "auto raw qcow2 qcow" -- "$cur")); return ;;
        --mount) COMPREPLY=(); return ;;
        --allow-backing) COMPREPLY=($(compgen -f -- "$cur")); return ;;
    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "--timeout -d --domain -c --connect -a --add --format --mount --allow-backing --verify-checksums --no-journal -v --verbose -q --quiet -h --help -V --version" -- "$cur"))
    else
        COMPREPLY=($(compgen -f -- "$cur"))
    fi
}
complete -o filenames -F _virt_cat virt-cat

_virt_tail() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    case $prev in
        -n|--lines) COMPREPLY=(); return ;;
        --timeout) COMPREPLY=(); return ;;
        -d|--domain) COMPREPLY=($(compgen -W "$(virsh -q list --all --name 2>/dev/null)" -- "$cur")); return ;;
        -c|--connect) COMPREPLY=(); return ;;
        -a|--add) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --format) COMPREPLY=($(compgen -W "auto raw qcow2 qcow" -- "$cur")); return ;;
        --mount) COMPREPLY=(); return ;;
        --allow-backing) COMPREPLY=($(compgen -f -- "$cur")); return ;;
    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "-n --lines -f --follow --timeout -d --domain -c --connect -a --add --format --mount --allow-backing --verify-checksums --no-journal -v --verbose -q --quiet -h --help -V --version" -- "$cur"))
    else
        COMPREPLY=($(compgen -f -- "$cur"))
    fi
}
complete -o filenames -F _virt_tail virt-tail

_virt_stat() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    case $prev in
        -d|--domain) COMPREPLY=($(compgen -W "$(virsh -q list --all --name 2>/dev/null)" -- "$cur")); return ;;
        -c|--connect) COMPREPLY=(); return ;;
        -a|--add) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --format) COMPREPLY=($(compgen -W "auto raw qcow2 qcow" -- "$cur")); return ;;
        --mount) COMPREPLY=(); return ;;
        --allow-backing) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        -P|--parallel) COMPREPLY=(); return ;;
        --timeout) COMPREPLY=(); return ;;
        --color) COMPREPLY=($(compgen -W "auto always never" -- "$cur")); return ;;
    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "-L --dereference --extents -d --domain -c --connect -a --add --format --mount --allow-backing --verify-checksums --no-journal -P --parallel --timeout -J --json --jsonl --color -v --verbose -q --quiet -h --help -V --version" -- "$cur"))
    else
        COMPREPLY=($(compgen -f -- "$cur"))
    fi
}
complete -o filenames -F _virt_stat virt-stat

_virt_copy_out() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    case $prev in
        --timeout) COMPREPLY=(); return ;;
        -d|--domain) COMPREPLY=($(compgen -W "$(virsh -q list --all --name 2>/dev/null)" -- "$cur")); return ;;
        -c|--connect) COMPREPLY=(); return ;;
        -a|--add) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --format) COMPREPLY=($(compgen -W "auto raw qcow2 qcow" -- "$cur")); return ;;
        --mount) COMPREPLY=(); return ;;
        --allow-backing) COMPREPLY=($(compgen -f -- "$cur")); return ;;
    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "--timeout -d --domain -c --connect -a --add --format --mount --allow-backing --verify-checksums --no-journal -v --verbose -q --quiet -h --help -V --version" -- "$cur"))
    else
        COMPREPLY=($(compgen -f -- "$cur"))
    fi
}
complete -o filenames -F _virt_copy_out virt-copy-out

_virt_tar_out() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    case $prev in
        --timeout) COMPREPLY=(); return ;;
        -d|--domain) COMPREPLY=($(compgen -W "$(virsh -q list --all --name 2>/dev/null)" -- "$cur")); return ;;
        -c|--connect) COMPREPLY=(); return ;;
        -a|--add) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --format) COMPREPLY=($(compgen -W "auto raw qcow2 qcow" -- "$cur")); return ;;
        --mount) COMPREPLY=(); return ;;
        --allow-backing) COMPREPLY=($(compgen -f -- "$cur")); return ;;
    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "--timeout -d --domain -c --connect -a --add --format --mount --allow-backing --verify-checksums --no-journal -v --verbose -q --quiet -h --help -V --version" -- "$cur"))
    else
        COMPREPLY=($(compgen -f -- "$cur"))
    fi
}
complete -o filenames -F _virt_tar_out virt-tar-out

_virt_sandbox() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    case $prev in
        -c|--connect) COMPREPLY=(); return ;;
        --mount) COMPREPLY=(); return ;;
        --include) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --disk) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --overlay-dir) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --user) COMPREPLY=(); return ;;
        --env) COMPREPLY=(); return ;;
        --cwd) COMPREPLY=(); return ;;
        --hostname) COMPREPLY=(); return ;;
        --network) COMPREPLY=(); return ;;
        --allow) COMPREPLY=(); return ;;
        --publish) COMPREPLY=(); return ;;
        --cpu-shares) COMPREPLY=(); return ;;
        --pin-cpus) COMPREPLY=(); return ;;
        --numa) COMPREPLY=(); return ;;
        --io-read) COMPREPLY=(); return ;;
        --io-write) COMPREPLY=(); return ;;
        --net-rate) COMPREPLY=(); return ;;
        --pids) COMPREPLY=(); return ;;
        --kernel) COMPREPLY=(); return ;;
        --append) COMPREPLY=(); return ;;
        --accel) COMPREPLY=($(compgen -W "auto kvm tcg" -- "$cur")); return ;;
        --machine) COMPREPLY=($(compgen -W "auto microvm pc q35" -- "$cur")); return ;;
        --transport) COMPREPLY=($(compgen -W "auto 9p virtiofs" -- "$cur")); return ;;
        --memory) COMPREPLY=(); return ;;
        --cpus) COMPREPLY=(); return ;;
        --timeout) COMPREPLY=(); return ;;
        --desktop) COMPREPLY=(); return ;;
        --icc) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --pool) COMPREPLY=(); return ;;
        --service) COMPREPLY=(); return ;;
    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "-c --connect --mount --include --disk --overlay --overlay-dir --user --root --env --cwd --hostname --network --allow --publish --cpu-shares --pin-cpus --numa --io-read --io-write --net-rate --pids --kernel --append --accel --machine --transport --no-snapshot --memory --cpus --timeout -t --tty -T --no-tty --desktop --wayland --icc --pool --no-pool --service --dry-run --list-backends --gc -v --verbose -q --quiet -h --help -V --version" -- "$cur"))
    else
        COMPREPLY=($(compgen -f -- "$cur"))
    fi
}
complete -o filenames -F _virt_sandbox virt-sandbox

_virt_rescue() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    case $prev in
        -a|--add) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --format) COMPREPLY=(); return ;;
        --kernel) COMPREPLY=(); return ;;
        --append) COMPREPLY=(); return ;;
        --accel) COMPREPLY=($(compgen -W "auto kvm tcg" -- "$cur")); return ;;
        --machine) COMPREPLY=($(compgen -W "auto microvm pc q35" -- "$cur")); return ;;
        --transport) COMPREPLY=($(compgen -W "auto 9p virtiofs" -- "$cur")); return ;;
        --memory) COMPREPLY=(); return ;;
        --cpus) COMPREPLY=(); return ;;
        --timeout) COMPREPLY=(); return ;;
    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "-a --add --format --rw -w --network --kernel --append --accel --machine --transport --no-snapshot --memory --cpus --timeout -v --verbose -q --quiet -h --help -V --version" -- "$cur"))
    else
        COMPREPLY=($(compgen -f -- "$cur"))
    fi
}
complete -o filenames -F _virt_rescue virt-rescue

_virt_run() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    case $prev in
        -a|--add) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --format) COMPREPLY=(); return ;;
        --kernel) COMPREPLY=(); return ;;
        --append) COMPREPLY=(); return ;;
        --accel) COMPREPLY=($(compgen -W "auto kvm tcg" -- "$cur")); return ;;
        --machine) COMPREPLY=($(compgen -W "auto microvm pc q35" -- "$cur")); return ;;
        --transport) COMPREPLY=($(compgen -W "auto 9p virtiofs" -- "$cur")); return ;;
        --memory) COMPREPLY=(); return ;;
        --cpus) COMPREPLY=(); return ;;
        --timeout) COMPREPLY=(); return ;;
    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "-a --add --format --rw -w --network --kernel --append --accel --machine --transport --no-snapshot --memory --cpus --timeout -v --verbose -q --quiet -h --help -V --version" -- "$cur"))
    else
        COMPREPLY=($(compgen -f -- "$cur"))
    fi
}
complete -o filenames -F _virt_run virt-run

_virt_boot_benchmark() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    case $prev in
        -n|--passes) COMPREPLY=(); return ;;
        -c|--connect) COMPREPLY=(); return ;;
        --smp) COMPREPLY=(); return ;;
        --memsize) COMPREPLY=(); return ;;
        --append) COMPREPLY=(); return ;;
        --kernel) COMPREPLY=(); return ;;
        --machine) COMPREPLY=($(compgen -W "auto microvm pc q35" -- "$cur")); return ;;
        --accel) COMPREPLY=($(compgen -W "auto kvm tcg" -- "$cur")); return ;;
        --transport) COMPREPLY=($(compgen -W "auto 9p virtiofs" -- "$cur")); return ;;
        --vs) COMPREPLY=(); return ;;
    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "-n --passes -c --connect --smp --memsize --append --kernel --machine --accel --transport --snapshot --vs -v --verbose -q --quiet -h --help -V --version" -- "$cur"))
    else
        COMPREPLY=($(compgen -f -- "$cur"))
    fi
}
complete -o filenames -F _virt_boot_benchmark virt-boot-benchmark

_virt_sandbox_service() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    case $prev in
        --unit) COMPREPLY=(); return ;;
        -c|--connect) COMPREPLY=(); return ;;
        --size) COMPREPLY=(); return ;;
    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "--unit -c --connect --size --all -v --verbose -q --quiet -h --help -V --version" -- "$cur"))
    else
        COMPREPLY=($(compgen -f -- "$cur"))
    fi
}
complete -o filenames -F _virt_sandbox_service virt-sandbox-service

_virt_boot_analysis() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    case $prev in
        -n|--passes) COMPREPLY=(); return ;;
        -c|--connect) COMPREPLY=(); return ;;
        --smp) COMPREPLY=(); return ;;
        --memsize) COMPREPLY=(); return ;;
        --append) COMPREPLY=(); return ;;
        --kernel) COMPREPLY=(); return ;;
        --machine) COMPREPLY=($(compgen -W "auto microvm pc q35" -- "$cur")); return ;;
        --accel) COMPREPLY=($(compgen -W "auto kvm tcg" -- "$cur")); return ;;
        --transport) COMPREPLY=($(compgen -W "auto 9p virtiofs" -- "$cur")); return ;;
        --initrd) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --disk) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --until) COMPREPLY=(); return ;;
        --timeout) COMPREPLY=(); return ;;
        --log) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --load) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --diff) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --save) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --svg) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --html) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --trace) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --width) COMPREPLY=(); return ;;
    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "-n --passes -c --connect --smp --memsize --append --kernel --machine --accel --transport --snapshot --json --no-detail --initrd --disk --until --timeout --log --load --diff --save --svg --html --trace --width -v --verbose -q --quiet -h --help -V --version" -- "$cur"))
    else
        COMPREPLY=($(compgen -f -- "$cur"))
    fi
}
complete -o filenames -F _virt_boot_analysis virt-boot-analysis

_virt_lockcheck() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    case $prev in
        -p|--build) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --rules) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --entry) COMPREPLY=(); return ;;
        -I) COMPREPLY=(); return ;;
        -D) COMPREPLY=(); return ;;
        --cflags) COMPREPLY=(); return ;;
        -j|--jobs) COMPREPLY=(); return ;;
        --cache) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --graph) COMPREPLY=(); return ;;
        --graph-format) COMPREPLY=($(compgen -W "svg dot text" -- "$cur")); return ;;
        --baseline) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --write-baseline) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --reason) COMPREPLY=(); return ;;
        --diff-base) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --color) COMPREPLY=($(compgen -W "auto always never" -- "$cur")); return ;;
    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "-p --build --rules --list-rules --entry -I -D --cflags -j --jobs --cache --no-cache -J --json --sarif --functions --why --graph --graph-format --baseline --write-baseline --reason --diff-base --color -v --verbose -q --quiet -h --help -V --version" -- "$cur"))
    else
        COMPREPLY=($(compgen -f -- "$cur"))
    fi
}
complete -o filenames -F _virt_lockcheck virt-lockcheck

_bitmatch() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    case $prev in
        -p|--pattern) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --offset) COMPREPLY=(); return ;;
        --count) COMPREPLY=(); return ;;
        --struct) COMPREPLY=(); return ;;
        -t|--target) COMPREPLY=(); return ;;
        -I|--include) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        -D|--define) COMPREPLY=(); return ;;
        --before) COMPREPLY=(); return ;;
        --base) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        -o|--columns) COMPREPLY=($(compgen -P "${cur%"${cur##*,}"}" -W "offset bit size_bits field value name size_bytes text" -- "${cur##*,}")); compopt -o nospace; return ;;
        --sort) COMPREPLY=($(compgen -P "${cur%"${cur##*,}"}" -W "offset bit size_bits field value name size_bytes text" -- "${cur##*,}")); compopt -o nospace; return ;;
        --color) COMPREPLY=($(compgen -W "auto always never" -- "$cur")); return ;;
    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "-p --pattern --offset --count --struct --python -t --target -I --include -D --define --before --base -J --json --jsonl --csv -o --columns --sort -n --no-headings --color -v --verbose -q --quiet -h --help -V --version" -- "$cur"))
    else
        COMPREPLY=($(compgen -f -- "$cur"))
    fi
}
complete -o filenames -F _bitmatch bitmatch

_virtscope() {
    if [[ $COMP_CWORD -eq 1 ]]; then
        COMPREPLY=($(compgen -W "ps dmesg uname ifconfig df filesystems ls cat tail stat copy-out tar-out sandbox rescue run boot-benchmark sandbox-service boot-analysis lockcheck bitmatch completion man" -- "${COMP_WORDS[1]}"))
        return
    fi
    case ${COMP_WORDS[1]} in
        ps|virt-ps) _virt_ps ;;
        dmesg|virt-dmesg) _virt_dmesg ;;
        uname|virt-uname) _virt_uname ;;
        ifconfig|virt-ifconfig) _virt_ifconfig ;;
        df|virt-df) _virt_df ;;
        filesystems|virt-filesystems) _virt_filesystems ;;
        ls|virt-ls) _virt_ls ;;
        cat|virt-cat) _virt_cat ;;
        tail|virt-tail) _virt_tail ;;
        stat|virt-stat) _virt_stat ;;
        copy-out|virt-copy-out) _virt_copy_out ;;
        tar-out|virt-tar-out) _virt_tar_out ;;
        sandbox|virt-sandbox) _virt_sandbox ;;
        rescue|virt-rescue) _virt_rescue ;;
        run|virt-run) _virt_run ;;
        boot-benchmark|virt-boot-benchmark) _virt_boot_benchmark ;;
        sandbox-service|virt-sandbox-service) _virt_sandbox_service ;;
        boot-analysis|virt-boot-analysis) _virt_boot_analysis ;;
        lockcheck|virt-lockcheck) _virt_lockcheck ;;
        bitmatch|bitmatch) _bitmatch ;;
    esac
}
complete -o filenames -F _virtscope virtscope
