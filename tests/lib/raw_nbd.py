"""An NBD client on a bare socket, for what libnbd does not do: requests sent and never waited for,
connections that end in the middle, several at once from one thread."""

import socket
import struct

READ, WRITE, DISC, FLUSH = 0, 1, 2, 3
READ_ONLY = 1 << 1
SEND_FLUSH = 1 << 2


class RawNbd:
    def __init__(self, connected, export):
        self.socket = connected
        self.socket.settimeout(30)
        greeting = self.receive(18)
        assert greeting[:16] == b"NBDMAGICIHAVEOPT", greeting
        name = export.encode()
        self.socket.sendall(struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 1, len(name)) + name)
        self.size, self.flags = struct.unpack(">QH", self.receive(10))

    @classmethod
    def unix(cls, path, export):
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connected.settimeout(30)
        connected.connect(path)
        return cls(connected, export)

    @classmethod
    def tcp(cls, host, port, export):
        return cls(socket.create_connection((host, port), timeout=30), export)

    @property
    def may_write(self):
        return not self.flags & READ_ONLY

    def receive(self, size):
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            if not more:
                raise ConnectionError("the server closed the connection")
            data += more
        return data

    def send(self, command, offset=0, data=b"", length=None, cookie=1, flags=0):
        """Sends a request; the answer is for reply() to fetch."""
        size = len(data) if length is None else length
        self.socket.sendall(
            struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, offset, size) + data
        )

    def reply(self):
        """The error number of the next simple reply, 0 for success."""
        magic, error, _ = struct.unpack(">IIQ", self.receive(16))
        assert magic == 0x67446698, hex(magic)
        return error

    def write(self, offset, data):
        self.send(WRITE, offset, data)
        return self.reply()

    def flush(self):
        self.send(FLUSH)
        return self.reply()

    def read(self, offset, length):
        self.send(READ, offset, length=length)
        error = self.reply()
        assert error == 0, error
        return self.receive(length)

    def close(self):
        self.socket.close()
