#!/usr/bin/python3
"""The daemon's life: init, start, stop, kill, configuration, locks, hostile control clients."""

import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from squall_daemon import Daemon, binary


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("squalld")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


class DaemonLife(unittest.TestCase):
    def start_alone(self, home):
        """Runs squalld until it ends by itself."""
        environment = dict(os.environ, SQUALL_HOME=home)
        return subprocess.run([binary("squalld")], env=environment, capture_output=True, text=True,
                              timeout=60)

    def assert_error(self, result, *words):
        self.assertEqual(result.returncode, 1)
        line = result.stderr.splitlines()[-1]
        self.assertTrue(line.startswith("squall: "), result.stderr)
        for word in words:
            self.assertIn(word, line)

    def test_stop_and_start_keep_everything(self):
        with Daemon() as daemon:
            daemon.squall("volume", "create", "v", "--size", "64M")
            handle = daemon.nbd("v")
            handle.pwrite(b"x" * 4096, 4096)
            self.assertEqual(daemon.stop(), 0)
            self.assertFalse(os.path.exists(daemon.control_socket))
            daemon.start()
            self.assertEqual(bytes(daemon.nbd("v").pread(4096, 4096)), b"x" * 4096)
            daemon.kill()
            daemon.start()
            self.assertEqual(bytes(daemon.nbd("v").pread(4096, 4096)), b"x" * 4096)

    def test_sigint_stops_too(self):
        with Daemon() as daemon:
            daemon.process.send_signal(signal.SIGINT)
            self.assertEqual(daemon.process.wait(30), 0)
            daemon._forget()

    def test_squall_serve_is_squalld(self):
        daemon = Daemon()
        try:
            daemon.init()
            process = subprocess.Popen([binary("squall"), "serve"], env=daemon.environment,
                                       stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            self.assertRegex(process.stdout.readline(), r"^squalld: ready, control .*, nbd .*\n$")
            self.assertEqual(daemon.json("status")["node"]["pid"], process.pid)
            process.terminate()
            self.assertEqual(process.wait(30), 0)
            process.stdout.close()
        finally:
            daemon.close()

    def test_without_init(self):
        with tempfile.TemporaryDirectory() as home:
            self.assert_error(self.start_alone(home), "squall init", home)
            with open(os.path.join(home, "squall.toml"), "w"):
                pass
            self.assert_error(self.start_alone(home), "squall init", "pool")

    def test_second_daemon_on_the_same_pool(self):
        with Daemon() as daemon:
            result = self.start_alone(daemon.home)
            self.assert_error(result, "in use by pid %d" % daemon.process.pid)
            self.assertTrue(daemon.is_running())
            # The first one still answers: its sockets were left alone.
            self.assertEqual(daemon.json("status")["node"]["pid"], daemon.process.pid)

    def test_init_twice_and_otherwise(self):
        with tempfile.TemporaryDirectory() as home:
            def init(*args):
                return subprocess.run([binary("squall"), "init", *args], capture_output=True,
                                      env=dict(os.environ, SQUALL_HOME=home), text=True)

            pool = os.path.join(home, "elsewhere")
            self.assertEqual(init("--pool", "file:" + pool, "--compression", "zstd").returncode, 0)
            with open(os.path.join(home, "squall.toml")) as file:
                written = file.read()
            self.assertIn(pool, written)
            self.assertEqual(init().returncode, 0)
            self.assertEqual(init("--store", "fast=" + os.path.join(home, "fast")).returncode, 0)
            self.assert_error(init("--pool", "file:/another"), pool)
            self.assert_error(init("--pool", "rados:vms"), "file:DIR")
            with open(os.path.join(home, "squall.toml")) as file:
                self.assertEqual(file.read(), written)
            daemon = Daemon()
            try:
                daemon.environment["SQUALL_HOME"] = home
                daemon.start()
                status = json.loads(subprocess.run(
                    [binary("squall"), "--json", "status"], env=dict(os.environ, SQUALL_HOME=home),
                    capture_output=True, text=True, check=True).stdout)
                self.assertEqual(sorted(s["name"] for s in status["stores"]), ["default", "fast"])
            finally:
                daemon.close()

    def test_bad_configuration_names_the_line(self):
        daemon = Daemon(config='nonsense = 1')
        try:
            daemon.init()
            result = self.start_alone(daemon.home)
            self.assert_error(result, "squall.toml:", "nonsense")
        finally:
            daemon.close()

    def test_nbd_over_tcp_when_configured(self):
        daemon = Daemon()
        try:
            daemon.init()
            path = os.path.join(daemon.home, "squall.toml")
            with open(path) as file:
                text = file.read()
            with open(path, "w") as file:
                file.write(text.replace("listen = []", 'listen = ["127.0.0.1:0"]'))
            daemon.start()
            daemon.squall("volume", "create", "v", "--size", "16M")
            address = daemon.json("status")["node"]["nbd_listen"][0]
            import nbd

            handle = nbd.NBD()
            handle.connect_uri(f"nbd://{address}/v")
            self.assertEqual(handle.get_size(), 16 << 20)
        finally:
            daemon.close()

    def test_readiness_is_told_to_the_service_manager(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "notify")
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
                receiver.bind(path)
                receiver.settimeout(30)
                with Daemon(environment={"NOTIFY_SOCKET": path}):
                    self.assertEqual(receiver.recv(100), b"READY=1")

    def test_control_socket_survives_nonsense(self):
        with Daemon() as daemon:
            for request in (
                b"\0" * 1000,
                b"GET / HTTP/9.9\r\n\r\n",
                b"POST /v1/volumes HTTP/1.1\r\nContent-Length: 5\r\n\r\n{{{{{",
                b"POST /v1/volumes HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n",
                b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\n\r\n",
            ):
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(daemon.control_socket)
                    client.settimeout(30)
                    try:
                        client.sendall(request)
                        client.shutdown(socket.SHUT_WR)
                        while client.recv(65536):
                            pass
                    except (BrokenPipeError, ConnectionResetError):
                        pass
            self.assertEqual(daemon.json("volume", "list"), [])

    def test_rest_speaks_http(self):
        with Daemon() as daemon:
            connection = UnixConnection(daemon.control_socket)

            def ask(method, path, body=None):
                connection.request(method, path, json.dumps(body) if body is not None else None)
                response = connection.getresponse()
                text = response.read()
                return response.status, json.loads(text) if text else None

            self.assertEqual(ask("GET", "/v1/volumes"), (200, []))
            status, made = ask("POST", "/v1/volumes", {"name": "v", "size_bytes": 1 << 20})
            self.assertEqual((status, made[0]["name"]), (201, "v"))
            status, error = ask("POST", "/v1/volumes", {"name": "v", "size_bytes": 1 << 20})
            self.assertEqual((status, error["kind"]), (409, "exists"))
            status, error = ask("POST", "/v1/volumes", {"name": "w", "sise_bytes": 1})
            self.assertEqual((status, error["kind"]), (400, "invalid"))
            self.assertEqual(ask("GET", "/v1/nothing")[0], 404)
            self.assertEqual(ask("PATCH", "/v1/volumes")[0], 405)
            self.assertEqual(ask("POST", "/v1/volumes/v/commit")[0], 204)
            self.assertEqual(ask("DELETE", "/v1/volumes/v")[0], 204)
            connection.close()


if __name__ == "__main__":
    unittest.main()
