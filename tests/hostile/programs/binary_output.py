import sys, struct, zlib
data = bytes(range(256)) * 8
sys.stdout.buffer.write(data)
sys.stdout.buffer.write(zlib.compress(b"x" * 1000, 9))
sys.stdout.buffer.write(struct.pack("<dI", 1.5, 7))
sys.stdout.flush()
