import gc, linecache, sys, tracemalloc, weakref

tracemalloc.start(5)
before = tracemalloc.take_snapshot()
data = [bytes(1000) for _ in range(1000)]
after = tracemalloc.take_snapshot()
top = after.compare_to(before, "lineno")[0]
print(top.size_diff > 1_000_000, top.count_diff >= 1000, linecache.getline(top.traceback[0].filename, top.traceback[0].lineno).strip())
print(tracemalloc.get_traced_memory()[0] > 1_000_000, len(tracemalloc.get_object_traceback(data[0])) >= 1)
tracemalloc.stop()
class Node: pass
a, b = Node(), Node()
a.other, b.other = b, a
gone = weakref.ref(a, lambda _: print("gone"))
del a, b
print(gc.collect() > 0, gone())
print(sys.getrefcount(data) <= 3, sys.getsizeof([]) > 0, gc.isenabled(), gc.get_threshold())
