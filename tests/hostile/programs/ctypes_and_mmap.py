import ctypes, ctypes.util, mmap, os, struct
from multiprocessing import shared_memory

libc = ctypes.CDLL(None, use_errno=True)
print(libc.strlen(b"hello"), libc.abs(-5), ctypes.util.find_library("c"), ctypes.util.find_library("m"))
libm = ctypes.CDLL(ctypes.util.find_library("m"))
libm.cos.restype, libm.cos.argtypes = ctypes.c_double, [ctypes.c_double]
print(libm.cos(0.0))
class Pair(ctypes.Structure):
    _fields_ = [("a", ctypes.c_int), ("b", ctypes.c_double)]
print(ctypes.sizeof(Pair), Pair(1, 2.5).b)
compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
numbers = (ctypes.c_int * 5)(5, 1, 4, 2, 3)
libc.qsort(numbers, 5, ctypes.sizeof(ctypes.c_int), compare(lambda x, y: x[0] - y[0]))
print(list(numbers))
print(libc.open(b"/no/such/file", 0), os.strerror(ctypes.get_errno()))
libc.puts(b"written by C")
libc.fflush(None)
with open("mapped", "wb+") as file:
    file.truncate(8192)
    with mmap.mmap(file.fileno(), 0) as mapped:
        mapped[:5] = b"hello"
        mapped.flush()
        print(mapped.find(b"l"), mapped.size())
with mmap.mmap(-1, 4096) as shared:
    if os.fork() == 0:
        shared[:4] = struct.pack("i", 42)
        os._exit(0)
    os.wait()
    print(struct.unpack("i", shared[:4]))
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(b"\xb8\x2a\x00\x00\x00\xc3")  # mov eax, 42; ret
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))())
block = shared_memory.SharedMemory(create=True, size=100)
block.buf[:3] = b"abc"
again = shared_memory.SharedMemory(block.name)
print(bytes(again.buf[:3]))
again.close()
block.close()
block.unlink()
