"""The port of a live page: whether it is free, which program uses it, and how to reach it through ssh."""

import errno
import getpass
import socket
from pathlib import Path

from compact_splats.utils.errors import InputError

_LISTENING = "0A"  # in /proc/net/tcp
_TRIED = 100  # ports after the one in use


def check_port(host: str, port: int) -> None:
    """Check that a server can listen on a port.

    Args:
        host: address to listen on.
        port: 0: any free one.

    Raises:
        InputError: the port is in use or needs root, or the address is not one of this machine.
    """
    try:
        _try(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            free = next((each for each in range(port + 1, min(port + _TRIED, 65536)) if _is_free(host, each)), 0)
            raise InputError(f"port {port} is in use by {_user_of(port)}; use port {free}") from error
        if error.errno == errno.EACCES:
            raise InputError(f"port {port} needs root; use a port from 1024 on") from error
        raise InputError(f"--host {host} is not an address of this machine ('{error}'); try 127.0.0.1") from error


def how_to_open(host: str, port: int) -> str:
    """Lines for the user: the address of the page, and how to reach it from another machine."""
    everywhere = host in ("0.0.0.0", "::", "")
    lines = [f"open http://{'localhost' if everywhere else host}:{port} in a browser; Ctrl-C ends"]
    login = f"{_user_name()}@{socket.gethostname()}"
    if everywhere:
        lines.append(f"reachable from the network, without a password, on port {port} of this machine")
    else:
        lines.append(
            f"from another machine: ssh -L {port}:{host}:{port} {login}, and open http://localhost:{port} there"
        )
    return "\n".join(lines)


def _try(host: str, port: int) -> None:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    with socket.socket(family, socket.SOCK_STREAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do, to ignore closed connections
        server.bind((host, port))
        server.listen()


def _is_free(host: str, port: int) -> bool:
    try:
        _try(host, port)
    except OSError:
        return False
    return True


def _user_of(port: int) -> str:
    """The program that listens on a port; known on Linux for programs of the same user."""
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(link.readlink()) in sockets for link in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (process {process.name})"
        except OSError:  # a process of another user, or ended
            continue
    return "another program"


def _listening(port: int) -> list[str]:
    """The inodes of the sockets that listen on a port."""
    lines = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines += [line.split() for line in Path(table).read_text().splitlines()[1:]]
        except OSError:
            continue
    return [fields[9] for fields in lines if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port]


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without user names
        return "USER"
