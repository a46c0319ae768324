import multiprocessing as mp
import os, sys, time

class Point:
    def __init__(self, x):
        self.x = x
    def __repr__(self):
        return f"Point({self.x})"

def double(point):
    return Point(point.x * 2)

def fails(number):
    raise ValueError(f"number {number}")

def fill(queue, event, value, lock, pipe):
    for number in range(3):
        queue.put(Point(number))
    with lock, value.get_lock():
        value.value += 10
    pipe.send({"pid is mine": os.getpid() == mp.current_process().pid, "parent": mp.parent_process() is not None})
    event.set()

def ends(status):
    sys.exit(status)

if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        context = mp.get_context(method)
        queue, event, value, lock = context.Queue(), context.Event(), context.Value("i", 1), context.RLock()
        ours, theirs = context.Pipe()
        process = context.Process(target=fill, args=(queue, event, value, lock, theirs), name="filler")
        process.start()
        print(method, [queue.get() for _ in range(3)], ours.recv(), event.wait(60), end=" ")
        process.join()
        print(process.exitcode, value.value, process.name)
        with context.Pool(2) as pool:
            print(pool.map(double, [Point(1), Point(2)]), pool.starmap(pow, [(2, 3), (3, 2)]))
            print(sorted(point.x for point in pool.imap_unordered(double, map(Point, range(5)), chunksize=2)))
            try:
                pool.apply(fails, (7,))
            except ValueError as error:
                print(error, type(error.__cause__).__name__)
        process = context.Process(target=ends, args=(5,))
        process.start()
        process.join()
        print("ended", process.exitcode)
        process = context.Process(target=time.sleep, args=(60,))
        process.start()
        process.terminate()
        process.join()
        print("terminated", process.exitcode)
    print(mp.active_children())
