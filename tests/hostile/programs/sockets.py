import array, os, select, selectors, socket, socketserver, struct, threading

class Upper(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line.upper())
class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads, allow_reuse_address = True, True
with Server(("127.0.0.1", 0), Upper) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with socket.create_connection(server.server_address, timeout=60) as client:
        client.sendall(b"one\ntwo\n")
        client.shutdown(socket.SHUT_WR)
        print(client.makefile("rb").read())
    server.shutdown()
class Datagrams(socketserver.BaseRequestHandler):
    def handle(self):
        self.request[1].sendto(self.request[0][::-1], self.client_address)
with socketserver.UDPServer(("127.0.0.1", 0), Datagrams) as server:
    threading.Thread(target=server.handle_request).start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(60)
        client.sendto(b"abc", server.server_address)
        print(client.recv(100))
a, b = socket.socketpair()
a.setblocking(False)
try:
    a.recv(1)
except BlockingIOError as error:
    print(error.strerror)
poll = select.epoll()
poll.register(a, select.EPOLLIN | select.EPOLLOUT)
print(poll.poll(0) == [(a.fileno(), select.EPOLLOUT)])
b.send(b"x")
print(poll.poll(1)[0][1] & select.EPOLLIN, select.select([a], [], [], 0)[0] == [a])
classic = select.poll()
classic.register(a, select.POLLIN)
print(classic.poll(0)[0][1])
with selectors.DefaultSelector() as selector:
    selector.register(a, selectors.EVENT_READ, "data")
    print(type(selector).__name__, [key.data for key, _ in selector.select(0)])
file = open("passed", "w+")
file.write("by its descriptor")
file.flush()
socket.send_fds(b, [b"fd"], [file.fileno()])
a.setblocking(True)
a.recv(1)
message, fds, _, _ = socket.recv_fds(a, 10, 1)
os.lseek(fds[0], 0, 0)
print(message, os.read(fds[0], 100))
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
    with socket.socket(family) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind({socket.AF_INET: ("", 0), socket.AF_INET6: ("::1", 0)}.get(family, "\0abstract"))
        one.listen()
        print(family.name, one.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE))
one = socket.socket()
print(one.connect_ex(("127.0.0.1", 9)), os.strerror(111))
one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
print(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), socket.gethostbyname("localhost"), socket.has_ipv6)
for act in (lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1), lambda: one.bind(("127.0.0.1", 80)) or one.bind(("127.0.0.1", 81))):
    try:
        act()
    except OSError as error:
        print(error.strerror)
try:
    socket.getaddrinfo("no-such-host.invalid", 80)
except socket.gaierror as error:
    print("no such host")
r, w = os.pipe()
os.set_blocking(r, False)
print(select.select([r], [w], [], 0)[1] == [w], os.get_inheritable(r))
