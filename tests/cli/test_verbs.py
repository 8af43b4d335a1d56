#!/usr/bin/python3
"""Every verb of one host, its output, its JSON and its exit status."""

import pathlib
import re
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from squall_daemon import Daemon

MIB = 1 << 20


class Verbs(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon()
        cls.daemon.__enter__()
        cls.addClassCleanup(cls.daemon.__exit__, None, None, None)

    def run_squall(self, *args):
        return self.daemon.squall(*args, check=False)

    def assert_error(self, result, status, *words):
        """One line on stderr, nothing on stdout."""
        self.assertEqual(result.returncode, status, result.stderr)
        self.assertEqual(result.stdout, "")
        self.assertRegex(result.stderr, r"\Asquall: .*\n\Z")
        self.assertEqual(result.stderr.count("\n"), 1)
        for word in words:
            self.assertIn(word, result.stderr)

    def test_volume_life(self):
        squall, json = self.daemon.squall, self.daemon.json
        self.assertIn("volume v created, 64M", squall("volume", "create", "v", "--size", "64M").stdout)
        info = json("volume", "show", "v")
        self.assertEqual(info["size_bytes"], 64 * MIB)
        self.assertEqual(info["cache"], "writeback")
        self.assertEqual(info["durability"], "host")
        self.assertEqual(info["parent"], "")
        for field in ("id", "created_s", "stateless", "shared", "store", "epoch", "snapshots",
                      "open", "dirty_bytes", "bytes_read", "bytes_written"):
            self.assertIn(field, info)
        self.assertIn("v", [volume["name"] for volume in json("volume", "list")])

        with_data = self.daemon.nbd("v")
        with_data.pwrite(b"one" + bytes(509), 0)
        squall("snapshot", "create", "v@a")
        with_data.pwrite(b"two" + bytes(509), 0)
        with_data.shutdown()
        self.assertEqual([s["name"] for s in json("snapshot", "list", "v")], ["a"])
        self.assertIn("v@a", squall("snapshot", "list", "v").stdout)
        self.assertEqual(json("volume", "show", "v")["bytes_written"], 1024)

        squall("volume", "create", "clone", "--from", "v@a", "--cache", "directsync")
        self.assertEqual(json("volume", "show", "clone")["parent"], "v@a")
        self.assertEqual(json("volume", "show", "clone")["cache"], "directsync")
        self.assertEqual(bytes(self.daemon.nbd("clone").pread(3, 0)), b"one")
        self.assertEqual(bytes(self.daemon.nbd("v").pread(3, 0)), b"two")
        self.assertEqual(bytes(self.daemon.nbd("v@a").pread(3, 0)), b"one")

        squall("volume", "rollback", "v@a")
        self.assertEqual(bytes(self.daemon.nbd("v").pread(3, 0)), b"one")
        squall("volume", "resize", "v", "128M")
        self.assertEqual(json("volume", "show", "v")["size_bytes"], 128 * MIB)

        squall("image", "create", "from-v", "--from", "v@a")
        self.assertEqual(json("image", "show", "from-v")["size_bytes"], 64 * MIB)
        squall("volume", "remove", "v", "clone")
        self.assert_error(self.run_squall("volume", "show", "v"), 1, "v")
        self.assertEqual(bytes(self.daemon.nbd("from-v").pread(3, 0)), b"one")
        squall("image", "remove", "from-v")

    def test_many_volumes_at_once(self):
        made = self.daemon.json("volume", "create", "n", "--size", "1G", "--count", "25")
        self.assertEqual([v["name"] for v in made], [f"n-{i}" for i in range(1, 26)])
        clash = self.run_squall("volume", "create", "n", "--size", "1G", "--count", "30")
        self.assert_error(clash, 1, "n-1")
        names = [v["name"] for v in self.daemon.json("volume", "list")]
        self.assertNotIn("n-30", names)
        self.daemon.squall("volume", "remove", *(f"n-{i}" for i in range(1, 26)))
        made = self.daemon.json("volume", "create", "n", "--size", "1G", "--count", "1")
        self.assertEqual([v["name"] for v in made], ["n-1"])
        self.daemon.squall("volume", "remove", "n-1")

    def test_a_volume_in_use_is_not_removed_unless_forced(self):
        self.daemon.squall("volume", "create", "busy", "--size", "16M")
        handle = self.daemon.nbd("busy")
        handle.pwrite(bytes(512), 0)
        self.assert_error(self.run_squall("volume", "remove", "busy"), 1, "busy", "--force")
        self.daemon.squall("volume", "remove", "busy", "--force")
        with self.assertRaises(Exception):
            handle.pread(512, 0)

    def test_snapshot_removal(self):
        squall = self.daemon.squall
        squall("volume", "create", "s", "--size", "16M")
        for name in ("a", "b", "c"):
            squall("snapshot", "create", "s@" + name)
        self.assert_error(self.run_squall("snapshot", "create", "s@a"), 1, "s@a")
        squall("snapshot", "remove", "s@b")
        names = [s["name"] for s in self.daemon.json("snapshot", "list", "s")]
        self.assertEqual(sorted(names), ["a", "c"])
        self.assertEqual(self.daemon.json("volume", "show", "s")["snapshots"], 2)
        self.assert_error(self.run_squall("snapshot", "remove", "s@b"), 1, "b")
        squall("volume", "remove", "s")

    def test_status_and_nodes(self):
        status = self.daemon.json("status")
        self.assertTrue(status["pool"].startswith("file:"))
        self.assertEqual(status["node"]["nbd_socket"], self.daemon.nbd_socket)
        self.assertEqual([s["name"] for s in status["stores"]], ["default"])
        self.assertGreater(status["memory_bytes"], 0)
        nodes = self.daemon.json("node", "list")
        self.assertEqual(len(nodes), 1)
        shown = self.daemon.json("node", "show", nodes[0]["name"])
        self.assertEqual(shown["pid"], self.daemon.process.pid)
        self.assert_error(self.run_squall("node", "show", "nobody"), 1, "nobody")
        self.assertIn("pool", self.daemon.squall("status").stdout)

    def test_tables_and_sizes(self):
        self.daemon.squall("volume", "create", "t", "--size", "10G")
        lines = self.daemon.squall("volume", "list").stdout.splitlines()
        self.assertRegex(lines[0], r"^NAME +SIZE +FROM")
        self.assertTrue(any(re.match(r"t +10G ", line) for line in lines), lines)
        shown = self.daemon.squall("volume", "show", "t", "--bytes").stdout
        self.assertRegex(shown, r"size +10737418240\n")
        self.assertIn("NAME", self.daemon.squall("image", "list").stdout)
        quiet = self.daemon.squall("--quiet", "volume", "resize", "t", "11G")
        self.assertEqual(quiet.stdout + quiet.stderr, "")
        self.daemon.squall("volume", "remove", "t")

    def test_wrong_usage_is_status_2(self):
        for args in (
            (),
            ("nonsense",),
            ("volume",),
            ("volume", "nonsense"),
            ("volume", "create", "x"),
            ("volume", "create", "x", "--size", "10Q"),
            ("volume", "create", "x", "--size", "1G", "--cache", "fast"),
            ("volume", "create", "x", "--size", "1G", "--durability", "moon"),
            ("volume", "create", "x", "--size", "1G", "--count", "0"),
            ("volume", "create", "x", "--size", "1G", "--unknown"),
            ("volume", "show"),
            ("volume", "rollback", "x"),
            ("snapshot", "create", "x"),
            ("snapshot", "create", "@x"),
            ("image", "import", "x"),
            ("init", "--store", "nodir"),
        ):
            with self.subTest(args=args):
                self.assert_error(self.run_squall(*args), 2, "--help")

    def test_failures_are_status_1(self):
        for args, word in (
            (("volume", "show", "none"), "none"),
            (("volume", "create", "x", "--from", "none"), "none"),
            (("volume", "create", "..", "--size", "1G"), ".."),
            (("volume", "create", "a/b", "--size", "1G"), "a/b"),
            (("volume", "create", "x", "--size", "1000"), "1000"),
            (("volume", "create", "x", "--size", "1G", "--store", "none"), "none"),
            (("volume", "rollback", "none@x"), "none"),
            (("image", "show", "none"), "none"),
            (("image", "remove", "none"), "none"),
            (("image", "create", "i", "--from", "none"), "none"),
            (("snapshot", "list", "none"), "none"),
            (("--socket", "/nonexistent", "status"), "squall serve"),
        ):
            with self.subTest(args=args):
                self.assert_error(self.run_squall(*args), 1, word)

    def test_help_and_version(self):
        for args in (("--help",), ("volume", "create", "--help"), ("--version",)):
            result = self.daemon.squall(*args)
            self.assertIn("squall" if args == ("--version",) else "-", result.stdout)

    def test_an_image_and_a_volume_do_not_share_a_name(self):
        self.daemon.squall("volume", "create", "both", "--size", "16M")
        result = self.run_squall("image", "create", "both", "--from", "both")
        self.assert_error(result, 1, "both")
        self.daemon.squall("volume", "remove", "both")


if __name__ == "__main__":
    unittest.main()
