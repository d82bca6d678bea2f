"""As much of a websocket client (RFC 6455) as ComfyUI's messages need: connect, read whole messages, answer pings."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import struct

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class Closed(ConnectionError):
    """The other side has gone."""


class WebSocket:
    """A connection to ws://127.0.0.1:port/path. `receive` gives str or bytes, or None after `timeout` seconds."""

    def __init__(self, port: int, path: str):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.buffer = b""
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Upgrade: websocket", "Connection: Upgrade")
        lines += (f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", "")
        self.socket.sendall("\r\n".join(lines).encode())
        while b"\r\n\r\n" not in self.buffer:
            self._more()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        accept = base64.b64encode(hashlib.sha1((key + GUID).encode()).digest())
        if b" 101 " not in head.split(b"\r\n")[0] + b" " or accept not in head:
            raise Closed(f"no websocket at {path}: {head[:200]!r}")

    def _more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise Closed("the connection was closed")
        self.buffer += data

    def _frame(self) -> tuple[bool, int, bytes] | None:
        """(last of its message, opcode, payload) when the buffer holds a whole frame; servers do not mask."""
        if len(self.buffer) < 2:
            return None
        first, second = self.buffer[0], self.buffer[1]
        length, start = second & 127, 2
        if length > 125:
            size, form = (2, ">H") if length == 126 else (8, ">Q")
            if len(self.buffer) < 2 + size:
                return None
            length, start = struct.unpack_from(form, self.buffer, 2)[0], 2 + size
        if len(self.buffer) < start + length:
            return None
        payload = self.buffer[start : start + length]
        self.buffer = self.buffer[start + length :]
        return bool(first & 128), first & 15, payload

    def receive(self, timeout: float) -> str | bytes | None:
        self.socket.settimeout(timeout)
        kind, message = 0, b""
        while True:
            frame = self._frame()
            if frame is None:
                try:
                    self._more()
                except TimeoutError:
                    if kind:
                        continue  # in the middle of a message
                    return None
                continue
            last, opcode, payload = frame
            if opcode == CLOSE:
                raise Closed("the server closed the connection")
            if opcode == PING:
                self._send(PONG, payload)
            elif opcode != PONG:
                kind, message = kind or opcode, message + payload
                if last:
                    return message.decode("utf-8", "replace") if kind == TEXT else message

    def _send(self, opcode: int, payload: bytes) -> None:
        """One short masked frame (clients must mask)."""
        mask = os.urandom(4)
        body = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload[:125]))
        self.socket.sendall(bytes((128 | opcode, 128 | len(body))) + mask + body)

    def close(self) -> None:
        self.socket.close()
