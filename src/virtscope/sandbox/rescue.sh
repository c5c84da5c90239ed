# Runs in the guest of virt-rescue and virt-run: finds filesystems and mounts them under /sysroot.
# Arguments: "run" or "shell", and 1 for read-only.
mode=$1 read_only=$2
PATH=/usr/sbin:/usr/bin:/sbin:/bin
modprobe -aq dm_mod md_mod raid1 raid456 dm_crypt ext4 xfs btrfs vfat ntfs3 2>/dev/null
command -v mdadm >/dev/null && mdadm --assemble --scan >/dev/null 2>&1
command -v vgchange >/dev/null && vgchange -ay --sysinit >/dev/null 2>&1

try() { # device, folder
    if [ "$read_only" = 1 ]; then
        # a journal that was not closed cannot be replayed here
        mount -o ro "$1" "$2" 2>/dev/null ||
            mount -o ro,noload "$1" "$2" 2>/dev/null ||
            mount -o ro,norecovery "$1" "$2" 2>/dev/null
    else
        mount "$1" "$2" 2>/dev/null
    fi
}

mkdir -p /sysroot /run/virtscope/probe
devices=
for entry in /sys/class/block/*; do
    name=${entry##*/}
    case $name in
        vd* | ubd* | md*) device=/dev/$name ;;
        dm-*) device=/dev/mapper/$(cat "$entry/dm/name") ;;
        *) continue ;;
    esac
    [ -n "$(ls -d "$entry/$name"?* 2>/dev/null)" ] && continue
    [ -b "$device" ] || continue
    [ "$(cat "/sys/class/block/$name/device/../serial" 2>/dev/null)" = overlay ] && continue
    kind=$(blkid -p -o value -s TYPE "$device" 2>/dev/null)
    case $kind in
        '' | swap | LVM2_member | linux_raid_member | crypto_LUKS) ;;
        *) devices="$devices $device" ;;
    esac
    echo "$device ${kind:-unknown}"
done

root=
for device in $devices; do
    try "$device" /run/virtscope/probe || continue
    if [ -e /run/virtscope/probe/etc/fstab ] || [ -e /run/virtscope/probe/etc/os-release ]; then
        root=$device
    fi
    umount /run/virtscope/probe
    [ -n "$root" ] && break
done

if [ -n "$root" ]; then
    try "$root" /sysroot && echo "$root on /sysroot"
    if [ -e /sysroot/etc/fstab ]; then
        while read -r what where _; do
            case $what in '' | \#*) continue ;; esac
            case $where in / | none | swap | /proc* | /sys* | /dev* | /tmp*) continue ;; esac
            case /$where/ in */../*) continue ;; esac
            case $what in
                UUID=* | LABEL=* | PARTUUID=* | PARTLABEL=*) device=$(blkid -l -o device -t "$what" 2>/dev/null) ;;
                /dev/*) device=$what ;;
                *) continue ;;
            esac
            [ -b "$device" ] && [ -d "/sysroot$where" ] && try "$device" "/sysroot$where" &&
                echo "$device on /sysroot$where"
        done </sysroot/etc/fstab
    fi
else
    # shellcheck disable=SC2086
    set -- $devices
    if [ $# = 1 ]; then
        try "$1" /sysroot && echo "$1 on /sysroot"
    else
        mount -t tmpfs -o mode=755 none /sysroot
        for device in "$@"; do
            mkdir -p "/sysroot/${device##*/}"
            try "$device" "/sysroot/${device##*/}" && echo "$device on /sysroot/${device##*/}"
        done
    fi
fi

if [ "$mode" = run ]; then
    for folder in proc sys dev; do
        [ -d /sysroot/$folder ] && mount --rbind /$folder /sysroot/$folder
    done
    for folder in tmp run; do
        [ -d /sysroot/$folder ] && mount -t tmpfs -o mode=1777 none /sysroot/$folder
    done
fi
exit 0
