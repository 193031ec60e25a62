# Sourced by the scripts that switch FUSE over io_uring on for a while: sets $uring, the kernel's
# parameter. They call put_back when they end.
uring=/sys/module/fuse/parameters/enable_uring
uring_before=

# Puts the parameter back if it was switched here.
put_back() {
    if [ -n "$uring_before" ]; then
        echo "$uring_before" > "$uring"
        uring_before=
    fi
}

# Fails where it may not be switched on.
switch_on() {
    local now
    now=$(cat "$uring")
    [ "$now" = Y ] && return
    uring_before=$now
    { echo Y > "$uring"; } 2> /dev/null && return
    uring_before=
    return 1
}
