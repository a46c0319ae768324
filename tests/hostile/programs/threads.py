import queue, sys, threading, time, concurrent.futures

def fails():
    raise ValueError("in a thread")
thread = threading.Thread(target=fails, name="failing")
thread.start()
thread.join()
print(thread.is_alive())
seen = []
threading.excepthook = lambda args: seen.append((args.exc_type.__name__, str(args.exc_value), args.thread.name))
thread = threading.Thread(target=fails, name="hooked")
thread.start()
thread.join()
print(seen)
threading.excepthook = threading.__excepthook__
threading.Thread(target=sys.exit, args=(3,)).start()
work, results = queue.Queue(), []
def worker():
    while (one := work.get()) is not None:
        results.append(one * 2)
        work.task_done()
workers = [threading.Thread(target=worker, daemon=True) for _ in range(3)]
for one in workers: one.start()
for number in range(20): work.put(number)
work.join()
for one in workers: work.put(None)
print(sum(results), threading.main_thread().name, threading.current_thread() is threading.main_thread())
local = threading.local()
local.x = 1
barrier = threading.Barrier(2)
def other():
    barrier.wait()
    print(hasattr(local, "x"))
thread = threading.Thread(target=other)
thread.start()
barrier.wait()
thread.join()
timer = threading.Timer(0.01, lambda: print("a timer"))
timer.start()
timer.join()
condition, ready = threading.Condition(), []
def consumer():
    with condition:
        print(condition.wait_for(lambda: ready, timeout=60))
thread = threading.Thread(target=consumer)
thread.start()
with condition:
    ready.append(1)
    condition.notify_all()
thread.join()
threading.stack_size(1 << 20)
def deep(n):
    return n and deep(n - 1)
thread = threading.Thread(target=lambda: print(deep(500)))
thread.start()
thread.join()
print(threading.active_count())
threading.Thread(target=lambda: (time.sleep(0.2), print("not a daemon: waited for"))).start()
threading.Thread(target=lambda: (time.sleep(30), print("never")), daemon=True).start()
