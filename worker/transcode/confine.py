"""Locks that a process puts on itself before it touches a stranger's file. Linux only; no imports beyond the standard library.

Every lock is inherited across ``execve`` and cannot be taken off again:

* **files**: Landlock; only the job's folder can be written, only it, the program and the system's libraries can be read;
* **network**: a seccomp filter refuses sockets of every kind (and what could smuggle one in: io_uring, ptrace, …), and Landlock refuses TCP;
* **limits**: CPU time, memory, file size and open files;
* **privileges**: no new ones, and all capabilities dropped.
"""

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
from collections.abc import Iterable, Mapping

_libc = ctypes.CDLL(None, use_errno=True)

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_SECCOMP_MODE_FILTER = 2
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446  # the same numbers on every architecture

# Landlock's access rights, by the ABI that brought them.
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_ALL_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_ALL_LATER = (1 << 16) - 1
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
READ = _READ_FILE | _READ_DIR
RUN = READ | _EXECUTE
# Everything but devices, sockets, links and running what was written.
_MAKE_REG, _REMOVE_FILE = 1 << 8, 1 << 5
WORK = READ | _WRITE_FILE | _REMOVE_FILE | _MAKE_REG | _TRUNCATE

# System calls that nothing which converts audio needs, and that could reach the network, other processes or the kernel.
_DENIED: Mapping[str, tuple[int, tuple[int, ...]]] = {
    # audit architecture; socket … socketpair, ptrace, process_vm_*, io_uring_*, bpf, perf, userfaultfd, keys, mounts, namespaces, signals to others
    "x86_64": (
        0xC000003E,
        (41, 42, 43, 44, 46, 49, 50, 53, 288, 307, 101, 310, 311, 425, 426, 427, 321, 298, 323, 248, 249, 250, 165, 166, 155, 161,
         272, 308, 303, 304, 438, 434, 424, 62, 200, 129, 322, 175, 313, 169, 246, 320, 428, 429, 430, 431, 432, 442),
    ),
    "aarch64": (
        0xC00000B7,
        (198, 199, 200, 201, 202, 203, 206, 211, 242, 269, 117, 270, 271, 425, 426, 427, 280, 241, 282, 217, 218, 219, 40, 39, 41, 51,
         97, 268, 264, 265, 438, 434, 424, 129, 130, 138, 281, 105, 273, 142, 104, 294, 428, 429, 430, 431, 432, 442),
    ),
}  # fmt: skip


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _prctl(option: int, second: int = 0, third: int = 0) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(second), ctypes.c_ulong(third), ctypes.c_ulong(0), ctypes.c_ulong(0)))


def die_with_parent(parent: int) -> None:
    """Be killed when the parent process ends. ``parent`` is its id: if it is gone already, end here."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(125)


def limit(values: Mapping[str, int]) -> None:
    """Set resource limits by name (``CPU``, ``DATA``, ``FSIZE``, ``NOFILE``, ``CORE``, …), soft and hard alike."""
    for name, value in values.items():
        number = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(number)[1]
        ceiling = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (ceiling, ceiling))


def landlock_abi() -> int:
    """The kernel's Landlock version, 0 where there is none."""
    found = _libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    return max(0, int(found))


def lock_files(rights: Iterable[tuple[str, int]]) -> bool:
    """Leave only the given paths reachable, each with its rights; and no TCP. False where the kernel has no Landlock."""
    abi = landlock_abi()
    if not abi:
        return False
    every = _ALL_BY_ABI.get(abi, _ALL_LATER)
    attributes = struct.pack("=QQQ", every, 0b11, 0b11)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    ruleset = _check(_libc.syscall(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0)))
    try:
        for path, allowed in rights:
            try:
                handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                wanted = allowed & every
                if not os.path.isdir(path):
                    wanted &= _FILE_RIGHTS
                rule = struct.pack("=Qi", wanted, handle)
                _check(_libc.syscall(_LANDLOCK_ADD, ruleset, 1, rule, ctypes.c_uint32(0)))
            finally:
                os.close(handle)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _check(_libc.syscall(_LANDLOCK_RESTRICT, ruleset, ctypes.c_uint32(0)))
    finally:
        os.close(ruleset)
    return True


def drop_capabilities() -> None:
    """Give up every capability, so that even root is bound by file permissions and cannot mount, trace or load anything."""
    header = struct.pack("=Ii", 0x20080522, 0)
    _check(_libc.capset(header, struct.pack("=6I", 0, 0, 0, 0, 0, 0)))


def _filter_program(machine: str) -> bytes | None:
    if machine not in _DENIED:
        return None
    architecture, numbers = _DENIED[machine]
    load, jump_equal, jump_at_least, give = 0x20, 0x15, 0x35, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
    code = [(load, 0, 0, 4), (jump_equal, 1, 0, architecture), (give, 0, 0, kill), (load, 0, 0, 0)]
    code.append((jump_at_least, len(numbers) + 1, 0, 0x40000000))  # x32's numbers would slip past the list
    code += [(jump_equal, len(numbers) - index, 0, number) for index, number in enumerate(numbers)]
    code += [(give, 0, 0, allow), (give, 0, 0, refuse)]
    return b"".join(struct.pack("=HBBI", *step) for step in code)


_PROGRAM = _filter_program(platform.machine())  # once: working it out takes longer than all the other locks together


def lock_calls() -> bool:
    """Refuse sockets and other calls that reach outside. False where there is no seccomp or no list for this processor."""
    program = _PROGRAM
    if program is None:
        return False
    buffer = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("@HxxxxxxP", len(program) // 8, ctypes.addressof(buffer)))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    try:
        _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(header))
    except OSError:
        return False
    return True
