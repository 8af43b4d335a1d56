#!/usr/bin/python3
"""What scripts rely on: --json of every listing parses and says the same as before a restart; exit
status 0, 1 or 2; an error is one line on stderr that names what it is about; --quiet says nothing.
"""
import json
import os
import subprocess

from support import MIB, Daemon, assert_one_line, binary, fails, make_sparse, run_checks

LISTINGS = (("image", "list"), ("image", "show", "template"), ("volume", "list"),
            ("volume", "show", "vm-1"), ("snapshot", "list", "vm-1"), ("node", "list"),
            ("fleet", "list"), ("status",))


def check_json(daemon):
    source = make_sparse(os.path.join(daemon.home, "source"), 4 * MIB)
    made = daemon.json("image", "import", "template", source)
    assert made["name"] == "template" and made["size_bytes"] == 4 * MIB
    made = daemon.json("volume", "create", "vm", "--from", "template", "--count", "3")
    assert [volume["name"] for volume in made] == ["vm-1", "vm-2", "vm-3"]
    made = daemon.json("volume", "create", "one", "--size", "1M", "--cache", "none", "--stateless")
    assert made[0]["cache"] == "none" and made[0]["stateless"]
    made = daemon.json("snapshot", "create", "vm-1@monday")
    assert (made["volume"], made["name"]) == ("vm-1", "monday")
    daemon.json("volume", "resize", "vm-2", "8M")
    daemon.json("volume", "rollback", "vm-1@monday")
    daemon.json("image", "create", "golden", "--from", "vm-1@monday")
    node = daemon.json("node", "list")[0]["name"]
    assert daemon.json("node", "show", node)["pid"] == daemon.process.pid
    before = [daemon.json(*listing) for listing in LISTINGS]
    for parsed, listing in zip(before, LISTINGS):
        assert isinstance(parsed, list if listing[1:2] == ("list",) else dict), listing
        # Global options may stand anywhere.
        done = daemon.squall(*listing, "--json")
        assert listing == ("status",) or json.loads(done.stdout) == parsed, listing
    assert [volume["name"] for volume in before[2]] == ["one", "vm-1", "vm-2", "vm-3"]
    assert [volume["parent"] for volume in before[2]] == ["", "template", "template", "template"]
    daemon.restart(crash=True)
    for parsed, listing in zip(before[:5], LISTINGS):
        assert daemon.json(*listing) == parsed, listing


def check_tables(daemon):
    """The same for people: every listing says something on stdout and nothing on stderr."""
    for listing in LISTINGS:
        done = daemon.squall(*listing)
        assert done.stdout.strip() and done.stderr == "", (listing, done)
    assert "vm-2" in daemon.squall("volume", "list").stdout
    assert str(8 * MIB) in daemon.squall("volume", "list", "--bytes").stdout
    done = daemon.squall("volume", "create", "q", "--size", "1M", "--quiet")
    assert done.stdout == "" and done.stderr == ""
    assert "volume q" in daemon.squall("volume", "resize", "q", "2M").stdout
    done = daemon.squall("volume", "remove", "q")
    assert done.stdout == "" and done.stderr == ""


def check_wrong_usage(daemon):
    for arguments in ((), ("no-such-verb",), ("volume",), ("volume", "no-such-verb"),
                      ("volume", "create"), ("volume", "create", "x"), ("volume", "list", "extra"),
                      ("volume", "create", "x", "--size", "lots"),
                      ("volume", "create", "x", "--size", "-1"),
                      ("volume", "create", "x", "--size", "1M", "--count", "0"),
                      ("volume", "create", "x", "--size", "1M", "--cache", "fast"),
                      ("volume", "create", "x", "--size", "1M", "--durability", "none"),
                      ("volume", "resize", "vm-1"), ("volume", "list", "--no-such-option"),
                      ("snapshot", "create", "vm-1"), ("snapshot", "create", "@monday"),
                      ("snapshot", "create", "vm-1@"), ("volume", "rollback", "vm-1"),
                      ("image", "import", "x"), ("image", "export", "template"),
                      ("init", "--store", "nowhere"), ("--socket",)):
        fails(daemon, *arguments, status=2, says=["--help"])


def check_failures(daemon):
    """Each names what it is about. None of them changes anything."""
    before = [daemon.json(*listing) for listing in LISTINGS[:5]]
    cases = {
        ("volume", "show", "no-such"): "no-such",
        ("image", "show", "no-such"): "no-such",
        ("node", "show", "no-such"): "no-such",
        ("fleet", "show", "no-such"): "no-such",
        ("fleet", "down", "no-such"): "no-such",
        ("volume", "remove", "no-such"): "no-such",
        ("image", "remove", "no-such"): "no-such",
        ("volume", "resize", "no-such", "1M"): "no-such",
        ("snapshot", "list", "no-such"): "no-such",
        ("snapshot", "create", "no-such@s"): "no-such",
        ("snapshot", "create", "vm-1@monday"): "vm-1@monday",
        ("snapshot", "remove", "vm-1@no-such"): "vm-1@no-such",
        ("volume", "rollback", "vm-1@no-such"): "vm-1@no-such",
        ("volume", "create", "x", "--from", "no-such"): "no-such",
        ("volume", "create", "x", "--from", "vm-1@no-such"): "vm-1@no-such",
        ("volume", "create", "x", "--from", "vm-1"): "vm-1@",
        ("volume", "create", "x", "--from", "template", "--size", "1M"): "size",
        ("volume", "create", "x", "--size", "1M", "--store", "no-such"): "no-such",
        ("volume", "create", "bad name", "--size", "1M"): "bad name",
        ("volume", "create", "../x", "--size", "1M"): "../x",
        ("volume", "create", "template", "--size", "1M"): "template",
        ("volume", "create", "vm", "--size", "1M", "--count", "3"): "vm-",
        ("volume", "create", "x", "--size", "1000"): "1000",
        ("image", "create", "x", "--from", "no-such"): "no-such",
        ("image", "create", "template", "--from", "vm-1"): "template",
        ("image", "export", "no-such", "/tmp/no-such-file"): "no-such",
        ("volume", "export", "no-such", "/tmp/no-such-file"): "no-such",
        ("snapshot", "create", "one@s"): "one",  # a stateless volume
        ("volume", "takeover", "vm-1"): "vm-1",
        ("volume", "create", "v" * 65, "--size", "1M"): "v" * 65,
    }
    for arguments, words in cases.items():
        fails(daemon, *arguments, says=[words])
        fails(daemon, "--json", *arguments, says=[words])
    assert not os.path.exists("/tmp/no-such-file")
    assert [daemon.json(*listing) for listing in LISTINGS[:5]] == before


def check_several(daemon):
    """A verb on several names stops at the first that fails; creation makes all or none."""
    daemon.squall("volume", "create", "n-2", "--size", "1M")
    fails(daemon, "volume", "create", "n", "--size", "1M", "--count", "3", says=["n-2"])
    names = {volume["name"] for volume in daemon.json("volume", "list")}
    assert "n-2" in names and "n-1" not in names and "n-3" not in names
    daemon.squall("volume", "remove", "n-2")


def check_help(daemon):
    for command in ((), ("volume",), ("volume", "create"), ("image", "import"), ("fleet", "up")):
        done = daemon.squall(*command, "--help")
        assert "Usage:" in done.stdout and done.stderr == "", (command, done)
    assert daemon.squall("--version").stdout.startswith("squall ")
    done = subprocess.run([binary("squalld"), "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("squalld "), done
    done = subprocess.run([binary("squalld"), "--nonsense"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "", done
    assert_one_line(done.stderr)


def check_sockets(daemon):
    """--socket and SQUALL_SOCKET find the daemon; nobody there is one clear line."""
    away = {**os.environ, "SQUALL_HOME": os.path.join(daemon.home, "elsewhere")}
    away.pop("SQUALL_SOCKET", None)

    def squall(*arguments, **environment):
        return subprocess.run([binary("squall"), *arguments], env={**away, **environment},
                              capture_output=True, text=True, timeout=60)

    assert squall("--socket", daemon.control_socket, "status").returncode == 0
    assert squall("status", SQUALL_SOCKET=daemon.control_socket).returncode == 0
    done = squall("status")
    assert done.returncode == 1 and "elsewhere" in done.stderr, done
    assert_one_line(done.stderr)
    done = subprocess.run([binary("squalld")], env=away, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "squall init" in done.stderr, done
    assert_one_line(done.stderr)
    daemon.kill()
    line = fails(daemon, "volume", "list", says=[daemon.home])
    print(line, end="")
    daemon.start()
    # Started once more, `squall init` changes nothing.
    daemon.stop()
    assert daemon.squall("init").returncode == 0
    daemon.start()
    assert daemon.json("volume", "show", "vm-1")["parent"] == "template"


def main():
    with Daemon() as daemon:
        run_checks(check_json, check_tables, check_wrong_usage, check_failures, check_several,
                   check_help, check_sockets, arguments=(daemon,))


if __name__ == "__main__":
    main()
