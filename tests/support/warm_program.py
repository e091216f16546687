"""`fastvlm-mlx` for tests that start it often: each start is a fork of one process.

An import of the program takes a second, which the fork has behind it. Its arguments,
working folder, environment and streams are those of the caller, and so is its exit
code. `serve` is not forked: its process gets signals.
"""

import atexit
import io
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

# The client: small, so that it starts in no time.
_CLIENT = """#!{python} -IS
import json, os, socket, sys
if sys.argv[1:2] == ["serve"]:
    os.execv({program!r}, [{program!r}, *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as link:
    link.connect({address!r})
    asked = [sys.argv[1:], os.getcwd(), dict(os.environ)]
    socket.send_fds(link, [b"x"], [0, 1, 2])
    link.sendall(json.dumps(asked).encode())
    link.shutdown(socket.SHUT_WR)
    sys.exit(int(link.recv(9) or 70))
"""


@contextmanager
def warm_program(folder: Path, environment: Mapping[str, str]) -> Iterator[Path]:
    """A folder for PATH with a `fastvlm-mlx`, as long as the context is open.

    Args:
        folder: where it is made, and the socket; a short path.
        environment: of the process that imports the program.
    """
    address = folder / "socket"
    program = folder / "bin" / "fastvlm-mlx"
    program.parent.mkdir()
    real = Path(sys.executable).parent / "fastvlm-mlx"
    program.write_text(
        _CLIENT.format(python=sys.executable, program=str(real), address=str(address))
    )
    program.chmod(0o755)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.warm_program", str(address)],
        env=dict(environment),
        stdout=subprocess.PIPE,
    ) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.readline() == b"ready\n"
            yield program.parent
        finally:
            server.kill()


def _serve(address: str) -> None:
    import typer._adapters  # noqa: F401

    import fastvlm_mlx.app.caption.run
    import fastvlm_mlx.app.chat.run
    import fastvlm_mlx.app.evaluation.run
    import fastvlm_mlx.fastvlm  # noqa: F401

    assert len(os.listdir("/proc/self/task")) == 1, "a thread would be lost by a fork"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        while True:
            link, _ = listener.accept()
            if not os.fork():
                listener.close()
                link.send(b"%d" % _run(link))
                os._exit(0)
            link.close()


def _run(link: socket.socket) -> int:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, streams, _, _ = socket.recv_fds(link, 1, 3)
    data = bytearray()
    while part := link.recv(1 << 16):
        data += part
    arguments, folder, environment = json.loads(data)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = map(_text_stream, range(3))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["fastvlm-mlx", *arguments]
    from fastvlm_mlx.__main__ import main

    try:
        main()
    except SystemExit as end:
        code = 0 if end.code is None else end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    return code if isinstance(code, int) else 1


def _text_stream(number: int) -> io.TextIOWrapper:
    """As Python opens it at its start: what it is may have changed."""
    name = ("stdin", "stdout", "stderr")[number]
    raw = io.FileIO(number, "w" if number else "r", closefd=False)
    raw.name = f"<{name}>"
    buffered = io.BufferedWriter(raw) if number else io.BufferedReader(raw)
    return io.TextIOWrapper(buffered, line_buffering=number == 2)


if __name__ == "__main__":
    _serve(sys.argv[1])
