"""System calls a program may not make, as a compiled seccomp filter. Limits on quantities are set by the run itself.

The list refuses what no answer to a programming problem needs and a hostile one does: other processes, the network,
other programs, tracing, mounts, kernel keys and the like. Making one of these ends the program (verdict
``forbidden``); what honest library code may try in passing fails with EPERM instead.
"""

from __future__ import annotations

import errno
import functools
import importlib
import os
import tempfile
from typing import Any

_CLONE_THREAD = 0x00010000

# Kept as running text: a list of one name a line would be four screens long.
_KILLED = """
    fork vfork execve execveat
    socket connect bind listen accept accept4
    ptrace process_vm_readv process_vm_writev pidfd_getfd pidfd_send_signal kcmp process_madvise
    mount umount2 pivot_root chroot move_mount open_tree fsopen fsconfig fsmount fspick mount_setattr
    unshare setns bpf perf_event_open io_uring_setup io_uring_enter io_uring_register userfaultfd
    keyctl add_key request_key init_module finit_module delete_module kexec_load kexec_file_load reboot
    swapon swapoff acct quotactl iopl ioperm settimeofday clock_settime clock_adjtime adjtimex
    sethostname setdomainname shmget msgget semget mq_open name_to_handle_at open_by_handle_at
    fanotify_init syslog vhangup seccomp
"""
_REFUSED = """
    memfd_create memfd_secret setpriority ioprio_set
    sched_setaffinity sched_setscheduler sched_setattr sched_setparam
"""
_SIGNALS = "kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo"
_WRITES = """
    creat openat2 unlink unlinkat rename renameat renameat2 mkdir mkdirat rmdir link linkat symlink symlinkat
    mknod mknodat truncate chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat
    utime utimes utimensat futimesat setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr
"""
"""With ``open`` limited to reading, what a program without a file system of its own must not do to the user's."""


@functools.cache
def compiled_syscall_filter(has_namespaces: bool) -> bytes:
    """The filter as the kernel takes it.

    Args:
        has_namespaces: processes and files a run can reach are its own, so it may signal and write to them.
    Raises:
        ImportError: pyseccomp is not installed.
        RuntimeError: libseccomp is not installed.
    """
    pyseccomp: Any = importlib.import_module("pyseccomp")  # it has no types
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for name in (_KILLED if has_namespaces else _KILLED + _SIGNALS).split():
        _add(rules, pyseccomp.KILL_PROCESS, name)
    for name in _REFUSED.split():
        _add(rules, pyseccomp.ERRNO(errno.EPERM), name)
    if not has_namespaces:
        for name in _WRITES.split():
            _add(rules, pyseccomp.ERRNO(errno.EPERM), name)
        for name, at in (("open", 1), ("openat", 2)):
            for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC):
                _add(rules, pyseccomp.ERRNO(errno.EPERM), name, pyseccomp.Arg(at, pyseccomp.MASKED_EQ, flags, flags))
    # A new thread is fine, a new process is not. clone3 hides its flags behind a pointer: glibc takes ENOSYS as
    # "old kernel" and uses clone.
    _add(rules, pyseccomp.KILL_PROCESS, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _CLONE_THREAD, 0))
    _add(rules, pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    # Limits of another process of the same user, the template's among them.
    _add(rules, pyseccomp.ERRNO(errno.EPERM), "prlimit64", pyseccomp.Arg(0, pyseccomp.NE, 0))
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def _add(rules: Any, action: int, name: str, *conditions: Any) -> None:
    """Add a rule, unless this libseccomp or machine has no such call."""
    try:
        rules.add_rule(action, name, *conditions)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EFAULT, errno.EDOM):
            raise
