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
        -o|--columns) COMPREPLY=($(compgen -P "${cur%"${cur##*,}"}" -W "pid ppid pgid sid pgleader sleader lwp nspid tty tname tpgid uid euid ruid suid fuid gid egid rgid sgid fgid user group supgid s stat f psr ni pri opri priority rtprio cls nlwp wchan time times utime systime c pcpu stime start lstart etime etimes vsz rss sz pmem addr cgroup exe cwd root cgroupns ipcns mntns netns pidns timens userns utsns comm ucmd args cmd" -- "${cur##*,}")); compopt -o nospace; return ;;
        --sort) COMPREPLY=($(compgen -P "${cur%"${cur##*,}"}" -W "pid ppid pgid sid pgleader sleader lwp nspid tty tname tpgid uid euid ruid suid fuid gid egid rgid sgid fgid user group supgid s stat f psr ni pri opri priority rtprio cls nlwp wchan time times utime systime c pcpu stime start lstart etime etimes vsz rss sz pmem addr cgroup exe cwd root cgroupns ipcns mntns netns pidns timens userns utsns comm ucmd args cmd" -- "${cur##*,}")); compopt -o nospace; return ;;
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

_virtscope() {
    if [[ $COMP_CWORD -eq 1 ]]; then
        COMPREPLY=($(compgen -W "ps dmesg uname ifconfig completion man" -- "${COMP_WORDS[1]}"))
        return
    fi
    case ${COMP_WORDS[1]} in
        ps|virt-ps) _virt_ps ;;
        dmesg|virt-dmesg) _virt_dmesg ;;
        uname|virt-uname) _virt_uname ;;
        ifconfig|virt-ifconfig) _virt_ifconfig ;;
    esac
}
complete -o filenames -F _virtscope virtscope
