import os, resource, sys, subprocess

print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 1000, resource.getpagesize())
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
files = []
try:
    while True:
        files.append(open(os.devnull))
except OSError as error:
    print(error.strerror, len(files) > 20)
for file in files: file.close()
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
def limited():
    resource.setrlimit(resource.RLIMIT_AS, (300 << 20, 300 << 20))
done = subprocess.run([sys.executable, "-c", "try:\n    bytearray(1 << 30)\nexcept MemoryError: print('no memory')"], preexec_fn=limited, capture_output=True, text=True)
print(done.stdout, done.stderr, done.returncode)
def short():
    resource.setrlimit(resource.RLIMIT_CPU, (1, 2))
done = subprocess.run([sys.executable, "-c", "while True: pass"], preexec_fn=short)
print(done.returncode)
def small():
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
done = subprocess.run([sys.executable, "-c", "try:\n    open('big', 'wb').write(b'x' * 2000)\nexcept OSError as e: print(e)"], preexec_fn=small, capture_output=True, text=True)
print(done.stdout, done.returncode)
print(os.nice(0) >= 0, os.nice(1) >= 1, len(os.getloadavg()), os.cpu_count() > 0)
try:
    bytearray(1 << 62)
except (MemoryError, OverflowError) as error:
    print(type(error).__name__)
print(os.sysconf("SC_OPEN_MAX") > 0, os.getrandom(4) != b"", len(os.urandom(16)), os.get_terminal_size is not None)
try:
    os.get_terminal_size()
except OSError as error:
    print(error.strerror)
import shutil
print(shutil.get_terminal_size())
