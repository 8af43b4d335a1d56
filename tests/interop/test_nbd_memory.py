#!/usr/bin/python3
"""The NBD server alone, over disks in memory: runs each nbd_*.py beside this file against one
$SQUALL_BIN/nbd_memory_server, then checks that the server is still there and stops when told.

It serves: disk (64 MiB), disk2 (64 MiB), image (64 MiB, read-only), shared (64 MiB, several
writers), slow (64 MiB, 20 ms a request), odd (1 MiB + 513 bytes) and 2,000 empty disks many-0 ...
many-1999. The scripts find it through NBD_SOCKET, NBD_PORT and NBD_PID; NBD_URI and NBD_IMAGE_URI
name one writable and one read-only export.
"""
import os
import signal
import subprocess
import sys
import tempfile

MIB = 1 << 20


SCRIPTS = ["nbd_protocol.py", "nbd_admission.py", "nbd_tools.py"]


def start(binary, socket):
    """The running server and its TCP port."""
    disks = [f"disk:{64 * MIB}", f"disk2:{64 * MIB}", f"image:{64 * MIB}:ro",
             f"shared:{64 * MIB}:shared", f"slow:{64 * MIB}:slow", f"odd:{MIB + 513}"]
    disks += [f"many-{i}:{MIB}" for i in range(2000)]
    server = subprocess.Popen([binary, socket, *disks, "--tcp", "0"], stdout=subprocess.PIPE,
                              text=True)
    port = ""
    for line in server.stdout:
        if line.startswith("port "):
            port = line.split()[1]
        if line == "ready\n":
            return server, port
    sys.exit("the server did not start")


def stop(server):
    server.send_signal(signal.SIGTERM)
    try:
        output, _ = server.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        server.kill()
        sys.exit("the server did not stop")
    print(output, end="")
    if server.returncode != 0 or " open 0 " not in output:
        sys.exit(f"the server ended badly: {server.returncode}")


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    with tempfile.TemporaryDirectory(prefix="squall-nbd-") as directory:
        socket = os.path.join(directory, "nbd.sock")
        server, port = start(os.path.join(os.environ["SQUALL_BIN"], "nbd_memory_server"), socket)
        environment = dict(os.environ, NBD_SOCKET=socket, NBD_PORT=port, NBD_PID=str(server.pid),
                           NBD_URI=f"nbd+unix:///disk?socket={socket}",
                           NBD_IMAGE_URI=f"nbd+unix:///image?socket={socket}")
        for script in sys.argv[1:] or SCRIPTS:
            print(f"--- {script}", flush=True)
            status = subprocess.run([sys.executable, os.path.join(here, script)], env=environment)
            if server.poll() is not None:
                sys.exit(f"the server died: {server.returncode}")
            if status.returncode != 0:
                server.kill()
                sys.exit(f"{script} failed")
        stop(server)


if __name__ == "__main__":
    main()
