from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, ThreadPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
import multiprocessing, os, time

def square(number):
    return number * number

def dies(_):
    os._exit(1)

def raises(text):
    raise KeyError(text)

started = []
def initialize(value):
    started.append(value)
def initialized(_):
    return started

if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(2, mp_context=context, initializer=initialize, initargs=("set up",)) as pool:
            print(method, list(pool.map(square, range(10), chunksize=3)), pool.submit(initialized, 0).result())
            futures = {pool.submit(square, number): number for number in range(4)}
            print(sorted((futures[one], one.result()) for one in as_completed(futures)))
            try:
                pool.submit(raises, "missing").result()
            except KeyError as error:
                print(repr(error), "raises" in str(error.__cause__))
        try:
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                pool.submit(dies, 0).result()
        except BrokenProcessPool as error:
            print(type(error).__name__)
    with ThreadPoolExecutor(4, thread_name_prefix="mine") as pool:
        import threading
        print(sorted({pool.submit(lambda: threading.current_thread().name.split("_")[0]).result() for _ in range(3)}))
        done, waiting = wait([pool.submit(time.sleep, 0), pool.submit(time.sleep, 0.5)], return_when=FIRST_COMPLETED)
        print(len(done) >= 1)
