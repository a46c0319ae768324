"""Acts that take, flood and linger. Stands behind ``programs.py`` in one text, and uses its helpers."""

# --- cgroup: memory, pids, processors


def fill(folder, bound):
    """Write past `bound` below `folder`, by 32 MiB at the most."""
    path, written, said = f"{folder}/{facts_free_name()}", 0, "no end"
    piece = b"x" * MIB
    try:
        while written <= bound + 32 * MIB:
            with open(f"{path}.{written // (16 * MIB)}", "ab", buffering=0) as file:
                written += file.write(piece)
    except OSError as error:
        said = name_of(error)
    for number in range(written // (16 * MIB) + 2):
        try:
            os.unlink(f"{path}.{number}")
        except OSError:
            pass
    return written > bound + 16 * MIB, f"{said} after {written // MIB} MiB of {bound // MIB}"


def facts_free_name():
    return f"fill-{os.getpid()}"


def hold(size):
    """`size` bytes, touched; the caller keeps what it is given."""
    area = mmap.mmap(-1, size)
    for at in range(0, size, 4096):
        area[at] = 1
    return area


def memory_bomb(facts):
    held, most = [], facts["memory_bytes"] * 5 // 4 + 32 * MIB
    while len(held) * 8 * MIB < most:
        held.append(hold(8 * MIB))
    return True, f"{len(held) * 8} MiB held, of {facts['memory_bytes'] // MIB} allowed"


def memory_children(facts):
    share, pids = facts["memory_bytes"] * 5 // 8 + 16 * MIB, []
    read, write = os.pipe()
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            area = hold(share)
            os.write(write, b"x")
            time.sleep(30)
            os._exit(len(area) and 0)
        pids.append(pid)
    os.close(write)
    both, deadline = b"", time.monotonic() + 25
    while len(both) < 2 and time.monotonic() < deadline:
        piece = os.read(read, 2)
        if not piece:
            break
        both += piece
        if all(os.waitpid(pid, os.WNOHANG)[0] for pid in pids if len(both) < 2):
            break
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
    return len(both) == 2, f"{len(both)} of two children with {share // MIB} MiB each"


def shm_bomb(facts):
    return fill("/dev/shm", facts["shm_bytes"])


def fork_bomb(facts):
    named(facts)
    pids, said, bound = [], "no end", facts["processes"] + 16
    while len(pids) < bound:
        try:
            pid = os.fork()
        except OSError as error:
            said = name_of(error)
            break
        if pid == 0:
            time.sleep(20)
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        os.waitpid(pid, 0)
    return len(pids) >= facts["processes"], f"{said} after {len(pids)} of {facts['processes']}"


def thread_bomb(facts):
    named(facts)
    threading.stack_size(256 * 1024)
    done, made, said = threading.Event(), [], "no end"
    try:
        while len(made) < facts["processes"] + 16:
            one = threading.Thread(target=done.wait, args=(20,), daemon=True)
            one.start()
            made.append(one)
    except RuntimeError:
        said = "refused"
    done.set()
    for one in made:
        one.join()
    return len(made) >= facts["processes"], f"{said} after {len(made)} of {facts['processes']}"


def processors(facts):
    """Work on every processor for two seconds; what was used says whether the quota held."""
    pids, seconds = [], 2.0
    begun = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    for _ in range(facts["cpus"]):
        pid = os.fork()
        if pid == 0:
            while time.monotonic() < started + seconds:
                pass
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    took = time.monotonic() - started
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = (ended.ru_utime + ended.ru_stime - begun.ru_utime - begun.ru_stime) / took
    quota, said = facts["cpu_millis"] / 1000, f"{used:.2f} processors, of {facts['cpu_millis'] / 1000:.2f}"
    if used < quota / 2:
        raise RuntimeError(f"the machine is too busy to tell: {said}")
    return used > quota * 1.25, said


# --- frames


def channels():
    """Descriptors beyond the standard ones that can be written and are pipes or sockets: the host reads there."""
    found = []
    for number in range(3, 256):
        try:
            mode = os.fstat(number).st_mode
            with open(f"/proc/self/fdinfo/{number}", encoding="ascii") as file:
                flags = int(next(line for line in file if line.startswith("flags:")).split()[1], 8)
        except (OSError, StopIteration):
            continue
        if mode & 0o170000 in (0o010000, 0o140000) and flags & 3:
            found.append(number)
    return found


def send_and_live(data):
    """Whether this process is still there five seconds after the host read `data`."""
    numbers = channels()
    for number in numbers:
        try:
            sent = 0
            while sent < len(data):
                sent += os.write(number, data[sent:])
        except OSError:
            pass
    time.sleep(5)
    return bool(numbers), f"alive after it was sent on {len(numbers)} channel(s)"


def frame_of_4_gib(facts):
    return send_and_live(b"\xff\xff\xff\xff")


def frame_too_deep(facts):
    body = b"[" * 100_000
    return send_and_live(len(body).to_bytes(4, "big") + body)


# --- output and deadlines


def flood_output(facts):
    for _ in range(facts["flood_bytes"] // 65536):
        os.write(1, b"x" * 65535 + b"\n")
    return False, f"{facts['flood_bytes'] // MIB} MiB written"


def sleep_for_ever(facts):
    time.sleep(facts["deadline_s"] * 4)
    return True, "past its deadline"


def ignore_signals(facts):
    named(facts)
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    until = time.monotonic() + facts["deadline_s"] * 4
    while time.monotonic() < until:
        pass
    return True, "past its deadline"


def daemon(facts):
    named(facts)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            subprocess.Popen([sys.executable, "-P", "-c", "import time; time.sleep(40)"], start_new_session=True)
            time.sleep(40)
        os._exit(0)
    return False, "two daemons left behind"
